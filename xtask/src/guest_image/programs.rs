//! Our own programs for the guest: static, so that they need nothing of the guest's.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::shell::{command, root, run_command};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// At fixed addresses: relocating a program at its start makes its pages private.
const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Where they were built.
pub(super) struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Builds them by the profile `guest`, in a folder of their own: other flags would have the whole
    /// workspace built again each time.
    pub(super) fn build() -> Result<Self> {
        ensure!(
            std::env::consts::ARCH == "x86_64",
            "guests are made on and for x86_64 so far, and this is {}",
            std::env::consts::ARCH
        );
        let target = root().join("target/guest-build");
        let mut build =
            command("cargo", &["build", "--profile", "guest", "--target", TARGET, "--target-dir"]);
        build.arg(&target);
        build.args(["-p", "api-server", "-p", "oci-runtime", "-p", "vm-agent"]);
        build.args(["--bin", "coved", "--bin", "cove-runtime", "--bin", "cove-agent"]);
        build.env("RUSTFLAGS", FLAGS);
        run_command(build).context("failed to build the guest's programs")?;
        Ok(Self { dir: target.join(TARGET).join("guest") })
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.dir.join("cove-agent")
    }

    /// All that go into the system.
    pub(super) fn all(&self) -> [PathBuf; 3] {
        ["cove-agent", "coved", "cove-runtime"].map(|name| self.dir.join(name))
    }
}
