//! Clients at a container's own streams.

use oci_runtime::monitor::protocol::{Request as MonitorRequest, Streams};
use tokio::net::UnixStream;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lifecycle::State;
use crate::link::attach_pair;

/// A stream to a container: output comes framed as Docker frames it (raw with a terminal), what is
/// written is its input, and closing the writing half ends that.
#[derive(Debug)]
pub struct Attached {
    /// The stream.
    pub stream: UnixStream,
    /// Whether output is raw.
    pub is_raw: bool,
}

impl Engine {
    /// Attaches to a container that runs, or that will: then from its first byte on.
    ///
    /// # Errors
    /// Where it is paused, restarting or being removed.
    pub async fn attach(&self, name: &str, mut streams: Streams) -> Result<Attached> {
        let container = self.containers.find(name)?;
        let spec = container.spec();
        streams.stdin &= spec.open_stdin;
        let is_raw = spec.tty;
        match container.state() {
            State::Paused(_) => {
                return Err(Error::Conflict {
                    what: format!(
                        "container {} is paused, unpause the container before attach",
                        container.id
                    ),
                });
            }
            State::Restarting(_) => {
                return Err(Error::Conflict {
                    what: format!(
                        "container {} is restarting, wait until the container is running",
                        container.id
                    ),
                });
            }
            State::Removing => return Err(Error::NoSuchContainer { name: name.to_owned() }),
            State::Running(_) | State::Created { .. } | State::Exited(_) => {}
        }
        let stream = match container.link() {
            Some(link) => link.attach(streams).await?,
            None => {
                let (ours, theirs) = attach_pair()?;
                container.dynamic().waiting.push((theirs, streams));
                ours
            }
        };
        self.container_event(&container, "attach", &[]);
        Ok(Attached { stream, is_raw })
    }

    /// Whether a container has a terminal.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn has_terminal(&self, name: &str) -> Result<bool> {
        Ok(self.containers.find(name)?.spec().tty)
    }

    /// Sizes a container's terminal, in characters.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.containers.find(name)?;
        let Some(link) = container.link() else {
            return Err(Error::state(format!("container {} is not running", container.id)));
        };
        link.send(&MonitorRequest::Resize { rows, columns }, &[]).await
    }
}
