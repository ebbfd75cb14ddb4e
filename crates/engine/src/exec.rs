//! Further processes in a running container.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use oci_runtime::monitor::protocol::ExecRequest;
use oci_runtime::spec::ConsoleSize;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::container::Container;
use crate::create::new_id;
use crate::engine::Engine;
use crate::error::{Doing, Error, Result};
use crate::lifecycle::Request;
use crate::oci;
use crate::start::refusal;

/// What to run, as whom.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `name|uid[:group|gid]`; empty is the container's user.
    pub user: String,
    /// `NAME=value`, on top of the container's.
    pub env: Vec<String>,
    /// Empty is the container's.
    pub working_dir: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it holds all capabilities and runs without a filter.
    pub privileged: bool,
    /// Whether its input is open.
    pub stdin: bool,
    /// Whether its output is wanted.
    pub stdout: bool,
    /// Whether its error output is wanted.
    pub stderr: bool,
    /// The sequence that lets go of its terminal.
    pub detach_keys: String,
    /// Rows and columns of its terminal.
    pub console_size: Option<(u16, u16)>,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecState {
    Created,
    Running { pid: i32 },
    Exited { code: i32 },
}

/// One process.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    id: String,
    container: Weak<Container>,
    spec: ExecSpec,
    state: watch::Sender<ExecState>,
    /// For resizing.
    terminal: Mutex<Option<OwnedFd>>,
}

/// Processes by id.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<ExecProcess>>>);

/// Ids of a container's ended processes, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ended(VecDeque<(Instant, String)>);

impl Ended {
    /// How many are kept, however young.
    const KEPT: usize = 256;
    /// How long one is kept; Docker's daemon looks for those to forget as often.
    const AGE: Duration = Duration::from_secs(5 * 60);

    /// Adds one that ended just now. Returns those that are to be forgotten.
    fn add(&mut self, id: String, now: Instant) -> Vec<String> {
        self.0.push_back((now, id));
        let is_young = |ended: &Instant| now.duration_since(*ended) < Self::AGE;
        let old = self.0.iter().take_while(|(ended, _)| !is_young(ended)).count();
        let gone = old.max(self.0.len().saturating_sub(Self::KEPT));
        self.0.drain(..gone).map(|(_, id)| id).collect()
    }
}

impl Execs {
    fn get(&self, id: &str) -> Result<Arc<ExecProcess>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id).cloned().ok_or_else(|| Error::NoSuchExec { id: id.to_owned() })
    }
}

/// The caller's ends of a process's streams.
#[derive(Debug)]
pub struct ExecStreams {
    /// Closed, it is the end of the process's input. `None` with a terminal: that is both.
    pub stdin: Option<AsyncFd<OwnedFd>>,
    /// What the process writes.
    pub output: ExecOutput,
}

/// What a process writes.
#[derive(Debug)]
pub enum ExecOutput {
    /// Both on one terminal, which is also its input.
    Terminal(AsyncFd<OwnedFd>),
    /// Apart.
    Pipes {
        /// Output.
        stdout: AsyncFd<OwnedFd>,
        /// Error output.
        stderr: AsyncFd<OwnedFd>,
    },
}

/// What `inspect` tells of a process.
#[derive(Debug, Clone)]
pub struct ExecInfo {
    /// Its id.
    pub id: String,
    /// Its container.
    pub container_id: String,
    /// What was asked for.
    pub spec: ExecSpec,
    /// Whether it runs.
    pub is_running: bool,
    /// Its exit code, once it has ended.
    pub exit_code: Option<i32>,
    /// Its process id; 0 unless it was started.
    pub pid: i32,
}

impl Engine {
    /// Prepares a process; returns its id.
    ///
    /// # Errors
    /// Where the container does not run.
    pub fn create_exec(&self, name: &str, spec: ExecSpec) -> Result<String> {
        let container = self.containers.find(name)?;
        container.state().decide(Request::Exec).map_err(|denied| refusal(&container, denied, "exec"))?;
        if spec.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        let id = new_id();
        let process = Arc::new(ExecProcess {
            id: id.clone(),
            container: Arc::downgrade(&container),
            spec,
            state: watch::Sender::new(ExecState::Created),
            terminal: Mutex::default(),
        });
        self.execs.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::clone(&process));
        container.dynamic().execs.insert(id.clone(), Arc::clone(&process));
        let action = format!("exec_create: {}", process.spec.command.join(" "));
        self.container_event(&container, &action, &[("execID", &id)]);
        Ok(id)
    }

    /// Starts a prepared process. Without `attach` it gets no streams.
    ///
    /// # Errors
    /// Where it was started before, the container does not run, or the program can't be executed.
    pub async fn start_exec(
        &self,
        id: &str,
        attach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<ExecStreams>> {
        let process = self.execs.get(id)?;
        let container = process.container.upgrade().ok_or_else(|| Error::NoSuchExec { id: id.to_owned() })?;
        match *process.state.borrow() {
            ExecState::Created => {}
            ExecState::Running { .. } | ExecState::Exited { .. } => {
                return Err(Error::Conflict { what: format!("exec session {id} has already been started") });
            }
        }
        container.state().decide(Request::Exec).map_err(|denied| refusal(&container, denied, "exec"))?;
        let link = container
            .link()
            .ok_or_else(|| refusal(&container, crate::lifecycle::Denied::NotRunning, "exec"))?;
        let request = exec_request(&container, &process.spec, console_size)?;
        let (ours, theirs) =
            if attach && !process.spec.tty { pipes(&process.spec)? } else { (None, Vec::new()) };
        let action = format!("exec_start: {}", process.spec.command.join(" "));
        self.container_event(&container, &action, &[("execID", id)]);
        let outcome = link.exec(id, &request, &theirs).await?;
        drop(theirs);
        match outcome {
            Ok((pid, terminal)) => {
                // A short process may have ended before this is noted.
                process.state.send_if_modified(|state| {
                    let is_first = *state == ExecState::Created;
                    if is_first {
                        *state = ExecState::Running { pid };
                    }
                    is_first
                });
                match terminal {
                    Some(master) => process.attach_terminal(master, attach),
                    None => Ok(ours),
                }
            }
            Err(failure) => {
                let code = if failure.is_exec && failure.errno != libc::ENOENT && failure.errno != 0 {
                    126
                } else {
                    127
                };
                process.state.send_replace(ExecState::Exited { code });
                self.expire(&container, id);
                Err(Error::Start {
                    id: container.short_id().to_owned(),
                    message: failure.message,
                    exit_code: code,
                })
            }
        }
    }

    /// What is known of a process.
    ///
    /// # Errors
    /// Where there is none of this id.
    pub fn inspect_exec(&self, id: &str) -> Result<ExecInfo> {
        let process = self.execs.get(id)?;
        let (is_running, exit_code, pid) = match *process.state.borrow() {
            ExecState::Created => (false, None, 0),
            ExecState::Running { pid } => (true, None, pid),
            ExecState::Exited { code } => (false, Some(code), 0),
        };
        Ok(ExecInfo {
            id: id.to_owned(),
            container_id: process
                .container
                .upgrade()
                .map(|container| container.id.clone())
                .unwrap_or_default(),
            spec: process.spec.clone(),
            is_running,
            exit_code,
            pid,
        })
    }

    /// Sizes a process's terminal, in characters.
    ///
    /// # Errors
    /// Where there is none, or it has no terminal.
    pub fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let process = self.execs.get(id)?;
        let terminal = process.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(terminal) = terminal.as_ref() else {
            return Err(Error::state(format!("exec {id} has no terminal, or does not run")));
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).doing(|| "size the terminal")
    }

    /// Waits until a started process has ended.
    pub async fn wait_exec(&self, id: &str) -> Option<i32> {
        let process = self.execs.get(id).ok()?;
        let mut state = process.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, ExecState::Exited { .. })).await.ok()?;
        match *ended {
            ExecState::Exited { code } => Some(code),
            ExecState::Created | ExecState::Running { .. } => None,
        }
    }

    pub(crate) fn exec_ended(&self, container: &Container, id: &str, code: i32) {
        let Some(process) = container.dynamic().execs.get(id).cloned() else { return };
        process.state.send_replace(ExecState::Exited { code });
        process.terminal.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.container_event(container, "exec_die", &[("execID", id), ("exitCode", &code.to_string())]);
        self.expire(container, id);
    }

    /// Notes that a process has ended, and forgets those that ended long before: clients ask for an exit code
    /// soon or never.
    fn expire(&self, container: &Container, ended: &str) {
        let mut dynamic = container.dynamic();
        let gone = dynamic.ended_execs.add(ended.to_owned(), Instant::now());
        if gone.is_empty() {
            return;
        }
        let mut all = self.execs.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &gone {
            dynamic.execs.remove(id);
            all.remove(id);
        }
    }

    /// The container has ended, and with it every process in it.
    pub(crate) fn end_execs(&self, container: &Container) {
        let was_running = |process: &Arc<ExecProcess>| {
            process.state.send_if_modified(|state| {
                let was_running = matches!(state, ExecState::Running { .. });
                if was_running {
                    *state = ExecState::Exited { code: 137 };
                }
                was_running
            })
        };
        let ended: Vec<_> =
            container.dynamic().execs.values().filter(|one| was_running(one)).cloned().collect();
        for process in ended {
            self.expire(container, &process.id);
        }
    }

    pub(crate) fn forget_execs(&self, container: &Container) {
        let gone = {
            let mut dynamic = container.dynamic();
            dynamic.ended_execs = Ended::default();
            std::mem::take(&mut dynamic.execs)
        };
        let mut all = self.execs.0.lock().unwrap_or_else(PoisonError::into_inner);
        for process in gone.values() {
            all.remove(&process.id);
        }
    }
}

impl ExecProcess {
    fn attach_terminal(&self, master: OwnedFd, attach: bool) -> Result<Option<ExecStreams>> {
        let copy = master.try_clone().doing(|| "copy the terminal")?;
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        if !attach {
            return Ok(None);
        }
        let terminal = watched(master)?;
        Ok(Some(ExecStreams { stdin: None, output: ExecOutput::Terminal(terminal) }))
    }
}

fn exec_request(
    container: &Container,
    exec: &ExecSpec,
    console_size: Option<(u16, u16)>,
) -> Result<ExecRequest> {
    let spec = container.spec();
    let security = oci::Security::parse(&spec.host.security_opt)?;
    let user = if exec.user.is_empty() { &spec.user } else { &exec.user };
    let is_privileged = exec.privileged || spec.host.privileged;
    let mut process = oci::process(&spec, &security, user, is_privileged)?;
    process.args.clone_from(&exec.command);
    process.terminal = exec.tty;
    if exec.tty && !process.env.iter().any(|pair| pair.starts_with("TERM=")) {
        process.env.push("TERM=xterm".into());
    }
    for pair in &exec.env {
        let name = pair.split('=').next().unwrap_or(pair);
        process.env.retain(|known| known.split('=').next() != Some(name));
        if pair.contains('=') {
            process.env.push(pair.clone());
        }
    }
    if !exec.working_dir.is_empty() {
        if !exec.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory {:?} is not absolute",
                exec.working_dir
            )));
        }
        process.cwd.clone_from(&exec.working_dir);
    }
    process.console_size = console_size.map(|(height, width)| ConsoleSize { height, width });
    Ok(ExecRequest { process, is_unconfined: exec.privileged })
}

/// Our ends, and the process's stdin, stdout and stderr.
fn pipes(spec: &ExecSpec) -> Result<(Option<ExecStreams>, Vec<OwnedFd>)> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe");
    let (stdin, their_stdin) = if spec.stdin {
        let (read, write) = pipe()?;
        (Some(watched(write)?), read)
    } else {
        let null = std::fs::File::open("/dev/null").doing(|| "open /dev/null")?;
        (None, null.into())
    };
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let output = ExecOutput::Pipes { stdout: watched(stdout)?, stderr: watched(stderr)? };
    Ok((Some(ExecStreams { stdin, output }), vec![their_stdin, their_stdout, their_stderr]))
}

fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    crate::watch::watch(fd).doing(|| "watch a stream")
}

impl ExecStreams {
    /// Reads what is there; `Ok(0)` at the end. A terminal without its other side has ended.
    ///
    /// # Errors
    /// read(2)'s.
    pub async fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
        let read =
            fd.async_io(tokio::io::Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await;
        match read {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    /// Writes some of it.
    ///
    /// # Errors
    /// write(2)'s; `EPIPE` when the process has closed its input.
    pub async fn write(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
        fd.async_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ends_are_forgotten_first() {
        let mut ended = Ended::default();
        let start = Instant::now();
        for at in 0..Ended::KEPT {
            assert_eq!(ended.add(at.to_string(), start), Vec::<String>::new());
        }
        assert_eq!(ended.add("one more".to_owned(), start), ["0"]);
        let gone = ended.add("late".to_owned(), start + Ended::AGE);
        assert_eq!(gone.len(), Ended::KEPT);
        assert_eq!(gone.last().map(String::as_str), Some("one more"));
    }
}
