//! As whom a guest acts in a share: whose its files are on the host, and whose they look in the guest.

use std::io;

use rustix::process::{Gid, Uid};
use virtiofsd::soft_idmap::cmdline::IdMap;

/// The user whose permissions a guest has in a share, and to whom the files belong that it makes.
///
/// A user's machine has one user: him. Whoever a program in the guest is, on the host it acts as this user, and all
/// files look like the guest's root's, which is who may do anything there; a change of owner succeeds and does nothing.
///
/// Only where this is root itself, the guest's users are the host's of the same numbers, as they are for containers that
/// root runs on the host itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's number on the host.
    pub uid: u32,
    /// The number on the host of the group of what is made.
    pub gid: u32,
}

/// Numbers that a map can hold: all but the one that stands for none.
const ALL: u32 = u32::MAX;

impl Owner {
    /// The user that we run as.
    #[must_use]
    pub fn current() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Whether we may act as this user.
    pub(crate) fn check(self) -> io::Result<()> {
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self == Owner::current() || Owner::current().is_root() {
            return Ok(());
        }
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Makes the calling thread, and those it starts later, this user's: the kernel then checks what the guest does.
    pub(crate) fn become_it(self) -> io::Result<()> {
        if self == Owner::current() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_groups(&[gid])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        // The last step: with it go the capabilities that the others need.
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }

    pub(crate) fn id_maps(self) -> (Option<Vec<IdMap>>, Option<Vec<IdMap>>) {
        if self.is_root() {
            return (None, None);
        }
        let map = |id| {
            Some(vec![
                IdMap::SquashGuest { from_guest: 0, to_host: id, count: ALL },
                IdMap::SquashHost { from_host: 0, to_guest: 0, count: ALL },
            ])
        };
        (map(self.uid), map(self.gid))
    }
}
