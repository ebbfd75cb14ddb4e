//! Which of the two ways a machine is run by, and why.

use crate::hcs::Failure;
use crate::sys;
use crate::wsl::{self, Wsl};

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A machine of our own.
    Hcs,
    /// Our files in Microsoft's.
    Wsl2,
}

/// Who makes a machine of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The user's own programs, who may.
    User,
    /// The small service, for users who may not.
    Service,
}

/// What there is on this computer.
#[derive(Debug)]
pub struct Found {
    /// Whether Windows' service is there, and by whom this user may ask it.
    pub hcs: Result<By, Failure>,
    /// WSL's version.
    pub wsl: Result<String, wsl::Error>,
}

/// The way that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub way: Way,
    /// Why, for people.
    pub reason: String,
}

/// There is no way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this Windows can't run Linux machines: {causes}")]
pub struct NoWay {
    /// Why, of each.
    pub causes: String,
    /// What to do about it.
    pub hint: String,
}

impl Found {
    /// Looks.
    #[must_use]
    pub fn here() -> Self {
        Self { hcs: sys::look(), wsl: Wsl::of_the_system().version() }
    }

    /// A machine of our own wherever there may be one: its kernel has all that containers need, its memory and disk are
    /// given back as it is told, and nobody else's settings change it. WSL2 needs no rights, which counts for more than
    /// all that where the user has none.
    ///
    /// # Errors
    /// There is neither.
    pub fn choose(&self) -> Result<Choice, NoWay> {
        match (&self.hcs, &self.wsl) {
            (Ok(By::User), _) => Ok(Choice {
                way: Way::Hcs,
                reason: "a machine of its own (Hyper-V), because this user may make some".to_owned(),
            }),
            (Ok(By::Service), _) => Ok(Choice {
                way: Way::Hcs,
                reason: "a machine of its own (Hyper-V), because Cove's service makes some for this user"
                    .to_owned(),
            }),
            (Err(failure), Ok(version)) => Ok(Choice {
                way: Way::Wsl2,
                reason: format!("WSL {version}, because no machine of its own can be made: {failure}"),
            }),
            (Err(failure), Err(error)) => Err(NoWay {
                causes: format!("{failure}; {error}"),
                // Of the two WSL2 is had more easily.
                hint: error.hint().or(failure.hint()).unwrap_or("see 'wsl --status'").to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hcs: Result<By, u32>, wsl: bool, expected: Result<(Way, &str), &str>) {
        let missing =
            || wsl::Error::Missing { program: "wsl.exe".into(), source: std::io::ErrorKind::NotFound.into() };
        let found = Found {
            hcs: hcs.map_err(|code| Failure::new("HcsEnumerateComputeSystems", code)),
            wsl: if wsl { Ok("2.3.24.0".to_owned()) } else { Err(missing()) },
        };
        match (found.choose(), expected) {
            (Ok(choice), Ok((way, part))) => {
                assert_eq!(choice.way, way);
                assert!(choice.reason.contains(part), "{}", choice.reason);
            }
            (Err(none), Err(part)) => assert!(none.hint.contains(part), "{none:?}"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn a_machine_of_our_own_is_taken_where_it_may_be_made() {
        check(Ok(By::User), true, Ok((Way::Hcs, "Hyper-V")));
        check(Ok(By::User), false, Ok((Way::Hcs, "this user may")));
        check(Ok(By::Service), true, Ok((Way::Hcs, "Cove's service")));
        check(Err(0x8007_0005), true, Ok((Way::Wsl2, "0x80070005")));
        check(Err(0x8007_007e), true, Ok((Way::Wsl2, "WSL 2.3.24.0")));
        check(Err(0x8007_0005), false, Err("wsl --install"));
    }
}
