//! Operations on processes started in a running container.

use super::error::Error;
use super::{Client, Upgraded};
use crate::exec::{CreateExec, ExecInspect, IdResponse, StartExec};

impl Client {
    /// Prepares a process in a container; it runs from [`Self::start_exec`] on.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn create_exec(&self, container: &str, exec: &CreateExec) -> Result<IdResponse, Error> {
        self.post(&format!("/containers/{container}/exec")).json(exec).fetch().await
    }

    /// Starts a prepared process and takes over its input and output.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn start_exec(&self, id: &str, start: &StartExec) -> Result<Upgraded, Error> {
        self.post(&format!("/exec/{id}/start")).json(start).upgrade().await
    }

    /// Starts a prepared process and leaves it alone.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn start_exec_detached(&self, id: &str) -> Result<(), Error> {
        let start = StartExec { detach: true, ..StartExec::default() };
        self.post(&format!("/exec/{id}/start")).json(&start).send().await?;
        Ok(())
    }

    /// Tells a process's terminal its size.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let request = self.post(&format!("/exec/{id}/resize"));
        request.query("h", rows.to_string()).query("w", columns.to_string()).send().await?;
        Ok(())
    }

    /// Whether a process runs, and how it ended.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspect, Error> {
        self.get(&format!("/exec/{id}/json")).fetch().await
    }
}
