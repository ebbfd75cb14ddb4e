//! Notices that memory is short, which the host may have taken: it is told before programs pay for it.

use std::fs::File;
use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// What the kernel tells of, at most once in such a time: of half a second, a thirtieth in which somebody waited for
/// memory (Documentation/accounting/psi.rst).
const TRIGGER: &[u8] = b"some 16000 500000\0";

/// The kernel's word about it.
#[derive(Debug)]
pub(crate) struct Watch(File);

impl Watch {
    /// Watches from now on. `None` where the kernel does not keep count of it.
    pub(crate) fn new() -> io::Result<Option<Self>> {
        match File::options().read(true).write(true).open("/proc/pressure/memory") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => {
                let mut file = other?;
                file.write_all(TRIGGER)?;
                Ok(Some(Self(file)))
            }
        }
    }

    /// Returns when somebody has waited for memory. Blocks.
    pub(crate) fn wait(&self) -> io::Result<()> {
        loop {
            let mut polled = [PollFd::new(&self.0, PollFlags::PRI)];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if polled.iter().any(|one| one.revents().contains(PollFlags::ERR)) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}
