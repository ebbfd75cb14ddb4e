//! Who has a port of this computer.

/// `TCP_LISTEN` of the kernel's tables.
const LISTEN: &str = "0A";

/// The process that has a port, by its id and name, as far as this one may see it (proc_net(5)). `protocol` is as the
/// kernel names its tables: `tcp`, `udp`.
#[must_use]
pub fn owner(protocol: &str, port: u16) -> Option<(u32, String)> {
    let inode = ["", "6"].iter().find_map(|version| {
        let table = std::fs::read_to_string(format!("/proc/net/{protocol}{version}")).ok()?;
        table.lines().skip(1).find_map(|line| socket_of(line, protocol, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let mut fds = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The inode in a line of a table that is bound to a port.
fn socket_of(line: &str, protocol: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let is_wanted = u16::from_str_radix(local, 16).ok()? == port;
    let is_owner = protocol == "udp" || *fields.get(3)? == LISTEN;
    (is_wanted && is_owner).then(|| fields.get(9)?.parse().ok()).flatten()
}
