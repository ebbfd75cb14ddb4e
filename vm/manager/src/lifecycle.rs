//! A machine's states, and the one function that decides what follows.
//!
//! ```text
//!              start                 a stage is done, in order             the engine answers
//!   Stopped ──────────> Starting(image) ──> … ──> Starting(engine) ──────────────────────> Running
//!      ^                    │      │                                                         │  │
//!      │                    │      │ stop, or a newer image that fails to start             │  │ stop
//!      │       it fails, is │      v                                                         │  v
//!      │  late, or is gone  │   Stopping ──────────────── the VMM is gone ──────────────> (Stopped,
//!      │                    v      ^                                                     Starting again,
//!      └──────────────── Failed ───┼─ start ──> Starting(image)        the VMM is gone    or Failed)
//!        the next start leads out  └───────────────────────────────────────── Failed <───────┘
//!
//!            sleep             the guest is ready, its state is on disk, the VMM is gone
//!   Running ───────> Sleeping ───────────────────────────────────────────────────────────> Asleep
//!      ^                │  the guest can't: Running again                                     │ start
//!      │                │  its state can't be written: Starting(kernel), which it wakes from  v
//!      └── … ───────────┴─────────────────────────────────────────────────────────> Starting(image)
//! ```
//!
//! A request may be refused, with a reason. A fact may not: it is what happened. Whatever the state, the program that
//! is the machine (the VMM) is ended before a state without one is entered.

use std::fmt;

use vm_proto::message::Mode;

use crate::stage::Stage;

/// Where a machine stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is no VMM.
    Stopped,
    /// On its way up.
    Starting {
        /// The stage that is under way.
        stage: Stage,
        /// How it is to run.
        mode: Mode,
    },
    /// Every stage is done.
    Running {
        /// How it runs.
        mode: Mode,
    },
    /// The guest is told to let go of what can't be saved, and then its state is written.
    Sleeping,
    /// There is no VMM, and its state is on disk: the next start goes on from there.
    Asleep,
    /// The VMM is to go, and then this follows.
    Stopping {
        /// What follows.
        then: Then,
    },
    /// There is no VMM, because of this.
    Failed {
        /// During which stage; `None` when it ran.
        stage: Option<Stage>,
        /// In words.
        cause: String,
    },
}

/// What follows when the VMM is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Stop,
    /// Nothing, until somebody calls.
    Sleep,
    /// Another start: the kernel gave up, as emulated ones do now and then.
    Again {
        /// How it is to run.
        mode: Mode,
    },
    /// Another start, with the image that worked before.
    RollBack {
        /// How it is to run.
        mode: Mode,
    },
    /// The failure is told.
    Fail {
        /// During which stage; `None` when it ran.
        stage: Option<Stage>,
        /// In words.
        cause: String,
    },
}

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To have it run.
    Start(Mode),
    /// To have it stop cleanly.
    Stop,
    /// To have its state saved and the VMM gone.
    Sleep,
    /// To have it gone at once.
    Kill,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A stage is done.
    Done(Stage),
    /// A stage failed.
    Failed {
        /// Which.
        stage: Stage,
        /// In words.
        cause: String,
        /// The image is newer than one that worked, so that going back may help.
        has_previous: bool,
    },
    /// The guest did not power off in time.
    StopIsLate,
    /// The guest has let go of what can't be saved.
    GuestIsReady,
    /// The guest can't, or does not say so in time, and goes on.
    GuestIsNot,
    /// Its state is on disk.
    Saved,
    /// Its state could not be written; the guest is there, and is woken.
    NotSaved,
    /// The VMM ended.
    VmmGone {
        /// How, in words.
        how: String,
        /// As of a failed stage.
        has_previous: bool,
        /// A kernel that gives up is worth another try.
        is_flaky: bool,
    },
}

/// Either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// What somebody wants.
    Request(Request),
    /// What happened.
    Fact(Fact),
}

/// What the supervisor does about it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Begin a stage that happens on the host, or wait for one that happens in the guest.
    Begin(Stage),
    /// From here on the newest image is kept: its engine has answered.
    KeepImage,
    /// From here on the image before is used.
    UsePreviousImage,
    /// Tell the guest to power off.
    AskToPowerOff,
    /// Tell the guest to let go of what can't be saved.
    AskToSleep,
    /// Write the state of the VMM.
    Save,
    /// Tell the guest that it is to go on after all.
    Wake,
    /// Listen for whoever calls the engine, or a port.
    AwaitCall,
    /// Forget the state that was saved.
    DropSaved,
    /// End the VMM.
    KillVmm,
    /// Clear up what the VMM had: devices, sockets, and forwarded ports unless it sleeps.
    ClearUp,
    /// The supervisor has nothing left to supervise.
    End,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is what is wanted already.
    IsSo,
    /// It stops right now.
    Stopping,
    /// It runs otherwise than it is to be started.
    RunsOtherwise,
    /// It is asleep, and what is in it would be lost.
    Asleep,
    /// Only one that runs can be sent to sleep.
    NotUp,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IsSo => "it is so already",
            Self::Stopping => "the machine is stopping",
            Self::RunsOtherwise => "the machine runs already, and otherwise: stop it first",
            Self::Asleep => "the machine is asleep: start it first, or end it with what is in its memory",
            Self::NotUp => "only a machine whose engine runs can sleep",
        })
    }
}

/// The next state, and what is to be done.
pub type Decision = (State, Vec<Action>);

/// Decides what follows on `input` in `state`.
///
/// # Errors
/// A request that can't be granted; facts are never refused.
pub fn decide(state: &State, input: Input) -> Result<Decision, Refusal> {
    match input {
        Input::Request(request) => grant(state, request),
        Input::Fact(fact) => Ok(follow(state, fact)),
    }
}

fn grant(state: &State, request: Request) -> Result<Decision, Refusal> {
    match (request, state) {
        (Request::Start(Mode::Rescue), State::Asleep) => Err(Refusal::Asleep),
        (Request::Start(mode), State::Stopped | State::Failed { .. } | State::Asleep) => {
            Ok((State::Starting { stage: Stage::Image, mode }, vec![Action::Begin(Stage::Image)]))
        }
        (Request::Start(wanted), State::Starting { mode, .. } | State::Running { mode }) => {
            Err(if wanted == *mode { Refusal::IsSo } else { Refusal::RunsOtherwise })
        }
        (Request::Start(_), State::Stopping { .. } | State::Sleeping) => Err(Refusal::Stopping),
        (Request::Sleep, State::Running { mode: Mode::Normal }) => {
            Ok((State::Sleeping, vec![Action::AskToSleep]))
        }
        (Request::Sleep, State::Sleeping | State::Asleep | State::Stopping { then: Then::Sleep }) => {
            Err(Refusal::IsSo)
        }
        (Request::Sleep, _) => Err(Refusal::NotUp),
        (Request::Stop, State::Asleep) => Err(Refusal::Asleep),
        (Request::Kill, State::Asleep) => Ok((State::Stopped, vec![Action::DropSaved, Action::End])),
        // What is being saved is saved; whoever asks again finds it asleep.
        (Request::Stop, State::Sleeping | State::Stopping { then: Then::Sleep }) => Err(Refusal::Stopping),
        (Request::Kill, State::Sleeping | State::Stopping { then: Then::Sleep }) => {
            Ok((State::Stopping { then: Then::Stop }, vec![Action::DropSaved, Action::KillVmm]))
        }
        (Request::Stop | Request::Kill, State::Stopped | State::Failed { .. }) => Err(Refusal::IsSo),
        // Before the guest listens there is nobody to ask.
        (Request::Stop, State::Starting { stage, .. }) if *stage <= Stage::Kernel => {
            Ok(end_vmm(*stage, Then::Stop))
        }
        (Request::Stop, State::Starting { .. } | State::Running { .. }) => {
            Ok((State::Stopping { then: Then::Stop }, vec![Action::AskToPowerOff]))
        }
        (Request::Stop, State::Stopping { then: Then::Stop }) => Err(Refusal::IsSo),
        // Whoever asks to stop gets no second start.
        (Request::Stop, State::Stopping { .. }) => Ok((State::Stopping { then: Then::Stop }, vec![])),
        (Request::Kill, State::Starting { stage, .. }) => Ok(end_vmm(*stage, Then::Stop)),
        (Request::Kill, State::Running { .. } | State::Stopping { .. }) => {
            Ok((State::Stopping { then: Then::Stop }, vec![Action::KillVmm]))
        }
    }
}

/// Ends a start at `stage`: before the hypervisor's there is no VMM to end.
fn end_vmm(stage: Stage, then: Then) -> Decision {
    if stage < Stage::Hypervisor { gone(then) } else { (State::Stopping { then }, vec![Action::KillVmm]) }
}

fn follow(state: &State, fact: Fact) -> Decision {
    match (fact, state) {
        (Fact::Done(done), State::Starting { stage, mode }) if done == *stage => match stage.next() {
            Some(next) => (State::Starting { stage: next, mode: *mode }, vec![Action::Begin(next)]),
            None => (
                State::Running { mode: *mode },
                // A rescue shows nothing about the image's engine.
                if *mode == Mode::Normal { vec![Action::KeepImage] } else { vec![] },
            ),
        },
        (Fact::Failed { stage: failed, cause, has_previous }, State::Starting { stage, mode })
            if failed == *stage =>
        {
            end_vmm(*stage, after_failure(*stage, *mode, cause, has_previous))
        }
        // Of a stage that is over, or of a start that was given up.
        (Fact::Done(_) | Fact::Failed { .. }, _) => (state.clone(), vec![]),
        (Fact::StopIsLate, State::Stopping { .. }) => (state.clone(), vec![Action::KillVmm]),
        (Fact::StopIsLate, _) => (state.clone(), vec![]),
        (Fact::VmmGone { .. }, State::Stopping { then }) => gone(then.clone()),
        (Fact::VmmGone { has_previous: false, is_flaky: true, .. }, State::Starting { stage, mode })
            if *stage == Stage::Kernel =>
        {
            gone(Then::Again { mode: *mode })
        }
        (Fact::VmmGone { how, has_previous, .. }, State::Starting { stage, mode })
            if *stage >= Stage::Hypervisor =>
        {
            gone(after_failure(*stage, *mode, format!("the machine ended: {how}"), has_previous))
        }
        (Fact::GuestIsReady, State::Sleeping) => (State::Sleeping, vec![Action::Save]),
        // It was given up waiting for.
        (Fact::GuestIsReady, State::Running { .. }) => (state.clone(), vec![Action::Wake]),
        (Fact::GuestIsNot, State::Sleeping) => (State::Running { mode: Mode::Normal }, vec![Action::Wake]),
        (Fact::Saved, State::Sleeping) => (State::Stopping { then: Then::Sleep }, vec![Action::KillVmm]),
        (Fact::NotSaved, State::Sleeping) => (
            State::Starting { stage: Stage::Kernel, mode: Mode::Normal },
            vec![Action::Wake, Action::Begin(Stage::Kernel)],
        ),
        // Of a sleep that was ended meanwhile.
        (Fact::GuestIsReady | Fact::GuestIsNot | Fact::Saved | Fact::NotSaved, _) => (state.clone(), vec![]),
        (Fact::VmmGone { how, .. }, State::Running { .. } | State::Sleeping) => {
            gone(Then::Fail { stage: None, cause: format!("the machine ended: {how}") })
        }
        (
            Fact::VmmGone { .. },
            State::Starting { .. } | State::Stopped | State::Failed { .. } | State::Asleep,
        ) => (state.clone(), vec![]),
    }
}

/// Of a newer image the one before is gone back to, if its failure may be the image's.
fn after_failure(stage: Stage, mode: Mode, cause: String, has_previous: bool) -> Then {
    if has_previous && mode == Mode::Normal && stage >= Stage::Hypervisor {
        Then::RollBack { mode }
    } else {
        Then::Fail { stage: Some(stage), cause }
    }
}

/// What follows without a VMM.
fn gone(then: Then) -> Decision {
    match then {
        Then::Stop => (State::Stopped, vec![Action::ClearUp, Action::End]),
        Then::Sleep => (State::Asleep, vec![Action::ClearUp, Action::AwaitCall]),
        Then::Fail { stage, cause } => (State::Failed { stage, cause }, vec![Action::ClearUp, Action::End]),
        Then::Again { mode } => (
            State::Starting { stage: Stage::Image, mode },
            vec![Action::ClearUp, Action::Begin(Stage::Image)],
        ),
        Then::RollBack { mode } => (
            State::Starting { stage: Stage::Image, mode },
            vec![Action::ClearUp, Action::UsePreviousImage, Action::Begin(Stage::Image)],
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Input {
        Input::Request(Request::Start(Mode::Normal))
    }

    fn run(inputs: impl IntoIterator<Item = Input>) -> (State, Vec<Action>) {
        let (mut state, mut done) = (State::Stopped, Vec::new());
        for input in inputs {
            if let Ok((next, actions)) = decide(&state, input) {
                state = next;
                done.extend(actions);
            }
        }
        (state, done)
    }

    fn up_to(last: Stage) -> Vec<Input> {
        let done =
            Stage::ALL.into_iter().filter(|stage| *stage <= last).map(|stage| Input::Fact(Fact::Done(stage)));
        std::iter::once(start()).chain(done).collect()
    }

    fn failed(stage: Stage, has_previous: bool) -> Input {
        Input::Fact(Fact::Failed { stage, cause: "why".into(), has_previous })
    }

    fn vmm_gone() -> Input {
        Input::Fact(Fact::VmmGone { how: "signal 9".into(), has_previous: false, is_flaky: false })
    }

    #[test]
    fn a_start_goes_through_every_stage_and_keeps_the_image_at_the_end() {
        let (state, done) = run(up_to(Stage::Engine));
        assert_eq!(state, State::Running { mode: Mode::Normal });
        let begun: Vec<Action> = Stage::ALL.into_iter().map(Action::Begin).collect();
        assert_eq!(done, [begun, vec![Action::KeepImage]].concat());
    }

    #[test]
    fn a_newer_image_that_fails_is_rolled_back_once_its_vmm_is_gone() {
        let mut inputs = up_to(Stage::Kernel);
        inputs.push(failed(Stage::Agent, true));
        let (state, _) = run(inputs.clone());
        assert_eq!(state, State::Stopping { then: Then::RollBack { mode: Mode::Normal } });
        inputs.push(vmm_gone());
        let (state, done) = run(inputs);
        assert_eq!(state, State::Starting { stage: Stage::Image, mode: Mode::Normal });
        assert!(done.ends_with(&[Action::ClearUp, Action::UsePreviousImage, Action::Begin(Stage::Image)]));
    }

    #[test]
    fn a_kernel_that_gives_up_at_once_is_rolled_back_too() {
        let mut inputs = up_to(Stage::Hypervisor);
        inputs.push(Input::Fact(Fact::VmmGone {
            how: "exit status: 134".into(),
            has_previous: true,
            is_flaky: true,
        }));
        let (state, done) = run(inputs);
        assert_eq!(state, State::Starting { stage: Stage::Image, mode: Mode::Normal });
        assert!(done.ends_with(&[Action::ClearUp, Action::UsePreviousImage, Action::Begin(Stage::Image)]));
    }

    #[test]
    fn a_kernel_that_gives_up_is_tried_again_where_that_may_help() {
        let gave_up = |is_flaky| {
            Input::Fact(Fact::VmmGone { how: "exit status: 0".into(), has_previous: false, is_flaky })
        };
        let mut inputs = up_to(Stage::Hypervisor);
        inputs.push(gave_up(true));
        let (state, done) = run(inputs.clone());
        assert_eq!(state, State::Starting { stage: Stage::Image, mode: Mode::Normal });
        assert!(done.ends_with(&[Action::ClearUp, Action::Begin(Stage::Image)]));
        inputs.extend(
            [Stage::Image, Stage::Disk, Stage::Hypervisor].map(|stage| Input::Fact(Fact::Done(stage))),
        );
        inputs.push(gave_up(false));
        assert!(matches!(run(inputs).0, State::Failed { stage: Some(Stage::Kernel), .. }));
    }

    #[test]
    fn a_failure_before_there_is_a_vmm_waits_for_none() {
        let (state, done) = run([start(), failed(Stage::Image, true)]);
        assert_eq!(state, State::Failed { stage: Some(Stage::Image), cause: "why".into() });
        assert!(done.ends_with(&[Action::ClearUp, Action::End]));
    }

    #[test]
    fn words_of_stages_that_are_over_change_nothing() {
        let mut inputs = up_to(Stage::Shares);
        inputs.extend([Input::Fact(Fact::Done(Stage::Kernel)), failed(Stage::Agent, false)]);
        assert_eq!(run(inputs).0, State::Starting { stage: Stage::Network, mode: Mode::Normal });
    }

    #[test]
    fn one_that_sleeps_goes_on_through_every_stage() {
        let mut inputs = up_to(Stage::Engine);
        inputs.push(Input::Request(Request::Sleep));
        assert_eq!(run(inputs.clone()).0, State::Sleeping);
        inputs.extend([Input::Fact(Fact::GuestIsReady), Input::Fact(Fact::Saved)]);
        assert_eq!(run(inputs.clone()).0, State::Stopping { then: Then::Sleep });
        inputs.push(vmm_gone());
        let (state, done) = run(inputs.clone());
        assert_eq!(state, State::Asleep);
        assert!(done.ends_with(&[Action::Save, Action::KillVmm, Action::ClearUp, Action::AwaitCall]));
        inputs.extend(up_to(Stage::Engine));
        assert_eq!(run(inputs).0, State::Running { mode: Mode::Normal });
    }

    #[test]
    fn nothing_but_an_end_at_once_loses_what_is_saved() {
        let asleep = State::Asleep;
        for request in [Request::Stop, Request::Start(Mode::Rescue)] {
            assert_eq!(decide(&asleep, Input::Request(request)), Err(Refusal::Asleep));
        }
        let killed = decide(&asleep, Input::Request(Request::Kill));
        assert_eq!(killed, Ok((State::Stopped, vec![Action::DropSaved, Action::End])));
    }

    #[test]
    fn a_guest_that_can_not_be_saved_goes_on() {
        let mut inputs = up_to(Stage::Engine);
        inputs.push(Input::Request(Request::Sleep));
        let with = |fact| run(inputs.iter().cloned().chain([Input::Fact(fact)])).0;
        assert_eq!(with(Fact::GuestIsNot), State::Running { mode: Mode::Normal });
        assert_eq!(with(Fact::NotSaved), State::Starting { stage: Stage::Kernel, mode: Mode::Normal });
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let stage = prop::sample::select(Stage::ALL.to_vec());
        let mode = prop::sample::select(vec![Mode::Normal, Mode::Rescue]);
        prop_oneof![
            1 => mode.prop_map(|mode| Input::Request(Request::Start(mode))),
            1 => Just(Input::Request(Request::Stop)),
            1 => Just(Input::Request(Request::Kill)),
            2 => Just(Input::Request(Request::Sleep)),
            3 => prop::sample::select(vec![
                Fact::GuestIsReady,
                Fact::GuestIsNot,
                Fact::Saved,
                Fact::NotSaved,
            ])
            .prop_map(Input::Fact),
            8 => stage.clone().prop_map(|stage| Input::Fact(Fact::Done(stage))),
            2 => (stage, any::<bool>()).prop_map(|(stage, has_previous)| failed(stage, has_previous)),
            1 => Just(Input::Fact(Fact::StopIsLate)),
            2 => any::<bool>().prop_map(|is_flaky| Input::Fact(Fact::VmmGone {
                how: "signal 9".into(), has_previous: false, is_flaky,
            })),
        ]
    }

    proptest! {
        /// A model of the world beside it: a VMM is there from the hypervisor's stage on, until it is gone.
        #[test]
        fn no_order_of_events_leaves_a_vmm_behind_or_skips_a_stage(inputs in prop::collection::vec(any_input(), 0..200)) {
            let (mut state, mut has_vmm, mut last) = (State::Stopped, false, None);
            for input in inputs {
                // A VMM that is not there can't go.
                let is_gone = matches!(input, Input::Fact(Fact::VmmGone { .. }));
                if is_gone && !has_vmm {
                    continue;
                }
                let is_request = matches!(input, Input::Request(_));
                let decided = decide(&state, input);
                prop_assert!(is_request || decided.is_ok(), "a fact was refused");
                let Ok((next, actions)) = decided else { continue };
                if is_gone {
                    has_vmm = false;
                }
                for action in &actions {
                    match action {
                        // A guest that is woken goes on from its hello.
                        Action::Begin(Stage::Kernel) if state == State::Sleeping => {
                            prop_assert!(has_vmm);
                            last = Some(Stage::Kernel);
                        }
                        Action::Begin(stage) => {
                            prop_assert_eq!(*stage == Stage::Image, last.is_none());
                            if let Some(last) = last {
                                prop_assert_eq!(Stage::next(last), Some(*stage));
                            }
                            last = Some(*stage);
                            has_vmm |= *stage == Stage::Hypervisor;
                        }
                        Action::ClearUp => {
                            prop_assert!(!has_vmm, "cleared up below a running machine");
                            last = None;
                        }
                        Action::KillVmm => prop_assert!(has_vmm, "nothing to kill in {state:?}"),
                        Action::AskToPowerOff | Action::AskToSleep | Action::Wake => prop_assert!(has_vmm),
                        Action::Save => prop_assert!(has_vmm && state == State::Sleeping),
                        Action::AwaitCall => prop_assert_eq!(&next, &State::Asleep),
                        Action::DropSaved => prop_assert!(!matches!(next, State::Asleep | State::Sleeping)),
                        Action::KeepImage => prop_assert_eq!(last, Some(Stage::Engine)),
                        Action::UsePreviousImage | Action::End => {}
                    }
                }
                if matches!(next, State::Stopped | State::Failed { .. } | State::Asleep) {
                    prop_assert!(!has_vmm, "{next:?} with a VMM");
                    last = None;
                }
                state = next;
            }
        }
    }
}
