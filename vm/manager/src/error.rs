//! What can go wrong with a machine's files and requests.

use std::path::PathBuf;

/// Why something about a machine could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is none.
    #[error("{name:?} can't be a machine's name: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is none.
    #[error("there is no machine {name:?}")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// There is one.
    #[error("there is a machine {name:?} already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// A value that can't be had.
    #[error("{what} can't be {value}: {reason}")]
    Value {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder.
    #[error("failed to {action} {path}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file of ours that says something else than we write.
    #[error("failed to understand {path}", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: serde_json::Error,
    },
    /// No image for a backend.
    #[error("there is no guest image for {machine}: looked in {looked}")]
    NoImage {
        /// `uml` or `qemu`.
        machine: String,
        /// Where.
        looked: String,
    },
    /// An image that is not what its name says.
    #[error("the guest image's {file} is not what it should be: {reason}")]
    WrongImage {
        /// Which of its files.
        file: String,
        /// What was found.
        reason: String,
    },
    /// A program of others.
    #[error("the program {program} is missing")]
    NoProgram {
        /// Which.
        program: &'static str,
    },
    /// Something this kind of machine can't do.
    #[error("{what} is not to be had with {backend}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Of which backend.
        backend: &'static str,
    },
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { name } => {
                format!("'cove machine ls' lists them; 'cove machine init {name}' makes it")
            }
            Self::Exists { name } => format!("'cove machine rm {name}' removes it, with its disk"),
            Self::NoImage { .. } => {
                "from a checkout, 'cargo xtask guest-image' makes it; COVE_GUEST_IMAGES names its folder"
                    .to_owned()
            }
            Self::WrongImage { .. } => {
                "install Cove again, or make the image anew: cargo xtask guest-image".to_owned()
            }
            Self::NoProgram { program: "qemu-system-x86_64" } => {
                "install the package qemu-system-x86".to_owned()
            }
            Self::NoProgram { program: "qemu-system-aarch64" } => {
                "install the package qemu-system-arm".to_owned()
            }
            Self::NoProgram { program } => format!("install {program}"),
            _ => return None,
        })
    }

    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
