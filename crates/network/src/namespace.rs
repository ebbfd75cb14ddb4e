//! New network namespaces, held by a descriptor.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::netlink::Netlink;
use crate::sys;

/// A namespace and a socket in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) fd: OwnedFd,
    pub(crate) netlink: Netlink,
}

impl Namespace {
    /// Makes one. A thread of its own enters it and ends: this one stays where it is.
    pub(crate) fn new() -> Result<Self> {
        let made = std::thread::Builder::new().name("netns".into()).spawn(|| -> Result<Self> {
            sys::unshare_network().doing(|| "make a network namespace")?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
                .doing(|| "open the new network namespace")?;
            let netlink = Netlink::open().doing(|| "speak to the new network namespace")?;
            Ok(Self { fd, netlink })
        });
        let made = made.doing(|| "start a thread for a network namespace")?;
        made.join()
            .map_err(|_| Error::Invalid { what: "the thread for a network namespace panicked".into() })?
    }
}
