//! Operations on images.

use super::Client;
use super::body::{Body, JsonLines};
use super::containers::{REGISTRY_AUTH, auth_header};
use super::error::Error;
use super::request::Filters;
use crate::image::{
    AuthRequest, AuthResponse, DeletedImage, HistoryEntry, ImageInspect, ImageSummary, Progress,
    PruneImagesResponse, SearchResult,
};
use model::Platform;

/// What an imported image is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportImage<'a> {
    /// Its name, with or without a tag.
    pub name: Option<&'a str>,
    /// Free text; the engine's own where unset.
    pub message: Option<&'a str>,
    /// Dockerfile instructions that make its configuration.
    pub changes: &'a [String],
    /// What its programs are for; the engine's machine where unset.
    pub platform: Option<&'a str>,
}

/// What removing an image may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveImage {
    /// Also while stopped containers use it.
    pub force: bool,
    /// Keep untagged parents.
    pub no_prune: bool,
}

impl Client {
    /// Lists images; `all` holds intermediate ones too.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list_images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>, Error> {
        self.get("/images/json").flag("all", all).filters(filters).fetch().await
    }

    /// Everything about one image.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, Error> {
        self.get(&format!("/images/{name}/json")).fetch().await
    }

    /// Pulls `name` (without tag: `latest`, which the engine adds; never all tags). `auth` is the
    /// registry's login in base64. A failed pull may end with a [`Progress::error`] in the stream;
    /// dropping the stream cancels it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn pull_image(
        &self,
        name: &str,
        platform: Option<&str>,
        auth: Option<&str>,
    ) -> Result<JsonLines<Progress>, Error> {
        let (image, tag) = split_tag(name);
        let mut request =
            self.post("/images/create").query("fromImage", image).query("tag", tag.unwrap_or("latest"));
        if let Some(auth) = auth_header(auth) {
            request = request.header(REGISTRY_AUTH, auth);
        }
        Ok(request.query_opt("platform", platform).send().await?.into_json_lines())
    }

    /// Pushes `name` with tag `tag`, or with every tag it has. A failed push ends with a
    /// [`Progress::error`] in the stream; dropping the stream cancels it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn push_image(
        &self,
        name: &str,
        tag: Option<&str>,
        platform: Option<&Platform>,
        auth: Option<&str>,
    ) -> Result<JsonLines<Progress>, Error> {
        // Here a platform is JSON, as of API 1.46.
        let platform = platform.map(|platform| {
            serde_json::json!({
                "os": platform.os,
                "architecture": platform.architecture,
                "variant": platform.variant,
            })
        });
        let mut request =
            self.post(&format!("/images/{name}/push")).query_opt("tag", tag).query_opt("platform", platform);
        if let Some(auth) = auth_header(auth.or(Some("e30="))) {
            request = request.header(REGISTRY_AUTH, auth);
        }
        Ok(request.send().await?.into_json_lines())
    }

    /// Checks a login at a registry.
    ///
    /// # Errors
    /// Any [`Error`]; 401 where the registry does not accept it.
    pub async fn login(&self, login: &AuthRequest) -> Result<AuthResponse, Error> {
        self.post("/auth").json(login).fetch().await
    }

    /// Searches Docker Hub, or the registry that `term` begins with.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn search_images(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        auth: Option<&str>,
    ) -> Result<Vec<SearchResult>, Error> {
        let mut request =
            self.get("/images/search").query("term", term).query_opt("limit", limit).filters(filters);
        if let Some(auth) = auth_header(auth) {
            request = request.header(REGISTRY_AUTH, auth);
        }
        request.fetch().await
    }

    /// Removes a tag, and the image with its last one.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn remove_image(&self, name: &str, remove: RemoveImage) -> Result<Vec<DeletedImage>, Error> {
        let request = self.delete(&format!("/images/{name}"));
        request.flag("force", remove.force).flag("noprune", remove.no_prune).fetch().await
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn tag_image(&self, name: &str, repository: &str, tag: Option<&str>) -> Result<(), Error> {
        let request = self.post(&format!("/images/{name}/tag")).query("repo", repository);
        request.query_opt("tag", tag).send().await?;
        Ok(())
    }

    /// The steps an image was made by, newest first.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>, Error> {
        self.get(&format!("/images/{name}/history")).fetch().await
    }

    /// A tar of images that [`Self::load_images`] reads.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn save_images(&self, names: &[String]) -> Result<Body, Error> {
        let mut request = self.get("/images/get");
        for name in names {
            request = request.query("names", name);
        }
        Ok(request.send().await?.into_body())
    }

    /// Takes in a tar of images, as docker and OCI write it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn load_images<S, E>(&self, quiet: bool, archive: S) -> Result<JsonLines<Progress>, Error>
    where
        S: futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let request = self.post("/images/load").flag("quiet", quiet);
        Ok(request.stream("application/x-tar", archive).send().await?.into_json_lines())
    }

    /// Makes an image of a file system's tar; the last line's status is its id.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn import_image<S, E>(
        &self,
        image: ImportImage<'_>,
        archive: S,
    ) -> Result<JsonLines<Progress>, Error>
    where
        S: futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let mut request = self.post("/images/create").query("fromSrc", "-").query_opt("repo", image.name);
        for change in image.changes {
            request = request.query("changes", change);
        }
        let request = request.query_opt("message", image.message).query_opt("platform", image.platform);
        Ok(request.stream("application/x-tar", archive).send().await?.into_json_lines())
    }

    /// Removes images nothing uses.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn prune_images(&self, filters: &Filters) -> Result<PruneImagesResponse, Error> {
        self.post("/images/prune").filters(filters).fetch().await
    }
}

/// A reference's name, and its tag or digest. The `:` of a registry's port is no tag.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    if let Some((image, digest)) = name.split_once('@') {
        return (image, Some(digest));
    }
    match name.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::split_tag;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("alpine"), ("alpine", None));
        assert_eq!(split_tag("alpine:3"), ("alpine", Some("3")));
        assert_eq!(split_tag("localhost:5000/alpine"), ("localhost:5000/alpine", None));
        assert_eq!(split_tag("localhost:5000/alpine:3"), ("localhost:5000/alpine", Some("3")));
        assert_eq!(split_tag("alpine@sha256:ab"), ("alpine", Some("sha256:ab")));
    }
}
