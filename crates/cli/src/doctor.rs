//! `doctor`: what works on this computer, and what to do about the rest. What is looked at is another on each system:
//! this file picks.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux::checks;
#[cfg(target_os = "macos")]
use macos::checks;
#[cfg(windows)]
use windows::checks;

use crate::exit::{Failure, Outcome};
use crate::printer;

/// Something that is to be so.
struct Check {
    is_good: bool,
    what: String,
    /// What to do where it is not.
    remedy: String,
}

pub(crate) async fn doctor(host_name: Option<&str>) -> Outcome {
    let mut checks = checks();
    checks.push(match host::engine::connect(host_name).await {
        Ok(client) => {
            let version = client.version().await?;
            let what = format!("engine {} at {}", version.version, client.endpoint());
            Check { is_good: true, what, remedy: String::new() }
        }
        Err(error) => {
            let failure = Failure::from(error);
            let remedy = failure.hint.unwrap_or_else(|| "see its log".to_owned());
            Check { is_good: false, what: format!("engine: {}", failure.message), remedy }
        }
    });
    for check in &checks {
        printer::line(format_args!("{} {}", if check.is_good { "ok  " } else { "FAIL" }, check.what));
        if !check.is_good {
            printer::line(format_args!("     {}", check.remedy));
        }
    }
    Ok(u8::from(checks.iter().any(|check| !check.is_good)))
}
