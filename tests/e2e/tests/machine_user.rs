//! A machine of an ordinary user: made, started and used without any privilege.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};
use support::machine::images;
use support::user::User;

#[test]
fn an_ordinary_user_has_a_machine_and_its_files_are_theirs() -> Result<()> {
    let Some(user) = User::find()? else {
        support::skip("there is no ordinary user for tests");
        return Ok(());
    };
    let Some(images) = images("uml") else {
        support::skip("there is no guest image for uml (cargo xtask guest-image)");
        return Ok(());
    };
    let dir = tempfile::Builder::new().prefix("cove-machine").tempdir()?;
    let at = |name: &str| dir.path().join(name);
    // What the test was built with may lie where nobody else may look.
    for name in ["cove", "cove-machine"] {
        std::fs::copy(support::daemon::program(name)?, at(name))?;
    }
    support::image::write_busybox(&at("busybox.tar"))?;
    std::fs::create_dir(at("share"))?;
    let copied = stdx::process::command("cp").arg("-r").arg(images).arg(at("images")).status()?;
    ensure!(copied.success());
    let owned = stdx::process::command("chown")
        .args(["-R", &format!("{}:{}", user.uid, user.gid)])
        .arg(dir.path())
        .status()?;
    ensure!(owned.success());
    chown(dir.path(), Some(user.uid), Some(user.gid))?;
    let cove = |args: &[&str]| -> Result<String> {
        let mut command = stdx::process::command(at("cove"));
        command.args(args).uid(user.uid).gid(user.gid).current_dir(dir.path());
        command.env("HOME", dir.path()).env("COVE_MACHINES", at("machines"));
        command.env("COVE_GUEST_IMAGES", at("images")).env("COVE_HOST", "machine://test");
        let output = command.output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(output.status.success(), "{args:?}: {} {}", text(&output.stdout), text(&output.stderr));
        Ok(text(&output.stdout))
    };
    let share = at("share").display().to_string();
    let outcome = (|| {
        let sizes = ["--memory", "512M", "--disk", "2G", "--share", &share];
        cove(&[&["machine", "init", "test", "--backend", "uml"], &sizes[..]].concat())?;
        cove(&["machine", "start", "test"])?;
        cove(&["load", "-i", &at("busybox.tar").display().to_string()])?;
        let mount = format!("{share}:{share}");
        let script = format!("id -u; echo made > {share}/file; chown 5:5 {share}/file");
        let said = cove(&["run", "--rm", "--network", "none", "-v", &mount, "busybox", "sh", "-c", &script])?;
        assert_eq!(said, "0");
        let file = std::fs::metadata(at("share/file")).context("the guest's file")?;
        assert_eq!((file.uid(), file.gid()), (user.uid, user.gid));
        Ok(())
    })();
    let removed = cove(&["machine", "rm", "-f", "test"]);
    outcome.and(removed.map(drop))
}
