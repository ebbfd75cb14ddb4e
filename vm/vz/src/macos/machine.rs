//! A machine, from its making to its end.
//!
//! ```text
//! new ──> start ──> running <──> paused ──save──> (end)
//!    └──> restore ──────────────────^
//! ```
#![expect(unsafe_code, reason = "none of the framework's calls has a safe form")]

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use objc2::available;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_virtualization::{
    VZVirtioFileSystemDevice, VZVirtioTraditionalMemoryBalloonDevice, VZVirtualMachine, VZVirtualMachineState,
};

use super::channel::{self, Listening};
use super::configuration::{self, url};
use super::events::{Delegate, Ended};
use super::failure::Failure;
use super::queue::Queue;
use crate::spec::{Share, Spec};

/// The oldest macOS whose framework has all that a machine needs.
const OLDEST: u32 = 13;
/// The oldest that saves machines.
const OLDEST_SAVES: u32 = 14;

/// Whether machines can be had: the processor can, and this program may.
#[must_use]
pub fn is_supported() -> bool {
    // SAFETY: the call takes nothing.
    available!(macos = 13.0) && unsafe { VZVirtualMachine::isSupported() }
}

/// A machine. One that runs is ended by the framework when this goes.
pub struct Machine {
    queue: Queue,
    /// The machine knows it weakly.
    _delegate: Kept<Delegate>,
    ended: Mutex<Receiver<Ended>>,
    tell: Sender<Ended>,
    listening: Mutex<BTreeMap<u32, Listening>>,
    /// Whether its devices let it be saved.
    saves: Result<(), Failure>,
}

/// Something that is kept, and used on the queue alone.
struct Kept<T>(Retained<T>);

// SAFETY: any thread may hold an object of the framework's and let go of it.
unsafe impl<T> Send for Kept<T> {}
// SAFETY: the same.
unsafe impl<T> Sync for Kept<T> {}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes one; it does not run yet.
    ///
    /// # Errors
    /// No machine can be that, a file is missing, or this program is not signed with the entitlement.
    pub fn new(spec: &Spec) -> Result<Self, Failure> {
        if !available!(macos = 13.0) {
            return Err(Failure::TooOld { doing: "make a machine", version: OLDEST });
        }
        let configuration = configuration::of(spec)?;
        let saves = if available!(macos = 14.0) {
            configuration::check_save(&configuration)
        } else {
            Err(Failure::TooOld { doing: "save the machine's state", version: OLDEST_SAVES })
        };
        let queue = Queue::new(&configuration);
        let (tell, ended) = channel();
        let delegate = Kept(Delegate::new(tell.clone()));
        let told = &delegate;
        queue.run(move |machine| {
            // SAFETY: this is the machine's queue, and the delegate is kept as long as the machine.
            unsafe { machine.setDelegate(Some(ProtocolObject::from_ref(&*told.0))) };
        });
        Ok(Self {
            queue,
            _delegate: delegate,
            ended: Mutex::new(ended),
            tell,
            listening: Mutex::default(),
            saves,
        })
    }

    /// Boots it.
    ///
    /// # Errors
    /// The framework's.
    pub fn start(&self) -> Result<(), Failure> {
        self.queue.wait("start the machine", |machine, done| {
            // SAFETY: this is the machine's queue, and the block is copied.
            unsafe { machine.startWithCompletionHandler(done) };
        })
    }

    /// Ends it at once, as a power cut would. One that does not run, or no longer, has ended with this.
    ///
    /// # Errors
    /// The framework's.
    pub fn end(&self) -> Result<(), Failure> {
        let runs = self.queue.run(|machine| {
            // SAFETY: this is the machine's queue.
            let state = unsafe { machine.state() };
            !matches!(state, VZVirtualMachineState::Stopped | VZVirtualMachineState::Error)
        });
        if runs {
            self.queue.wait("end the machine", |machine, done| {
                // SAFETY: this is the machine's queue, and the block is copied.
                unsafe { machine.stopWithCompletionHandler(done) };
            })?;
        }
        // The framework tells its delegate of no end that was asked for. Whoever listened may be gone.
        let _ = self.tell.send(Ended::ByHost);
        Ok(())
    }

    /// Stops its processors; memory stays.
    ///
    /// # Errors
    /// The framework's.
    pub fn pause(&self) -> Result<(), Failure> {
        self.queue.wait("pause the machine", |machine, done| {
            // SAFETY: this is the machine's queue, and the block is copied.
            unsafe { machine.pauseWithCompletionHandler(done) };
        })
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// The framework's.
    pub fn resume(&self) -> Result<(), Failure> {
        self.queue.wait("resume the machine", |machine, done| {
            // SAFETY: this is the machine's queue, and the block is copied.
            unsafe { machine.resumeWithCompletionHandler(done) };
        })
    }

    /// Writes its state to a file, which this computer alone can read again. It is paused before and stays so.
    ///
    /// # Errors
    /// It has a device that can't be saved, macOS is too old, or the framework's.
    pub fn save(&self, file: &Path) -> Result<(), Failure> {
        self.check_saves()?;
        let file = file.to_owned();
        self.queue.wait("save the machine's state", move |machine, done| {
            // SAFETY: this is the machine's queue, and both are copied.
            unsafe { machine.saveMachineStateToURL_completionHandler(&url(&file), done) };
        })
    }

    /// Takes up the state of a file, in place of a start; it is paused then. An update of macOS may have made the file
    /// useless: a start is what is left then.
    ///
    /// # Errors
    /// As for [`Self::save`].
    pub fn restore(&self, file: &Path) -> Result<(), Failure> {
        self.check_saves()?;
        let file = file.to_owned();
        self.queue.wait("restore the machine's state", move |machine, done| {
            // SAFETY: this is the machine's queue, and both are copied.
            unsafe { machine.restoreMachineStateFromURL_completionHandler(&url(&file), done) };
        })
    }

    fn check_saves(&self) -> Result<(), Failure> {
        match &self.saves {
            Ok(()) => Ok(()),
            Err(Failure::Refused { doing, said, domain, code }) => {
                Err(Failure::Refused { doing, said: said.clone(), domain: domain.clone(), code: *code })
            }
            Err(_) => Err(Failure::TooOld { doing: "save the machine's state", version: OLDEST_SAVES }),
        }
    }

    /// Waits until it has ended; `None` where it never will tell.
    #[must_use]
    pub fn wait_until_ended(&self) -> Option<Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// Connects to a vsock port of the guest's. Returns at once; `connected` is told how it went on the machine's queue,
    /// and must not wait.
    pub fn connect(&self, port: u32, connected: impl FnOnce(Result<OwnedFd, Failure>) + Send + 'static) {
        let doing = "connect to the guest";
        self.queue.run(move |machine| match channel::device(machine, doing) {
            Ok(device) => channel::connect(&device, port, doing, Box::new(connected)),
            Err(failure) => connected(Err(failure)),
        });
    }

    /// Takes connections of the guest's at a vsock port; `accept` is called on the machine's queue, must not wait, and
    /// says whether it takes one.
    ///
    /// # Errors
    /// The machine has no such device.
    pub fn listen(
        &self,
        port: u32,
        accept: impl Fn(OwnedFd) -> bool + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        let listening = Listening::new(Box::new(accept));
        let listening = self.queue.run(move |machine| {
            let device = channel::device(machine, "listen to the guest")?;
            listening.begin(&device, port);
            Ok::<_, Failure>(listening)
        })?;
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).insert(port, listening);
        Ok(())
    }

    /// Puts another folder in the place of the one that has the same tag, while the machine runs.
    ///
    /// # Errors
    /// The machine has no share of that tag.
    pub fn change_share(&self, share: &Share) -> Result<(), Failure> {
        let share = share.clone();
        self.queue.run(move |machine| {
            // SAFETY: this is the machine's queue.
            let devices = unsafe { machine.directorySharingDevices() };
            let devices =
                devices.iter().filter_map(|device| device.downcast::<VZVirtioFileSystemDevice>().ok());
            for device in devices {
                // SAFETY: this is the machine's queue.
                let tag = unsafe { device.tag() };
                if tag.to_string() == share.tag {
                    // SAFETY: this is the machine's queue, and the share is complete.
                    unsafe { device.setShare(Some(&configuration::folder(&share))) };
                    return Ok(());
                }
            }
            Err(Failure::Lacking { doing: "change a share", what: "share of that tag" })
        })
    }

    /// Asks the guest to keep to that many bytes of memory, which gives the rest back to macOS.
    ///
    /// # Errors
    /// The machine has no such device.
    pub fn set_memory(&self, bytes: u64) -> Result<(), Failure> {
        self.queue.run(move |machine| {
            // SAFETY: this is the machine's queue.
            let devices = unsafe { machine.memoryBalloonDevices() };
            let balloon = devices
                .firstObject()
                .and_then(|device| device.downcast::<VZVirtioTraditionalMemoryBalloonDevice>().ok())
                .ok_or(Failure::Lacking { doing: "take memory back", what: "memory balloon" })?;
            // SAFETY: this is the machine's queue; an amount that is too large or too small is moved to what can be.
            unsafe { balloon.setTargetVirtualMachineMemorySize(bytes) };
            Ok(())
        })
    }
}
