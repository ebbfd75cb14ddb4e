//! `cove-service`: Windows' small service, which makes machines for users who may make none themselves.
//!
//! It knows a handful of requests ([`vm_hyperv::request`]), has its rules in [`vm_hyperv::session`], and is started by
//! Windows' own keeper of services alone.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(windows)]
    let ran = vm_hyperv::serve::run();
    #[cfg(not(windows))]
    let ran: std::io::Result<()> = Err(std::io::Error::other("this program is Windows' alone"));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let said = format!("cove-service is started by Windows: sc start CoveService ({error})");
            // Where nobody listens there is nobody to be told.
            let _ = writeln!(std::io::stderr(), "{said}");
            ExitCode::FAILURE
        }
    }
}
