//! The host's resolvers: passt asks the one that was there when it started, so the guest is told of others itself.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use vm_proto::message::Resolver;

use crate::network;

const FILE: &str = "/etc/resolv.conf";

/// What the host's file said.
#[derive(Debug)]
pub(crate) struct Watch {
    at_start: Vec<Ipv4Addr>,
    last: Option<Resolver>,
    modified: Option<SystemTime>,
}

impl Watch {
    /// From when the way out is opened on.
    pub(crate) fn new() -> Self {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        Self { at_start: servers(&text), last: None, modified: None }
    }

    /// What the guest is to ask from now on, if that changed; at first in any case, for one that slept has what was then.
    pub(crate) fn look(&mut self) -> Option<Resolver> {
        let modified = modified();
        if self.last.is_some() && modified == self.modified {
            return None;
        }
        self.modified = modified;
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        let now = Some(decide(&self.at_start, &text));
        if now == self.last {
            return None;
        }
        self.last.clone_from(&now);
        now
    }
}

fn modified() -> Option<SystemTime> {
    std::fs::metadata(FILE).and_then(|metadata| metadata.modified()).ok()
}

/// The servers of resolv.conf(5) that the guest's network can have.
fn servers(text: &str) -> Vec<Ipv4Addr> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

fn decide(at_start: &[Ipv4Addr], text: &str) -> Resolver {
    let now = servers(text);
    // One on this computer's own loopback is reached by passt alone.
    let reached: Vec<IpAddr> =
        now.iter().filter(|server| !server.is_loopback()).map(|server| (*server).into()).collect();
    if now.first() == at_start.first() || reached.is_empty() {
        return network::resolver();
    }
    let search = text.lines().rev().find_map(|line| line.strip_prefix("search"));
    let search = search.into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect();
    Resolver { servers: reached, search }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_resolver_is_asked_directly_and_the_first_by_the_way_out() {
        let start = [Ipv4Addr::new(192, 0, 2, 1)];
        let other = decide(&start, "# new\nnameserver 192.0.2.2\nnameserver ::1\nsearch a.test b.test\n");
        assert_eq!(other.servers, [IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(other.search, ["a.test", "b.test"]);
        assert_eq!(decide(&start, "nameserver 192.0.2.1\n"), network::resolver());
        assert_eq!(decide(&start, "nameserver 127.0.0.53\n"), network::resolver());
    }
}
