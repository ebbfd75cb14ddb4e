//! The ordinary user whom tests run daemons as.

use std::fs::{File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};

/// Whom the tests make in CI, where nobody minds.
pub const USER: &str = "cove-test";
/// What `pasta` needs, and what ordinary systems let everybody have.
const TUN: &str = "/dev/net/tun";
/// Held by every test that needs it so; says what it was before.
const TUN_LOCK: &str = "/tmp/cove-test-tun.lock";

/// An ordinary user, and what they need of the system for as long as this lives.
#[derive(Debug)]
pub struct User {
    /// Their id.
    pub uid: u32,
    /// Their group's.
    pub gid: u32,
    _tun: Tun,
}

impl User {
    /// The tests' user; none where there is none and none may be made.
    ///
    /// # Errors
    /// Where they can't be made, or the system can't be prepared.
    pub fn find() -> Result<Option<Self>> {
        let mut found = find()?;
        if found.is_none() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
            let made = stdx::process::command("/usr/sbin/useradd").args(["--create-home", USER]).status()?;
            // Another test may have been quicker.
            found = find()?;
            ensure!(found.is_some(), "useradd failed ({made})");
        }
        let Some((uid, gid)) = found else { return Ok(None) };
        Ok(Some(Self { uid, gid, _tun: Tun::open()? }))
    }
}

fn find() -> Result<Option<(u32, u32)>> {
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER));
    let ids = line.and_then(|line| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Ok(ids)
}

/// The device of network interfaces, open to everybody; the last test to need it puts it back.
#[derive(Debug)]
struct Tun(File);

impl Tun {
    fn open() -> Result<Self> {
        let open = File::options().create(true).truncate(false).read(true).write(true).open(TUN_LOCK);
        let mut lock = open.context("failed to open the lock of /dev/net/tun")?;
        let mode = || -> Result<u32> {
            let tun = std::fs::metadata(TUN).context("there is no /dev/net/tun")?;
            Ok(tun.permissions().mode() & 0o777)
        };
        // Held by anybody, it stays open.
        lock.lock_shared()?;
        if mode()? & 0o006 == 0o006 {
            return Ok(Self(lock));
        }
        lock.unlock()?;
        lock.lock()?;
        let mode = mode()?;
        if mode & 0o006 != 0o006 {
            lock.set_len(0)?;
            lock.write_all(format!("{mode:o}").as_bytes())?;
            std::fs::set_permissions(TUN, Permissions::from_mode(0o666))?;
        }
        // Others may have it, too.
        lock.unlock()?;
        lock.lock_shared()?;
        Ok(Self(lock))
    }

    fn put_back(&mut self) -> Result<()> {
        self.0.unlock()?;
        if self.0.try_lock().is_err() {
            // Somebody else needs it still, and puts it back.
            return Ok(());
        }
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        if let Ok(mode) = u32::from_str_radix(text.trim(), 8) {
            std::fs::set_permissions(TUN, Permissions::from_mode(mode))?;
            self.0.set_len(0)?;
        }
        Ok(())
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            crate::tell(&format!("{TUN} was not put back: {error:#}"));
        }
    }
}
