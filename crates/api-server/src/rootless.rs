//! A daemon of an ordinary user: root in a user namespace of its own, with the user's subordinate ids.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::{getgid, getuid};

/// Set in the environment of the process that is in its namespace.
const MARKER: &str = "COVE_IN_USERNS";

/// Whether this process has entered a user namespace for its user.
#[must_use]
pub fn is_rootless() -> bool {
    std::env::var_os(MARKER).is_some()
}

/// Whether this process is to enter one: that of an ordinary user.
#[must_use]
pub fn is_to_enter() -> bool {
    !getuid().is_root() && !is_rootless()
}

/// Enters a user and a mount namespace and executes this program again there: the user namespace of the
/// daemon before this one, where `state_dir` has a holder of it, so that its networks and containers can be
/// changed from here. Returns where nothing is to be done: as root, or inside already.
///
/// # Errors
/// Where the kernel forbids user namespaces, or the user has no subordinate ids.
pub fn enter(state_dir: &Path) -> Result<()> {
    if !is_to_enter() {
        return Ok(());
    }
    match network::holder::user_namespace(state_dir) {
        Ok(None) => make()?,
        Ok(Some(namespace)) => join(&namespace)?,
        Err(error) => {
            tracing::warn!(%error, "the namespaces of the daemon before this one can't be joined");
            make()?;
        }
    }
    let program = std::env::current_exe().context("failed to find this program")?;
    let mut command = stdx::process::command(program);
    command.args(std::env::args_os().skip(1)).env(MARKER, "1");
    Err(command.exec()).context("failed to execute this program again")
}

/// Joins a user namespace of this user's, and makes a mount namespace that belongs to it.
fn join(namespace: &OwnedFd) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .context("failed to join the user namespace of the daemon before this one")?;
    unshare(UnshareFlags::NEWNS).context("failed to make a mount namespace")
}

/// Makes a user and a mount namespace with the user's subordinate ids.
fn make() -> Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let name = user_name(uid).context("the user has no name in /etc/passwd")?;
    let uids = subordinate("/etc/subuid", &name, uid)?;
    let gids = subordinate("/etc/subgid", &name, uid)?;
    // A child that stays outside writes the maps, through the set-uid helpers, once we are in.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("failed to make a socket pair")?;
    let pid = std::process::id().to_string();
    let script = format!(
        "read _ && exec 0<&- && newuidmap {pid} 0 {uid} 1 1 {} {} && newgidmap {pid} 0 {gid} 1 1 {} {}",
        uids.0, uids.1, gids.0, gids.1
    );
    let mut child = stdx::process::command("/bin/sh")
        .args(["-c", &script])
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .context("failed to run the helper that maps ids")?;
    unshare_user()?;
    std::io::Write::write_all(&mut &ours, b"go\n").context("failed to reach the helper that maps ids")?;
    let status = child.wait().context("failed to wait for the helper that maps ids")?;
    if !status.success() {
        bail!(
            "newuidmap or newgidmap refused ({status}): install the package uidmap and check /etc/subuid and /etc/subgid"
        );
    }
    Ok(())
}

fn unshare_user() -> Result<()> {
    use rustix::thread::UnshareFlags;
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).context(
        "failed to make a user namespace: the kernel forbids it to ordinary users (see sysctl kernel.unprivileged_userns_clone \
         and user.max_user_namespaces)",
    )
}

#[expect(unsafe_code, reason = "unshare may not be called with CLONE_FILES and several threads; it isn't")]
fn unshare(flags: rustix::thread::UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: called from `main` before any thread is started, and the descriptor table is not unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>().ok()? == uid).then(|| (*fields.first().unwrap_or(&"")).to_owned())
    })
}

/// First id and count of a user's range.
fn subordinate(file: &str, name: &str, uid: u32) -> Result<(u32, u32)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let is_ours = owner == name || owner.parse::<u32>().ok() == Some(uid);
        is_ours.then(|| Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))).flatten()
    });
    found.with_context(|| {
        format!("{name} has no subordinate ids in {file}: run `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`")
    })
}
