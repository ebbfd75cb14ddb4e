//! Child processes that end with the test.

use std::process::{Child, Command, Stdio};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it, its output in `log`, or under that name in `COVE_TEST_LOGS` where it is kept.
    ///
    /// # Errors
    /// It can't be executed, or the log not be written.
    pub fn start(mut command: Command, log: &std::path::Path) -> anyhow::Result<Self> {
        let kept = std::env::var_os("COVE_TEST_LOGS").map(std::path::PathBuf::from);
        let log = match (kept, log.file_name()) {
            (Some(dir), Some(name)) => dir.join(name),
            _ => log.to_owned(),
        };
        let file = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?);
        // What a caller reads itself stays a pipe.
        command.stdout(file);
        Ok(Self(command.spawn()?))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The system doesn't tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

/// How long a process may take to end when asked.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: an engine takes its bridge along.
        let _ = stdx::process::command("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let asked = std::time::Instant::now();
        while asked.elapsed() < GRACE && self.0.try_wait().is_ok_and(|status| status.is_none()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
