//! What the service says when it does not do what it is asked.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which: `HcsStartComputeSystem`.
    pub call: Cow<'static, str>,
    /// The `HRESULT`.
    pub code: u32,
    /// What the service adds, a JSON document, where it does.
    pub document: String,
}

/// What sort of failure it is: each wants something else done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// This Windows has no such service, or it is switched off.
    Missing,
    /// The user may not.
    Forbidden,
    /// There is no such machine.
    NotFound,
    /// There is one of that name.
    Exists,
    /// Not in the state it is in.
    WrongState,
    /// It took too long.
    Timeout,
    /// Anything else.
    Other,
}

impl Failure {
    pub(crate) fn new(call: &'static str, code: u32) -> Self {
        Self { call: call.into(), code, document: String::new() }
    }

    /// One of ours, told as the service tells its own.
    pub(crate) fn refused(code: u32, cause: &str) -> Self {
        let document = serde_json::json!({ "ErrorMessage": cause }).to_string();
        Self { call: "what was asked".into(), code, document }
    }

    /// What sort of failure it is (`winerror.h`).
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self.code {
            // ERROR_FILE_NOT_FOUND, ERROR_MOD_NOT_FOUND, ERROR_PROC_NOT_FOUND; HCS_E_HYPERV_NOT_INSTALLED,
            // HCS_E_SERVICE_NOT_AVAILABLE.
            0x8007_0002 | 0x8007_007E | 0x8007_007F | 0x8037_0102 | 0x8037_0114 => FailureKind::Missing,
            // E_ACCESSDENIED, HCS_E_ACCESS_DENIED.
            0x8007_0005 | 0x8037_011B => FailureKind::Forbidden,
            // HCS_E_SYSTEM_NOT_FOUND; HCN_E_NETWORK_NOT_FOUND, HCN_E_ENDPOINT_NOT_FOUND.
            0x8037_010E | 0x803B_0001 | 0x803B_0002 => FailureKind::NotFound,
            // HCS_E_SYSTEM_ALREADY_EXISTS.
            0x8037_010F => FailureKind::Exists,
            // HCS_E_INVALID_STATE, HCS_E_SYSTEM_ALREADY_STOPPED.
            0x8037_0105 | 0x8037_0110 => FailureKind::WrongState,
            // HCS_E_CONNECTION_TIMEOUT, HCS_E_OPERATION_TIMEOUT.
            0x8037_0109 | 0x8037_0118 => FailureKind::Timeout,
            _ => FailureKind::Other,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self.kind() {
            FailureKind::Missing => Some(
                "turn the feature 'Virtual Machine Platform' on (optionalfeatures.exe), then start Windows again",
            ),
            FailureKind::Forbidden => Some(
                "have an administrator install Cove's service (cove.msi has it), or add you to the group 'Hyper-V Administrators'",
            ),
            FailureKind::NotFound
            | FailureKind::Exists
            | FailureKind::WrongState
            | FailureKind::Timeout
            | FailureKind::Other => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with {:#010x}", self.call, self.code)?;
        let said: Option<serde_json::Value> = serde_json::from_str(&self.document).ok();
        match said.as_ref().and_then(|said| said.get("ErrorMessage")?.as_str()) {
            Some(message) => write!(f, ": {}", message.trim()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_call_it_was_and_what_the_service_adds() {
        let mut failure = Failure::new("HcsStartComputeSystem", 0x8037_0102);
        assert_eq!(failure.to_string(), "HcsStartComputeSystem failed with 0x80370102");
        failure.document =
            r#"{"Error":-2143878910,"ErrorMessage":"The virtual machine could not be started.\r\n"}"#.into();
        let said = "HcsStartComputeSystem failed with 0x80370102: The virtual machine could not be started.";
        assert_eq!(failure.to_string(), said);
        assert_eq!(failure.kind(), FailureKind::Missing);
        assert!(failure.hint().unwrap().contains("Virtual Machine Platform"));
    }
}
