//! One nftables table of our own, made from what is wanted: what somebody flushed comes back, and nothing
//! stays behind when it is removed.
//!
//! Networks are rules, and change seldom: the table is written whole, by the program `nft`. Published ports
//! are elements of four maps, and come and go with containers: those are single requests to the kernel.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;

use model::holder::CLIENT_MARK;

use crate::conntrack;
use crate::error::{Doing, Error, Result};
use crate::ipam::Subnet;
use crate::netlink::octets;
use crate::nfnetlink::{Batch, Element, Nftables, registers};
use crate::place::Place;
use crate::ports::Published;

/// The maps of published ports: at every address of this computer, and at one.
const MAPS: [&str; 4] = ["any4", "one4", "any6", "one6"];

/// The mark of packets that are for a client elsewhere, and are to be taken in here.
pub(crate) const ANSWER_MARK: u32 = CLIENT_MARK + 1;

/// What the table is to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The table's name.
    pub(crate) table: String,
    /// Networks with a bridge.
    pub(crate) bridges: Vec<BridgeRules>,
    /// Ports, and the container's address that each leads to.
    pub(crate) ports: Vec<(Published, IpAddr)>,
    /// Whether somebody here speaks to containers in the name of clients elsewhere.
    pub(crate) has_clients: bool,
}

/// What concerns one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgeRules {
    /// The bridge's name.
    pub(crate) interface: String,
    /// Who is on it, by version of IP.
    pub(crate) subnets: Vec<Subnet>,
    /// Whether nothing leaves it but by published ports.
    pub(crate) is_internal: bool,
    /// Whether what leaves it has this computer's address.
    pub(crate) masquerades: bool,
    /// Whether its members may not speak to each other: the bridge keeps them apart, and so must this
    /// computer, which would pass on what one sends to it for another.
    pub(crate) isolates: bool,
}

/// The table in the kernel.
#[derive(Debug)]
pub(crate) struct Firewall {
    place: Arc<Place>,
    /// What is in force, and how many rules that are.
    applied: Option<(Rules, usize)>,
    /// A socket with nothing unread. Kept, because closing one waits until the kernel has cleared up what was
    /// removed, which takes milliseconds.
    socket: Option<Nftables>,
}

impl Firewall {
    /// Of a place; nothing is made yet.
    pub(crate) fn new(place: Arc<Place>) -> Self {
        Self { place, applied: None, socket: None }
    }

    /// Puts rules in force, all at once; where only ports differ, only those.
    pub(crate) fn apply(&mut self, wanted: &Rules) -> Result<()> {
        let step = || "speak to the firewall";
        // Not one of which a failure may have left something unread: that would be taken for the next answer.
        let nftables = match self.socket.take() {
            Some(nftables) => nftables,
            None => self.place.nftables().doing(step)?,
        };
        if let Some((applied, _)) = &mut self.applied
            && applied.bridges == wanted.bridges
            && change_ports(&nftables, applied, wanted).is_ok()
        {
            if forget_flows(&nftables, &applied.ports, &wanted.ports) {
                self.socket = Some(nftables);
            }
            applied.ports.clone_from(&wanted.ports);
            return Ok(());
        }
        let text = wanted.text();
        run(&self.place, &text)?;
        let had = self.applied.as_ref().map_or(&[][..], |(applied, _)| &applied.ports);
        let nftables = self.place.nftables().doing(step)?;
        forget_flows(&nftables, had, &wanted.ports);
        // By what was asked for: who changes it in the moment after would change the kernel's count, too.
        self.applied = Some((wanted.clone(), count_rules(&text)));
        Ok(())
    }

    /// Puts back what somebody else changed or took away. Whether anything was.
    pub(crate) fn repair(&mut self) -> Result<bool> {
        let Some((applied, count)) = &self.applied else { return Ok(false) };
        let nftables = self.place.nftables().doing(|| "speak to the firewall")?;
        let is_whole = || -> std::io::Result<bool> {
            if nftables.rules(&applied.table)? != *count {
                return Ok(false);
            }
            for map in MAPS {
                let wanted = applied.ports.iter().filter(|(port, _)| map_of(port) == map).count();
                if nftables.elements(&applied.table, map)? != wanted {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // A table that is gone is an error here.
        if is_whole().unwrap_or(false) {
            return Ok(false);
        }
        let wanted = applied.clone();
        self.applied = None;
        let applied = self.apply(&wanted);
        if applied.is_err() {
            // Known to be wanted still: the next change brings the next try.
            self.applied = Some((wanted, usize::MAX));
        }
        applied.map(|()| true)
    }

    /// Takes the table away, this daemon's or one's before it.
    pub(crate) fn remove(&mut self, table: &str) -> Result<()> {
        self.applied = None;
        let mut batch = Batch::new();
        batch.remove_table(table);
        match self.place.nftables().and_then(|nftables| nftables.commit(batch)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).doing(|| "remove the networks' rules")
            }
            // One that is not there is no failure.
            _ => Ok(()),
        }
    }
}

/// What has to be taken out of the maps, and what put in after that.
fn difference(
    applied: &[(Published, IpAddr)],
    wanted: &[(Published, IpAddr)],
) -> (Vec<Element>, Vec<Element>) {
    let only = |these: &[(Published, IpAddr)], those: &[(Published, IpAddr)]| {
        let left = these.iter().filter(|port| !those.contains(port));
        left.map(|(port, target)| element(port, *target)).collect()
    };
    (only(applied, wanted), only(wanted, applied))
}

/// Takes out the ports that are no longer wanted, and puts in those that are new.
fn change_ports(nftables: &Nftables, applied: &Rules, wanted: &Rules) -> std::io::Result<()> {
    // The kernel answers each request, and a socket holds only so many answers.
    const AT_ONCE: usize = 64;
    let (gone, new) = difference(&applied.ports, &wanted.ports);
    for some in gone.chunks(AT_ONCE) {
        let mut batch = Batch::new();
        some.iter().for_each(|element| batch.remove(&wanted.table, element));
        nftables.commit(batch)?;
    }
    for some in new.chunks(AT_ONCE) {
        let mut batch = Batch::new();
        some.iter().for_each(|element| batch.add(&wanted.table, element));
        nftables.commit(batch)?;
    }
    Ok(())
}

/// Ends the flows that ports led elsewhere before. A failure costs a sender of UDP some seconds, no more.
fn forget_flows(nftables: &Nftables, had: &[(Published, IpAddr)], wanted: &[(Published, IpAddr)]) -> bool {
    let gone = had.iter().filter(|(port, _)| !wanted.iter().any(|(other, _)| other == port));
    let new = wanted.iter().filter(|port| !had.contains(port));
    let changed: Vec<_> =
        gone.map(|(port, _)| (port, None)).chain(new.map(|(port, target)| (port, Some(*target)))).collect();
    let forgotten = conntrack::forget_stale(nftables, &changed);
    if let Err(error) = &forgotten {
        tracing::debug!(%error, "flows to published ports could not be ended");
    }
    forgotten.is_ok()
}

fn map_of(port: &Published) -> &'static str {
    match (port.address.is_ipv4(), port.address.is_unspecified()) {
        (true, true) => "any4",
        (true, false) => "one4",
        (false, true) => "any6",
        (false, false) => "one6",
    }
}

fn element(port: &Published, target: IpAddr) -> Element {
    let (protocol, outer, inner) =
        ([port.protocol.number()], port.outer.to_be_bytes(), port.inner.to_be_bytes());
    let key = if port.address.is_unspecified() {
        registers(&[&protocol, &outer])
    } else {
        registers(&[&octets(port.address), &protocol, &outer])
    };
    Element { map: map_of(port), key, value: registers(&[&octets(target), &inner]) }
}

impl Rules {
    /// The ruleset, in nft's language.
    fn text(&self) -> String {
        let table = &self.table;
        let mut text = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
        for (map, key, value) in [
            ("any4", "inet_proto . inet_service", "ipv4_addr . inet_service"),
            ("one4", "ipv4_addr . inet_proto . inet_service", "ipv4_addr . inet_service"),
            ("any6", "inet_proto . inet_service", "ipv6_addr . inet_service"),
            ("one6", "ipv6_addr . inet_proto . inet_service", "ipv6_addr . inet_service"),
        ] {
            let _ = writeln!(text, "  map {map} {{\n    type {key} : {value}");
            let mut ports = self.ports.iter().filter(|(port, _)| map_of(port) == map).peekable();
            if ports.peek().is_some() {
                text.push_str("    elements = {\n");
                for (port, target) in ports {
                    let Published { inner, protocol, address, outer } = port;
                    let at = if address.is_unspecified() { String::new() } else { format!("{address} . ") };
                    let _ = writeln!(text, "      {at}{protocol} . {outer} : {target} . {inner},");
                }
                text.push_str("    }\n");
            }
            text.push_str("  }\n");
        }
        text.push_str(
            "  chain ports {\n\
             \x20   meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @any4\n\
             \x20   meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @one4\n\
             \x20   ip6 daddr ::1 return\n\
             \x20   meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6\n\
             \x20   meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6\n\
             \x20 }\n\
             \x20 chain prerouting {\n\
             \x20   type nat hook prerouting priority dstnat; policy accept;\n\
             \x20   jump ports\n\
             \x20 }\n\
             \x20 chain output {\n\
             \x20   type nat hook output priority -100; policy accept;\n\
             \x20   jump ports\n\
             \x20 }\n",
        );
        self.chains(&mut text);
        if self.has_clients {
            // What is said in a client's name has a mark, which its connection keeps; the answers get the other
            // one, by which they are led to whoever speaks for the client.
            let _ = write!(
                text,
                "  chain clients {{\n    type filter hook output priority mangle; policy accept;\n    \
                 meta mark {CLIENT_MARK} ct mark set {CLIENT_MARK}\n  }}\n  chain answers {{\n    \
                 type filter hook prerouting priority mangle; policy accept;\n    \
                 ct direction reply ct mark {CLIENT_MARK} meta mark set {ANSWER_MARK}\n  }}\n"
            );
        }
        text.push_str("}\n");
        text
    }

    /// The chains that know the bridges.
    fn chains(&self, text: &mut String) {
        text.push_str(
            "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n",
        );
        for BridgeRules { interface, subnets, is_internal, masquerades, .. } in &self.bridges {
            for subnet in subnets {
                let (ip, local) =
                    if subnet.base().is_ipv4() { ("ip", Some("127.0.0.0/8")) } else { ("ip6", None) };
                if *masquerades && !is_internal {
                    let _ = writeln!(text, "    {ip} saddr {subnet} oifname != \"{interface}\" masquerade");
                }
                if let Some(local) = local {
                    let _ = writeln!(text, "    oifname \"{interface}\" ip saddr {local} masquerade");
                }
                // A container that calls a published port of its own network: the answer must come back here.
                let _ = writeln!(
                    text,
                    "    oifname \"{interface}\" {ip} saddr {subnet} ct status dnat masquerade"
                );
            }
        }
        text.push_str(
            "  }\n  chain forward {\n    type filter hook forward priority filter; policy accept;\n",
        );
        for BridgeRules { interface, is_internal, isolates, .. } in &self.bridges {
            let within = format!("    iifname \"{interface}\" oifname \"{interface}\"");
            if *isolates {
                // But for ports that are published to everybody.
                let _ = writeln!(text, "{within} ct status dnat accept\n{within} drop");
            } else {
                let _ = writeln!(text, "{within} accept");
            }
            if *is_internal {
                let _ = writeln!(text, "    iifname \"{interface}\" drop\n    oifname \"{interface}\" drop");
            }
        }
        let open = || self.bridges.iter().filter(|bridge| !bridge.is_internal);
        let answers = "ct state established,related accept";
        for BridgeRules { interface, .. } in open() {
            let _ = writeln!(text, "    oifname \"{interface}\" {answers}");
            let _ = writeln!(text, "    oifname \"{interface}\" ct status dnat accept");
            // Neither from other networks nor from outside.
            let _ = writeln!(text, "    oifname \"{interface}\" drop");
        }
        for BridgeRules { interface, .. } in open() {
            let _ = writeln!(text, "    iifname \"{interface}\" accept");
        }
        // What this computer keeps to itself stays so, from containers and from its neighbours: ports at 127.0.0.1
        // are led on before the kernel would look at where a packet came from.
        text.push_str(
            "  }\n  chain loopback {\n    type filter hook prerouting priority -300; policy accept;\n",
        );
        text.push_str("    iifname != \"lo\" ip daddr 127.0.0.0/8 drop\n");
        text.push_str("  }\n");
    }
}

/// How many rules a ruleset's chains have.
fn count_rules(text: &str) -> usize {
    let mut is_in_chain = false;
    let mut count = 0;
    for line in text.lines().map(str::trim) {
        match line {
            "}" => is_in_chain = false,
            _ if line.starts_with("chain ") => is_in_chain = true,
            _ if is_in_chain && !line.starts_with("type ") => count += 1,
            _ => {}
        }
    }
    count
}

/// Runs nft with a script; it is applied as a whole or not at all.
fn run(place: &Place, script: &str) -> Result<()> {
    let mut command = stdx::process::command("nft");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match place.run(|| command.spawn()).doing(|| "run nft")? {
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
    Err(Error::Unsupported { what: format!("nft refused the networks' rules: {}", said.trim()) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::ports::Protocol;

    fn published(address: impl Into<IpAddr>, outer: u16) -> Published {
        Published { inner: 80, protocol: Protocol::Tcp, address: address.into(), outer }
    }

    fn bridge(interface: &str, subnet: &str, is_internal: bool) -> BridgeRules {
        let subnets = vec![subnet.parse().unwrap()];
        BridgeRules { interface: interface.into(), subnets, is_internal, masquerades: true, isolates: false }
    }

    #[test]
    fn each_port_leads_to_its_container() {
        let two: IpAddr = Ipv4Addr::new(172, 30, 0, 2).into();
        let rules = Rules {
            table: "t".into(),
            bridges: vec![bridge("b", "172.30.0.0/16", false)],
            ports: vec![
                (published(Ipv4Addr::UNSPECIFIED, 8080), two),
                (published(Ipv4Addr::LOCALHOST, 8081), two),
                (published(Ipv6Addr::UNSPECIFIED, 8080), "fd00::2".parse().unwrap()),
            ],
            has_clients: false,
        };
        let text = rules.text();
        for line in [
            "tcp . 8080 : 172.30.0.2 . 80,",
            "127.0.0.1 . tcp . 8081 : 172.30.0.2 . 80,",
            "tcp . 8080 : fd00::2 . 80,",
        ] {
            assert!(text.lines().any(|had| had.trim() == line), "{line} in {text}");
        }
        assert!(text.starts_with("table inet t\ndelete table inet t\n"), "{text}");
        let commented = text.lines().filter(|line| line.contains("accept") || line.contains("drop")).count();
        assert!(count_rules(&text) >= commented && count_rules(&text) > 10, "{text}");
    }

    #[test]
    fn an_internal_network_is_left_by_nobody() {
        let rules =
            Rules { table: "t".into(), bridges: vec![bridge("b", "10.9.0.0/24", true)], ..Rules::default() };
        let text = rules.text();
        assert!(!text.contains("mark"), "{text}");
        assert!(!text.contains("oifname != \"b\" masquerade"), "{text}");
        assert!(text.contains("iifname \"b\" drop"), "{text}");
        assert!(!text.contains("iifname \"b\" accept"), "{text}");
    }

    #[test]
    fn members_kept_apart_are_not_joined_by_this_computer() {
        let apart = BridgeRules { isolates: true, ..bridge("b", "10.9.0.0/24", false) };
        let rules = Rules { table: "t".into(), bridges: vec![apart], ports: vec![], has_clients: false };
        let text = rules.text();
        assert!(text.contains("iifname \"b\" oifname \"b\" drop"), "{text}");
        assert!(!text.contains("iifname \"b\" oifname \"b\" accept"), "{text}");
    }

    /// Ports by what only one container can have, each with where it leads.
    fn some_ports() -> impl Strategy<Value = Vec<(Published, IpAddr)>> {
        let address = prop_oneof![
            Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Just(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        // Few numbers, so that the same are there before and after.
        proptest::collection::btree_map((address, protocol, 1_u16..6), (1_u16..4, 1_u8..4), 0..12).prop_map(
            |map| {
                let port =
                    |((address, protocol, outer), (inner, host)): ((IpAddr, Protocol, u16), (u16, u8))| {
                        let target: IpAddr = match address {
                            IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, host).into(),
                            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
                        };
                        (Published { inner, protocol, address, outer }, target)
                    };
                map.into_iter().map(port).collect()
            },
        )
    }

    /// The maps as the kernel keeps them.
    fn maps(ports: &[(Published, IpAddr)]) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
        ports
            .iter()
            .map(|(port, target)| element(port, *target))
            .map(|element| ((element.map, element.key), element.value))
            .collect()
    }

    proptest! {
        #[test]
        fn a_change_leads_from_any_ports_to_any_others(had in some_ports(), wanted in some_ports()) {
            let mut kernel = maps(&had);
            let (gone, new) = difference(&had, &wanted);
            for element in gone {
                // The kernel refuses to take out what is not there, or leads elsewhere.
                prop_assert_eq!(kernel.remove(&(element.map, element.key)), Some(element.value));
            }
            for element in new {
                // And to put in what is there.
                prop_assert_eq!(kernel.insert((element.map, element.key), element.value), None);
            }
            prop_assert_eq!(kernel, maps(&wanted));
        }

        #[test]
        fn written_whole_each_port_is_there_once_and_no_rule_is_more(ports in some_ports()) {
            let bridges = vec![bridge("b", "10.0.0.0/24", false), bridge("c", "10.1.0.0/24", true)];
            let empty = Rules { table: "t".into(), bridges, ports: vec![], has_clients: false };
            let rules = count_rules(&empty.text());
            let full = Rules { ports: ports.clone(), ..empty };
            let text = full.text();
            prop_assert_eq!(text.matches(" : 10.0.0.").count() + text.matches(" : fd00::").count(), ports.len());
            prop_assert_eq!(count_rules(&text), rules);
        }
    }

    #[test]
    fn an_element_is_what_the_kernel_compares() {
        let target = Ipv4Addr::new(10, 0, 0, 2).into();
        let any = element(&published(Ipv4Addr::UNSPECIFIED, 0x1234), target);
        assert_eq!((any.map, any.key.as_slice()), ("any4", [6, 0, 0, 0, 0x12, 0x34, 0, 0].as_slice()));
        assert_eq!(any.value, [10, 0, 0, 2, 0, 80, 0, 0]);
        let one = element(&published(Ipv6Addr::LOCALHOST, 1), Ipv6Addr::LOCALHOST.into());
        assert_eq!((one.map, one.key.len(), one.value.len()), ("one6", 24, 20));
    }
}
