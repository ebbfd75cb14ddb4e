//! vsock: connections to the guest, and from it.
#![expect(unsafe_code, reason = "none of the framework's calls has a safe form")]

use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};

use block2::RcBlock;
use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::NSError;
use objc2_virtualization::{
    VZVirtioSocketConnection, VZVirtioSocketDevice, VZVirtioSocketListener, VZVirtioSocketListenerDelegate,
    VZVirtualMachine,
};

use super::failure::Failure;

/// Is given each connection from the guest, and says whether it is taken.
pub(super) type Accept = Box<dyn Fn(OwnedFd) -> bool + Send + Sync>;

/// Is told how a connection to the guest went.
pub(super) type Connected = Box<dyn FnOnce(Result<OwnedFd, Failure>) + Send>;

/// The machine's device; on its queue.
pub(super) fn device(
    machine: &VZVirtualMachine,
    doing: &'static str,
) -> Result<Retained<VZVirtioSocketDevice>, Failure> {
    // SAFETY: the caller is on the machine's queue.
    let devices = unsafe { machine.socketDevices() };
    let device = devices.firstObject().and_then(|device| device.downcast::<VZVirtioSocketDevice>().ok());
    device.ok_or(Failure::Lacking { doing, what: "vsock device" })
}

/// Connects to a port of the guest's; on the queue, where `connected` is told later.
pub(super) fn connect(device: &VZVirtioSocketDevice, port: u32, doing: &'static str, connected: Connected) {
    let connected = Cell::new(Some(connected));
    let done = RcBlock::new(move |connection: *mut VZVirtioSocketConnection, error: *mut NSError| {
        // SAFETY: it is null or lives until this block returns.
        let connection = unsafe { connection.as_ref() };
        // SAFETY: the same.
        let error = unsafe { error.as_ref() };
        let outcome = match (connection, error) {
            (Some(connection), _) => descriptor(connection, doing),
            (None, Some(error)) => Err(Failure::refused(doing, error)),
            (None, None) => Err(Failure::Lacking { doing, what: "connection" }),
        };
        // It is called once.
        if let Some(connected) = connected.take() {
            connected(outcome);
        }
    });
    // SAFETY: the caller is on the queue, and the block is copied by the framework.
    unsafe { device.connectToPort_completionHandler(port, &done) };
}

/// A descriptor of our own: the connection's is closed with its object.
fn descriptor(connection: &VZVirtioSocketConnection, doing: &'static str) -> Result<OwnedFd, Failure> {
    // SAFETY: the connection is open.
    let raw = unsafe { connection.fileDescriptor() };
    if raw < 0 {
        return Err(Failure::Lacking { doing, what: "connection that is open" });
    }
    // SAFETY: the descriptor is open for as long as the connection's object, which outlives this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    borrowed.try_clone_to_owned().map_err(|source| Failure::Descriptor { doing, source })
}

define_class!(
    // SAFETY: NSObject demands nothing of its subclasses, and this one has no Drop.
    #[unsafe(super(NSObject))]
    #[name = "CoveSocketListenerDelegate"]
    #[ivars = Accept]
    pub(super) struct Acceptor;

    // SAFETY: a subclass of NSObject is one.
    unsafe impl NSObjectProtocol for Acceptor {}

    // SAFETY: the method has the form that the protocol says.
    unsafe impl VZVirtioSocketListenerDelegate for Acceptor {
        #[unsafe(method(listener:shouldAcceptNewConnection:fromSocketDevice:))]
        fn should_accept(
            &self,
            _: &VZVirtioSocketListener,
            connection: &VZVirtioSocketConnection,
            _: &VZVirtioSocketDevice,
        ) -> bool {
            match descriptor(connection, "accept a connection of the guest's") {
                Ok(descriptor) => self.ivars()(descriptor),
                Err(_) => false,
            }
        }
    }
);

/// What listens at a port, as long as it is kept: the framework holds on to neither.
pub(super) struct Listening {
    listener: Retained<VZVirtioSocketListener>,
    /// The listener knows it weakly.
    _acceptor: Retained<Acceptor>,
}

// SAFETY: both may be held and let go of by any thread; they are used on the queue alone.
unsafe impl Send for Listening {}

impl Listening {
    pub(super) fn new(accept: Accept) -> Self {
        let this = Acceptor::alloc().set_ivars(accept);
        // SAFETY: NSObject's init takes nothing and returns the object.
        let acceptor: Retained<Acceptor> = unsafe { msg_send![super(this), init] };
        // SAFETY: the call takes nothing.
        let listener = unsafe { VZVirtioSocketListener::new() };
        // SAFETY: the delegate is kept as long as the listener.
        unsafe { listener.setDelegate(Some(ProtocolObject::from_ref(&*acceptor))) };
        Self { listener, _acceptor: acceptor }
    }

    /// Begins to listen; on the queue.
    pub(super) fn begin(&self, device: &VZVirtioSocketDevice, port: u32) {
        // SAFETY: the caller is on the queue, and keeps this value.
        unsafe { device.setSocketListener_forPort(&self.listener, port) };
    }
}
