//! The few requests of netfilter that must be quick (nfnetlink, `linux/netfilter/nf_tables.h`): elements of
//! maps, counts of what is there, and the rules of one container's resolver. A run of the program `nft`
//! takes two milliseconds; one of these a tenth.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::netlink::{NLMSG_ERROR, attributes, outcome, read_dump, split};

const NETLINK_NETFILTER: u32 = 12;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// `NFPROTO_INET`, `NFPROTO_IPV4`.
pub(crate) const INET: u8 = 1;
const IPV4: u8 = 2;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

/// A socket that speaks to the nftables of the namespace it was made in.
#[derive(Debug)]
pub(crate) struct Nftables(OwnedFd);

/// Requests that take effect together or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// How many of them are answered.
    count: usize,
}

/// What an element leads to, and how it is found: each field as the kernel keeps it in a register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) map: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Fields one behind the other, each filled up to whole registers of four bytes.
pub(crate) fn registers(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend(*field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), count: 0 };
        batch.header(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, |_| {});
        batch
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend([0; 8]);
        // `struct nfgenmsg`: the family, version 0, and a number in the network's order.
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        fill(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - at).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn request(&mut self, message: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        self.header((NFNL_SUBSYS_NFTABLES << 8) | message, flags | NLM_F_ACK, family, 0, fill);
    }

    /// Puts an element into a map of a table of family inet.
    pub(crate) fn add(&mut self, table: &str, element: &Element) {
        self.request(NFT_MSG_NEWSETELEM, NLM_F_CREATE, INET, |bytes| elements(bytes, table, element, true));
    }

    /// Takes it out.
    pub(crate) fn remove(&mut self, table: &str, element: &Element) {
        self.request(NFT_MSG_DELSETELEM, 0, INET, |bytes| elements(bytes, table, element, false));
    }

    /// A table of IPv4.
    pub(crate) fn table(&mut self, table: &str) {
        const NFTA_TABLE_NAME: u16 = 1;
        self.request(NFT_MSG_NEWTABLE, NLM_F_CREATE, IPV4, |bytes| name(bytes, NFTA_TABLE_NAME, table));
    }

    /// Takes a table of family inet away, with all that is in it.
    pub(crate) fn remove_table(&mut self, table: &str) {
        const NFTA_TABLE_NAME: u16 = 1;
        self.request(NFT_MSG_DELTABLE, 0, INET, |bytes| name(bytes, NFTA_TABLE_NAME, table));
    }

    /// A chain that sees what this namespace sends.
    pub(crate) fn output_chain(&mut self, table: &str, chain: &str, priority: i32) {
        const NFTA_CHAIN_TABLE: u16 = 1;
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_TYPE: u16 = 7;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NFTA_HOOK_PRIORITY: u16 = 2;
        const LOCAL_OUT: u32 = 3;
        self.request(NFT_MSG_NEWCHAIN, NLM_F_CREATE, IPV4, |bytes| {
            name(bytes, NFTA_CHAIN_TABLE, table);
            name(bytes, NFTA_CHAIN_NAME, chain);
            nested(bytes, NFTA_CHAIN_HOOK, |hook| {
                attribute(hook, NFTA_HOOK_HOOKNUM, &LOCAL_OUT.to_be_bytes());
                attribute(hook, NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
            });
            name(bytes, NFTA_CHAIN_TYPE, "filter");
        });
    }

    /// A rule of expressions, at the end of a chain.
    pub(crate) fn rule(&mut self, table: &str, chain: &str, expressions: &[Expression]) {
        const NFTA_RULE_TABLE: u16 = 1;
        const NFTA_RULE_CHAIN: u16 = 2;
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        self.request(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, IPV4, |bytes| {
            name(bytes, NFTA_RULE_TABLE, table);
            name(bytes, NFTA_RULE_CHAIN, chain);
            nested(bytes, NFTA_RULE_EXPRESSIONS, |list| {
                for expression in expressions {
                    nested(list, NFTA_LIST_ELEM, |bytes| expression.write(bytes));
                }
            });
        });
    }
}

/// One step of a rule; values pass through register 1.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    /// Loads bytes of the network header.
    NetworkHeader { offset: u32, length: u32 },
    /// Loads bytes of the transport header.
    TransportHeader { offset: u32, length: u32 },
    /// Loads the protocol above IP.
    Protocol,
    /// Goes on if the loaded bytes are these.
    Equals(Vec<u8>),
    /// Loads a constant.
    Constant(Vec<u8>),
    /// Writes what is loaded into the transport header; its checksum lies at another place.
    WriteTransport { offset: u32, length: u32, checksum: u32 },
}

impl Expression {
    const REGISTER: [u8; 4] = 1_u32.to_be_bytes();

    fn write(&self, bytes: &mut Vec<u8>) {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        let (kind, fields): (&str, Vec<(u16, Vec<u8>)>) = match self {
            Self::NetworkHeader { offset, length } => ("payload", load(1, *offset, *length)),
            Self::TransportHeader { offset, length } => ("payload", load(2, *offset, *length)),
            // NFTA_META_DREG, NFTA_META_KEY: NFT_META_L4PROTO.
            Self::Protocol => {
                ("meta", vec![(1, Self::REGISTER.to_vec()), (2, 16_u32.to_be_bytes().to_vec())])
            }
            // NFTA_CMP_SREG, NFTA_CMP_OP: NFT_CMP_EQ, NFTA_CMP_DATA.
            Self::Equals(value) => {
                let list =
                    vec![(1, Self::REGISTER.to_vec()), (2, 0_u32.to_be_bytes().to_vec()), (3, data(value))];
                ("cmp", list)
            }
            // NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA.
            Self::Constant(value) => ("immediate", vec![(1, Self::REGISTER.to_vec()), (2, data(value))]),
            // NFTA_PAYLOAD_SREG, CSUM_TYPE: NFT_PAYLOAD_CSUM_INET, CSUM_OFFSET.
            Self::WriteTransport { offset, length, checksum } => {
                let mut list = load(2, *offset, *length);
                list.remove(0);
                list.extend([
                    (5, Self::REGISTER.to_vec()),
                    (6, 1_u32.to_be_bytes().to_vec()),
                    (7, checksum.to_be_bytes().to_vec()),
                ]);
                ("payload", list)
            }
        };
        name(bytes, NFTA_EXPR_NAME, kind);
        nested(bytes, NFTA_EXPR_DATA, |inner| {
            for (kind, value) in fields {
                let is_data = matches!((self, kind), (Self::Equals(_), 3) | (Self::Constant(_), 2));
                attribute(inner, if is_data { kind | NLA_F_NESTED } else { kind }, &value);
            }
        });
    }
}

/// NFTA_PAYLOAD_DREG, BASE, OFFSET, LEN.
fn load(base: u32, offset: u32, length: u32) -> Vec<(u16, Vec<u8>)> {
    let number = |n: u32| n.to_be_bytes().to_vec();
    vec![(1, Expression::REGISTER.to_vec()), (2, number(base)), (3, number(offset)), (4, number(length))]
}

/// NFTA_DATA_VALUE.
fn data(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    attribute(&mut bytes, NFTA_DATA_VALUE, value);
    bytes
}

fn elements(bytes: &mut Vec<u8>, table: &str, element: &Element, with_value: bool) {
    const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    name(bytes, NFTA_SET_ELEM_LIST_TABLE, table);
    name(bytes, NFTA_SET_ELEM_LIST_SET, element.map);
    nested(bytes, NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        nested(list, NFTA_LIST_ELEM, |one| {
            nested(one, NFTA_SET_ELEM_KEY, |key| attribute(key, NFTA_DATA_VALUE, &element.key));
            if with_value {
                nested(one, NFTA_SET_ELEM_DATA, |value| attribute(value, NFTA_DATA_VALUE, &element.value));
            }
        });
    });
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn name(bytes: &mut Vec<u8>, kind: u16, name: &str) {
    attribute(bytes, kind, &[name.as_bytes(), b"\0"].concat());
}

fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
    fill(bytes);
    let length = u16::try_from(bytes.len() - at).unwrap_or(u16::MAX);
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
}

impl Nftables {
    /// Of this thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let protocol = rustix::net::Protocol::from_raw(
            std::num::NonZeroU32::new(NETLINK_NETFILTER).ok_or(io::ErrorKind::InvalidInput)?,
        );
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(protocol))?))
    }

    /// Hears of changes instead of making any.
    pub(crate) fn follow(&self) -> io::Result<()> {
        const NFNLGRP_NFTABLES: u32 = 7;
        let groups = 1 << (NFNLGRP_NFTABLES - 1);
        Ok(rustix::net::bind(&self.0, &rustix::net::netlink::SocketAddrNetlink::new(0, groups))?)
    }

    /// Waits for a change of anybody's; what is lost because there was too much counts as one.
    pub(crate) fn changed(&self) -> io::Result<()> {
        let mut buffer = [0; 8 << 10];
        match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves out the changes that wait.
    pub(crate) fn forget(&self) {
        let mut buffer = [0; 8 << 10];
        while rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }

    /// Sends requests, all or none of which take effect.
    pub(crate) fn commit(&self, mut batch: Batch) -> io::Result<()> {
        if batch.count == 0 {
            return Ok(());
        }
        batch.header(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, |_| {});
        rustix::net::send(&self.0, &batch.bytes, SendFlags::empty())?;
        let mut failure = None;
        let mut answered = 0;
        let mut buffer = vec![0; 16 << 10];
        while answered < batch.count {
            // After a failure the kernel may leave out the rest.
            let flags = if failure.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let received = match rustix::net::recv(&self.0, &mut buffer[..], flags) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let mut rest = buffer.get(..received).unwrap_or_default();
            while let Some((kind, payload, after)) = split(rest) {
                rest = after;
                if kind == NLMSG_ERROR {
                    answered += 1;
                    if let Err(error) = outcome(payload) {
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// How many rules a table of family inet has.
    pub(crate) fn rules(&self, table: &str) -> io::Result<usize> {
        const NFTA_RULE_TABLE: u16 = 1;
        let mut count = 0;
        self.dump(
            NFNL_SUBSYS_NFTABLES,
            NFT_MSG_GETRULE,
            INET,
            |bytes| name(bytes, NFTA_RULE_TABLE, table),
            |_| count += 1,
        )?;
        Ok(count)
    }

    /// How many elements a map of it has.
    pub(crate) fn elements(&self, table: &str, map: &str) -> io::Result<usize> {
        const LIST_TABLE: u16 = 1;
        const LIST_SET: u16 = 2;
        const LIST_ELEMENTS: u16 = 3;
        let mut count = 0;
        let fill = |bytes: &mut Vec<u8>| {
            name(bytes, LIST_TABLE, table);
            name(bytes, LIST_SET, map);
        };
        self.dump(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSETELEM, INET, fill, |body| {
            let lists = attributes(body).filter(|(kind, _)| *kind == LIST_ELEMENTS);
            count += lists.map(|(_, list)| attributes(list).count()).sum::<usize>();
        })?;
        Ok(count)
    }

    /// Asks a part of netfilter for all there is of something, and hands out the attributes of each.
    pub(crate) fn dump(
        &self,
        subsystem: u16,
        message: u16,
        family: u8,
        fill: impl FnOnce(&mut Vec<u8>),
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut request = Batch { bytes: Vec::new(), count: 0 };
        request.header((subsystem << 8) | message, NLM_F_DUMP, family, 0, fill);
        rustix::net::send(&self.0, &request.bytes, SendFlags::empty())?;
        // Behind `struct nfgenmsg`.
        read_dump(&self.0, |payload| each(payload.get(4..).unwrap_or_default()))
    }

    /// One request of another part of netfilter, with one nested attribute, and its answer.
    pub(crate) fn request(
        &self,
        subsystem: u16,
        message: u16,
        family: u8,
        kind: u16,
        value: &[u8],
    ) -> io::Result<()> {
        let mut request = Batch { bytes: Vec::new(), count: 0 };
        let fill = |bytes: &mut Vec<u8>| attribute(bytes, kind | NLA_F_NESTED, value);
        request.header((subsystem << 8) | message, NLM_F_ACK, family, 0, fill);
        rustix::net::send(&self.0, &request.bytes, SendFlags::empty())?;
        // One answer, which is an error or its absence.
        read_dump(&self.0, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_whole_registers() {
        assert_eq!(registers(&[&[6], &80_u16.to_be_bytes()]), [6, 0, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn a_batch_is_measured() {
        let mut batch = Batch::new();
        let element = Element { map: "any4", key: vec![1; 8], value: vec![2; 8] };
        batch.add("t", &element);
        let mut rest = batch.bytes.as_slice();
        let mut kinds = Vec::new();
        while let Some((kind, _, after)) = split(rest) {
            kinds.push(kind);
            rest = after;
        }
        assert_eq!(kinds, [NFNL_MSG_BATCH_BEGIN, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWSETELEM]);
        assert!(rest.is_empty());
    }
}
