//! Under a real systemd: each container a unit of its own by `--systemd-cgroup`, and engines in a scope that is
//! delegated to them.
//!
//! systemd is the first process of a container in a machine, which has version 2 of the cgroups alone. The tests that
//! are ignored are run in there, by the one that is not.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use support::daemon::program;
use support::machine::{Machine, fast_backends};
use support::runtime::{Bundle, Runtime, said};

/// Where Debian has it, and where it is since the directories were merged.
const SYSTEMD: &str = "/lib/systemd/systemd";
const PACKAGES: [&str; 7] = [
    "systemd",
    "libsystemd-shared",
    "dbus",
    "dbus-bin",
    "dbus-daemon",
    "dbus-system-bus-common",
    "dbus-session-bus-common",
];
/// Runtimes and an engine of others, with what they need.
const OTHERS: [&str; 7] = [
    "/usr/bin/crun",
    "/usr/sbin/runc",
    "/usr/bin/podman",
    "/usr/bin/conmon",
    "/usr/lib/podman/netavark",
    "/usr/bin/newuidmap",
    "/usr/bin/newgidmap",
];
/// Without a login, which would take PAM; and no console to log in at.
const FILES: [(&str, &str); 4] = [
    ("etc/containers/policy.json", "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}"),
    (
        "etc/systemd/system/user@.service.d/test.conf",
        "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
    ),
    ("etc/systemd/system/console-getty.service", ""),
    ("etc/machine-id", ""),
];
/// How long anything may take that is waited for, in a machine whose processor is shared with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
const USER: u32 = 1000;
const USER_PART: &str = "/user.slice/user-1000.slice/user@1000.service";

#[test]
fn containers_and_engines_are_in_units_of_a_real_systemd() -> Result<()> {
    if !Path::new(SYSTEMD).is_file() {
        support::skip("systemd is not installed");
        return Ok(());
    }
    for backend in fast_backends() {
        let Some(machine) = Machine::init(backend)? else { continue };
        machine.bring_up()?;
        let names = ["cove", "coved", "cove-runtime", "cove-machine"];
        let tests = machine.share_tests(&names)?;
        let images = machine.shared().join("guest");
        if *backend != "uml" {
            // A kernel that is a program is one in any machine but of its own kind.
            let image = support::machine::image("uml").context("there is no guest image")?;
            copy_all(&image, &images.join(image.file_name().context("it has a name")?))?;
        }
        let ours: Vec<PathBuf> = names.iter().map(|name| program(name)).collect::<Result<_>>()?;
        let guests: Vec<&Path> = ours.iter().map(PathBuf::as_path).chain([tests.as_path()]).collect();
        let others = OTHERS.map(Path::new);
        let others: Vec<&Path> = others.into_iter().filter(|path| path.is_file()).collect();
        machine.load_layer("systemd", support::userland::layer(&PACKAGES, &others, &guests, &FILES)?)?;
        let share = format!("{0}:{0}", machine.shared().display());
        let run =
            ["run", "-d", "--name", "system", "--privileged", "--cgroupns", "private", "--network", "none"];
        let memory = ["--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--shm-size", "768m"];
        let more = ["-e", "container=docker", "-v", &share];
        machine.cove_ok(&[&run[..], &memory, &more, &["systemd", SYSTEMD]].concat())?;
        machine.wait_for("systemd", || {
            let state = machine.cove(&["exec", "system", "systemctl", "is-system-running"]);
            state.is_ok_and(|said| matches!(said.out.as_str(), "running" | "degraded"))
        })?;
        let tests = tests.display().to_string();
        let told = machine.cove(&["exec", "system", &tests, "--ignored", "--test-threads=1"])?;
        support::tell(&told.out);
        ensure!(told.code == 0, "in a machine ({backend}): {}\n{}", told.out, told.err);
    }
    Ok(())
}

/// What systemd says of a unit.
fn show(manager: &[&str], unit: &str, property: &str) -> Result<String> {
    let mut command = stdx::process::command("systemctl");
    if !manager.is_empty() {
        as_user(&mut command);
    }
    command.args(manager).args(["show", "--value", "--property", property, unit]);
    Ok(said(&command.output()?).1)
}

fn as_user(command: &mut Command) {
    command.uid(USER).gid(USER).env("XDG_RUNTIME_DIR", format!("/run/user/{USER}")).env("HOME", "/home/app");
}

/// The v2 cgroup of a process.
fn cgroup(pid: i64) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.trim().strip_prefix("0::").context("version 2")?.to_owned())
}

fn limit(cgroup: &str, file: &str) -> Result<String> {
    let path = format!("/sys/fs/cgroup{cgroup}/{file}");
    std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).context(path)
}

fn limited(config: &mut serde_json::Value, cgroups_path: &str) {
    config["linux"]["cgroupsPath"] = json!(cgroups_path);
    config["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20 });
    config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    config["linux"]["resources"]["cpu"] = json!({ "quota": 50_000, "period": 100_000 });
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn a_container_is_a_scope_with_its_limits_until_it_is_deleted() -> Result<()> {
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all_by_systemd()? {
        let name = runtime.name;
        let bundle = Bundle::new(runtime, &layer, "exec sleep 1000")?;
        let id = bundle.id().replace('.', "");
        let id = id.as_str();
        bundle.edit(|config| limited(config, &format!("a-b.slice:test:{id}")))?;
        bundle.create()?;
        bundle.must(&["start", &bundle.id()])?;
        let unit = format!("test-{id}.scope");
        let pid = bundle.state()?["pid"].as_i64().context("no pid")?;
        let own = cgroup(pid)?;
        let scope = format!("/a.slice/a-b.slice/{unit}");
        // runc takes the unit's own directory.
        ensure!(own == format!("{scope}/container") || (name == "runc" && own == scope), "{name}: {own}");
        for (property, expected) in [
            ("ControlGroup", scope.as_str()),
            ("Slice", "a-b.slice"),
            ("Delegate", "yes"),
            ("ActiveState", "active"),
        ] {
            let found = show(&[], &unit, property)?;
            ensure!(found == expected, "{name}: {property} is {found:?}");
        }
        let check_limits = |memory: u64, pids: &str| -> Result<()> {
            let expected = memory.to_string();
            ensure!(limit(&own, "memory.max")? == expected, "{name}: {}", limit(&own, "memory.max")?);
            ensure!(limit(&own, "pids.max")? == pids && limit(&own, "cpu.max")? == "50000 100000", "{name}");
            // crun 1.8 keeps them from systemd.
            if name != "crun" {
                let found = [show(&[], &unit, "MemoryMax")?, show(&[], &unit, "TasksMax")?];
                ensure!(found == [expected.as_str(), pids], "{name}: {found:?}");
                let quota = show(&[], &unit, "CPUQuotaPerSecUSec")?;
                ensure!(quota == "500ms", "{name}: {quota}");
            }
            Ok(())
        };
        check_limits(32 << 20, "20")?;
        let id = bundle.id();
        bundle.must(&["update", "--memory", &(48 << 20).to_string(), "--pids-limit", "30", &id])?;
        check_limits(48 << 20, "30")?;
        // systemd goes through its units again.
        ensure!(stdx::process::command("systemctl").arg("daemon-reload").status()?.success());
        check_limits(48 << 20, "30")?;
        ensure!(bundle.must(&["exec", &id, "cat", "/proc/self/cgroup"])? == "0::/", "{name}");
        bundle.must(&["pause", &id])?;
        ensure!(bundle.state()?["status"] == "paused", "{name}");
        bundle.must(&["resume", &id])?;
        ensure!(bundle.must(&["ps", &id])?.contains(&pid.to_string()), "{name}");
        if name == "cove-runtime" {
            let stats = bundle.must(&["events", "--stats", &id])?;
            ensure!(stats.contains(&format!("\"limit\":{}", 48 << 20)), "{stats}");
        }
        bundle.must(&["kill", &id, "KILL"])?;
        bundle.wait_for("end", || bundle.state().is_ok_and(|state| state["status"] == "stopped"))?;
        bundle.must(&["delete", &id])?;
        bundle.wait_for("end of the unit", || {
            show(&[], &unit, "LoadState").is_ok_and(|state| state == "not-found")
        })?;
        ensure!(!Path::new(&format!("/sys/fs/cgroup{scope}")).exists(), "{name}");
    }
    Ok(())
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn what_is_no_unit_or_somebody_elses_is_refused_and_nothing_is_left() -> Result<()> {
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all_by_systemd()? {
        let name = runtime.name;
        for path in ["/a/b", "a:b"] {
            let bundle = Bundle::new(runtime, &layer, "true")?;
            bundle.edit(|config| limited(config, path))?;
            let (code, text) = bundle.run()?;
            ensure!(code != 0, "{name}: {path}: {text}");
            let expected = "expected cgroupsPath to be of format \"slice:prefix:name\"";
            // crun has its own words.
            ensure!(name == "crun" || text.replace('\\', "").contains(expected), "{name}: {text}");
            ensure!(bundle.call(&["state", &bundle.id()])?.0 != 0, "{name}: is left over");
        }
        // runc 1.1 puts the second container of one name into the first one's unit.
        if name == "runc" {
            continue;
        }
        // The second leaves the first alone.
        let path = format!("system.slice:taken:{name}");
        let [first, second] =
            [Bundle::new(runtime, &layer, "exec sleep 1000")?, Bundle::new(runtime, &layer, "true")?];
        first.edit(|config| limited(config, &path))?;
        second.edit(|config| limited(config, &path))?;
        first.create()?;
        first.must(&["start", &first.id()])?;
        ensure!(second.run()?.0 != 0, "{name}: two are one unit");
        ensure!(first.state()?["status"] == "running", "{name}: the first was ended by the second");
        ensure!(show(&[], &format!("taken-{name}.scope"), "ActiveState")? == "active", "{name}");
    }
    Ok(())
}

/// Has the user's systemd run, as a login would.
fn log_in() -> Result<()> {
    let unit = format!("user@{USER}.service");
    let (code, text) = said(&stdx::process::command("systemctl").args(["start", &unit]).output()?);
    ensure!(code == 0, "{text}");
    // All but what processors are pinned with, and disks.
    ensure!(limit(USER_PART, "cgroup.controllers")? == "cpu memory pids");
    Ok(())
}

/// This process is not in the part of the cgroups that is the user's, as one of their sessions is not.
#[test]
#[ignore = "needs systemd: it is run where that is"]
fn a_users_container_is_a_scope_of_the_users_systemd() -> Result<()> {
    log_in()?;
    let layer = support::image::busybox_layer()?;
    let runtimes = Runtime::all_by_systemd()?;
    let runtime = runtimes.first().context("ours")?;
    let bundle = Bundle::new(runtime, &layer, "exec sleep 1000")?;
    let id = bundle.id();
    bundle.edit(|config| {
        limited(config, &format!(":test:{}", id.replace('.', "")));
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": "user" }));
        }
        let map = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        config["linux"]["resources"]["devices"] = json!([]);
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            // Its gid is not mapped.
            if mount["destination"] == "/dev/pts" {
                mount["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
            }
        }
    })?;
    give(bundle.dir.path())?;
    let call = |args: &[&str]| -> Result<String> {
        let mut command = bundle.command(args);
        as_user(&mut command);
        let out = std::fs::File::create("/tmp/said")?;
        let status = command.stdout(out.try_clone()?).stderr(out).status()?;
        let text = std::fs::read_to_string("/tmp/said")?;
        ensure!(status.success(), "{args:?}: {text}");
        Ok(text)
    };
    call(&["create", "--bundle", &bundle.dir.path().display().to_string(), &id])?;
    call(&["start", &id])?;
    let state: serde_json::Value = serde_json::from_str(&call(&["state", &id])?)?;
    let own = cgroup(state["pid"].as_i64().context("no pid")?)?;
    let unit = format!("test-{}.scope", id.replace('.', ""));
    ensure!(own == format!("{USER_PART}/user.slice/{unit}/container"), "{own}");
    ensure!(limit(&own, "memory.max")? == (32 << 20).to_string() && limit(&own, "pids.max")? == "20");
    ensure!(show(&["--user"], &unit, "MemoryMax")? == (32 << 20).to_string());
    call(&["update", "--memory", &(48 << 20).to_string(), &id])?;
    ensure!(limit(&own, "memory.max")? == (48 << 20).to_string());
    ensure!(show(&["--user"], &unit, "MemoryMax")? == (48 << 20).to_string());
    let inside = call(&["exec", &id, "cat", "/proc/self/cgroup"])?;
    ensure!(inside.trim() == "0::/", "{inside}");
    call(&["pause", &id])?;
    call(&["resume", &id])?;
    call(&["delete", "--force", &id])?;
    bundle.wait_for("end of the unit", || {
        show(&["--user"], &unit, "LoadState").is_ok_and(|state| state == "not-found")
    })
}

fn give(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER))?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}

/// An engine, ended with its containers.
struct Engine {
    dir: tempfile::TempDir,
    is_users: bool,
    child: Option<Child>,
}

impl Engine {
    fn start(is_users: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove-systemd").tempdir()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        tar::Archive::new(support::image::busybox_layer()?.as_slice()).unpack(dir.path().join("tree"))?;
        if is_users {
            chown(dir.path(), Some(USER), Some(USER))?;
            give(&dir.path().join("tree"))?;
        }
        let mut engine = Self { dir, is_users, child: None };
        engine.launch()?;
        Ok(engine)
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = stdx::process::command(program("coved")?);
        command.env("PATH", "/usr/sbin:/usr/bin").arg("--root").arg(self.dir.path().join("root"));
        command.arg("--state").arg(self.dir.path().join("run"));
        if self.is_users {
            as_user(&mut command);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let end = Instant::now() + PATIENCE;
        while self.cove(&["ps"])?.0 != 0 {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            ensure!(Instant::now() < end, "no engine: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn cove(&self, args: &[&str]) -> Result<(i32, String)> {
        let mut command = stdx::process::command(program("cove")?);
        let socket = format!("unix://{}", self.dir.path().join("run/cove.sock").display());
        command.env("PATH", "/usr/sbin:/usr/bin").env("HOME", "/tmp").env("COVE_HOST", socket);
        Ok(said(&command.args(args).stdin(Stdio::null()).output()?))
    }

    fn must(&self, args: &[&str]) -> Result<String> {
        let (code, text) = self.cove(args)?;
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        ensure!(code == 0, "{args:?}: {text}\n{}", log());
        Ok(text)
    }

    fn pid(&self) -> Result<i64> {
        Ok(self.child.as_ref().context("it runs")?.id().into())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.cove(&["rm", "-f", "box", "other"]);
        let _ = self.kill();
    }
}

fn limits_stand_in_a_scope_that_outlives_the_engine(
    is_users: bool,
    part: &str,
    manager: &[&str],
) -> Result<()> {
    let mut engine = Engine::start(is_users)?;
    let own = cgroup(engine.pid()?)?;
    let scope = own.strip_suffix("/daemon").context("the engine is in no scope")?.to_owned();
    let unit = scope.rsplit('/').next().context("a unit")?.to_owned();
    ensure!(scope.starts_with(part) && unit.starts_with("coved-") && unit.ends_with(".scope"), "{scope}");
    ensure!(show(manager, &unit, "Delegate")? == "yes");
    let info = engine.must(&["info"])?;
    ensure!(info.contains("can't be limited in cpuset, blkio") == is_users, "{info}");

    let tree = engine.dir.path().join("tree").display().to_string();
    let run = ["run", "-d", "--name", "box", "--network", "none", "--memory", "32m", "--pids-limit", "20"];
    engine.must(&[&run[..], &["--cpus", "0.5", "--rootfs", &tree, "sleep", "1000"]].concat())?;
    let pid = engine.must(&["inspect", "-f", "{{.State.Pid}}", "box"])?.parse()?;
    let its = cgroup(pid)?;
    ensure!(its.starts_with(&format!("{scope}/cove/")), "{its}");
    let limits = |its: &str| -> Result<[String; 3]> {
        Ok([limit(its, "memory.max")?, limit(its, "pids.max")?, limit(its, "cpu.max")?])
    };
    ensure!(limits(&its)? == [(32 << 20).to_string().as_str(), "20", "50000 100000"], "{:?}", limits(&its)?);
    engine.must(&["update", "--memory", "48m", "box"])?;
    engine.must(&["pause", "box"])?;
    engine.must(&["unpause", "box"])?;
    ensure!(engine.must(&["stats", "--no-stream", "box"])?.contains("48.0MiB"));

    engine.kill()?;
    ensure!(show(manager, &unit, "ActiveState")? == "active" && cgroup(pid)? == its);
    ensure!(stdx::process::command("systemctl").arg("daemon-reload").status()?.success());
    engine.launch()?;
    ensure!(cgroup(engine.pid()?)? == own, "the next engine is elsewhere: {}", cgroup(engine.pid()?)?);
    ensure!(engine.must(&["exec", "box", "cat", "/proc/self/cgroup"])? == "0::/");
    ensure!(limits(&its)? == [(48 << 20).to_string().as_str(), "20", "50000 100000"], "{:?}", limits(&its)?);
    let run = ["run", "--rm", "--name", "other", "--network", "none", "--memory", "32m", "--rootfs", &tree];
    ensure!(engine.must(&[&run[..], &["cat", "/proc/self/cgroup"]].concat())? == "0::/");

    engine.must(&["rm", "-f", "box"])?;
    engine.kill()?;
    let end = Instant::now() + PATIENCE;
    while show(manager, &unit, "LoadState")? != "not-found" {
        ensure!(Instant::now() < end, "{unit} is left over");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn the_systems_engine_limits_containers_in_a_scope_of_its_own() -> Result<()> {
    limits_stand_in_a_scope_that_outlives_the_engine(false, "/system.slice/", &[])
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn a_users_engine_limits_containers_in_a_scope_of_the_users() -> Result<()> {
    log_in()?;
    limits_stand_in_a_scope_that_outlives_the_engine(true, USER_PART, &["--user"])
}

/// podman has systemd make a scope for its own monitor, too.
#[test]
#[ignore = "needs systemd: it is run where that is"]
fn podman_runs_its_containers_by_our_runtime_and_systemd() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cove-podman").tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
    std::fs::write(dir.path().join("containers.conf"), limits)?;
    let image = dir.path().join("busybox.tar");
    support::image::write_busybox(&image)?;
    let runtime = program("cove-runtime")?.display().to_string();
    let podman = |args: &[&str]| -> Result<String> {
        let mut command = stdx::process::command("/usr/bin/podman");
        command.env("PATH", "/usr/sbin:/usr/bin").env("HOME", dir.path());
        command.env("CONTAINERS_CONF", at("containers.conf")).args([
            "--root",
            &at("root"),
            "--runroot",
            &at("run"),
        ]);
        command.args(["--tmpdir", &at("tmp"), "--storage-driver", "vfs", "--cgroup-manager", "systemd"]);
        command.args(["--events-backend", "file", "--log-level", "error", "--runtime", &runtime]).args(args);
        let (code, text) = said(&command.stdin(Stdio::null()).output()?);
        ensure!(code == 0, "podman {args:?}: {code} {text}");
        Ok(text)
    };
    podman(&["load", "-q", "-i", &image.display().to_string()])?;
    ensure!(podman(&["run", "--rm", "--network", "none", "busybox", "echo", "hi"])? == "hi");
    let run = ["run", "-d", "--name", "box", "--network", "none", "--memory", "64m", "--pids-limit", "20"];
    let id = podman(&[&run[..], &["busybox", "sleep", "1000"]].concat())?;
    let pid = podman(&["inspect", "-f", "{{.State.Pid}}", "box"])?.parse()?;
    let unit = format!("libpod-{id}.scope");
    let own = cgroup(pid)?;
    ensure!(own == format!("/machine.slice/{unit}/container"), "{own}");
    ensure!(limit(&own, "memory.max")? == (64 << 20).to_string() && limit(&own, "pids.max")? == "20");
    ensure!(show(&[], &unit, "MemoryMax")? == (64 << 20).to_string());
    ensure!(podman(&["exec", "box", "cat", "/proc/self/cgroup"])? == "0::/");
    podman(&["pause", "box"])?;
    ensure!(podman(&["inspect", "-f", "{{.State.Status}}", "box"])? == "paused");
    podman(&["unpause", "box"])?;
    ensure!(podman(&["stats", "--no-stream", "box"])?.contains("67.11MB"));
    podman(&["kill", "box"])?;
    ensure!(podman(&["wait", "box"])?.trim() == "137");
    podman(&["rm", "box"])?;
    ensure!(show(&[], &unit, "LoadState")? == "not-found");
    Ok(())
}

/// `cove` as somebody types it, with the engine where it is by default.
fn plainly(is_users: bool, args: &[&str]) -> Result<(i32, String)> {
    let mut command = stdx::process::command(program("cove")?);
    command.env("PATH", "/usr/sbin:/usr/bin").env("HOME", "/root").args(args);
    if is_users {
        as_user(&mut command);
    }
    Ok(said(&command.stdin(Stdio::null()).output()?))
}

fn an_engine_starts_with_the_computer(is_users: bool, manager: &[&str], place: &str) -> Result<()> {
    let must = |args: &[&str]| -> Result<String> {
        let (code, text) = plainly(is_users, args)?;
        ensure!(code == 0, "{args:?}: {code} {text}");
        Ok(text)
    };
    let (code, text) = plainly(is_users, &["service", "status"])?;
    ensure!(code == 1 && text.contains("does not start"), "{code} {text}");
    let text = must(&["service", "install"])?;
    ensure!(text.contains(place) && text.contains("enable-linger") == is_users, "{text}");
    ensure!(show(manager, "cove.service", "ActiveState")? == "active");
    ensure!(show(manager, "cove.service", "UnitFileState")? == "enabled");
    ensure!(must(&["service", "status"])?.contains(place));
    let engine = || -> Result<i64> { Ok(show(manager, "cove.service", "MainPID")?.parse()?) };
    let end = Instant::now() + PATIENCE;
    while plainly(is_users, &["ps"])?.0 != 0 {
        ensure!(Instant::now() < end, "the service's engine does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let first = engine()?;

    // Containers are nobody's who may be restarted.
    let dir = tempfile::Builder::new().prefix("cove-service").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    tar::Archive::new(support::image::busybox_layer()?.as_slice()).unpack(dir.path().join("tree"))?;
    if is_users {
        give(dir.path())?;
    }
    let tree = dir.path().join("tree").display().to_string();
    must(&["run", "-d", "--name", "box", "--network", "none", "--rootfs", &tree, "sleep", "1000"])?;
    let pid = must(&["inspect", "-f", "{{.State.Pid}}", "box"])?;
    let told = |words: &[&str]| -> Result<()> {
        let mut command = stdx::process::command("systemctl");
        if is_users {
            as_user(&mut command);
        }
        let (code, text) = said(&command.args(manager).args(words).output()?);
        ensure!(code == 0, "{words:?}: {text}");
        Ok(())
    };
    told(&["restart", "cove.service"])?;
    ensure!(engine()? != first);
    let running = must(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "box"])?;
    ensure!(running == format!("{pid} true"), "{running}");
    // One that dies is started again.
    ensure!(stdx::process::command("kill").args(["-9", &engine()?.to_string()]).status()?.success());
    let end = Instant::now() + PATIENCE;
    while engine()? == 0 || plainly(is_users, &["exec", "box", "true"])?.0 != 0 {
        ensure!(Instant::now() < end, "the engine is not started again");
        std::thread::sleep(Duration::from_millis(100));
    }

    must(&["service", "remove"])?;
    ensure!(show(manager, "cove.service", "LoadState")? == "not-found" && !Path::new(place).exists());
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the container ended with the service");
    // Whoever needs an engine starts one, as before.
    must(&["rm", "-f", "box"])?;
    Ok(())
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn the_systems_engine_starts_with_the_computer_as_a_service() -> Result<()> {
    an_engine_starts_with_the_computer(false, &[], "/etc/systemd/system/cove.service")
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn a_users_engine_starts_with_the_computer_as_a_service() -> Result<()> {
    log_in()?;
    an_engine_starts_with_the_computer(true, &["--user"], "/home/app/.config/systemd/user/cove.service")
}

#[test]
#[ignore = "needs systemd: it is run where that is"]
fn a_machine_starts_with_the_computer_as_a_service() -> Result<()> {
    let cove = program("cove")?;
    let images = cove.ancestors().nth(2).context("it is in a folder")?.join("guest");
    if !images.is_dir() {
        support::skip("no machine can be had in one of User Mode Linux");
        return Ok(());
    }
    let must = |args: &[&str]| -> Result<String> {
        let (code, text) = plainly(false, args)?;
        ensure!(code == 0, "{args:?}: {code} {text}");
        Ok(text)
    };
    // An emulated processor lacks what it takes to have several.
    let small = ["--no-share", "--cpus", "1", "--memory", "512m", "--disk", "1g"];
    must(&[&["machine", "init", "dev", "--backend", "uml"], &small[..]].concat())?;
    let unit = "cove-machine-dev.service";
    let (code, text) = plainly(false, &["service", "install", "--machine", "dev"])?;
    if code != 0 {
        anyhow::bail!("{code} {text}\n{:?}", plainly(false, &["machine", "status", "dev"]));
    }
    ensure!(text.contains("/etc/systemd/system/cove-machine-dev.service"), "{text}");
    ensure!(show(&[], unit, "ActiveState")? == "active" && show(&[], unit, "UnitFileState")? == "enabled");
    let is_running = || Ok::<_, anyhow::Error>(must(&["machine", "status", "dev"])?.contains("running"));
    ensure!(is_running()?);
    must(&["--host", "machine://dev", "ps"])?;
    let told = |word: &str| -> Result<()> {
        let status = stdx::process::command("systemctl").args([word, unit]).status()?;
        ensure!(status.success(), "systemctl {word} {unit}: {status}");
        Ok(())
    };
    told("stop")?;
    ensure!(!is_running()?, "it runs when its unit was stopped");
    told("start")?;
    ensure!(is_running()?);
    must(&["--host", "machine://dev", "volume", "create", "kept"])?;
    told("restart")?;
    ensure!(must(&["--host", "machine://dev", "volume", "ls"])?.contains("kept"));
    must(&["service", "remove", "--machine", "dev"])?;
    ensure!(show(&[], unit, "LoadState")? == "not-found");
    must(&["machine", "rm", "--force", "dev"])?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
