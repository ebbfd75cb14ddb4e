//! `cove-agent`: the first process of a machine's guest.
//!
//! It mounts what there is, says hello to the host, becomes what the host wants it to be, keeps the engine running, and
//! powers off when told to. [`boot`] is what happens before the host is spoken to, [`control`] the conversation, and
//! [`inside`] what is another where the machine is not ours.

mod boot;
mod channel;
mod children;
mod clients;
mod clock;
mod control;
mod dhcp;
mod disk;
mod engine;
mod execute;
mod inside;
mod layer;
mod listeners;
mod loopback;
mod netlink;
mod network;
mod nft;
mod pressure;
mod report;
mod resolver;
mod room;
mod rosetta;
mod shares;
mod shutdown;
mod streams;
mod sys;
mod system;
mod trigger;

use std::io::Write;

fn main() -> std::process::ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == inside::WORD) {
        return inside::run();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == inside::BETWEEN) {
        return inside::stand_between();
    }
    if std::process::id() != 1 {
        tell(format_args!(
            "cove-agent {} is the first process of a machine's guest",
            env!("CARGO_PKG_VERSION")
        ));
        return std::process::ExitCode::from(2);
    }
    let booted = match inside::root_of_first() {
        Some(root) => boot::enter(&root),
        None => boot::boot(),
    };
    let outcome = booted.and_then(|booted| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(control::run(booted));
        // Threads that wait for what may never come, such as a clock that is set, are not waited for.
        runtime.shutdown_background();
        outcome
    });
    if let Err(error) = outcome {
        tell(format_args!("cove-agent: {error:#}"));
    }
    sys::power_off()
}

/// A line on the console, which the host keeps.
pub(crate) fn tell(line: std::fmt::Arguments<'_>) {
    // Without a console there is nobody to tell.
    let _ = std::io::stderr().write_fmt(format_args!("{line}\n"));
}
