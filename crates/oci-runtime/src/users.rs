//! Users and groups by name, looked up in the container's own `/etc/passwd` and `/etc/group`.
//!
//! Docker's rules (`USER`, `--user`, `--group-add`): a name, an id, or either with `:group`; without
//! a group the user's own and every group that lists it as a member.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::{Error, Result};
use crate::spec::{Process, User};

/// Larger files are no user databases.
const MAX_FILE: u64 = 4 << 20;

/// Fills in the ids of a process whose user is given by name. Called with the container's root entered.
pub(crate) fn resolve(process: &Process) -> Result<Cow<'_, Process>> {
    let user = &process.user;
    if user.lookup.is_none() && user.lookup_groups.is_empty() {
        return Ok(Cow::Borrowed(process));
    }
    let groups = read("/etc/group");
    let mut resolved = User { lookup: None, lookup_groups: Vec::new(), ..user.clone() };
    if let Some(wanted) = &user.lookup {
        look_up(wanted, &read("/etc/passwd"), &groups, &mut resolved)?;
    }
    for name in &user.lookup_groups {
        let id = group_id(name, &groups).ok_or_else(|| {
            Error::invalid(format!("unable to find group {name}: no matching entries in group file"))
        })?;
        resolved.additional_gids.push(id);
    }
    resolved.additional_gids.sort_unstable();
    resolved.additional_gids.dedup();
    Ok(Cow::Owned(Process { user: resolved, ..process.clone() }))
}

/// The ids of a user (`name|uid[:group|gid]`), by the text of a container's `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// Where there is no such user or group.
pub fn ids(wanted: &str, passwd: &str, groups: &str) -> Result<(u32, u32)> {
    let mut user = User::default();
    look_up(wanted, passwd, groups, &mut user)?;
    Ok((user.uid, user.gid))
}

fn look_up(wanted: &str, passwd: &str, groups: &str, user: &mut User) -> Result<()> {
    let (name, group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.first() == Some(&name) || (name.parse::<u32>().is_ok() && fields.get(2) == Some(&name))
    });
    let number = |at: usize| {
        entry.as_ref().and_then(|fields| fields.get(at)).and_then(|text| text.parse::<u32>().ok())
    };
    user.uid = number(2).or_else(|| name.parse().ok()).ok_or_else(|| {
        Error::invalid(format!("unable to find user {name}: no matching entries in passwd file"))
    })?;
    user.gid = number(3).unwrap_or(0);
    if let Some(group) = group.filter(|group| !group.is_empty()) {
        user.gid = group_id(group, groups).ok_or_else(|| {
            Error::invalid(format!("unable to find group {group}: no matching entries in group file"))
        })?;
        return Ok(());
    }
    let login = entry.as_ref().and_then(|fields| fields.first()).copied().unwrap_or(name);
    for line in groups.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let lists_user =
            fields.get(3).is_some_and(|members| members.split(',').any(|member| member == login));
        if lists_user && let Some(id) = fields.get(2).and_then(|text| text.parse().ok()) {
            user.additional_gids.push(id);
        }
    }
    Ok(())
}

fn group_id(name: &str, groups: &str) -> Option<u32> {
    let by_name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    by_name.or_else(|| name.parse().ok())
}

/// A file of the image, which may be anything: what is no plain file of sensible size counts as empty.
fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return String::new() };
    let is_plain = rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if is_plain {
        // A file that can't be read to its end is looked through as far as it goes.
        let _ = File::from(fd).take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:\n1234:x:77:\n";

    fn check(wanted: &str, expected: Option<(u32, u32, &[u32])>) {
        let mut user = User::default();
        let found = look_up(wanted, PASSWD, GROUP, &mut user);
        assert_eq!(found.is_ok(), expected.is_some(), "{wanted}");
        if let Some((uid, gid, groups)) = expected {
            assert_eq!((user.uid, user.gid, user.additional_gids.as_slice()), (uid, gid, groups), "{wanted}");
        }
    }

    #[test]
    fn users_and_groups_are_found_as_docker_finds_them() {
        check("", Some((0, 0, &[0, 10])));
        check("app", Some((1000, 1001, &[10])));
        check("1000", Some((1000, 1001, &[10])));
        check("4242", Some((4242, 0, &[])));
        check("app:wheel", Some((1000, 10, &[])));
        check("app:5", Some((1000, 5, &[])));
        check("5:1234", Some((5, 77, &[])));
        check("nobody", None);
        check("app:nogroup", None);
    }
}
