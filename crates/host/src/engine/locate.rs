//! Which engine is meant: a flag, `COVE_HOST`, or the default.

use std::path::PathBuf;

use api::client::Endpoint;

use crate::error::Error;
use crate::machine::Machine;
use crate::sys;

/// Who named the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `--host` or `COVE_HOST`: somebody else looks after it.
    Named,
    /// Nobody: it is ours to start.
    Default,
    /// `machine://NAME`: in a machine on this computer, which is ours to start.
    Machine(Machine),
}

/// An engine's address, and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Who said so.
    pub origin: Origin,
}

/// What the default depends on.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `COVE_HOST`.
    pub cove_host: Option<String>,
    /// Where sockets of a user's programs go: `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Whether we are root, whose engine serves the machine.
    pub is_root: bool,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self { cove_host: text("COVE_HOST"), runtime_dir: sys::runtime_dir(), is_root: sys::is_root() }
    }

    /// Where an engine of ours keeps its socket and its log: `/run/cove`, or a user's own.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Error> {
        if self.is_root {
            return Ok(PathBuf::from(sys::SYSTEM_RUNTIME_DIR));
        }
        Ok(self.runtime_dir.as_ref().ok_or(Error::NoRuntimeDir)?.join("cove"))
    }
}

impl Target {
    /// The engine that `host` names, or `COVE_HOST`, or the default one.
    ///
    /// # Errors
    /// An address that is none, or no place for a default.
    pub fn find(host: Option<&str>, surroundings: &Surroundings) -> Result<Self, Error> {
        if let Some(address) = host.or(surroundings.cove_host.as_deref()) {
            if let Some(name) = address.strip_prefix("machine://") {
                let machine = Machine::named(name.trim_end_matches('/'))?;
                return Ok(Self {
                    endpoint: Endpoint::local(machine.engine()),
                    origin: Origin::Machine(machine),
                });
            }
            return Ok(Self { endpoint: address.parse()?, origin: Origin::Named });
        }
        let address = sys::engine(&surroundings.state_dir()?);
        Ok(Self { endpoint: Endpoint::local(address), origin: Origin::Default })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: Option<&str>, surroundings: &Surroundings, expected: &str, origin: &Origin) {
        let target = Target::find(host, surroundings).unwrap();
        assert_eq!((target.endpoint.to_string().as_str(), &target.origin), (expected, origin));
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_default() {
        let mut user = Surroundings {
            cove_host: Some("unix:///b.sock".into()),
            runtime_dir: Some("/run/user/7".into()),
            is_root: false,
        };
        check(Some("unix:///a.sock"), &user, "unix:///a.sock", &Origin::Named);
        check(None, &user, "unix:///b.sock", &Origin::Named);
        user.cove_host = None;
        check(None, &user, "unix:///run/user/7/cove/cove.sock", &Origin::Default);
        user.is_root = true;
        check(None, &user, "unix:///run/cove/cove.sock", &Origin::Default);
    }

    #[test]
    fn a_user_without_a_runtime_folder_is_told_what_to_set() {
        let error = Target::find(None, &Surroundings::default()).unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"));
        assert!(error.hint().unwrap().contains("COVE_HOST"));
    }
}
