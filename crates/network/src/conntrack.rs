//! The kernel's table of flows (`linux/netfilter/nfnetlink_conntrack.h`). A flow is led to where its first
//! packet was led; of UDP, which has no end, that would outlive the container behind a published port for as
//! long as somebody sends.

use std::io;
use std::net::IpAddr;

use crate::netlink::attributes;
use crate::nfnetlink::Nftables;
use crate::ports::{Protocol, Published};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 1 << 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// `AF_INET`, `AF_INET6`.
const VERSIONS: [u8; 2] = [2, 10];

/// Forgets the flows to published ports that lead elsewhere than wanted, or nowhere: `ports` are those that
/// came or went, with the address each is to lead to now, none where it is gone. How many there were. What
/// only passes on its way to another machine's port of this number, and was answered, stays.
pub(crate) fn forget_stale(
    netfilter: &Nftables,
    ports: &[(&Published, Option<IpAddr>)],
) -> io::Result<usize> {
    let udp: Vec<_> = ports.iter().filter(|(port, _)| port.protocol == Protocol::Udp).collect();
    let mut count = 0;
    for family in VERSIONS {
        let is_concerned = |port: &Published| port.address.is_ipv4() == (family == VERSIONS[0]);
        if !udp.iter().any(|(port, _)| is_concerned(port)) {
            continue;
        }
        let mut stale = Vec::new();
        netfilter.dump(
            NFNL_SUBSYS_CTNETLINK,
            IPCTNL_MSG_CT_GET,
            family,
            |_| {},
            |body| {
                let Some(flow) = Flow::read(body) else { return };
                let is_stale = udp.iter().any(|(port, target)| {
                    is_concerned(port) && flow.port == port.outer && flow.is_stale(*target)
                });
                if is_stale && flow.protocol == Protocol::Udp.number() {
                    stale.push(flow.tuple.to_vec());
                }
            },
        )?;
        for tuple in stale {
            let outcome = netfilter.request(
                NFNL_SUBSYS_CTNETLINK,
                IPCTNL_MSG_CT_DELETE,
                family,
                CTA_TUPLE_ORIG,
                &tuple,
            );
            match outcome {
                Ok(()) => count += 1,
                // Its time had come.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(count)
}

/// A flow as far as it matters here.
struct Flow<'a> {
    protocol: u8,
    /// Where its first packet was sent to.
    port: u16,
    /// Whom it was sent to, and who answers.
    sent_to: IpAddr,
    answers: IpAddr,
    /// Whether anybody did.
    is_answered: bool,
    /// What the kernel knows it by.
    tuple: &'a [u8],
}

impl<'a> Flow<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let tuple = find(body, CTA_TUPLE_ORIG)?;
        let above = find(tuple, CTA_TUPLE_PROTO)?;
        let port = find(above, CTA_PROTO_DST_PORT)?.try_into().ok().map(u16::from_be_bytes)?;
        let sent_to = addresses(tuple)?.1;
        let answers = addresses(find(body, CTA_TUPLE_REPLY)?)?.0;
        let status = find(body, CTA_STATUS)?.try_into().ok().map(u32::from_be_bytes)?;
        let is_answered = status & SEEN_REPLY != 0;
        Some(Self {
            protocol: *find(above, CTA_PROTO_NUM)?.first()?,
            port,
            sent_to,
            answers,
            is_answered,
            tuple,
        })
    }

    /// Whether it goes elsewhere than to `target`, or to a container where there is none.
    fn is_stale(&self, target: Option<IpAddr>) -> bool {
        let is_led = self.answers != self.sent_to;
        target.map_or(is_led, |target| if is_led { self.answers != target } else { !self.is_answered })
    }
}

fn find(list: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(list).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Source and destination of a tuple. Each version of IP has its own kinds of attributes, in this order.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut both = attributes(find(tuple, CTA_TUPLE_IP)?).filter_map(|(_, value)| {
        let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    });
    Some((both.next()?, both.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One attribute.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_flow_says_where_it_went_and_who_answers() {
        let tuple = |from: [u8; 4], to: [u8; 4]| {
            let ip = [attribute(1, &from), attribute(2, &to)].concat();
            let above = [attribute(1, &[17]), attribute(2, &[1, 0]), attribute(3, &[0, 53])].concat();
            [attribute(CTA_TUPLE_IP, &ip), attribute(CTA_TUPLE_PROTO, &above)].concat()
        };
        let orig = tuple([127, 0, 0, 1], [127, 0, 0, 1]);
        let body = [
            attribute(CTA_TUPLE_ORIG, &orig),
            attribute(CTA_TUPLE_REPLY, &tuple([10, 0, 0, 2], [10, 0, 0, 1])),
            attribute(CTA_STATUS, &SEEN_REPLY.to_be_bytes()),
        ]
        .concat();
        let flow = Flow::read(&body).unwrap();
        assert_eq!((flow.protocol, flow.port, flow.answers), (17, 53, [10, 0, 0, 2].into()));
        assert_eq!(flow.tuple, orig);
        let target = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        assert!(flow.is_stale(None) && flow.is_stale(target(3)) && !flow.is_stale(target(2)));
        // One that goes to another machine.
        let passing = Flow { answers: flow.sent_to, ..flow };
        assert!(!passing.is_stale(None) && !passing.is_stale(target(3)));
        assert!(Flow { is_answered: false, ..passing }.is_stale(target(3)));
        assert!(Flow::read(&body[..20]).is_none());
    }
}
