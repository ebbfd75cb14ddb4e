//! `cove-runtime`: an OCI runtime with runc's command line, and the monitor of Cove's containers.

fn main() -> std::process::ExitCode {
    let code = oci_runtime::cli::main();
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
