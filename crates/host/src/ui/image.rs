//! An image as rows of a list: one for each of its tags.

use api::image::ImageSummary;
use serde::{Deserialize, Serialize};

use super::row::short_image;

/// One row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct ImageRow {
    /// The image's id.
    pub id: String,
    /// As the command line takes it; the id where it has no tag.
    pub reference: String,
    /// What comes before the last part of the name: `ghcr.io/acme/`.
    pub host: String,
    /// The last part of the name; empty where it has no tag.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// Milliseconds since the epoch.
    pub created_at: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it came with Cove.
    pub built_in: bool,
}

/// The rows of one image.
#[must_use]
pub fn rows_of(image: &ImageSummary) -> Vec<ImageRow> {
    let base = ImageRow {
        id: image.id.clone(),
        reference: image.id.clone(),
        created_at: u64::try_from(image.created).unwrap_or(0) * 1000,
        size: u64::try_from(image.size).unwrap_or(0),
        ..ImageRow::default()
    };
    let tags: Vec<_> = image.repo_tags.iter().filter(|tag| tag.as_str() != "<none>:<none>").collect();
    if tags.is_empty() {
        return vec![base];
    }
    tags.into_iter()
        .map(|reference| {
            let reference = short_image(reference);
            let (path, tag) = match reference.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, tag),
                _ => (reference.as_str(), ""),
            };
            let (host, name) = path.rfind('/').map_or(("", path), |slash| path.split_at(slash + 1));
            ImageRow {
                host: host.to_owned(),
                name: name.to_owned(),
                tag: tag.to_owned(),
                built_in: path == "cove/welcome",
                reference,
                ..base.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tag_is_a_row_with_its_name_cut_at_the_last_slash() {
        let image = ImageSummary {
            id: "sha256:ab".into(),
            repo_tags: vec!["localhost:5000/acme/api:dev".into(), "docker.io/library/nginx:1".into()],
            size: 42,
            ..ImageSummary::default()
        };
        let rows = rows_of(&image);
        let parts: Vec<_> = rows.iter().map(|row| (&*row.host, &*row.name, &*row.tag)).collect();
        assert_eq!(parts, [("localhost:5000/acme/", "api", "dev"), ("", "nginx", "1")]);
        assert_eq!(rows[0].reference, "localhost:5000/acme/api:dev");
    }

    #[test]
    fn an_image_without_a_tag_goes_by_its_id() {
        let image = ImageSummary { id: "sha256:ab".into(), ..ImageSummary::default() };
        assert_eq!(rows_of(&image)[0].reference, "sha256:ab");
    }
}
