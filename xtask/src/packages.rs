//! The system packages that building, running and testing need, on Debian and Ubuntu.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};

use crate::shell::{has, in_ci, output, run_command};

/// To build everything, the window included.
const BUILD: &[&str] = &["build-essential", "pkg-config", "libwebkit2gtk-4.1-dev", "libcap-ng-dev"];
/// To run it.
const RUN: &[&str] = &["uidmap", "procps", "nftables", "passt"];
/// To test it.
const TEST: &[&str] = &[
    "busybox-static",
    "procps",
    "uidmap",
    "nftables",
    "passt",
    "webkit2gtk-driver",
    "xvfb",
    "xauth",
    "dbus-daemon",
    "fonts-dejavu-core",
    // A registry, and runtimes and an engine of others that our own is tried with.
    "docker-registry",
    "openssl",
    // A client of others' making.
    "python3-docker",
    "iproute2",
    "crun",
    "runc",
    "podman",
    // What makes cgroups on most computers, to be run in a machine.
    "systemd",
    "dbus",
    // A machine to run, and what its image is made with.
    "qemu-system-x86",
    // The same for a guest of another processor.
    "qemu-system-arm",
    "erofs-utils",
    "kmod",
    "xz-utils",
    "debian-archive-keyring",
];
/// Servers of others' making that tests speak to, which nobody wants on a computer of their own: in CI alone.
const SERVERS: &[&str] = &["nfs-ganesha", "nfs-ganesha-vfs"];
/// To check and link what is for macOS and Windows.
const CROSS: &[&str] = &[
    "build-essential",
    "xz-utils",
    "debian-archive-keyring",
    // Compilers of C, for macOS and for Windows.
    "clang",
    "llvm",
    "gcc-mingw-w64-x86-64-win32",
    "wine64",
    // A list of what macOS' system library exports comes from PyPI, in an archive.
    "unzip",
];
/// To build a kernel of our own.
const KERNEL: &[&str] =
    &["build-essential", "flex", "bison", "bc", "libelf-dev", "lz4", "xz-utils", "kmod", "patch"];
/// Beside them, for another processor.
const FOREIGN: &[&str] = &["clang", "llvm", "lld"];

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Run,
    Test,
    Cross,
    Kernel,
    ForeignKernel,
}

/// Installs what is missing, after saying what. With `is_agreed`, in CI, or where nobody can be
/// asked, without a question.
pub(crate) fn ensure(purpose: Purpose, is_agreed: bool) -> Result<()> {
    let mut wanted = match purpose {
        Purpose::Run => [BUILD, RUN].concat(),
        Purpose::Test => [BUILD, TEST, CROSS].concat(),
        Purpose::Cross => CROSS.to_vec(),
        Purpose::Kernel => KERNEL.to_vec(),
        Purpose::ForeignKernel => [KERNEL, FOREIGN].concat(),
    };
    if purpose == Purpose::Test && in_ci() {
        wanted.extend(SERVERS);
    }
    // Any of Docker's clients will do; Debian's package brings one along with a daemon.
    if purpose == Purpose::Test && !has("docker") {
        wanted.push("docker.io");
    }
    if matches!(purpose, Purpose::Cross | Purpose::Test) && !has("pip3") {
        wanted.push("python3-pip");
    }
    // Compose of the kind that is a plugin of Docker's; older systems have another program of that name.
    if purpose == Purpose::Test && output("docker", &["compose", "version"]).is_none() && has_compose() {
        wanted.push("docker-compose");
    }
    wanted.sort_unstable();
    wanted.dedup();
    if !has("apt-get") || !has("dpkg-query") {
        println!(
            "This is no Debian or Ubuntu: make sure that the equivalents of these are there: {}",
            wanted.join(" ")
        );
        return Ok(());
    }
    let missing: Vec<&str> = wanted.into_iter().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("These system packages are missing and will be installed: {}", missing.join(" "));
    if !is_agreed && !in_ci() && std::io::stdin().is_terminal() && !agrees()? {
        bail!("nothing was installed; install them yourself, or answer y");
    }
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat())
}

/// Whether the system's package of Compose is version 2 or newer.
fn has_compose() -> bool {
    let policy = output("apt-cache", &["policy", "docker-compose"]).unwrap_or_default();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate
        .and_then(|version| version.split('.').next()?.parse::<u32>().ok())
        .is_some_and(|major| major >= 2)
}

fn is_installed(package: &str) -> bool {
    output("dpkg-query", &["-W", "-f", "${Status}", package])
        .is_some_and(|status| status == "install ok installed")
}

fn agrees() -> Result<bool> {
    print!("Go on? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn apt(args: &[&str]) -> Result<()> {
    let is_root = output("id", &["-u"]).is_some_and(|uid| uid == "0");
    let mut command = if is_root {
        crate::shell::command("apt-get", &[])
    } else {
        crate::shell::command("sudo", &["apt-get"])
    };
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"]).args(args);
    // No service of a package is wanted, only its programs.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    run_command(command)
}
