//! The named stages of a start, each with its deadline and with what helps when it fails.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Backend;

/// A stage; they follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The guest image is found and is what its name says.
    Image,
    /// The data disk's file is there and as large as it should be.
    Disk,
    /// Devices and the program that is the machine run.
    Hypervisor,
    /// The kernel boots until the agent says hello.
    Kernel,
    /// Agent and host understand each other; the data disk is mounted.
    Agent,
    /// Folders of the host are there.
    Shares,
    /// The way out is there.
    Network,
    /// The engine answers.
    Engine,
}

/// What can be done about a failed stage by one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// In words.
    pub text: String,
    /// The command that does it.
    pub command: String,
    /// The same for programs that do it themselves; `None` from a supervisor that is older than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deed: Option<Deed>,
}

/// What a remedy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// The guest image is made or installed anew, which no machine does by itself.
    MakeImage,
    /// It is started again.
    Start,
    /// It goes back to the guest image before.
    PreviousImage,
    /// It becomes a machine of this kind, with the same disk.
    Backend(Backend),
    /// It is started with its disk read-only.
    Rescue,
    /// Its shared folders are looked at.
    Shares,
    /// The hops of its network are walked.
    Check,
    /// Its console is read.
    Log,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Image,
        Self::Disk,
        Self::Hypervisor,
        Self::Kernel,
        Self::Agent,
        Self::Shares,
        Self::Network,
        Self::Engine,
    ];

    /// The one that follows; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage > self)
    }

    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Disk => "disk",
            Self::Hypervisor => "hypervisor",
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::Shares => "shares",
            Self::Network => "network",
            Self::Engine => "engine",
        }
    }

    /// How long it may take. Emulated processors are slow, and a disk after a power cut has much to check.
    #[must_use]
    pub fn deadline(self, is_emulated: bool) -> Duration {
        Duration::from_secs(match self {
            Self::Image | Self::Disk | Self::Agent => 60,
            Self::Hypervisor => 15,
            Self::Kernel if is_emulated => 90,
            Self::Kernel => 20,
            Self::Shares | Self::Network => 20,
            Self::Engine => 75,
        })
    }

    /// What to do when it fails.
    #[must_use]
    pub fn remedy(self, name: &str, backend: Backend, has_previous_image: bool) -> Remedy {
        let remedy =
            |deed, text: &str, command: String| Remedy { text: text.to_owned(), command, deed: Some(deed) };
        match self {
            Self::Image => remedy(
                Deed::MakeImage,
                "make or install the guest image anew",
                "cargo xtask guest-image".to_owned(),
            ),
            Self::Disk => remedy(
                Deed::Start,
                "free some space on this computer's disk, then start again",
                format!("cove machine start {name}"),
            ),
            Self::Kernel | Self::Engine if has_previous_image => remedy(
                Deed::PreviousImage,
                "go back to the guest image that worked",
                format!("cove machine set {name} --image previous"),
            ),
            Self::Hypervisor | Self::Kernel => match backend.other_here() {
                Some(other) => remedy(
                    Deed::Backend(other),
                    "try the other kind of machine; the disk is kept",
                    format!("cove machine set {name} --backend {other}"),
                ),
                None => remedy(
                    Deed::Log,
                    "read what the machine's program said",
                    format!("cove machine logs {name} --supervisor"),
                ),
            },
            Self::Agent => remedy(
                Deed::Rescue,
                "get volumes and files out of the disk, read-only",
                format!("cove machine rescue {name}"),
            ),
            Self::Shares => remedy(
                Deed::Shares,
                "look at which folders are shared",
                format!("cove machine status {name}"),
            ),
            Self::Network => {
                remedy(Deed::Check, "find the hop that fails", format!("cove machine check {name} network"))
            }
            Self::Engine => {
                remedy(Deed::Log, "read what the engine said", format!("cove machine logs {name}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_follows_the_one_before() {
        let mut stage = Stage::Image;
        for expected in &Stage::ALL[1..] {
            stage = stage.next().unwrap();
            assert_eq!(stage, *expected);
        }
        assert_eq!(stage.next(), None);
    }
}
