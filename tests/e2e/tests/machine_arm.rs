//! A machine whose guest is for another processor than this computer's: aarch64, as Apple silicon and other computers have
//! it, emulated.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use support::image::{docker_archive_for, layer_of_busybox};
use support::machine::{Machine, fetch};

#[test]
fn a_guest_for_arm_runs_containers_with_folders_and_ports() -> Result<()> {
    let Some(machine) = Machine::init_foreign("aarch64")? else { return Ok(()) };
    machine.bring_up()?;
    let shared = machine.shared();
    let folder = shared.display().to_string();
    // The guest's own busybox is for its processor, and linked statically.
    machine.cove_ok(&["machine", "shell", "test", "--", "cp", "/usr/bin/busybox", &folder])?;
    let layer = layer_of_busybox(&std::fs::read(shared.join("busybox"))?)?;
    let archive = shared.join("image.tar");
    std::fs::write(&archive, docker_archive_for("arm64", "busybox", &[layer], &serde_json::json!({}))?)?;
    machine.cove_ok(&["load", "-i", &archive.display().to_string()])?;

    let run = ["run", "--rm", "--network", "none", "busybox", "sh", "-c"];
    let said = machine.cove(&[&run[..], &["uname -m; echo err >&2; exit 7"]].concat())?;
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (7, "aarch64", "err"));
    // Docker's filter of system calls is on, and knows this processor's: those that it allows, and those that it does not.
    let filter =
        "grep -w Seccomp /proc/self/status; ls -d /bin; busybox unshare -U true 2>&1 || echo refused";
    let said = machine.cove_ok(&[&run[..], &[filter]].concat())?;
    ensure!(said.starts_with("Seccomp:\t2\n/bin\n") && said.ends_with("refused"), "{said}");
    let said = machine.cove_ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--memory",
        "64m",
        "--pids-limit",
        "9",
        "busybox",
        "cat",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/pids.max",
    ])?;
    assert_eq!(said, "67108864\n9");

    std::fs::write(shared.join("from-host"), "hello")?;
    let script = format!("cd {folder}; cat from-host; mkdir dir; echo inside > dir/from-guest");
    assert_eq!(machine.run_in_share(&["sh", "-c", &script])?.out, "hello");
    assert_eq!(std::fs::read_to_string(shared.join("dir/from-guest"))?, "inside\n");
    // The guest would believe for a day what it has read, unless it is told.
    std::fs::write(shared.join("from-host"), "changed")?;
    let read = format!("cat {folder}/from-host");
    machine.wait_for("the changed file", || {
        machine
            .cove_ok(&["machine", "shell", "test", "--", "sh", "-c", &read])
            .is_ok_and(|out| out == "changed")
    })?;

    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let publish = format!("127.0.0.1:{port}:80");
    let serve = "echo it works > /tmp/index.html; exec httpd -f -h /tmp -p 0.0.0.0:80";
    machine.cove_ok(&["run", "-d", "--name", "web", "-p", &publish, "busybox", "sh", "-c", serve])?;
    machine.wait_for("a published port", || fetch(port).is_ok_and(|page| page.contains("it works")))?;
    machine.cove_ok(&["rm", "-f", "web"])?;
    machine.cove_ok(&["machine", "stop", "test"]).map(drop)
}
