//! The two requests of rtnetlink(7) by which packets for somebody else are taken in.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Versions of IP, as requests name them.
pub(crate) const INET: u8 = 2;
pub(crate) const INET6: u8 = 10;

const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE`, and with it one of these.
const CREATE: u16 = 0x405;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const RTA_OIF: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;

/// A table of nobody's (`/etc/iproute2/rt_tables`), asked before the main one.
const TABLE: u8 = 207;
const PRIORITY: u32 = 207;
/// `lo` is the first interface of each network.
const LOOPBACK: u32 = 1;

/// Has whatever carries a mark taken in, though it is for somebody else; what is so already is no failure.
pub(crate) fn take_in_marked(mark: u32, family: u8) -> io::Result<()> {
    const BOOT: u8 = 3;
    const OF_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const TO_TABLE: u8 = 1;
    // `struct rtmsg`.
    let mut route = begin(RTM_NEWROUTE, CREATE | NLM_F_REPLACE);
    route.extend([family, 0, 0, 0, TABLE, BOOT, OF_HOST, LOCAL]);
    route.extend([0; 4]);
    attribute(&mut route, RTA_OIF, LOOPBACK);
    ask(route)?;
    // `struct fib_rule_hdr`.
    let mut rule = begin(RTM_NEWRULE, CREATE | NLM_F_EXCL);
    rule.extend([family, 0, 0, 0, TABLE, 0, 0, TO_TABLE]);
    rule.extend([0; 4]);
    attribute(&mut rule, FRA_PRIORITY, PRIORITY);
    attribute(&mut rule, FRA_FWMARK, mark);
    match ask(rule) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// `struct nlmsghdr`, whose length is written at last.
fn begin(kind: u16, flags: u16) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: u32) {
    message.extend(8_u16.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value.to_ne_bytes());
}

/// Asks, and reads how it went.
fn ask(mut message: Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_ne_bytes();
    if let Some(place) = message.get_mut(..4) {
        place.copy_from_slice(&length);
    }
    // NETLINK_ROUTE is protocol 0.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (received, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    outcome(answer.get(..received).unwrap_or_default())
}

/// What an answer says: one of the kind of errors, whose number is 0 where all went well.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|field| field.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|field| field.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answers_are_read() {
        let answer = |kind: u16, code: i32| {
            let mut answer = begin(kind, 0);
            answer.extend(code.to_ne_bytes());
            outcome(&answer)
        };
        assert!(answer(NLMSG_ERROR, 0).is_ok());
        assert_eq!(answer(NLMSG_ERROR, -17).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(answer(9, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(outcome(b"").is_err());
    }
}
