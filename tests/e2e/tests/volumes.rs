//! Volumes, by Docker's command line and by cove: what is made, shared, filled, refused and removed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use support::daemon::{Daemon, Said};
use support::image::{busybox_layer, docker_archive, header};
use tar::{Builder, EntryType};

/// Files in `/data` of the image made here.
const FILES: usize = 300;

/// Loads `app:1`: busybox, a volume `/data` of some files that belong to user 1000, and a link to it.
fn load_app(daemon: &Daemon) -> Result<()> {
    let mut layer = Builder::new(Vec::new());
    let owned = |kind, mode, size| {
        let mut header = header(kind, mode, size);
        header.set_uid(1000);
        header.set_gid(1000);
        header
    };
    layer.append_data(&mut owned(EntryType::Directory, 0o2770, 0), "data/", std::io::empty())?;
    layer.append_data(&mut owned(EntryType::Directory, 0o700, 0), "data/sub/", std::io::empty())?;
    layer.append_data(&mut owned(EntryType::Regular, 0o4755, 4), "data/sub/deep", b"deep".as_slice())?;
    for n in 0..FILES {
        let name = format!("data/f{n:03}");
        layer.append_data(&mut owned(EntryType::Regular, 0o640, 4), name, b"file".as_slice())?;
    }
    layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), "linked", "data")?;
    layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), "out", "/../../../etc")?;
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": { "/data": {} } });
    let archive = docker_archive("app:1", &[busybox_layer()?, layer.into_inner()?], &config)?;
    let said = daemon.docker_with(&["load"], &archive)?;
    assert_eq!(said.code, 0, "{said:?}");
    Ok(())
}

fn daemon() -> Result<Daemon> {
    let daemon = Daemon::start()?;
    load_app(&daemon)?;
    Ok(daemon)
}

fn run(daemon: &Daemon, args: &[&str]) -> Result<String> {
    daemon.docker_ok(&[&["run", "--rm", "--network", "none"], args].concat())
}

fn refused(daemon: &Daemon, args: &[&str]) -> Result<Said> {
    let said = daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat())?;
    assert_ne!(said.code, 0, "{args:?}: {said:?}");
    Ok(said)
}

/// Where a volume's files are.
fn data(daemon: &Daemon, name: &str) -> PathBuf {
    if daemon.is_cove() {
        return daemon.dir().join("root/volumes").join(name).join("_data");
    }
    daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", name]).unwrap_or_default().into()
}

fn names(daemon: &Daemon) -> Result<Vec<String>> {
    let text = daemon.docker_ok(&["volume", "ls", "-q"])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// One request with a JSON body; the answer, head and all.
fn post(daemon: &Daemon, path: &str, body: &serde_json::Value) -> Result<String> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: cove\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    daemon.raw(request.as_bytes())
}

#[test]
fn a_volume_keeps_its_files_from_container_to_container() -> Result<()> {
    let daemon = daemon()?;
    let ok = |args: &[&str]| daemon.docker_ok(args);
    assert_eq!(ok(&["volume", "create", "--label", "tier=db", "kept"])?, "kept");
    assert_eq!(ok(&["volume", "create", "kept"])?, "kept", "creation is idempotent");
    assert_eq!(
        ok(&[
            "volume",
            "inspect",
            "-f",
            "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Mountpoint}}",
            "kept"
        ])?,
        format!("kept local local map[tier:db] {}", data(&daemon, "kept").display())
    );
    run(&daemon, &["-v", "kept:/v", "busybox", "sh", "-c", "echo one > /v/f"])?;
    assert_eq!(run(&daemon, &["-v", "kept:/v:ro", "busybox", "cat", "/v/f"])?, "one");
    let readonly = ["--read-only", "-v", "kept:/v", "busybox", "sh", "-c"];
    assert_eq!(
        run(&daemon, &[&readonly[..], &["touch /x 2>/dev/null; echo two > /v/f; cat /v/f"]].concat())?,
        "two"
    );
    assert!(refused(&daemon, &["-v", "kept:/v:ro", "busybox", "touch", "/v/g"])?.err.contains("Read-only"));
    // One that is made by being named.
    run(&daemon, &["-v", "made:/v", "busybox", "true"])?;
    assert_eq!(names(&daemon)?, ["kept", "made"]);

    ok(&["run", "-d", "--name", "user", "--network", "none", "-v", "kept:/v", "busybox", "sleep", "100"])?;
    let id = ok(&["ps", "-q", "--no-trunc", "--filter", "volume=kept"])?;
    assert_eq!(id.len(), 64);
    assert_eq!(ok(&["ps", "-q", "--no-trunc", "--filter", "volume=/v"])?, id);
    assert_eq!(ok(&["volume", "ls", "-q", "-f", "dangling=true"])?, "made");
    assert_eq!(
        ok(&["volume", "ls", "-q", "-f", "label=tier=db", "-f", "name=ep", "-f", "driver=local"])?,
        "kept"
    );
    let mount = format!("volume kept {} /v local z true", data(&daemon, "kept").display());
    let format = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Source}} {{.Destination}} {{.Driver}} {{.Mode}} {{.RW}}{{end}}";
    assert_eq!(ok(&["inspect", "-f", format, "user"])?, mount);
    let df = ok(&["system", "df", "-v", "--format", "{{json .Volumes}}"])?;
    assert!(df.contains("\"Links\":\"1\"") && df.contains("\"Size\":\"4B\""), "{df}");
    let volumes_only = daemon.get("/system/df?type=volume")?;
    assert!(volumes_only.contains("kept") && !volumes_only.contains("busybox"), "{volumes_only}");
    assert!(daemon.get("/system/df?type=what")?.contains("unknown object type: what"));
    let in_use = daemon.docker(&["volume", "rm", "kept"])?;
    assert!(in_use.err.contains(&format!("remove kept: volume is in use - [{id}]")), "{in_use:?}");
    assert!(daemon.docker(&["volume", "rm", "-f", "kept"])?.code == 1, "force is for what is not there");
    ok(&["rm", "-fv", "user"])?;
    ok(&["volume", "rm", "kept"])?;
    assert!(daemon.docker(&["volume", "inspect", "kept"])?.err.contains("get kept: no such volume"));
    assert_eq!(daemon.docker(&["volume", "rm", "kept"])?.code, 1);
    ok(&["volume", "rm", "-f", "kept"])?;
    daemon.wait_for("the files' removal", || {
        !daemon.is_cove()
            || daemon.entries("root/volumes") == ["made"] && daemon.entries("root/trash").is_empty()
    })?;
    Ok(())
}

#[test]
fn volumes_without_a_name_go_with_their_container_when_asked() -> Result<()> {
    let daemon = daemon()?;
    let ok = |args: &[&str]| daemon.docker_ok(args);
    run(&daemon, &["-v", "/extra", "app:1", "touch", "/extra/f", "/data/g"])?;
    assert_eq!(names(&daemon)?, Vec::<String>::new(), "--rm takes them along");
    ok(&["run", "--name", "one", "--network", "none", "-v", "/extra", "-v", "named:/n", "app:1", "true"])?;
    let all = names(&daemon)?;
    assert_eq!(all.iter().filter(|name| name.len() == 64).count(), 2, "{all:?}");
    let anonymous = all.iter().find(|name| name.len() == 64).map_or("", String::as_str);
    assert_eq!(
        ok(&["volume", "inspect", "-f", "{{json .Labels}}", anonymous])?,
        r#"{"com.docker.volume.anonymous":""}"#
    );
    // Another that has them keeps them.
    ok(&["create", "--name", "two", "--network", "none", "--volumes-from", "one", "app:1", "true"])?;
    ok(&["rm", "-v", "one"])?;
    assert_eq!(names(&daemon)?.len(), 3);
    ok(&["rm", "-v", "two"])?;
    assert_eq!(names(&daemon)?, ["named"]);
    ok(&["run", "--name", "three", "--network", "none", "app:1", "true"])?;
    ok(&["rm", "three"])?;
    assert_eq!(names(&daemon)?.len(), 2, "without -v they stay");
    let pruned = ok(&["volume", "prune", "-f"])?;
    assert!(pruned.contains("Deleted Volumes:") && pruned.contains("Total reclaimed space: 1.2"), "{pruned}");
    assert_eq!(names(&daemon)?, ["named"], "only those without a name");
    ok(&["volume", "create", "--label", "keep", "labelled"])?;
    ok(&["volume", "prune", "-af", "--filter", "label!=keep"])?;
    assert_eq!(names(&daemon)?, ["labelled"]);
    // Before API 1.42, prune took every unused one.
    post(&daemon, "/v1.41/volumes/prune", &serde_json::json!({}))?;
    assert_eq!(names(&daemon)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_empty_volume_takes_what_the_image_has_at_its_place() -> Result<()> {
    let daemon = daemon()?;
    let list = "cd /v && stat -c '%u %g %a' . sub sub/deep f000 && ls | wc -l && cat sub/deep";
    let expected =
        format!("1000 1000 2770\n1000 1000 700\n1000 1000 4755\n1000 1000 640\n{}\ndeep", FILES + 1);
    // Through a symlink of the image too; one that climbs ends at the image's root.
    run(&daemon, &["-v", "full:/data", "app:1", "true"])?;
    run(&daemon, &["-v", "link:/linked", "app:1", "true"])?;
    run(&daemon, &["-v", "etc:/out", "app:1", "true"])?;
    for name in ["full", "link"] {
        assert_eq!(
            run(&daemon, &["-v", &format!("{name}:/v"), "busybox", "sh", "-c", list])?,
            expected,
            "{name}"
        );
    }
    assert!(data(&daemon, "etc").join("group").exists() && !data(&daemon, "etc").join("shadow").exists());
    run(&daemon, &["-v", "bare:/data:nocopy", "app:1", "true"])?;
    assert_eq!(std::fs::read_dir(data(&daemon, "bare"))?.count(), 0);
    run(&daemon, &["--mount", "src=bare,dst=/data,volume-nocopy", "app:1", "true"])?;
    assert_eq!(std::fs::read_dir(data(&daemon, "bare"))?.count(), 0);
    // What is there stays, and nothing joins it.
    run(&daemon, &["-v", "own:/v", "busybox", "touch", "/v/mine"])?;
    assert_eq!(run(&daemon, &["-v", "own:/data", "app:1", "ls", "/data"])?, "mine");
    // The engine's own files beside the volumes' are never seen.
    for name in ["full", "own", "bare"] {
        assert!(!daemon.is_cove() || daemon.entries(&format!("root/volumes/{name}")) == ["_data"]);
    }
    Ok(())
}

#[test]
fn mounts_of_every_type_and_option_reach_the_container() -> Result<()> {
    let daemon = daemon()?;
    run(&daemon, &["-v", "full:/data", "app:1", "true"])?;
    let mounted =
        |mount: &str, script: &str| run(&daemon, &["--mount", mount, "busybox", "sh", "-c", script]);
    assert_eq!(mounted("src=full,dst=/s,volume-subpath=sub", "ls /s")?, "deep");
    assert_eq!(
        mounted("src=full,dst=/s,volume-subpath=sub/deep,readonly", "cat /s; echo x > /s || echo ro")?,
        "deepro"
    );
    assert_eq!(
        mounted("type=image,src=app:1,dst=/i", "ls /i/data | wc -l; touch /i/x || echo ro")?,
        format!("{}\nro", FILES + 1)
    );
    assert_eq!(mounted("type=image,src=busybox,dst=/i,image-subpath=etc", "ls /i")?, "group\npasswd");
    assert_eq!(mounted("type=image,src=app:1,dst=/f,image-subpath=data/sub/deep", "cat /f")?, "deep");
    assert!(
        mounted("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770", "mount | grep ' /t '; stat -c %a /t")?
            .ends_with("1770")
    );
    let made = mounted("src=new,dst=/n,volume-label=a=b,volume-driver=local", "echo in > /n/f")?;
    assert_eq!(made, "");
    assert_eq!(daemon.docker_ok(&["volume", "inspect", "-f", "{{.Labels.a}}", "new"])?, "b");

    // An image's layers stay for the container that has them mounted.
    daemon.docker_ok(&["tag", "app:1", "gone:1"])?;
    let args = [
        "create",
        "--name",
        "holds",
        "--network",
        "none",
        "--mount",
        "type=image,src=gone:1,dst=/i",
        "busybox",
    ];
    daemon.docker_ok(&[&args[..], &["cat", "/i/data/sub/deep"]].concat())?;
    if daemon.is_cove() {
        daemon.docker_ok(&["rmi", "gone:1", "app:1"])?;
    }
    assert_eq!(daemon.docker_ok(&["start", "-a", "holds"])?, "deep");
    daemon.docker_ok(&["rm", "holds"])?;
    assert_eq!(daemon.entries("root/snapshots"), Vec::<String>::new());
    Ok(())
}

#[test]
fn read_only_binds_reach_what_is_mounted_below() -> Result<()> {
    let daemon = daemon()?;
    let (outer, inner) = (daemon.dir().join("outer"), daemon.dir().join("outer/inner"));
    std::fs::create_dir_all(&inner)?;
    let _mounted = Mounted::tmpfs(&inner)?;
    let outer = outer.display().to_string();
    let write = |mount: &str| {
        run(&daemon, &["--mount", mount, "busybox", "sh", "-c", "echo x > /o/inner/f && echo rw || echo ro"])
    };
    assert_eq!(write(&format!("type=bind,src={outer},dst=/o"))?, "rw");
    assert_eq!(write(&format!("type=bind,src={outer},dst=/o,readonly"))?, "ro");
    assert_eq!(write(&format!("type=bind,src={outer},dst=/o,readonly,bind-recursive=writable"))?, "rw");
    let forced =
        format!("type=bind,src={outer},dst=/o,readonly,bind-recursive=readonly,bind-propagation=rprivate");
    assert_eq!(write(&forced)?, "ro");
    let shallow = format!("type=bind,src={outer},dst=/o,bind-recursive=disabled");
    assert_eq!(run(&daemon, &["--mount", &shallow, "busybox", "ls", "/o/inner"])?, "");
    assert_eq!(
        run(
            &daemon,
            &["-v", &format!("{outer}:/o:ro"), "busybox", "sh", "-c", "touch /o/inner/g || echo ro"]
        )?,
        "ro"
    );

    // A mount that comes later is seen where it is to be, and nowhere else.
    let (shared, below) = (daemon.dir().join("shared"), daemon.dir().join("shared/below"));
    std::fs::create_dir_all(&shared)?;
    let _shared = Mounted::tmpfs(&shared)?;
    std::fs::create_dir_all(&below)?;
    let path = shared.display().to_string();
    let refused = refused(&daemon, &["-v", &format!("{path}:/s:rshared"), "busybox", "true"])?;
    assert!(refused.err.contains("but it is not a shared mount"), "{refused:?}");
    rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED)?;
    for (name, mode) in [("follows", "rslave"), ("alone", "rprivate")] {
        let bind = format!("{path}:/s:{mode}");
        daemon.docker_ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "-v",
            &bind,
            "busybox",
            "sleep",
            "100",
        ])?;
    }
    let _below = Mounted::tmpfs(&below)?;
    std::fs::write(below.join("late"), "")?;
    assert_eq!(daemon.docker_ok(&["exec", "follows", "ls", "/s/below"])?, "late");
    assert_eq!(daemon.docker_ok(&["exec", "alone", "ls", "/s/below"])?, "");
    daemon.docker_ok(&["rm", "-f", "follows", "alone"])?;
    Ok(())
}

/// A tmpfs of the host's, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path) -> Result<Self> {
        let said = stdx::process::command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status()?;
        assert!(said.success(), "mount -t tmpfs failed");
        rustix::mount::mount_change(path, rustix::mount::MountPropagationFlags::PRIVATE)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_volume_may_be_a_file_system_or_a_directory_of_the_host() -> Result<()> {
    let daemon = daemon()?;
    let ok = |args: &[&str]| daemon.docker_ok(args);
    let create = |name: &str, options: &[&str]| {
        let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
        daemon.docker_ok(&[&["volume", "create"], &options[..], &[name]].concat())
    };
    let dir = daemon.dir().join("host");
    std::fs::create_dir(&dir)?;
    create("bound", &["type=none", "o=bind", &format!("device={}", dir.display())])?;
    run(&daemon, &["-v", "bound:/data", "app:1", "true"])?;
    assert_eq!(std::fs::read_dir(&dir)?.count(), FILES + 1, "it is filled too, with nothing beside");
    assert_eq!(
        run(&daemon, &["--mount", "src=bound,dst=/s,volume-subpath=sub", "busybox", "ls", "/s"])?,
        "deep"
    );

    create("memory", &["type=tmpfs", "device=tmpfs", "o=size=8m,uid=1000,mode=750"])?;
    assert_eq!(run(&daemon, &["-v", "memory:/v", "busybox", "stat", "-c", "%u %a", "/v"])?, "1000 750");
    if !daemon.is_cove() {
        // From here on, it is known to differ (docs/differences.md).
        return Ok(());
    }
    assert_eq!(run(&daemon, &["-v", "memory:/data", "app:1", "cat", "/data/sub/deep"])?, "deep");
    ok(&["run", "-d", "--name", "has", "--network", "none", "-v", "memory:/v", "busybox", "sleep", "100"])?;
    let second = refused(&daemon, &["-v", "memory:/v", "busybox", "true"])?;
    assert!(second.err.contains("can't be shared between running containers"), "{second:?}");
    ok(&["rm", "-f", "has"])?;

    let table = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!table.contains("root/volumes"), "a volume is mounted on the host: {table}");
    create("missing", &["type=ext4", "device=/dev/nope"])?;
    let failed = refused(&daemon, &["-v", "missing:/v", "busybox", "true"])?;
    assert!(failed.err.contains("/dev/nope"), "{failed:?}");
    ok(&["volume", "rm", "bound", "memory", "missing"])?;
    assert_eq!(std::fs::read_dir(&dir)?.count(), FILES + 1, "what is the host's stays");
    for (options, why) in [
        (&["type=tmpfs"][..], "missing required option: \"device\""),
        (&["size=1g"], "quota size requested but no quota support"),
        (&["colour=red"], "invalid option: \"colour\""),
    ] {
        let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
        let said = daemon.docker(&[&["volume", "create"], &options[..], &["bad"]].concat())?;
        assert!(said.code == 1 && said.err.contains(why), "{said:?}");
    }
    assert_eq!(names(&daemon)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_and_nothing_is_left_of_it() -> Result<()> {
    let daemon = daemon()?;
    daemon.docker_ok(&["volume", "create", "there"])?;
    let volume = data(&daemon, "there");
    std::os::unix::fs::symlink("/etc", volume.join("absolute"))?;
    std::os::unix::fs::symlink("../../../..", volume.join("climbing"))?;
    if daemon.is_cove() {
        let climbs = refused(&daemon, &["-v", "new:/a/../b", "busybox", "true"])?;
        assert!(climbs.err.contains("must not climb"), "{climbs:?}");
    }
    for (args, why) in [
        (&["-v", "new:/x", "-v", "other:/x/"][..], "Duplicate mount point: /x"),
        (&["-v", "new:/x", "--tmpfs", "/x"], "Duplicate mount point: /x"),
        (&["-v", "new:/"], "destination can't be '/'"),
        (&["-v", "new:x"], "mount path must be absolute"),
        (&["-v", "new:/x:sometimes"], "invalid mode: sometimes"),
        (&["-v", "new:/x:rshared"], "field BindOptions must not be specified"),
        (&["-v", "/tmp:/x:nocopy"], "field VolumeOptions must not be specified"),
        (&["--mount", "src=a,dst=/x"], "volume name is too short"),
        (&["-v", "new:/bin/busybox"], "cannot mount volume over existing file, file exists /bin/busybox"),
        (&["-v", "new:/ok", "-v", "/bin/busybox"], "cannot mount volume over existing file"),
        (&["--volume-driver", "nfs9", "-v", "new:/x"], "plugin \"nfs9\" not found"),
        (&["--volumes-from", "nobody"], "No such container: nobody"),
        (&["--volumes-from", "nobody:sometimes"], "invalid mode: sometimes"),
        (&["--mount", "src=there,dst=/x,volume-subpath=../up"], "subpath must be a relative path"),
        (&["--mount", "src=there,dst=/x,volume-subpath=absolute"], "leads out"),
        (&["--mount", "src=there,dst=/x,volume-subpath=climbing/etc"], "leads out"),
        (&["--mount", "src=there,dst=/x,volume-subpath=missing"], "does not exist"),
        (&["--mount", "type=image,src=app:1,dst=/x,image-subpath=missing"], "does not exist"),
        (&["--mount", "type=image,src=nope:1,dst=/x"], "No such image: nope:1"),
        (
            &["--mount", "type=bind,src=/no/such/path,dst=/x"],
            "bind source path does not exist: /no/such/path",
        ),
    ] {
        let said = refused(&daemon, &[args, &["busybox", "true"]].concat())?;
        // Others may refuse it in other words.
        assert!(said.err.contains(why) || !daemon.is_cove(), "{args:?}: {said:?}");
    }
    for name in ["../climbs", "/etc", "a/b", ".", "..", "a", &"x".repeat(300)] {
        let said = daemon.docker(&["volume", "create", name])?;
        assert_eq!(said.code, 1, "{name}: {said:?}");
        let binds = serde_json::json!({ "Image": "busybox", "HostConfig": { "Binds": [format!("{name}x:/x:ro:z")] } });
        let answer = post(&daemon, "/containers/create", &binds)?;
        assert!(answer.starts_with("HTTP/1.1 400") || !daemon.is_cove(), "{answer}");
    }
    let climbing = serde_json::json!({ "Image": "busybox", "HostConfig": { "Binds": ["../climbs:/x"] } });
    let answer = post(&daemon, "/containers/create", &climbing)?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("includes invalid characters") || !daemon.is_cove(), "{answer}");
    let mixed = serde_json::json!({ "Image": "busybox", "HostConfig": { "Mounts": [
        { "Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": { "NoCopy": true } } ] } });
    let answer = post(&daemon, "/containers/create", &mixed)?;
    assert!(answer.contains("VolumeOptions must not be specified on mount type"), "{answer}");
    // Docker leads such a path elsewhere first.
    assert!(daemon.get("/volumes/..%2f..%2fetc")?.starts_with("HTTP/1.1 404") || !daemon.is_cove());

    if !daemon.is_cove() {
        // Docker leaves volumes that a refused creation has made.
        return Ok(());
    }
    assert_eq!(names(&daemon)?, ["there"]);
    assert_eq!(daemon.entries("root/volumes"), ["there"]);
    assert_eq!(daemon.docker_ok(&["ps", "-aq"])?, "");
    assert_eq!(daemon.entries("root/snapshots"), Vec::<String>::new());
    assert_eq!(daemon.entries("root/containers"), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_mounts_of_another_container_are_taken_over() -> Result<()> {
    let daemon = daemon()?;
    let dir = daemon.dir().join("bound");
    std::fs::create_dir(&dir)?;
    let bind = format!("{}:/b", dir.display());
    daemon.docker_ok(&[
        "create",
        "--name",
        "source",
        "--network",
        "none",
        "-v",
        "named:/n",
        "-v",
        &bind,
        "app:1",
        "true",
    ])?;
    let script = "echo x > /n/f; echo x > /b/f; ls /data | wc -l";
    let read = ["busybox", "sh", "-c", "touch /n/g 2>/dev/null || cat /n/f /b/f"];
    assert_eq!(
        run(&daemon, &["--volumes-from", "source", "busybox", "sh", "-c", script])?,
        format!("{}", FILES + 1)
    );
    assert_eq!(run(&daemon, &[&["--volumes-from", "source:ro"], &read[..]].concat())?, "x\nx");
    // One's own mount at the same place wins.
    let own = ["--volumes-from", "source", "-v", "own:/n", "busybox", "ls", "/n"];
    assert_eq!(run(&daemon, &own)?, "");
    Ok(())
}

#[test]
fn events_tell_of_volumes() -> Result<()> {
    let daemon = daemon()?;
    if !daemon.is_cove() {
        support::absent("it is of Cove alone");
        return Ok(());
    }
    run(&daemon, &["-v", "told:/v", "busybox", "true"])?;
    daemon.docker_ok(&["volume", "rm", "told"])?;
    daemon.docker_ok(&["volume", "prune", "-f"])?;
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1;
    let until = until.to_string();
    let args = ["events", "--since", "1", "--until", &until, "--filter", "type=volume", "--format"];
    let told = daemon
        .docker_ok(&[&args[..], &["{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.driver}}"]].concat())?;
    let lines: Vec<&str> = told.lines().collect();
    let expected = ["create told local", "mount told local", "unmount told local", "destroy told local"];
    assert_eq!(lines.get(..4), Some(&expected[..]), "{told}");
    assert!(lines.last().is_some_and(|line| line.starts_with("prune")), "{told}");
    let one = [
        "events",
        "--since",
        "1",
        "--until",
        &until,
        "--filter",
        "volume=told",
        "--filter",
        "event=mount",
        "--format",
    ];
    let attributes = daemon.docker_ok(
        &[&one[..], &["{{.Actor.Attributes.destination}} {{index .Actor.Attributes \"read/write\"}}"]]
            .concat(),
    )?;
    assert_eq!(attributes, "/v true");
    Ok(())
}

#[test]
fn cove_speaks_of_volumes_as_docker_does() -> Result<()> {
    let daemon = daemon()?;
    if !daemon.is_cove() {
        support::absent("it is of Cove alone");
        return Ok(());
    }
    let ok = |args: &[&str]| -> Result<String> {
        let said = daemon.cove(args)?;
        assert_eq!(said.code, 0, "cove {args:?}: {said:?}");
        Ok(said.out)
    };
    assert_eq!(ok(&["volume", "create", "--label", "a=b", "mine"])?, "mine");
    assert_eq!(ok(&["volume", "create"])?.len(), 64);
    for args in [
        &["volume", "ls"][..],
        &["volume", "ls", "-q", "--filter", "label=a"],
        &[
            "volume",
            "ls",
            "--format",
            "{{.Name}}: {{.Driver}} {{.Labels}} {{.Scope}} {{.Mountpoint}} {{.Size}}",
        ],
        &["volume", "inspect", "-f", "{{.Name}} {{json .Labels}} {{.CreatedAt}}", "mine"],
        &["volume", "ls", "--format", "table {{.Name}}\\t{{.Links}}", "-f", "name=mine"],
    ] {
        assert_eq!(ok(args)?, daemon.docker_ok(args)?, "{args:?}");
    }
    let here = daemon.dir().display().to_string();
    assert_eq!(
        ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "mine:/m",
            "-v",
            "/bare",
            "-v",
            &format!("{here}:/h:ro"),
            "--mount",
            "type=image,source=app:1,target=/i,image-subpath=data/sub",
            "busybox",
            "sh",
            "-c",
            "echo kept > /m/f; touch /bare/f; cat /i/deep; touch /h/f || echo ro"
        ])?,
        "deepro"
    );
    ok(&[
        "run",
        "--name",
        "from",
        "--network",
        "none",
        "--mount",
        "src=mine,dst=/m,readonly",
        "-v",
        "/x",
        "busybox",
        "true",
    ])?;
    assert_eq!(
        ok(&["run", "--rm", "--network", "none", "--volumes-from", "from", "busybox", "cat", "/m/f"])?,
        "kept"
    );
    assert!(ok(&["df"])?.contains("Local Volumes"));
    assert_eq!(ok(&["inspect", "--type", "volume", "-f", "{{.Name}}", "mine"])?, "mine");
    let in_use = daemon.cove(&["volume", "rm", "mine"])?;
    assert!(in_use.code == 1 && in_use.err.contains("volume is in use"), "{in_use:?}");
    ok(&["rm", "-v", "from"])?;
    assert_eq!(names(&daemon)?.len(), 2);
    assert!(ok(&["prune", "--force", "--volumes"])?.contains("Total reclaimed space"));
    assert_eq!(names(&daemon)?, ["mine"]);
    assert!(ok(&["volume", "prune", "--all", "--force"])?.starts_with("Deleted Volumes:\nmine\n"));
    assert_eq!(daemon.cove(&["volume", "inspect", "mine"])?.code, 1);
    for wrong in
        [&["--mount", "type=bind,dst=/x,volume-nocopy,src=/tmp"][..], &["--mount", "dst=/x,colour=red"]]
    {
        let said = daemon.cove(&[&["run", "--rm"], wrong, &["busybox", "true"]].concat())?;
        assert_eq!(said.code, 125, "{said:?}");
    }
    Ok(())
}

#[test]
fn volumes_outlive_the_daemon() -> Result<()> {
    let mut daemon = daemon()?;
    if !daemon.is_cove() {
        support::absent("it is of Cove alone");
        return Ok(());
    }
    daemon.docker_ok(&[
        "volume",
        "create",
        "--label",
        "a=b",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "kept",
    ])?;
    daemon.docker_ok(&[
        "run",
        "-d",
        "--name",
        "user",
        "--network",
        "none",
        "-v",
        "used:/v",
        "app:1",
        "sleep",
        "100",
    ])?;
    let before = daemon.docker_ok(&["volume", "ls", "--format", "json"])?;
    let kept = daemon.docker_ok(&["volume", "inspect", "kept"])?;
    // What a creation leaves that was cut off has no record.
    std::fs::create_dir_all(daemon.dir().join("root/volumes/stray/_data"))?;
    daemon.crash()?;
    daemon.launch()?;
    assert_eq!(daemon.docker_ok(&["volume", "ls", "--format", "json"])?, before);
    assert_eq!(daemon.docker_ok(&["volume", "inspect", "kept"])?, kept);
    assert!(!daemon.dir().join("root/volumes/stray").exists());
    let in_use = daemon.docker(&["volume", "rm", "used"])?;
    assert!(in_use.err.contains("volume is in use"), "{in_use:?}");
    daemon.docker_ok(&["rm", "-fv", "user"])?;
    assert_eq!(names(&daemon)?, ["kept", "used"]);

    // A database that was lost takes no files along.
    std::fs::write(data(&daemon, "used").join("precious"), "")?;
    daemon.crash()?;
    for name in ["engine.db", "engine.db-wal", "engine.db-shm"] {
        let _ = std::fs::remove_file(daemon.dir().join("root").join(name));
    }
    daemon.launch()?;
    assert_eq!(names(&daemon)?, ["kept", "used"]);
    assert_eq!(run(&daemon, &["-v", "used:/v", "busybox", "ls", "/v"])?, "precious");
    Ok(())
}

/// The number of entries in a volume, from inside a container.
fn count(daemon: &Daemon, name: &str) -> Result<usize> {
    let volume = format!("{name}:/v");
    Ok(run(daemon, &["-v", &volume, "busybox", "sh", "-c", "ls -A /v | wc -l"])?.trim().parse()?)
}

#[test]
fn a_copy_that_a_crash_cut_off_is_never_taken_for_whole() -> Result<()> {
    let mut daemon = daemon()?;
    if !daemon.is_cove() {
        support::absent("it is of Cove alone");
        return Ok(());
    }
    // Cut off in the copy: the volume is empty, and is filled anew.
    daemon.docker_ok(&["volume", "create", "halved"])?;
    daemon.docker_ok(&["volume", "create", "moved"])?;
    run(&daemon, &["-v", "model:/data", "app:1", "true"])?;
    daemon.crash()?;
    let dir = |name: &str| daemon.dir().join("root/volumes").join(name);
    std::fs::create_dir_all(dir("halved").join("filling/sub"))?;
    std::fs::write(dir("halved").join("filling/f000"), "half")?;
    // Cut off in the move: all of it arrives.
    std::fs::rename(dir("model").join("_data"), dir("moved").join("filled"))?;
    std::fs::rename(dir("moved").join("filled/f000"), dir("moved").join("_data/f000"))?;
    std::fs::create_dir(dir("model").join("_data"))?;
    daemon.launch()?;
    assert_eq!(daemon.entries("root/volumes/halved"), ["_data"]);
    assert_eq!(daemon.entries("root/volumes/moved"), ["_data"]);
    assert_eq!(count(&daemon, "halved")?, 0);
    assert_eq!(count(&daemon, "moved")?, FILES + 1);
    run(&daemon, &["-v", "halved:/data", "app:1", "true"])?;
    assert_eq!(count(&daemon, "halved")?, FILES + 1);

    // At any moment.
    let (mut empty, mut full) = (0, 0);
    for round in 0..24_u64 {
        let name = format!("round{round}");
        // Half of them are there before, so that a copy into them has to be undone or finished.
        if round % 2 == 0 {
            daemon.docker_ok(&["volume", "create", &name])?;
        }
        let address = daemon.address();
        let volume = format!("{name}:/data");
        let creation = std::thread::spawn(move || {
            stdx::process::command("docker")
                .env("DOCKER_HOST", address)
                .args(["create", "--network", "none", "-v", &volume, "app:1", "true"])
                .output()
        });
        std::thread::sleep(std::time::Duration::from_millis(15 + round * 11 % 90));
        daemon.crash()?;
        let _ = creation.join();
        daemon.launch()?;
        if daemon.docker(&["volume", "inspect", &name])?.code != 0 {
            assert!(round % 2 == 1, "a volume that was acknowledged is gone");
            continue;
        }
        assert_eq!(daemon.entries(&format!("root/volumes/{name}")), ["_data"], "round {round}");
        match count(&daemon, &name)? {
            0 => empty += 1,
            n if n == FILES + 1 => full += 1,
            n => panic!("round {round}: {n} of {} entries", FILES + 1),
        }
    }
    support::tell(&format!("{empty} volumes were empty after a crash, {full} full"));
    let mut on_disk = daemon.entries("root/volumes");
    on_disk.sort();
    assert_eq!(names(&daemon)?.len(), on_disk.len());
    assert!(on_disk.iter().all(|name| name.len() < 20), "a volume without a name is left: {on_disk:?}");
    Ok(())
}
