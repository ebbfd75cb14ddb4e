//! What runs a guest's instructions.

use serde::{Deserialize, Serialize};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// The processor, by the kernel's KVM.
    Kvm,
    /// A translator: several times slower.
    Tcg,
    /// The processor: the guest's kernel is a program.
    Native,
    /// The processor, by macOS' own hypervisor.
    Framework,
    /// The processor, by Windows' own hypervisor, in a machine of Microsoft's.
    Wsl2,
    /// The processor, by Windows' own hypervisor, in a machine of our own.
    #[serde(rename = "hyperv")]
    HyperV,
}

impl Acceleration {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => {
                "TCG: emulated, because KVM does not work here or for this image; several times slower"
            }
            Self::Framework => "Virtualization.framework",
            Self::Wsl2 => {
                "WSL2: a machine of Microsoft's that all of WSL's distributions share, and no wall between them"
            }
            Self::HyperV => "Hyper-V",
            Self::Native => "User Mode Linux: a convenience, and no wall against hostile code",
        }
    }
}
