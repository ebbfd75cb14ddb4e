//! The project's chores, each from a fresh machine: `cargo xtask run`, `test`, `ci`, `tidy`,
//! `gen-types`, `guest-image`, `cross`, `musl`, `dist`, `bench`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "chores talk to the person who runs them")]

mod apt;
mod architecture;
mod bench;
mod cross;
mod dist;
mod files;
mod guest_image;
mod machine_suite;
mod musl;
mod packages;
mod run;
mod shell;
mod sysroot;
mod test;
mod tidy;

use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  run [--yes] [--no-window]   install what is missing, build, and open Cove
  test                        install what tests need, and run every test there is
  test-machine                of it, only the engine's tests against a machine
  ci                          test, and what else a change must pass: formatting, lints, docs
  tidy                        check the house rules
  gen-types                   write the UI's types and docs/api-coverage.md anew from the code
  guest-image [--arch x86_64|aarch64] [--machine uml|qemu] [--kernel debian|own]
                              make what a machine boots, in target/guest; for this computer's architecture,
                              all machines, and our own kernel if it was built before, unless said otherwise
  cross [macos] [windows] [wine] [guest]
                              check what is for macOS and Windows from here, link it, and run it under Wine;
                              make a guest's image for aarch64, of programs to be tried
  musl                        build what ships for Linux, in target/ship
  dist [deb [--built]] [macos] [windows]
                              make packages in target/dist: Debian's, of programs that are built first or, with
                              --built, of those that are there; of macOS and Windows, check the manifests
  bench [PART]                measure against crun, runc, podman and docker, where they are; all, or
                              only runtimes, commands or networks; machine: machines

Examples:
  cargo xtask run
  CI=true cargo xtask test
  PEERS=/path/with/bin BENCH_DOCKER_HOST=unix:///run/docker.sock BENCH_IMAGE=localhost:5000/big cargo xtask bench";

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    const WITHOUT_WORDS: [&str; 6] = ["test", "test-machine", "ci", "tidy", "gen-types", "musl"];
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--help") || has("-h") {
        println!("{USAGE}");
        return Ok(());
    }
    if let [command, word, ..] = args
        && WITHOUT_WORDS.contains(&command.as_str())
    {
        bail!("{command} takes no words, and was given {word:?}\n\n{USAGE}");
    }
    match args.first().map(String::as_str) {
        Some("run") => run::open(has("--yes"), !has("--no-window")),
        Some("test") => test::test(),
        Some("ci") => test::ci(),
        Some("tidy") => tidy::tidy(),
        Some("gen-types") => test::gen_types(),
        Some("guest-image") => guest_image::guest_image(args.get(1..).unwrap_or_default()),
        Some("cross") => {
            let parts: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
            cross::cross(&parts)
        }
        Some("musl") => musl::musl(),
        Some("dist") => dist::dist(args.get(1..).unwrap_or_default()),
        Some("test-machine") => test::test_machine(),
        Some("bench") => bench::bench(args.get(1).map(String::as_str)),
        Some("measure") => bench::measure(args.get(1..).unwrap_or_default()),
        Some("probe") => bench::probe(args.get(1..).unwrap_or_default()),
        Some("measure-startup") => bench::measure_startup(),
        None | Some("help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("command {other:?} is unknown\n\n{USAGE}"),
    }
}
