//! Exit codes and failures.

/// The daemon or the command line itself failed (`run`, `create`, `exec`; usage errors).
pub(crate) const USAGE: u8 = 125;
/// The program can't be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The program is not there.
pub(crate) const NOT_FOUND: u8 = 127;

pub(crate) type Outcome<T = u8> = Result<T, Failure>;

/// Why a command ends early: a message, what to do about it, and the code to end with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

/// The message with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<credentials::Error> for Failure {
    fn from(error: credentials::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<api::client::Error> for Failure {
    fn from(error: api::client::Error) -> Self {
        Self::new(chain(&error))
    }
}

impl From<host::Error> for Failure {
    fn from(error: host::Error) -> Self {
        let mut message = chain(&error);
        if let Some(tail) = error.log_tail() {
            message.push('\n');
            message.push_str(tail.trim_end());
        }
        Self { message, hint: error.hint(), code: 1 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// The code of a container that could not be started, as a shell has it.
pub(crate) fn start_code(message: &str) -> u8 {
    if message.contains("executable file not found") || message.contains("no such file or directory") {
        NOT_FOUND
    } else if message.contains("permission denied") || message.contains("not a directory") {
        NOT_EXECUTABLE
    } else {
        USAGE
    }
}
