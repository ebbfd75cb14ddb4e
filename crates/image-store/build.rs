//! Compiles the welcome image's program: static, so that it runs in an image of its own.

#![expect(clippy::disallowed_methods, reason = "a build script uses the compiler cargo gives it")]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=welcome/main.rs");
    println!("cargo:rerun-if-changed=welcome/page.html");
    let variable = |name: &str| std::env::var_os(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("welcome");
    let mut build = Command::new(variable("RUSTC"));
    build.args(["--edition", "2024", "--crate-name", "welcome", "--target"]).arg(variable("TARGET"));
    build.args([
        "-Ctarget-feature=+crt-static",
        "-Copt-level=s",
        "-Cpanic=abort",
        "-Cstrip=symbols",
        "-Clto=fat",
    ]);
    // How programs are linked for another computer.
    if variable("TARGET") != variable("HOST") {
        let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
        build.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    }
    let built = build.arg("-o").arg(&out).arg("welcome/main.rs").status();
    assert!(
        built.as_ref().is_ok_and(std::process::ExitStatus::success),
        "the welcome program could not be built ({built:?}); on Debian, libc6-dev is needed"
    );
}
