//! What an image is made for, and the files under `vm/image` that say how.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::architecture::Architecture;
use crate::files;
use crate::shell::root;

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// User Mode Linux: the kernel is a program.
    Uml,
    /// QEMU, and others that boot a kernel's file: Virtualization.framework, HCS.
    Qemu,
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uml => "uml",
            Self::Qemu => "qemu",
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "uml" => Ok(Self::Uml),
            "qemu" => Ok(Self::Qemu),
            other => bail!("--machine {other} is unknown: uml, qemu or wsl2"),
        }
    }
}

/// Whose kernel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Debian's: made in seconds, with modules.
    Debian,
    /// Our own configuration of Debian's source: made in a quarter of an hour, without modules, quicker to boot.
    Own,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Own => "own",
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "debian" => Ok(Self::Debian),
            "own" => Ok(Self::Own),
            other => bail!("--kernel {other} is unknown: debian or own"),
        }
    }
}

/// Whether there is a recipe for it.
pub(super) fn can_be_made(architecture: Architecture, machine: Machine) -> Result<()> {
    ensure!(
        architecture == Architecture::X86 || machine == Machine::Qemu,
        "there is no User Mode Linux for {}: leave --machine uml out",
        architecture.name()
    );
    Ok(())
}

/// Where the recipe's files are.
pub(super) fn dir() -> PathBuf {
    root().join("vm/image")
}

pub(super) fn text(name: &str) -> Result<String> {
    files::read_text(&dir().join(name))
}
