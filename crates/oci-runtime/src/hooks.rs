//! Runs the bundle's hooks: programs that get the container's state on their stdin.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::spec::{Hook, State};

/// Runs them in order; the first failure ends it.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &State) -> Result<()> {
    hooks.iter().try_for_each(|hook| run_one(kind, hook, state))
}

/// Runs them all, whatever fails; returns the failures.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &State) -> Vec<Error> {
    hooks.iter().filter_map(|hook| run_one(kind, hook, state).err()).collect()
}

fn run_one(kind: &str, hook: &Hook, state: &State) -> Result<()> {
    let step = || format!("run the {kind} hook {:?}", hook.path);
    if !hook.path.is_absolute() {
        return Err(Error::invalid(format!("{kind} hook {:?} is not an absolute path", hook.path)));
    }
    let mut command = stdx::process::command(&hook.path);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    let mut child = command.spawn().doing(step)?;
    let text = serde_json::to_vec(state).unwrap_or_default();
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may not care for the state and close its stdin.
        let _ = stdin.write_all(&text);
    }
    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        let status = match deadline {
            None => Some(child.wait().doing(step)?),
            Some(_) => child.try_wait().doing(step)?,
        };
        if let Some(status) = status {
            if status.success() {
                return Ok(());
            }
            let mut said = String::new();
            if let Some(stderr) = child.stderr.take() {
                // What it printed only helps to explain; the failure stands without it.
                let _ = stderr.take(4096).read_to_string(&mut said);
            }
            let what = format!("the {kind} hook {:?} failed ({status}): {}", hook.path, said.trim());
            return Err(Error::State { what });
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let _ = child.kill();
            let _ = child.wait();
            let what =
                format!("the {kind} hook {:?} ran over its {} s", hook.path, hook.timeout.unwrap_or(0));
            return Err(Error::State { what });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
