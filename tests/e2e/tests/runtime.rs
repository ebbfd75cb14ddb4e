//! The same bundles by cove-runtime, crun and runc: what ours is held to, the others prove.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::machine::{Machine, fast_backends};
use support::runtime::{Bundle, Runtime, said};

/// Set where the tests run in a machine already.
const IN_MACHINE: &str = "COVE_TEST_RUNTIMES_IN_MACHINE";

/// Which kind.
fn machine() -> Option<String> {
    std::env::var(IN_MACHINE).ok()
}

/// One bundle and what must come of it.
struct Check {
    name: &'static str,
    script: &'static str,
    edit: fn(&mut Value, &Path) -> Result<()>,
    code: i32,
    says: &'static str,
    /// Runtimes of Debian 12 that don't have it yet.
    lacking: &'static [&'static str],
}

const PLAIN: Check = Check { name: "", script: "", edit: |_, _| Ok(()), code: 0, says: "", lacking: &[] };

const CHECKS: &[Check] = &[
    Check { name: "exit code", script: "exit 7", code: 7, ..PLAIN },
    Check {
        name: "user and groups",
        script: "id -u; id -g; id -G; umask",
        edit: |config, _| {
            config["process"]["user"] =
                json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63 });
            Ok(())
        },
        says: "1000\n1001\n1001 5 6\n0077",
        ..PLAIN
    },
    Check {
        name: "names, directory and environment",
        script: "hostname; cat /proc/sys/kernel/domainname; pwd; echo $A",
        edit: |config, _| {
            config["domainname"] = json!("example.org");
            config["process"]["cwd"] = json!("/deep/made");
            config["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
            Ok(())
        },
        says: "box\nexample.org\n/deep/made\nb c",
        // runc 1.1 is older than domainname.
        lacking: &["runc"],
        ..PLAIN
    },
    Check {
        name: "capabilities",
        script: "grep -E 'Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t'",
        edit: |config, _| {
            let set = json!(["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]);
            config["process"]["capabilities"] = json!({ "bounding": set, "effective": set, "permitted": set, "inheritable": set, "ambient": set });
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            Ok(())
        },
        says: "CapPrm:0000000000000401\nCapEff:0000000000000401\nCapBnd:0000000000000401\n\
               CapAmb:0000000000000401\nNoNewPrivs:1",
        ..PLAIN
    },
    Check {
        name: "limits of the process",
        script: "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj",
        edit: |config, _| {
            config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 256, "hard": 512 }]);
            config["process"]["oomScoreAdj"] = json!(500);
            Ok(())
        },
        says: "256\n512\n500",
        ..PLAIN
    },
    Check {
        name: "sysctls",
        script: "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        edit: |config, _| {
            config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "4096" });
            Ok(())
        },
        says: "1\n4096",
        ..PLAIN
    },
    Check {
        name: "read-only root",
        script: "echo a > /x || echo b > /tmp/x && cat /tmp/x",
        edit: |config, _| {
            config["root"]["readonly"] = json!(true);
            Ok(())
        },
        says: "b\nsh: can't create /x: Read-only file system",
        ..PLAIN
    },
    Check {
        name: "masked and read-only paths",
        script: "cat /secret/a; cat /file; ls /secret; echo a > /kept/x; cat /kept/a",
        edit: |config, bundle| {
            for dir in ["secret", "kept"] {
                std::fs::create_dir(bundle.join("rootfs").join(dir))?;
                std::fs::write(bundle.join("rootfs").join(dir).join("a"), "seen\n")?;
            }
            std::fs::write(bundle.join("rootfs/file"), "seen\n")?;
            config["linux"]["maskedPaths"] = json!(["/secret", "/file", "/missing"]);
            config["linux"]["readonlyPaths"] = json!(["/kept", "/missing"]);
            Ok(())
        },
        says: "seen\ncat: can't open '/secret/a': No such file or directory\n\
               sh: can't create /kept/x: Read-only file system",
        ..PLAIN
    },
    Check {
        name: "mounts",
        script: "cat /in/a /one; echo b > /in/b; echo c > /in/c; echo d > /ro/d; cat /in/b; df -m /small | tail -1 | tr -s ' ' | cut -d' ' -f2",
        edit: |config, bundle| {
            let source = bundle.join("source");
            std::fs::create_dir(&source)?;
            std::fs::write(source.join("a"), "a\n")?;
            let mounts = config["mounts"].as_array_mut().context("no list")?;
            mounts.push(
                json!({ "destination": "/in", "type": "bind", "source": source, "options": ["rbind"] }),
            );
            mounts.push(
                json!({ "destination": "/ro", "type": "bind", "source": source, "options": ["bind", "ro"] }),
            );
            mounts.push(json!({ "destination": "/one", "type": "bind", "source": source.join("a"), "options": ["bind"] }));
            mounts.push(json!({ "destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=3m"] }));
            Ok(())
        },
        says: "a\na\nb\n3\nsh: can't create /ro/d: Read-only file system",
        ..PLAIN
    },
    Check {
        name: "recursive read-only",
        script: "echo a > /in/below/x",
        edit: |config, bundle| {
            std::fs::create_dir_all(bundle.join("source/below"))?;
            let mounts = config["mounts"].as_array_mut().context("no list")?;
            let source = bundle.join("source");
            mounts.push(json!({ "destination": "/in", "type": "bind", "source": source, "options": ["rbind", "rro"] }));
            Ok(())
        },
        code: 1,
        says: "sh: can't create /in/below/x: Read-only file system",
        ..PLAIN
    },
    Check {
        name: "symlinks in the image lead nowhere outside",
        script: "cat /proc/self/mountinfo | grep -c ' /etc/inside '; cat /etc/inside/a",
        edit: |config, bundle| {
            // Absolute, as an image would have it to get out.
            std::os::unix::fs::symlink("/etc", bundle.join("rootfs/link"))?;
            std::fs::create_dir(bundle.join("source"))?;
            std::fs::write(bundle.join("source/a"), "a\n")?;
            let mounts = config["mounts"].as_array_mut().context("no list")?;
            let source = bundle.join("source");
            mounts.push(json!({ "destination": "/link/inside", "type": "bind", "source": source, "options": ["bind"] }));
            Ok(())
        },
        says: "1\na",
        ..PLAIN
    },
    Check {
        name: "devices",
        script: "stat -c '%F %t:%T %a %u' /dev/more; head -c 3 /dev/more | wc -c; for f in null zero full random urandom tty; do [ -c /dev/$f ] || echo no $f; done; readlink /dev/fd",
        edit: |config, _| {
            config["linux"]["devices"] = json!([{ "path": "/dev/more", "type": "c", "major": 1, "minor": 5, "fileMode": 416, "uid": 5, "gid": 0 }]);
            Ok(())
        },
        says: "character special file 1:5 640 5\n3\n/proc/self/fd",
        // It is root without CAP_DAC_OVERRIDE, so it reads by its group.
        ..PLAIN
    },
    Check {
        name: "devices that are not allowed",
        script: "cat /dev/loud > /dev/null",
        edit: |config, _| {
            config["linux"]["devices"] =
                json!([{ "path": "/dev/loud", "type": "c", "major": 1, "minor": 11, "fileMode": 438 }]);
            Ok(())
        },
        code: 1,
        says: "cat: can't open '/dev/loud': Operation not permitted",
        ..PLAIN
    },
    Check {
        name: "seccomp, an error",
        script: "mkdir /tmp/x; echo $?; chmod 700 /tmp; chmod 1777 /tmp && echo fine",
        edit: |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                    // By its argument: only mode 0700 is refused.
                    { "names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                      "args": [{ "index": 1, "value": 448, "op": "SCMP_CMP_EQ" }] },
                    { "names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                      "args": [{ "index": 2, "value": 448, "op": "SCMP_CMP_EQ" }] },
                ],
            });
            Ok(())
        },
        says: "1\nfine\nmkdir: can't create directory '/tmp/x': No space left on device\n\
               chmod: /tmp: Operation not permitted",
        ..PLAIN
    },
    Check {
        name: "seccomp, death",
        script: "mkdir /tmp/x",
        edit: |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
            });
            // The shell executes its last command in its own place.
            config["process"]["args"] = json!(["mkdir", "/tmp/x"]);
            Ok(())
        },
        code: 159,
        ..PLAIN
    },
    Check {
        name: "a user namespace",
        script: "id -u; tr -s ' ' < /proc/self/uid_map; stat -c %u /in",
        edit: |config, bundle| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().context("no list")?;
            namespaces.push(json!({ "type": "user" }));
            let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
            let source = bundle.join("source");
            std::fs::create_dir(&source)?;
            std::os::unix::fs::chown(&source, Some(100_007), Some(100_007))?;
            let mounts = config["mounts"].as_array_mut().context("no list")?;
            mounts
                .push(json!({ "destination": "/in", "type": "bind", "source": source, "options": ["bind"] }));
            for path in ["", "in"] {
                let path = bundle.join("rootfs").join(path);
                let _ = std::fs::create_dir(&path);
                std::os::unix::fs::chown(&path, Some(100_000), Some(100_000))?;
            }
            Ok(())
        },
        says: "0\n 0 100000 65536\n7",
        ..PLAIN
    },
    Check {
        name: "an id-mapped mount",
        script: "stat -c %u /in; touch /in/new",
        edit: |config, bundle| {
            let source = bundle.join("source");
            std::fs::create_dir(&source)?;
            std::os::unix::fs::chown(&source, Some(5000), Some(5000))?;
            let map = json!([{ "containerID": 5000, "hostID": 0, "size": 1 }]);
            let mounts = config["mounts"].as_array_mut().context("no list")?;
            mounts.push(json!({
                "destination": "/in", "type": "bind", "source": source, "options": ["bind", "idmap"],
                "uidMappings": map, "gidMappings": map,
            }));
            Ok(())
        },
        says: "0",
        // Newer than runc 1.1; crun 1.8 has another syntax.
        lacking: &["runc", "crun"],
        ..PLAIN
    },
    Check {
        name: "a time namespace",
        script: "[ $(cut -d. -f1 /proc/uptime) -gt 8640000 ] && echo later",
        edit: |config, _| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().context("no list")?;
            namespaces.push(json!({ "type": "time" }));
            config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 8_640_000 } });
            Ok(())
        },
        says: "later",
        // Newer than both.
        lacking: &["runc", "crun"],
        ..PLAIN
    },
    Check {
        name: "scheduling",
        script: "cut -d' ' -f19 /proc/self/stat; ionice -p $$",
        edit: |config, _| {
            config["process"]["scheduler"] = json!({ "policy": "SCHED_OTHER", "nice": 7 });
            config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
            Ok(())
        },
        says: "7\nbest-effort: prio 6",
        lacking: &["runc", "crun"],
        ..PLAIN
    },
    Check {
        name: "personality",
        script: "uname -m",
        edit: |config, _| {
            config["linux"]["personality"] = json!({ "domain": "LINUX32" });
            Ok(())
        },
        says: "i686",
        lacking: &["runc"],
        ..PLAIN
    },
    Check {
        name: "a terminal",
        script: "test -t 0 && stat -c %F /dev/console",
        edit: |config, _| {
            config["process"]["terminal"] = json!(false);
            Ok(())
        },
        code: 1,
        ..PLAIN
    },
];

/// The tests of this file in a machine, whose kernel has nothing of version 1: in a container that has a part of the
/// cgroups for its own, and leaves that part's root to the runtimes.
#[test]
fn all_of_it_is_so_with_version_2_of_the_cgroups_alone() -> Result<()> {
    if machine().is_some() {
        return Ok(());
    }
    for backend in fast_backends() {
        let Some(machine) = Machine::init(backend)? else { continue };
        machine.bring_up()?;
        let tests = machine.share_tests(&["cove-runtime"])?;
        let programs =
            ["/usr/bin/crun", "/usr/sbin/runc", "/usr/bin/unshare", "/usr/bin/setpriv"].map(Path::new);
        let programs: Vec<&Path> = programs.into_iter().filter(|path| path.is_file()).collect();
        // The ps of busybox: procps fails where /proc does not tell when the computer was started, as in User Mode Linux.
        let layer = support::userland::layer(&[], &programs, &[&tests], &[])?;
        machine.load_layer("runtimes", layer)?;
        let share = format!("{0}:{0}", machine.shared().display());
        // The init reaps what the runtimes leave behind, and moves along.
        let script = "cd /sys/fs/cgroup; mkdir tests && echo 1 > tests/cgroup.procs && echo 0 > tests/cgroup.procs && \
                      exec $0 --test-threads=1";
        let run = ["run", "--rm", "--init", "--privileged", "--cgroupns", "private", "--network", "none"];
        let mark = format!("{IN_MACHINE}={backend}");
        let more = [
            "--tmpfs",
            "/tmp:exec",
            "-e",
            &mark,
            "-v",
            &share,
            "runtimes",
            "sh",
            "-c",
            script,
            &tests.display().to_string(),
        ];
        let told = machine.cove(&[&run[..], &more].concat())?;
        support::tell(&told.out);
        ensure!(told.code == 0, "in a machine ({backend}): {}\n{}", told.out, told.err);
    }
    Ok(())
}

#[test]
fn bundles_do_the_same_by_every_runtime() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    let runtimes = Runtime::all()?;
    let layer = support::image::busybox_layer()?;
    let mut wrong = Vec::new();
    for check in CHECKS {
        for runtime in &runtimes {
            if check.lacking.contains(&runtime.name) {
                continue;
            }
            if check.name == "personality" && machine().as_deref() == Some("uml") {
                support::absent("User Mode Linux has one personality");
                continue;
            }
            let bundle = Bundle::new(runtime, &layer, check.script)?;
            let mut outcome = Ok(());
            bundle.edit(|config| outcome = (check.edit)(config, bundle.dir.path()))?;
            outcome?;
            let (code, said) = bundle.run()?;
            // crun tells its container's death by another line.
            let is_said = said == check.says || (check.says.is_empty() && (code == check.code));
            if code != check.code || !is_said {
                wrong.push(format!("{} by {}: {code} {said:?}", check.name, runtime.name));
            }
            let left = bundle.call(&["state", &bundle.id()])?;
            if left.0 == 0 {
                wrong.push(format!("{} by {}: is left over: {}", check.name, runtime.name, left.1));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_container_is_created_started_paused_limited_killed_and_deleted() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all()? {
        let bundle = Bundle::new(runtime, &layer, "echo started; exec sleep 1000")?;
        let id = bundle.id();
        let cgroup = format!("/cove-checks/{id}");
        bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!(cgroup);
            config["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20 });
            config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
            config["annotations"] = json!({ "org.example": "kept" });
        })?;
        bundle.create()?;
        let state = bundle.state()?;
        let name = runtime.name;
        ensure!(state["status"] == "created" && state["id"] == json!(id), "{name}: {state}");
        ensure!(state["annotations"]["org.example"] == "kept", "{name}: {state}");
        ensure!(std::fs::read_to_string(bundle.path("out"))?.is_empty(), "{name} ran before its start");
        let pid = state["pid"].as_i64().context("no pid")?;
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "{name}: {state}");
        ensure!(
            bundle.call(&["create", "--bundle", &bundle.dir.path().display().to_string(), &id])?.0 != 0,
            "{name} made the same container twice"
        );

        bundle.must(&["start", &id])?;
        bundle.wait_for("output", || {
            std::fs::read_to_string(bundle.path("out")).is_ok_and(|text| text == "started\n")
        })?;
        ensure!(bundle.state()?["status"] == "running", "{name}, line {}", line!());
        ensure!(bundle.call(&["delete", &id])?.0 != 0, "{name} deleted a container that runs");
        // By the version of the cgroups that has the controllers here.
        let is_v1 = Path::new("/sys/fs/cgroup/memory").is_dir();
        let read = |controller: &str, v1: &str, v2: &str| {
            let (controller, file) = if is_v1 { (controller, v1) } else { ("", v2) };
            let path = format!("/sys/fs/cgroup/{controller}{cgroup}/{file}");
            std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).context(path)
        };
        let memory = || read("memory", "memory.limit_in_bytes", "memory.max");
        ensure!(memory()? == (32 << 20).to_string(), "{name}, line {}", line!());
        ensure!(read("pids", "pids.max", "pids.max")? == "20", "{name}, line {}", line!());
        bundle.must(&["update", "--memory", &(48 << 20).to_string(), &id])?;
        ensure!(memory()? == (48 << 20).to_string(), "{name}, line {}", line!());

        let exec = |args: &[&str], code: i32, says: &str| -> Result<()> {
            let got = bundle.call(&[&["exec"], args].concat())?;
            ensure!(got == (code, says.to_owned()), "{name}: exec {args:?}: {got:?}");
            Ok(())
        };
        exec(
            &[
                "--env",
                "A=b",
                "--env",
                "PATH=/bin",
                "--cwd",
                "/tmp",
                "--user",
                "1000:1001",
                &id,
                "sh",
                "-c",
                "id -u; id -g; pwd; echo $A",
            ],
            0,
            "1000\n1001\n/tmp\nb",
        )?;
        exec(&[&id, "sh", "-c", "exit 9"], 9, "")?;
        exec(&[&id, "sh", "-c", "ls /proc | grep -c '^1$'"], 0, "1")?;
        ensure!(bundle.call(&["exec", &id, "/none"])?.0 != 0, "{name}, line {}", line!());

        bundle.must(&["pause", &id])?;
        ensure!(bundle.state()?["status"] == "paused", "{name}, line {}", line!());
        bundle.must(&["resume", &id])?;
        ensure!(bundle.state()?["status"] == "running", "{name}, line {}", line!());
        ensure!(bundle.must(&["list", "-q"])?.contains(&id), "{name}, line {}", line!());
        let processes = bundle.must(&["ps", &id])?;
        ensure!(processes.contains(&pid.to_string()), "{name}: {processes}");

        bundle.must(&["kill", &id, "KILL"])?;
        bundle.wait_for("end", || bundle.state().is_ok_and(|state| state["status"] == "stopped"))?;
        bundle.must(&["delete", &id])?;
        ensure!(bundle.call(&["state", &id])?.0 != 0, "{name}: is left over");
        for controller in ["", "memory", "pids", "devices", "unified"] {
            ensure!(
                !Path::new(&format!("/sys/fs/cgroup/{controller}{cgroup}")).exists(),
                "{name}: {controller}"
            );
        }
    }
    Ok(())
}

#[test]
fn namespaces_are_new_or_joined() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    const KINDS: [&str; 6] = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let layer = support::image::busybox_layer()?;
    let own: Vec<PathBuf> = KINDS
        .iter()
        .map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")))
        .collect::<std::io::Result<_>>()?;
    for runtime in &Runtime::all()? {
        let first = Bundle::new(runtime, &layer, "exec sleep 1000")?;
        first.create()?;
        first.must(&["start", &first.id()])?;
        let pid = first.state()?["pid"].as_i64().context("no pid")?;
        for (kind, own) in KINDS.iter().zip(&own) {
            let new = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            ensure!(new != *own, "{}: {kind} is the host's", runtime.name);
        }
        // A second container in the first's network and ipc namespaces.
        let second = Bundle::new(runtime, &layer, "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")?;
        second.edit(|config| {
            for entry in config["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
                let file = match entry["type"].as_str() {
                    Some("network") => "net",
                    Some("ipc") => "ipc",
                    _ => continue,
                };
                entry["path"] = json!(format!("/proc/{pid}/ns/{file}"));
            }
        })?;
        let (code, said) = second.run()?;
        let expected: Vec<String> = ["net", "ipc"]
            .iter()
            .map(|kind| Ok(std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?.display().to_string()))
            .collect::<Result<_>>()?;
        ensure!((code, said.as_str()) == (0, expected.join("\n").as_str()), "{}: {said}", runtime.name);
    }
    Ok(())
}

#[test]
fn hooks_run_in_their_order_with_the_state_on_their_input() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all()? {
        let bundle = Bundle::new(runtime, &layer, "echo program >> /order")?;
        let order = bundle.path("rootfs/order");
        std::fs::write(&order, "")?;
        let outside = |name: &str| {
            let script = format!(
                "grep '\"id\": *\"{}\"' > /dev/null && echo {name} >> {}",
                bundle.id(),
                order.display()
            );
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
        };
        bundle.edit(|config| {
            config["hooks"] = json!({
                "prestart": outside("prestart"),
                "createRuntime": outside("createRuntime"),
                "createContainer": outside("createContainer"),
                "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; echo startContainer >> /order"] }],
                "poststart": outside("poststart"),
                "poststop": outside("poststop"),
            });
        })?;
        let (code, said) = bundle.run()?;
        ensure!(code == 0, "{}: {said}", runtime.name);
        let mut lines: Vec<String> = std::fs::read_to_string(&order)?.lines().map(str::to_owned).collect();
        // Beside what the container does by itself, once it is made.
        let after_start = lines.iter().position(|line| line == "poststart").context("no poststart")?;
        ensure!(after_start > 2, "{}: {lines:?}", runtime.name);
        lines.remove(after_start);
        let expected =
            ["prestart", "createRuntime", "createContainer", "startContainer", "program", "poststop"];
        ensure!(lines == expected, "{}: {lines:?}", runtime.name);

        // One that fails ends the creation, and nothing stays.
        let bundle = Bundle::new(runtime, &layer, "true")?;
        bundle.edit(|config| {
            config["hooks"] =
                json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; exit 3"] }] });
        })?;
        ensure!(bundle.run()?.0 != 0, "{}", runtime.name);
        ensure!(bundle.call(&["state", &bundle.id()])?.0 != 0, "{}: is left over", runtime.name);
    }
    Ok(())
}

/// The agent closes the listener, so that what the filter asks about fails with ENOSYS (seccomp(2)).
#[test]
fn a_filter_that_notifies_hands_its_listener_over() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all()? {
        let bundle = Bundle::new(runtime, &layer, "mkdir /tmp/x; echo $?")?;
        let path = bundle.path("agent");
        let agent = std::os::unix::net::UnixListener::bind(&path)?;
        bundle.edit(|config| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": path,
                "listenerMetadata": "for the agent",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
            });
        })?;
        let heard = std::thread::spawn(move || -> Result<Value> {
            let (stream, _) = agent.accept()?;
            let (bytes, fds) = receive(&stream)?;
            ensure!(fds.len() == 1, "{} descriptors came", fds.len());
            Ok(serde_json::from_slice(&bytes)?)
        });
        let (code, said) = bundle.run()?;
        // A runtime that never connects would hang the agent.
        let _ = std::os::unix::net::UnixStream::connect(bundle.path("agent"));
        let told = heard.join().map_err(|_| anyhow::anyhow!("the agent panicked"))??;
        ensure!(code == 0 && said.contains("Function not implemented"), "{}: {code} {said}", runtime.name);
        ensure!(
            told["fds"] == json!(["seccompFd"]) && told["metadata"] == "for the agent",
            "{}: {told}",
            runtime.name
        );
        ensure!(told["state"]["id"] == json!(bundle.id()), "{}: {told}", runtime.name);
    }
    Ok(())
}

/// Reads one message with its descriptors.
fn receive(stream: &std::os::unix::net::UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut bytes = vec![0; 64 << 10];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::empty())?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}

/// A descriptor beyond the standard ones reaches the program where asked.
#[test]
fn descriptors_are_preserved_on_demand() -> Result<()> {
    if !support::is_root()? {
        support::skip("the other runtimes need root here");
        return Ok(());
    }
    let layer = support::image::busybox_layer()?;
    for runtime in &Runtime::all()? {
        for (flags, expected) in [(&["--preserve-fds", "1"][..], "given"), (&[], "")] {
            let bundle = Bundle::new(runtime, &layer, "cat <&3")?;
            std::fs::write(bundle.path("given"), "given\n")?;
            let dir = bundle.dir.path().display().to_string();
            let id = bundle.id();
            let args = [&["run", "--bundle", &dir], flags, &[&id]].concat();
            let inner = bundle.command(&args);
            // A shell opens the descriptor: this process's own are closed on execution.
            let mut shell = stdx::process::command("/bin/sh");
            shell.args(["-c", "exec \"$@\" 3<\"$0\""]).arg(bundle.path("given"));
            shell.arg(inner.get_program()).args(inner.get_args());
            shell
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null());
            let (code, text) = said(&shell.output()?);
            ensure!((code == 0) == (expected == "given"), "{}: {flags:?}: {code} {text}", runtime.name);
            ensure!(text.contains(expected), "{}: {flags:?}: {text}", runtime.name);
        }
    }
    Ok(())
}
