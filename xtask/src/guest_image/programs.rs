//! Our own programs for the guest: static, so that they need nothing of the guest's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Index, Suite};
use crate::architecture::Architecture;
use crate::files;
use crate::shell::{command, has, root, run_command};
use crate::sysroot::{self, Depth, Target};

const X86_TARGET: &str = "x86_64-unknown-linux-gnu";
/// With musl, which is linked the same on every computer: glibc takes a compiler for the architecture.
pub(crate) const ARM_TARGET: &str = "aarch64-unknown-linux-musl";
/// At fixed addresses: relocating a program at its start makes its pages private.
const STATIC: &str = "-Crelocation-model=static";
const NAMES: [&str; 3] = ["cove-agent", "coved", "cove-runtime"];

/// How they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As they ship.
    Guest,
    /// Sooner, to be tried.
    Dev,
}

/// Where they were built, and for what.
pub(crate) struct Programs {
    dir: PathBuf,
    architecture: Architecture,
}

impl Programs {
    /// Builds them. Those that ship are in a folder of their own: other flags would have the whole workspace built again
    /// each time.
    pub(crate) fn build(architecture: Architecture, profile: Profile) -> Result<Self> {
        let mut build = command("cargo", &["build"]);
        build.args(["-p", "api-server", "-p", "oci-runtime", "-p", "vm-agent"]);
        build.args(NAMES.iter().flat_map(|name| ["--bin", name]));
        let (target, made) = match profile {
            Profile::Guest => {
                build.args(["--profile", "guest"]);
                (root().join("target/guest-build"), "guest")
            }
            Profile::Dev => {
                build.env("CARGO_PROFILE_DEV_STRIP", "symbols");
                (root().join("target"), "debug")
            }
        };
        build.arg("--target-dir").arg(&target);
        let triple = match architecture {
            Architecture::X86 => for_x86(&mut build)?,
            Architecture::Arm => for_arm(&mut build)?,
        };
        run_command(build).with_context(|| format!("failed to build the guest's programs for {triple}"))?;
        let programs = Self { dir: target.join(triple).join(made), architecture };
        for program in programs.all() {
            check(&program, architecture)?;
        }
        Ok(programs)
    }

    pub(crate) fn architecture(&self) -> Architecture {
        self.architecture
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.dir.join("cove-agent")
    }

    /// What runs containers.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.dir.join("cove-runtime")
    }

    /// All that go into the system.
    pub(super) fn all(&self) -> [PathBuf; 3] {
        NAMES.map(|name| self.dir.join(name))
    }
}

/// By the computer's own compilers.
fn for_x86(build: &mut Command) -> Result<&'static str> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "guests for x86_64 are made on x86_64 so far, and this is {}",
        std::env::consts::ARCH
    );
    build.args(["--target", X86_TARGET]).env("RUSTFLAGS", format!("-Ctarget-feature=+crt-static {STATIC}"));
    Ok(X86_TARGET)
}

/// By LLVM's, which are for all architectures, and musl's headers of Debian's.
fn for_arm(build: &mut Command) -> Result<&'static str> {
    for (program, package) in [("clang", "clang"), ("llvm-ar", "llvm")] {
        ensure!(has(program), "{program} is missing, which guests for aarch64 take: install {package}");
    }
    sysroot::ask_rustup(&[ARM_TARGET]);
    ensure!(
        sysroot::is_installed(ARM_TARGET),
        "the toolchain lacks {ARM_TARGET}: run `rustup target add {ARM_TARGET}` where there is a network"
    );
    let target = Target::prepare(ARM_TARGET, Depth::Code, None)?;
    let linker = format!("-Clinker={}", sysroot::lld()?.display());
    let flags = [linker.as_str(), "-Clinker-flavor=ld.lld", "-Clink-self-contained=yes", STATIC];
    target.apply(build, &flags.map(str::to_owned));
    let headers = musl_headers()?;
    let headers = headers.join("usr/include/aarch64-linux-musl");
    let flags = format!("--target=aarch64-linux-musl -nostdlibinc -isystem {}", headers.display());
    build.env("CC_aarch64_unknown_linux_musl", "clang").env("AR_aarch64_unknown_linux_musl", "llvm-ar");
    build.env("CFLAGS_aarch64_unknown_linux_musl", flags);
    Ok(ARM_TARGET)
}

/// What C is compiled with that programs of others hold: a package in the cache.
fn musl_headers() -> Result<PathBuf> {
    let cache = files::cache();
    let suite = Suite::open("trixie", Index::Packages(Architecture::Arm), &cache)?;
    suite.unpacked("musl-dev", &cache)
}

/// Whether a file is a program for the architecture.
fn check(program: &Path, architecture: Architecture) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
    let machine = bytes.get(18..20).and_then(|field| field.first_chunk()).copied().map(u16::from_le_bytes);
    ensure!(
        bytes.starts_with(b"\x7fELF") && machine == Some(architecture.elf()),
        "{} is no program for {}",
        program.display(),
        architecture.name()
    );
    Ok(())
}
