//! Whether guests can have Rosetta, which runs programs for x86-64 on Apple silicon, and what is to be said where not.

/// Whether guests can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rosetta {
    /// Not on this computer.
    Unsupported,
    /// Once it is installed.
    NotInstalled,
    /// They can.
    Installed,
}

impl Rosetta {
    /// Why a guest that is to have it does not, and what to do; `None` where it has.
    #[must_use]
    pub fn lacking(self) -> Option<&'static str> {
        match self {
            Self::Installed => None,
            Self::NotInstalled => Some(
                "programs for x86-64 do not run: Rosetta is not installed on this Mac. Install it by softwareupdate \
                 --install-rosetta, and start the machine anew",
            ),
            Self::Unsupported => Some(
                "programs for x86-64 do not run by Rosetta: it takes a Mac with Apple silicon and macOS 13",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_install_it_is_told_how() {
        assert_eq!(Rosetta::Installed.lacking(), None);
        let said = Rosetta::NotInstalled.lacking().unwrap();
        assert!(said.contains("softwareupdate --install-rosetta"), "{said}");
        let said = Rosetta::Unsupported.lacking().unwrap();
        assert!(!said.contains("softwareupdate"), "{said}");
    }
}
