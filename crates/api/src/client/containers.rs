//! Operations on containers.

use http::{HeaderValue, Method, StatusCode, header};

use super::body::{Body, JsonLines};
use super::error::Error;
use super::request::{Filters, Response};
use super::{Client, Upgraded};
use crate::container::{
    ContainerInspect, ContainerSummary, CreateContainer, CreateResponse, FilesystemChange,
    PruneContainersResponse, Stats, TopResponse, UpdateContainer, UpdateResponse, WaitResponse,
};

/// Which containers a list holds.
#[derive(Debug, Clone, Default)]
pub struct ListContainers {
    /// Also those that don't run.
    pub all: bool,
    /// At most so many, newest first.
    pub limit: Option<u32>,
    /// Also count what each occupies, which takes time.
    pub size: bool,
    /// Only those that pass.
    pub filters: Filters,
}

/// Which part of a container's log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Stay and send what is written from now on.
    pub follow: bool,
    /// Begin each line with its RFC 3339 time and a blank.
    pub timestamps: bool,
    /// Only so many lines from the end; all of them if `None`.
    pub tail: Option<u64>,
    /// Not before this time (seconds since the epoch, with fraction).
    pub since: Option<String>,
    /// Not after this time.
    pub until: Option<String>,
}

/// What to attach to.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// Send our input.
    pub stdin: bool,
    /// Get its output.
    pub stdout: bool,
    /// Get its errors.
    pub stderr: bool,
    /// What it writes from now on.
    pub stream: bool,
    /// What it has written before.
    pub logs: bool,
    /// The keys that detach, as `ctrl-p,ctrl-q`.
    pub detach_keys: Option<String>,
}

/// What removing takes along.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveContainer {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// Whether a request changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// It was so already (304).
    No,
}

impl Changed {
    fn of(response: &Response) -> Self {
        if response.status == StatusCode::NOT_MODIFIED { Self::No } else { Self::Yes }
    }
}

impl Client {
    /// Lists containers.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list_containers(&self, list: &ListContainers) -> Result<Vec<ContainerSummary>, Error> {
        self.get("/containers/json")
            .flag("all", list.all)
            .query_opt("limit", list.limit)
            .flag("size", list.size)
            .filters(&list.filters)
            .fetch()
            .await
    }

    /// Creates a container from `spec`; `NotFound` if its image is not here.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn create_container(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        spec: &CreateContainer,
    ) -> Result<CreateResponse, Error> {
        self.post("/containers/create")
            .query_opt("name", name)
            .query_opt("platform", platform)
            .json(spec)
            .fetch()
            .await
    }

    /// Everything about one container; `size` also counts what it occupies.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn inspect_container(&self, id: &str) -> Result<ContainerInspect, Error> {
        self.get(&format!("/containers/{id}/json")).fetch().await
    }

    /// Starts a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn start_container(&self, id: &str) -> Result<Changed, Error> {
        Ok(Changed::of(&self.post(&format!("/containers/{id}/start")).send().await?))
    }

    /// Asks a container to end, and kills it after `timeout` seconds (its own default if `None`).
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn stop_container(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<Changed, Error> {
        let request = self.post(&format!("/containers/{id}/stop"));
        let response = request.query_opt("signal", signal).query_opt("t", timeout).send().await?;
        Ok(Changed::of(&response))
    }

    /// Stops and starts a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn restart_container(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let request = self.post(&format!("/containers/{id}/restart"));
        request.query_opt("signal", signal).query_opt("t", timeout).send().await?;
        Ok(())
    }

    /// Sends a signal (`SIGKILL` if `None`).
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn kill_container(&self, id: &str, signal: Option<&str>) -> Result<(), Error> {
        self.post(&format!("/containers/{id}/kill")).query_opt("signal", signal).send().await?;
        Ok(())
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn pause_container(&self, id: &str) -> Result<(), Error> {
        self.post(&format!("/containers/{id}/pause")).send().await?;
        Ok(())
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn unpause_container(&self, id: &str) -> Result<(), Error> {
        self.post(&format!("/containers/{id}/unpause")).send().await?;
        Ok(())
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn rename_container(&self, id: &str, name: &str) -> Result<(), Error> {
        self.post(&format!("/containers/{id}/rename")).query("name", name).send().await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn remove_container(&self, id: &str, remove: RemoveContainer) -> Result<(), Error> {
        let request = self.delete(&format!("/containers/{id}"));
        request.flag("force", remove.force).flag("v", remove.volumes).send().await?;
        Ok(())
    }

    /// Registers for the end of a container and returns once the engine has taken note; the answer
    /// itself is waited for with [`Response::json`]. `condition` is `not-running` (the default),
    /// `next-exit` or `removed`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn begin_wait(&self, id: &str, condition: Option<&str>) -> Result<Response, Error> {
        self.post(&format!("/containers/{id}/wait")).query_opt("condition", condition).send().await
    }

    /// Waits for the end of a container.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn wait_container(&self, id: &str, condition: Option<&str>) -> Result<WaitResponse, Error> {
        self.begin_wait(id, condition).await?.json().await
    }

    /// A container's log: frames for a [`super::FrameDecoder`], or plain bytes if it has a terminal.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn container_logs(&self, id: &str, logs: &Logs) -> Result<Body, Error> {
        let response = self
            .get(&format!("/containers/{id}/logs"))
            .flag("stdout", logs.stdout)
            .flag("stderr", logs.stderr)
            .flag("follow", logs.follow)
            .flag("timestamps", logs.timestamps)
            .query_opt("tail", logs.tail)
            .query_opt("since", logs.since.as_deref())
            .query_opt("until", logs.until.as_deref())
            .send()
            .await?;
        Ok(response.into_body())
    }

    /// Creates a container, attaches to it and starts it, by one request of Cove's own. What comes are frames
    /// for a [`super::FrameDecoder`]; those of [`super::Channel::System`] are a [`crate::container::RunEvent`] each.
    ///
    /// # Errors
    /// Any [`Error`]; an engine that is not Cove's has no such path.
    pub async fn run_container(
        &self,
        body: &serde_json::Value,
        name: Option<&str>,
        platform: Option<&str>,
        attach: &Attach,
        condition: &str,
    ) -> Result<Upgraded, Error> {
        self.post("/cove/v1/run")
            .query_opt("name", name)
            .query_opt("platform", platform)
            .query("condition", condition)
            .flag("stdin", attach.stdin)
            .flag("stdout", attach.stdout)
            .flag("stderr", attach.stderr)
            .query_opt("detachKeys", attach.detach_keys.as_deref())
            .json(body)
            .upgrade()
            .await
    }

    /// Takes over a container's input and output.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn attach_container(&self, id: &str, attach: &Attach) -> Result<Upgraded, Error> {
        self.post(&format!("/containers/{id}/attach"))
            .flag("stdin", attach.stdin)
            .flag("stdout", attach.stdout)
            .flag("stderr", attach.stderr)
            .flag("stream", attach.stream)
            .flag("logs", attach.logs)
            .query_opt("detachKeys", attach.detach_keys.as_deref())
            .upgrade()
            .await
    }

    /// Tells a container's terminal its size.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn resize_container(&self, id: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let request = self.post(&format!("/containers/{id}/resize"));
        request.query("h", rows.to_string()).query("w", columns.to_string()).send().await?;
        Ok(())
    }

    /// The processes in a container, as `ps` with `ps_args` shows them.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn top_container(&self, id: &str, ps_args: Option<&str>) -> Result<TopResponse, Error> {
        self.get(&format!("/containers/{id}/top")).query_opt("ps_args", ps_args).fetch().await
    }

    /// One sample of what a container uses, without waiting for a second one to compare it with.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn container_stats_once(&self, id: &str) -> Result<Stats, Error> {
        let request = self.get(&format!("/containers/{id}/stats"));
        request.query("stream", "0").query("one-shot", "1").fetch().await
    }

    /// A sample a second of what a container uses.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn container_stats(&self, id: &str) -> Result<JsonLines<Stats>, Error> {
        let request = self.get(&format!("/containers/{id}/stats"));
        Ok(request.query("stream", "1").send().await?.into_json_lines())
    }

    /// What a container has changed in its files.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn container_changes(&self, id: &str) -> Result<Vec<FilesystemChange>, Error> {
        // Docker answers `null` for none.
        let changes: Option<_> = self.get(&format!("/containers/{id}/changes")).fetch().await?;
        Ok(changes.unwrap_or_default())
    }

    /// Changes limits and the restart policy.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn update_container(
        &self,
        id: &str,
        update: &UpdateContainer,
    ) -> Result<UpdateResponse, Error> {
        self.post(&format!("/containers/{id}/update")).json(update).fetch().await
    }

    /// A tar of `path` in a container; the answer's `X-Docker-Container-Path-Stat` describes it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn read_archive(&self, id: &str, path: &str) -> Result<Response, Error> {
        self.get(&format!("/containers/{id}/archive")).query("path", path).send().await
    }

    /// As [`Self::read_archive`], without the files.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn stat_archive(&self, id: &str, path: &str) -> Result<Response, Error> {
        self.request(Method::HEAD, &format!("/containers/{id}/archive")).query("path", path).send().await
    }

    /// Unpacks a tar into the directory `path` of a container. `copy_owner` keeps the archive's
    /// user and group; otherwise files belong to the container's user.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn write_archive<S, E>(
        &self,
        id: &str,
        path: &str,
        copy_owner: bool,
        archive: S,
    ) -> Result<(), Error>
    where
        S: futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        self.request(Method::PUT, &format!("/containers/{id}/archive"))
            .query("path", path)
            .query("noOverwriteDirNonDir", "1")
            .flag("copyUIDGID", copy_owner)
            .stream("application/x-tar", archive)
            .send()
            .await?;
        Ok(())
    }

    /// A tar of a container's whole file system.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn export_container(&self, id: &str) -> Result<Body, Error> {
        Ok(self.get(&format!("/containers/{id}/export")).send().await?.into_body())
    }

    /// Removes all containers that don't run and pass `filters`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn prune_containers(&self, filters: &Filters) -> Result<PruneContainersResponse, Error> {
        self.post("/containers/prune").filters(filters).fetch().await
    }

    /// Makes an image of a container's files; `query` holds `repo`, `tag`, `comment`, `author`,
    /// `pause` and `changes`, `config` what the image's configuration starts from.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn commit_container(
        &self,
        id: &str,
        query: &[(&str, &str)],
        config: &crate::container::ContainerConfig,
    ) -> Result<crate::exec::IdResponse, Error> {
        let mut request = self.post("/commit").query("container", id).json(config);
        for (name, value) in query {
            request = request.query(name, value);
        }
        request.fetch().await
    }
}

/// The header that carries a registry's login, base64 of JSON.
pub(crate) const REGISTRY_AUTH: header::HeaderName = header::HeaderName::from_static("x-registry-auth");

/// A login as a header's value, nothing if it can't be one.
pub(crate) fn auth_header(auth: Option<&str>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(auth?).ok()?;
    value.set_sensitive(true);
    Some(value)
}
