//! The host's resolvers: passt asks the one that was there when it started, so the guest is told of others itself.

use std::net::IpAddr;
use std::time::SystemTime;

use vm_proto::message::Resolver;

use super::network;

const FILE: &str = "/etc/resolv.conf";

/// What the host's file said.
#[derive(Debug)]
pub(crate) struct Watch {
    at_start: Vec<IpAddr>,
    /// The guest has a way out by version 6.
    has_version6: bool,
    last: Option<Resolver>,
    modified: Option<SystemTime>,
}

impl Watch {
    /// From when the way out is opened on.
    pub(crate) fn new() -> Self {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        Self { at_start: servers(&text), has_version6: false, last: None, modified: None }
    }

    /// Tells by what the guest gets out; what it asks at first.
    pub(crate) fn of_network(&mut self, has_version6: bool) -> Resolver {
        self.has_version6 = has_version6;
        self.first()
    }

    /// passt's, which passes on to the host's first of either version.
    fn first(&self) -> Resolver {
        let only6 = !self.at_start.is_empty() && self.at_start.iter().all(IpAddr::is_ipv6);
        network::resolver(self.has_version6 && only6)
    }

    /// What the guest is to ask from now on, if that changed; at first in any case, for one that slept has what was then.
    pub(crate) fn look(&mut self) -> Option<Resolver> {
        let modified = modified();
        if self.last.is_some() && modified == self.modified {
            return None;
        }
        self.modified = modified;
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        let now = Some(self.decide(&text));
        if now == self.last {
            return None;
        }
        self.last.clone_from(&now);
        now
    }

    fn decide(&self, text: &str) -> Resolver {
        let now = servers(text);
        // One on this computer's own loopback is reached by passt alone.
        let is_reached = |server: &&IpAddr| !server.is_loopback() && (self.has_version6 || server.is_ipv4());
        let reached: Vec<IpAddr> = now.iter().filter(is_reached).copied().collect();
        if now.first() == self.at_start.first() || reached.is_empty() {
            return self.first();
        }
        let search = text.lines().rev().find_map(|line| line.strip_prefix("search"));
        let search = search.into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect();
        Resolver { servers: reached, search }
    }
}

fn modified() -> Option<SystemTime> {
    std::fs::metadata(FILE).and_then(|metadata| metadata.modified()).ok()
}

/// The servers of resolv.conf(5); those of one link alone, `fe80::1%eth0`, are not the guest's.
fn servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(at_start: &str, has_version6: bool) -> Watch {
        Watch { at_start: servers(at_start), has_version6, last: None, modified: None }
    }

    #[test]
    fn a_new_resolver_is_asked_directly_and_the_first_by_the_way_out() {
        let first = watch("nameserver 192.0.2.1\n", false);
        let other = first.decide("# new\nnameserver 192.0.2.2\nnameserver ::1\nsearch a.test b.test\n");
        assert_eq!(other.servers, [IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(other.search, ["a.test", "b.test"]);
        assert_eq!(first.decide("nameserver 192.0.2.1\n"), network::resolver(false));
        assert_eq!(first.decide("nameserver 127.0.0.53\n"), network::resolver(false));
    }

    #[test]
    fn one_of_version_6_is_asked_where_there_is_such_a_way_out() {
        let text = "nameserver 2001:db8::1\nnameserver fe80::1%eth0\n";
        let new: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(watch("nameserver 192.0.2.1\n", true).decide(text).servers, [new]);
        assert_eq!(watch("nameserver 192.0.2.1\n", false).decide(text), network::resolver(false));
        // The computer knows of no other.
        assert_eq!(watch(text, true).decide(text), network::resolver(true));
        assert_eq!(watch("", true).decide(""), network::resolver(false));
    }
}
