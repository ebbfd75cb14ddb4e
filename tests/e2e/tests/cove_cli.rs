//! `cove` itself: the verbs, their exit codes, and what is printed.

use anyhow::Result;
use support::daemon::Daemon;

#[test]
fn a_container_is_run_watched_and_removed() -> Result<()> {
    let daemon = Daemon::start()?;
    let said =
        daemon.cove(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; exit 7"])?;
    assert_eq!((said.code, said.out.as_str()), (7, "out"), "{said:?}");

    let said =
        daemon.cove(&["run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "1000"])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(daemon.cove(&["ps"])?.out.contains("web"));
    assert_eq!(daemon.cove(&["exec", "web", "echo", "inside"])?.out, "inside");
    let inspected = daemon.cove(&["inspect", "web"])?;
    let value: serde_json::Value = serde_json::from_str(&inspected.out)?;
    assert_eq!(value[0]["State"]["Running"], true, "{}", inspected.out);
    assert_eq!(daemon.cove(&["stop", "-t", "0", "web"])?.code, 0);
    assert_eq!(daemon.cove(&["wait", "web"])?.out, "137");
    assert_eq!(daemon.cove(&["rm", "web"])?.code, 0);
    assert_eq!(daemon.docker(&["ps", "-aq"])?.out, "");
    Ok(())
}

#[test]
fn files_are_copied_both_ways_and_output_is_kept() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.cove(&[
        "run",
        "--name",
        "files",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo kept; echo made > /made",
    ])?;
    assert_eq!(daemon.cove(&["logs", "files"])?.out, "kept");
    assert!(daemon.cove(&["diff", "files"])?.out.contains("/made"));
    let here = daemon.dir().join("made");
    let said = daemon.cove(&["cp", "files:/made", &here.display().to_string()])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(std::fs::read_to_string(&here)?, "made\n");
    std::fs::write(daemon.dir().join("given"), "given")?;
    let said = daemon.cove(&["cp", &daemon.dir().join("given").display().to_string(), "files:/"])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(daemon.cove(&["diff", "files"])?.out.contains("/given"));
    Ok(())
}

#[test]
fn what_goes_wrong_is_said_and_has_its_exit_code() -> Result<()> {
    let daemon = Daemon::start()?;
    let said = daemon.cove(&["run", "--rm", "--network", "none", "busybox", "/none"])?;
    assert_eq!(said.code, 127, "{said:?}");
    let said = daemon.cove(&["rm", "nobody"])?;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("nobody"), "{said:?}");
    let said = daemon.cove(&["frobnicate"])?;
    assert_eq!(said.code, 125, "{said:?}");
    Ok(())
}
