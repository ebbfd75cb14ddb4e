//! What the framework tells by itself: that a machine ended.

use std::sync::mpsc::Sender;

use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::NSError;
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineDelegate};

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The guest switched it off.
    ByGuest,
    /// By [`Machine::end`](crate::Machine::end).
    ByHost,
    /// Something went wrong.
    ByError {
        /// What, in the framework's words.
        said: String,
    },
}

define_class!(
    // SAFETY: NSObject demands nothing of its subclasses, and this one has no Drop.
    #[unsafe(super(NSObject))]
    #[name = "CoveMachineDelegate"]
    #[ivars = Sender<Ended>]
    pub(super) struct Delegate;

    // SAFETY: a subclass of NSObject is one.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: both methods have the forms that the protocol says.
    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn guest_did_stop(&self, _: &VZVirtualMachine) {
            // Whoever listened may be gone.
            let _ = self.ivars().send(Ended::ByGuest);
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn did_stop_with_error(&self, _: &VZVirtualMachine, error: &NSError) {
            let said = error.localizedDescription().to_string();
            let _ = self.ivars().send(Ended::ByError { said });
        }
    }
);

impl Delegate {
    pub(super) fn new(tell: Sender<Ended>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(tell);
        #[expect(unsafe_code, reason = "a message has no safe form")]
        // SAFETY: NSObject's init takes nothing and returns the object.
        unsafe {
            msg_send![super(this), init]
        }
    }
}
