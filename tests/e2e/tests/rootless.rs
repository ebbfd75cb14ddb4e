//! The daemon as an ordinary user, with a user namespace and subordinate ids of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::daemon::program;

/// Whom the tests make in CI, where nobody minds.
const USER: &str = "cove-test";

/// Uid, gid and home of the user to be; none where there is none and none may be made.
fn user() -> Result<Option<(u32, u32)>> {
    let find = || -> Option<(u32, u32)> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let line = passwd.lines().find(|line| line.split(':').next() == Some(USER))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    if let Some(found) = find() {
        return Ok(Some(found));
    }
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        let made = stdx::process::command("/usr/sbin/useradd").args(["--create-home", USER]).status()?;
        ensure!(made.success(), "useradd failed");
    }
    Ok(find())
}

/// Ends the daemon with the test.
struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn docker(dir: &Path, args: &[&str]) -> Result<(i32, String)> {
    let mut command = stdx::process::command("docker");
    command.env("DOCKER_HOST", format!("unix://{}", dir.join("c.sock").display()));
    let output = command.args(args).stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).trim().to_owned()))
}

#[test]
fn a_user_runs_containers_with_ids_of_their_own() -> Result<()> {
    if !support::is_root()? {
        support::skip("it starts the daemon as another user, which only root can");
        return Ok(());
    }
    let Some((uid, gid)) = user()? else {
        support::skip("there is no user cove-test (useradd --create-home cove-test)");
        return Ok(());
    };
    let temp = tempfile::Builder::new().prefix("cove-user").tempdir()?;
    let dir = temp.path();
    // The build's own directory may be closed to others.
    for name in ["coved", "cove-runtime"] {
        std::fs::copy(program(name)?, dir.join(name))?;
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755))?;
    }
    chown(dir, Some(uid), Some(gid))?;
    let image = dir.join("busybox.tar");
    support::image::write_busybox(&image)?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut command = stdx::process::command(dir.join("coved"));
    command.arg("--listen").arg(format!("unix://{}", dir.join("c.sock").display()));
    command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("run"));
    command.env("HOME", dir).env("USER", USER).env("XDG_RUNTIME_DIR", dir).current_dir(dir);
    command.uid(uid).gid(gid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let _daemon = Guard(command.spawn()?);
    let began = Instant::now();
    while docker(dir, &["version"])?.0 != 0 {
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        ensure!(began.elapsed() < Duration::from_secs(20), "coved does not answer: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, said) = docker(dir, &["load", "-i", &image.display().to_string()])?;
    ensure!(code == 0, "{said}");

    let run =
        |words: &[&str]| docker(dir, &[&["run", "--rm", "--network", "none", "busybox"], words].concat());
    assert_eq!(run(&["id", "-u"])?, (0, "0".into()));
    // Root inside is the user outside; the others are subordinate ids.
    let (_, map) = run(&["cat", "/proc/self/uid_map"])?;
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let first = rows.first().context("no map")?;
    assert_eq!((first[0], first[1]), ("0", uid.to_string().as_str()), "{map}");
    assert!(rows.len() > 1, "no subordinate ids: {map}");
    let (code, said) = run(&["sh", "-c", "echo x > /f && chown 1000:1000 /f && stat -c %u:%g /f"])?;
    assert_eq!((code, said.as_str()), (0, "1000:1000"));
    // A volume is filled with owners as they are inside.
    let volume = |script: &str| {
        let args = ["run", "--rm", "--network", "none", "-v", "kept:/etc", "busybox", "sh", "-c", script];
        docker(dir, &args)
    };
    assert_eq!(volume("chown 1000:1000 /etc/passwd && echo x > /etc/new")?, (0, String::new()));
    assert_eq!(
        volume("cat /etc/new; stat -c %u:%g /etc/passwd /etc/group")?,
        (0, "x\n1000:1000\n0:0".into())
    );
    assert_eq!(docker(dir, &["volume", "rm", "kept"])?, (0, "kept".into()));
    // What it may not do, it is told.
    let (code, _) = run(&["sh", "-c", "mknod /dev/sda b 8 0"])?;
    assert_ne!(code, 0, "a user's container made a device");

    docker(dir, &["run", "-d", "--name", "long", "--network", "none", "busybox", "sleep", "1000"])?;
    assert_eq!(docker(dir, &["exec", "long", "echo", "inside"])?, (0, "inside".into()));
    assert_eq!(docker(dir, &["rm", "-f", "long"])?, (0, "long".into()));
    assert_eq!(docker(dir, &["ps", "-aq"])?, (0, String::new()));
    Ok(())
}
