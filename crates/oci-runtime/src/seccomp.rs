//! Seccomp: compiles the specification's rules to a BPF program and installs it.
//!
//! The program first picks the architecture, then finds the system call by binary search, then
//! checks the argument conditions of that call in the order the rules were given. libseccomp's
//! semantics: the first rule whose conditions all hold decides; a call no rule matches gets the
//! default action.

mod compile;

use crate::error::{Doing, Error, Result};
use crate::spec::Seccomp;
use crate::sys;
use std::os::fd::OwnedFd;

pub use compile::{Program, compile};

/// Filter flags by the specification's names.
pub(crate) fn flags(seccomp: &Seccomp) -> Result<libc::c_ulong> {
    let mut flags = 0;
    for flag in &seccomp.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            other => return Err(Error::invalid(format!("seccomp flag {other:?} is unknown"))),
        };
    }
    Ok(flags)
}

/// Installs `program` on this process; returns the listener where a rule notifies.
pub(crate) fn install(program: &Program) -> Result<Option<OwnedFd>> {
    let mut flags = program.flags;
    if program.has_notify {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    }
    sys::seccomp(flags, &program.instructions).doing(|| "install the seccomp filter")
}
