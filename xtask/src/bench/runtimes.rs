//! The same bundle by each OCI runtime.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Table, peer};
use crate::shell::{output, root, run};

/// Takes the second version of the cgroups away, in a mount namespace of its own.
const HIDE_V2: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; ";

/// What crun took, which commands of engines are compared with too.
pub(super) struct Crun {
    pub(super) run: Option<Duration>,
    pub(super) exec: Option<Duration>,
}

pub(super) fn bench(table: &mut Table) -> Result<Crun> {
    let dir = root().join("target/bench/bundle");
    let cove = crate::musl::folder().join("cove-runtime");
    make_bundle(&dir, &cove)?;
    let ours = Runtime { program: cove.display().to_string(), name: "cove-runtime" };
    let took = super::time(
        &ours.program,
        &["--root", "/dev/shm/cove-bench-own", "run", "--bundle", &dir.display().to_string(), "bench"],
    )?;
    let mut crun = Crun { run: None, exec: None };
    for (name, bar) in [("crun", "≤ 0.6"), ("runc", "")] {
        let other = peer(name).map(|program| Runtime { program: program.display().to_string(), name });
        let theirs = other.as_ref().and_then(|other| other.run(&dir));
        table.compare(&format!("run of a bundle ({name})"), took, name, theirs, bar);
        if name == "crun" {
            crun = Crun { run: theirs, exec: other.and_then(|other| other.exec(&dir)) };
        }
    }
    let took = ours.exec(&dir).context("cove-runtime did not exec")?;
    table.compare("exec in a bundle (crun)", took, "crun", crun.exec, "");
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
