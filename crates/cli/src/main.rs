//! `cove`: the command line. Its verbs, flags, outputs and exit codes are Docker's wherever Docker has them.

mod args;
mod containers;
mod copy;
mod docker;
mod doctor;
mod exit;
mod images;
mod listing;
mod machine;
mod mounts;
mod networks;
mod printer;
mod registry;
mod run;
mod service;
mod spec;
mod streams;
mod sys;
mod system;
mod table;
mod template;
mod terminal;
mod units;
mod volumes;

/// musl's own asks the kernel for each few pages, which takes a command half a millisecond.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    let args = match args::parse(args::expand(std::env::args_os())) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; anything else is Docker's 125.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return std::process::ExitCode::from(code);
        }
    };
    // One thread: a command waits for one engine, and starts faster so.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(args::dispatch(args));
            // A read of the terminal that is under way can't be called off.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(exit::Failure::new(format!("failed to start: {error}"))),
    };
    match outcome {
        Ok(code) => std::process::ExitCode::from(code),
        Err(failure) => {
            printer::failure(&failure);
            std::process::ExitCode::from(failure.code)
        }
    }
}
