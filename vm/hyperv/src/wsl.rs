//! WSL2: our files in Microsoft's machine, by its program `wsl.exe`. It needs no privilege, and no channel but the
//! program's own input and output.

mod output;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a distribution's disk is called in its folder.
const DISK: &str = "ext4.vhdx";
/// `ERROR_ACCESS_DENIED` and the like come as this, after the place they came from: `Wsl/Service/E_ACCESSDENIED`.
const CODES: &str = "Wsl/";

/// What a machine is called among all distributions.
#[must_use]
pub fn distribution(machine: &str) -> String {
    format!("cove-{machine}")
}

/// A distribution's disk, of the folder that it was imported into.
#[must_use]
pub fn disk_in(folder: &Path) -> PathBuf {
    folder.join(DISK)
}

/// The program.
#[derive(Debug, Clone)]
pub struct Wsl {
    program: PathBuf,
}

/// What it did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be started.
    #[error("failed to start {program}", program = program.display())]
    Missing {
        /// Where it was looked for.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It said no.
    #[error("failed to {doing}: {said}")]
    Refused {
        /// What was tried.
        doing: String,
        /// Its last word on why, which no language changes: `WSL_E_DISTRO_NOT_FOUND`.
        code: Option<String>,
        /// All it said.
        said: String,
    },
}

impl Error {
    /// Whether there is no such distribution.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.has_code(&["WSL_E_DISTRO_NOT_FOUND", "WSL_E_DEFAULT_DISTRO_NOT_FOUND"])
    }

    /// Whether there is one of that name already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.has_code(&["ERROR_ALREADY_EXISTS", "ERROR_FILE_EXISTS"])
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("install it: wsl --install --no-distribution"),
            Self::Refused { .. }
                if self
                    .has_code(&["WSL_E_WSL_OPTIONAL_COMPONENT_REQUIRED", "HCS_E_HYPERV_NOT_INSTALLED"]) =>
            {
                Some("turn its features on, then start Windows again: wsl --install --no-distribution")
            }
            Self::Refused { .. } => None,
        }
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if codes.contains(&code.as_str()))
    }
}

impl Wsl {
    /// The system's.
    #[must_use]
    pub fn of_the_system() -> Self {
        let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
        Self::at(PathBuf::from(root).join("System32").join("wsl.exe"))
    }

    /// One that is elsewhere.
    #[must_use]
    pub fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Its version: `2.3.24.0`. The one that came with older Windows knows none, and is refused by this.
    ///
    /// # Errors
    /// It can't be started, or does not know.
    pub fn version(&self) -> Result<String, Error> {
        let said = self.ask("ask WSL for its version", &["--version".as_ref()])?;
        let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        said.split_whitespace().find(is_version).map(str::to_owned).ok_or_else(|| Error::Refused {
            doing: "ask WSL for its version".to_owned(),
            code: None,
            said,
        })
    }

    /// The names of all distributions.
    ///
    /// # Errors
    /// It can't be started, or says no.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        match self.ask("list WSL's distributions", &["--list".as_ref(), "--quiet".as_ref()]) {
            Err(error) if error.is_unknown() => Ok(Vec::new()),
            said => {
                Ok(said?.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
            }
        }
    }

    /// Makes a distribution of an archive, in a folder that it fills with its disk.
    ///
    /// # Errors
    /// It can't be started, or says no.
    pub fn import(&self, name: &str, folder: &Path, archive: &Path) -> Result<(), Error> {
        let args = ["--import".as_ref(), name.as_ref(), folder.as_os_str(), archive.as_os_str()];
        let args = [args.as_slice(), &["--version".as_ref(), "2".as_ref()]].concat();
        self.ask(&format!("import {} into WSL", archive.display()), &args).map(drop)
    }

    /// Removes a distribution with all that is in it; one that is not there is as good.
    ///
    /// # Errors
    /// It can't be started, or says no.
    pub fn unregister(&self, name: &str) -> Result<(), Error> {
        match self.ask(&format!("remove {name} from WSL"), &["--unregister".as_ref(), name.as_ref()]) {
            Err(error) if !error.is_unknown() => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends all that runs in a distribution.
    ///
    /// # Errors
    /// It can't be started, or says no.
    pub fn terminate(&self, name: &str) -> Result<(), Error> {
        self.ask(&format!("stop {name} in WSL"), &["--terminate".as_ref(), name.as_ref()]).map(drop)
    }

    /// The command that is a program in a distribution, run as root, whose input and output are the program's own bytes
    /// as long as they are pipes or files.
    #[must_use]
    pub fn command(&self, name: &str, program: &[&str]) -> Command {
        let mut command = self.base();
        command.args(["--distribution", name, "--user", "root", "--exec"]).args(program);
        command
    }

    /// What a command that failed has said is about itself, or about the program: only the first comes with a code.
    #[must_use]
    pub fn refusal(doing: &str, printed: &[u8]) -> Option<Error> {
        let said = output::text(printed);
        let code = output::code(&said)?;
        Some(Error::Refused { doing: doing.to_owned(), code: Some(code), said })
    }

    fn base(&self) -> Command {
        let mut command = stdx::process::command(&self.program);
        // Newer ones write UTF-8 then; of older ones both forms are understood.
        command.env("WSL_UTF8", "1").stdin(Stdio::null());
        command
    }

    /// Asks for something; what it prints.
    fn ask(&self, doing: &str, args: &[&std::ffi::OsStr]) -> Result<String, Error> {
        let ran = self.base().args(args).output();
        let ran = ran.map_err(|source| Error::Missing { program: self.program.clone(), source })?;
        let said = output::text(&ran.stdout);
        if ran.status.success() {
            return Ok(said);
        }
        let said = format!("{}{}", said, output::text(&ran.stderr)).trim().to_owned();
        Err(Error::Refused { doing: doing.to_owned(), code: output::code(&said), said })
    }
}
