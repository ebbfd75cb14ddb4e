//! The processors that guests are made for, by the names that Debian and Rust have for them.

use anyhow::{Result, bail};

/// A processor's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86,
    Arm,
}

impl Architecture {
    /// This computer's.
    pub(crate) fn host() -> Result<Self> {
        Self::parse(std::env::consts::ARCH)
    }

    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            "x86_64" | "amd64" => Ok(Self::X86),
            "aarch64" | "arm64" => Ok(Self::Arm),
            other => bail!("nothing is made for {other}: x86_64 and aarch64 are known"),
        }
    }

    /// As Rust and QEMU name it, and `image.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// As Debian's packages name it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }

    /// What Debian's programs are loaded by: where they look for it, and its name.
    pub(crate) fn loader(self) -> (&'static str, &'static str) {
        match self {
            Self::X86 => ("usr/lib64", "ld-linux-x86-64.so.2"),
            Self::Arm => ("usr/lib", "ld-linux-aarch64.so.1"),
        }
    }

    /// `e_machine` of its programs (elf.h).
    pub(crate) fn elf(self) -> u16 {
        match self {
            Self::X86 => 62,
            Self::Arm => 183,
        }
    }
}
