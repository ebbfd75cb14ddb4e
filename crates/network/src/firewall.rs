//! One nftables table of our own, written whole from what is wanted: what somebody flushed comes back
//! with the next change, and nothing stays behind when it is removed.

use std::io::Write;
use std::process::Stdio;

use crate::error::{Doing, Error, Result};
use crate::ipam::Subnet;
use crate::ports::Published;

/// What the table is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The table's name.
    pub(crate) table: String,
    /// The bridge's name.
    pub(crate) bridge: String,
    /// Who is on it.
    pub(crate) subnet: Subnet,
    /// Ports, and the container each leads to.
    pub(crate) ports: Vec<(Published, std::net::Ipv4Addr)>,
}

impl Rules {
    /// Puts them in force, all at once.
    pub(crate) fn apply(&self) -> Result<()> {
        run(&self.text())
    }

    /// Puts the ports in force where the rest is already: without the destruction of a table, which the
    /// kernel takes its time for. A table that somebody flushed is written whole again.
    pub(crate) fn apply_ports(&self) -> Result<()> {
        let table = &self.table;
        let rules: String =
            self.port_rules().map(|rule| format!("add rule ip {table} ports {rule}\n")).collect();
        run(&format!("flush chain ip {table} ports\n{rules}")).or_else(|_| self.apply())
    }

    /// Takes the table away.
    pub(crate) fn remove(table: &str) -> Result<()> {
        // Named first, so that one that is not there is no failure.
        run(&format!("table ip {table}\ndelete table ip {table}\n"))
    }

    fn port_rules(&self) -> impl Iterator<Item = String> {
        self.ports.iter().map(|(published, container)| {
            let Published { inner, protocol, address, outer } = published;
            // An address of its own is meant alone; any other means every address of this computer.
            let to = if address.is_unspecified() {
                "fib daddr type local".to_owned()
            } else {
                format!("ip daddr {address}")
            };
            format!("{to} {protocol} dport {outer} dnat to {container}:{inner}")
        })
    }

    /// The ruleset, in nft's language.
    fn text(&self) -> String {
        let Self { table, bridge, subnet, .. } = self;
        let ports: String = self.port_rules().map(|rule| format!("    {rule}\n")).collect();
        format!(
            "table ip {table}\n\
             delete table ip {table}\n\
             table ip {table} {{\n\
             \x20 chain ports {{\n{ports}\x20 }}\n\
             \x20 chain prerouting {{\n\
             \x20   type nat hook prerouting priority dstnat; policy accept;\n\
             \x20   jump ports\n\
             \x20 }}\n\
             \x20 chain output {{\n\
             \x20   type nat hook output priority -100; policy accept;\n\
             \x20   jump ports\n\
             \x20 }}\n\
             \x20 chain postrouting {{\n\
             \x20   type nat hook postrouting priority srcnat; policy accept;\n\
             \x20   ip saddr {subnet} oifname != \"{bridge}\" masquerade\n\
             \x20   oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade\n\
             \x20   oifname \"{bridge}\" ip saddr {subnet} ct status dnat masquerade\n\
             \x20 }}\n\
             \x20 chain forward {{\n\
             \x20   type filter hook forward priority filter; policy accept;\n\
             \x20   iifname \"{bridge}\" accept\n\
             \x20   oifname \"{bridge}\" ct state established,related accept\n\
             \x20   oifname \"{bridge}\" ct status dnat accept\n\
             \x20   oifname \"{bridge}\" drop\n\
             \x20 }}\n\
             \x20 chain loopback {{\n\
             \x20   type filter hook prerouting priority -300; policy accept;\n\
             \x20   iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop\n\
             \x20 }}\n\
             }}\n"
        )
    }
}

/// Runs nft with a script; it is applied as a whole or not at all.
fn run(script: &str) -> Result<()> {
    let mut command = stdx::process::command("nft");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Unsupported {
                what: "bridge networks need the program nft (package nftables)".into(),
            });
        }
        other => other.doing(|| "run nft")?,
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).doing(|| "speak to nft")?;
    }
    let output = child.wait_with_output().doing(|| "wait for nft")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Unsupported { what: format!("nft refused the rules of the bridge: {}", said.trim()) })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn each_port_leads_to_its_container() {
        let published = |address, outer| Published { inner: 80, protocol: Protocol::Tcp, address, outer };
        let rules = Rules {
            table: "t".into(),
            bridge: "b".into(),
            subnet: Subnet::new(Ipv4Addr::new(172, 30, 0, 0), 16).unwrap(),
            ports: vec![
                (published(Ipv4Addr::UNSPECIFIED, 8080), Ipv4Addr::new(172, 30, 0, 2)),
                (published(Ipv4Addr::LOCALHOST, 8081), Ipv4Addr::new(172, 30, 0, 3)),
            ],
        };
        let text = rules.text();
        assert!(text.contains("fib daddr type local tcp dport 8080 dnat to 172.30.0.2:80"), "{text}");
        assert!(text.contains("ip daddr 127.0.0.1 tcp dport 8081 dnat to 172.30.0.3:80"), "{text}");
        assert!(text.starts_with("table ip t\ndelete table ip t\n"), "{text}");
    }
}
