//! The states of a container and what may be asked of it in each.
//!
//! ```text
//!            start               exit
//!  Created ─────────> Running ─────────> Exited ──┐ start, or its policy
//!                      │   ▲                ▲     │
//!                pause │   │ resume         │     └──> Running
//!                      ▼   │           exit │
//!                     Paused ───────────────┘
//!  any but Running and Paused ── remove ──> Removing ──> (gone)
//! ```
//!
//! A request may be refused, with the reason typed; a fact from the kernel (an exit) may not.

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was never started; a failed start leaves its reason.
    Created {
        /// Exit code and message of a start that failed.
        failure: Option<(i32, String)>,
    },
    /// Its process runs.
    Running(Run),
    /// Its process is frozen.
    Paused(Run),
    /// Its process has ended and is to be started again by its policy.
    Restarting(End),
    /// Its process has ended.
    Exited(End),
    /// It is being removed.
    Removing,
}

/// A process that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id in the engine's pid namespace.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The exit code, or 128 plus the signal.
    pub code: i32,
    /// Whether the kernel killed for want of memory.
    pub is_oom: bool,
    /// Nanoseconds since the epoch.
    pub started_at: u64,
    /// Nanoseconds since the epoch.
    pub finished_at: u64,
    /// What went wrong besides.
    pub error: String,
}

/// What a user may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Run the process.
    Start,
    /// End the process.
    Stop,
    /// Send it a signal.
    Signal,
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
    /// Run one more process in it.
    Exec,
    /// Remove it.
    Remove,
}

/// Whether a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Act,
    /// It is so already.
    Nothing,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It does not run.
    NotRunning,
    /// It is not paused.
    NotPaused,
    /// It is paused.
    IsPaused,
    /// It runs, or is about to.
    IsRunning,
    /// It is being removed.
    IsRemoving,
}

impl State {
    /// Decides a request; every state is listed for each.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn decide(&self, request: Request) -> Result<Decision, Denied> {
        use Decision::{Act, Nothing};
        if matches!(self, Self::Removing) {
            return if request == Request::Remove { Ok(Nothing) } else { Err(Denied::IsRemoving) };
        }
        match (request, self) {
            (_, Self::Removing) => Err(Denied::IsRemoving),
            (Request::Start, Self::Created { .. } | Self::Exited(_) | Self::Restarting(_)) => Ok(Act),
            (Request::Start, Self::Running(_)) => Ok(Nothing),
            (Request::Start, Self::Paused(_)) => Err(Denied::IsPaused),
            (Request::Stop, Self::Running(_) | Self::Paused(_) | Self::Restarting(_)) => Ok(Act),
            (Request::Stop, Self::Created { .. } | Self::Exited(_)) => Ok(Nothing),
            (Request::Signal, Self::Running(_) | Self::Paused(_) | Self::Restarting(_)) => Ok(Act),
            (Request::Signal, Self::Created { .. } | Self::Exited(_)) => Err(Denied::NotRunning),
            (Request::Pause, Self::Running(_)) => Ok(Act),
            (Request::Pause, Self::Paused(_)) => Err(Denied::IsPaused),
            (Request::Pause, Self::Created { .. } | Self::Exited(_) | Self::Restarting(_)) => {
                Err(Denied::NotRunning)
            }
            (Request::Resume, Self::Paused(_)) => Ok(Act),
            (
                Request::Resume,
                Self::Created { .. } | Self::Running(_) | Self::Exited(_) | Self::Restarting(_),
            ) => Err(Denied::NotPaused),
            (Request::Exec, Self::Running(_)) => Ok(Act),
            (Request::Exec, Self::Paused(_)) => Err(Denied::IsPaused),
            (Request::Exec, Self::Created { .. } | Self::Exited(_) | Self::Restarting(_)) => {
                Err(Denied::NotRunning)
            }
            (Request::Remove, Self::Created { .. } | Self::Exited(_)) => Ok(Act),
            (Request::Remove, Self::Running(_) | Self::Paused(_) | Self::Restarting(_)) => {
                Err(Denied::IsRunning)
            }
        }
    }

    /// The process, where there is one.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        match self {
            Self::Running(run) | Self::Paused(run) => Some(run),
            Self::Created { .. } | Self::Restarting(_) | Self::Exited(_) | Self::Removing => None,
        }
    }

    /// How it ended last.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Restarting(end) | Self::Exited(end) => Some(end),
            Self::Created { .. } | Self::Running(_) | Self::Paused(_) | Self::Removing => None,
        }
    }

    /// Docker's word for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) => "exited",
            Self::Removing => "removing",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = State> {
        let run = Run { pid: 7, started_at: 1 };
        prop_oneof![
            Just(State::Created { failure: None }),
            Just(State::Running(run.clone())),
            Just(State::Paused(run)),
            any::<i32>().prop_map(|code| State::Exited(End { code, ..End::default() })),
            Just(State::Restarting(End::default())),
            Just(State::Removing),
        ]
    }

    fn any_request() -> impl Strategy<Value = Request> {
        prop_oneof![
            Just(Request::Start),
            Just(Request::Stop),
            Just(Request::Signal),
            Just(Request::Pause),
            Just(Request::Resume),
            Just(Request::Exec),
            Just(Request::Remove),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_done_to_a_process_that_does_not_live(state in any_state(), request in any_request()) {
            let needs_process = matches!(request, Request::Pause | Request::Resume | Request::Exec);
            if needs_process && state.run().is_none() {
                prop_assert!(state.decide(request).is_err());
            }
        }

        #[test]
        fn a_living_container_is_never_removed(state in any_state()) {
            if state.run().is_some() {
                prop_assert_eq!(state.decide(Request::Remove), Err(Denied::IsRunning));
            }
        }

        #[test]
        fn removal_is_final(request in any_request()) {
            prop_assert_ne!(State::Removing.decide(request), Ok(Decision::Act));
        }
    }
}
