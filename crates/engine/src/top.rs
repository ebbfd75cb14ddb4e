//! The processes of a container, as the host sees them.

use crate::engine::Engine;
use crate::error::{Doing, Error, Result};
use crate::lifecycle::Request;
use crate::start::refusal;

/// A table of processes.
#[derive(Debug, Clone)]
pub struct ProcessTable {
    /// Column heads.
    pub titles: Vec<String>,
    /// One row a process.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// Lists a container's processes by the host's `ps` with `arguments` (default `-ef`).
    ///
    /// # Errors
    /// Where it does not run, or `ps` is missing or refuses.
    pub async fn top(&self, name: &str, arguments: &str) -> Result<ProcessTable> {
        let container = self.containers.find(name)?;
        let state = container.state();
        state.decide(Request::Signal).map_err(|denied| refusal(&container, denied, "top"))?;
        let mut pids = self.cgroups_of(&container).pids()?;
        if pids.is_empty() {
            pids.extend(state.run().map(|run| run.pid));
        }
        let arguments = if arguments.is_empty() { "-ef" } else { arguments };
        let mut command = stdx::process::command("ps");
        command.args(arguments.split_whitespace());
        let output =
            tokio::process::Command::from(command).output().await.doing(|| "run ps (package procps)")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::invalid(format!("ps {arguments}: {said}")));
        }
        parse(&String::from_utf8_lossy(&output.stdout), &pids)
    }
}

fn parse(text: &str, pids: &[i32]) -> Result<ProcessTable> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::invalid("Couldn't find PID field in ps output"))?;
    let rows = lines
        .map(|line| {
            // The last column, the command, may hold blanks.
            let mut words = line.split_whitespace();
            let mut row: Vec<String> =
                words.by_ref().take(titles.len().saturating_sub(1)).map(str::to_owned).collect();
            row.push(words.collect::<Vec<_>>().join(" "));
            row
        })
        .filter(|row| {
            row.get(column).and_then(|pid| pid.parse::<i32>().ok()).is_some_and(|pid| pids.contains(&pid))
        })
        .collect();
    Ok(ProcessTable { titles, rows })
}
