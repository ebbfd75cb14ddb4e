//! podman with cove-runtime under it.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, ensure};
use support::daemon::program;
use support::runtime::said;

/// podman finds all it needs in our command line.
#[test]
fn podman_runs_its_containers_by_our_runtime() -> Result<()> {
    if !support::is_root()? {
        support::skip("podman as another user is not what is tried here");
        return Ok(());
    }
    if !Path::new("/usr/bin/podman").is_file() {
        let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        ensure!(!is_ci, "podman is missing");
        support::skip("podman is not there");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("cove-podman").tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    // Its own defaults are more than a machine may give.
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
    std::fs::write(dir.path().join("containers.conf"), limits)?;
    let image = dir.path().join("busybox.tar");
    support::image::write_busybox(&image)?;
    let runtime = program("cove-runtime")?.display().to_string();
    let podman = |args: &[&str]| -> Result<(i32, String)> {
        let mut command = stdx::process::command("/usr/bin/unshare");
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec podman \"$@\"";
        command.args(["-m", "--propagation", "slave", "sh", "-c", script, "podman"]);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", dir.path()).env("CONTAINERS_CONF", at("containers.conf"));
        command.args(["--root", &at("root"), "--runroot", &at("run"), "--tmpdir", &at("tmp")]);
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.args(["--log-level", "error", "--runtime", &runtime]).args(args).stdin(Stdio::null());
        Ok(said(&command.output()?))
    };
    let ok = |args: &[&str]| -> Result<String> {
        let (code, text) = podman(args)?;
        ensure!(code == 0, "podman {args:?}: {code} {text}");
        Ok(text)
    };
    let result = (|| -> Result<()> {
        ok(&["load", "-q", "-i", &image.display().to_string()])?;
        let run: &[&str] = &["run", "--rm", "--network", "none"];
        ensure!(ok(&[run, &["busybox", "echo", "hi"]].concat())? == "hi");
        ensure!(podman(&[run, &["busybox", "sh", "-c", "exit 7"]].concat())?.0 == 7);
        let strict = ["--user", "1000", "--cap-drop", "all", "--read-only", "busybox", "sh", "-c"];
        let said =
            ok(&[run, &strict, &["id -u; grep CapEff /proc/self/status | tr -d '\\t'; touch /x || true"]]
                .concat())?;
        ensure!(said.starts_with("1000\nCapEff:0000000000000000\n") && said.contains("Read-only"), "{said}");
        ok(&[
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "none",
            "--memory",
            "64m",
            "busybox",
            "sleep",
            "1000",
        ])?;
        ensure!(ok(&["exec", "box", "sh", "-c", "echo in; id -u"])? == "in\n0");
        ok(&["pause", "box"])?;
        ensure!(ok(&["inspect", "-f", "{{.State.Status}}", "box"])? == "paused");
        ok(&["unpause", "box"])?;
        ensure!(ok(&["top", "box"])?.contains("sleep 1000"));
        ok(&["stats", "--no-stream", "box"])?;
        ok(&["kill", "box"])?;
        ensure!(ok(&["wait", "box"])?.trim() == "137");
        ok(&["rm", "box"]).map(drop)
    })();
    let _ = podman(&["rm", "-fa", "-t", "0"]);
    result
}
