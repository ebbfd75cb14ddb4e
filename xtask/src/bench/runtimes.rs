//! The same bundle by each OCI runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Table, peer};
use crate::shell::{output, root, run};

/// Takes the second version of the cgroups away, in a mount namespace of its own.
const HIDE_V2: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; ";

/// crun, if there is one, with which commands of engines are compared too.
pub(super) struct Crun(Option<Runtime>);

impl Crun {
    pub(super) fn run(&self) -> Option<Duration> {
        self.0.as_ref()?.run(&folder())
    }

    pub(super) fn exec(&self) -> Option<Duration> {
        self.0.as_ref()?.exec(&folder())
    }
}

fn folder() -> PathBuf {
    root().join("target/bench/bundle")
}

pub(super) fn bench(table: &mut Table) -> Result<Crun> {
    let dir = folder();
    let cove = crate::musl::folder().join("cove-runtime");
    make_bundle(&dir, &cove)?;
    let ours = Runtime { program: cove.display().to_string(), name: "cove-runtime" };
    let bundle = dir.display().to_string();
    let words = ["--root", "/dev/shm/cove-bench-own", "run", "--bundle", &bundle, "bench"];
    let other = |name| peer(name).map(|program| Runtime { program: program.display().to_string(), name });
    let crun = Crun(other("crun"));
    let (took, theirs) = super::in_turns(|| super::time(&ours.program, &words), || crun.run())?;
    table.compare("run of a bundle (crun)", took, "crun", theirs, "≤ 0.6");
    let runc = other("runc").and_then(|runc| runc.run(&dir));
    table.compare("run of a bundle (runc)", took, "runc", runc, "");
    let exec = || ours.exec(&dir).context("cove-runtime did not exec");
    let (took, theirs) = super::in_turns(exec, || crun.exec())?;
    table.compare("exec in a bundle (crun)", took, "crun", theirs, "");
    Ok(crun)
}

fn make_bundle(dir: &Path, cove: &Path) -> Result<()> {
    let rootfs = dir.join("rootfs");
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(&rootfs)?;
    let layer = dir.join("layer.tar");
    std::fs::write(&layer, support::image::busybox_layer()?)?;
    run("tar", &["-xf", &layer.display().to_string(), "-C", &rootfs.display().to_string()])?;
    run(&cove.display().to_string(), &["spec", "--bundle", &dir.display().to_string()])?;
    let config = dir.join("config.json");
    let text = std::fs::read_to_string(&config)?.replace("\"terminal\": true", "\"terminal\": false");
    // One that ends at once, and beside it one that stays.
    let stays = dir.with_extension("stays");
    let _ = std::fs::remove_dir_all(&stays);
    std::fs::create_dir_all(&stays)?;
    std::os::unix::fs::symlink(&rootfs, stays.join("rootfs"))?;
    std::fs::write(stays.join("config.json"), text.replace("\"sh\"", "\"sleep\", \"600\""))?;
    std::fs::write(&config, text.replace("\"sh\"", "\"true\"")).context("failed to write the bundle")
}

struct Runtime {
    program: String,
    name: &'static str,
}

impl Runtime {
    fn run(&self, bundle: &Path) -> Option<Duration> {
        let this = self.program_and_root();
        self.measured(&format!("exec \"$0\" measure {this} run --bundle {} bench", bundle.display()))
    }

    fn exec(&self, bundle: &Path) -> Option<Duration> {
        let this = self.program_and_root();
        let stays = bundle.with_extension("stays");
        self.measured(&format!(
            "{this} run -d --bundle {} stays </dev/null >/dev/null 2>&1; \"$0\" measure {this} exec stays true; \
             {this} delete -f stays >/dev/null",
            stays.display()
        ))
    }

    /// Where state is kept matters: on a disk, a removal alone takes a quarter of a millisecond.
    fn program_and_root(&self) -> String {
        format!("{} --root /dev/shm/cove-bench-{}", self.program, self.name)
    }

    fn measured(&self, script: &str) -> Option<Duration> {
        let this = std::env::current_exe().ok()?.display().to_string();
        let script = format!("{HIDE_V2}{script}");
        let nanos = output("unshare", &["-m", "sh", "-c", &script, &this])?;
        let _ = std::fs::remove_dir_all(format!("/dev/shm/cove-bench-{}", self.name));
        nanos.parse().ok().map(Duration::from_nanos)
    }
}
