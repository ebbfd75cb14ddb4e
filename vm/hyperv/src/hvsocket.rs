//! Sockets between a guest and its host: the guest's are vsock(7)'s, the host's are of Windows' own family, in whose
//! addresses a port is a part of an id.
//!
//! Source: Microsoft's "Make your own integration services", and `hvsocket.h` of the Windows SDK.

use crate::guid::Guid;

/// `AF_HYPERV`.
const FAMILY: u16 = 34;
/// `HV_PROTOCOL_RAW`.
const PROTOCOL: i32 = 1;
/// How long an address is (`SOCKADDR_HV`).
const LENGTH: usize = 36;

/// An address as the system's calls take it, and of which sort its sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `AF_HYPERV`; tests have others.
    pub family: u16,
    /// What is spoken.
    pub protocol: i32,
    /// The address, its family in front.
    pub bytes: Vec<u8>,
}

/// The service of a port of vsock(7): `VSOCK_TEMPLATE`, in which the port is the first part.
#[must_use]
pub const fn service(port: u32) -> Guid {
    Guid::new(port, 0xfacb, 0x11e6, [0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79, 0x86, 0xd3])
}

impl Address {
    /// A port of a guest's, to connect to; or a port of the host's for that guest alone, to listen at.
    #[must_use]
    pub fn of(guest: Guid, port: u32) -> Self {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(FAMILY.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(guest.bytes());
        bytes.extend(service(port).bytes());
        Self { family: FAMILY, protocol: PROTOCOL, bytes }
    }

    /// Whether it is of Windows' family for guests, which has options of its own.
    #[must_use]
    pub fn is_of_guest(&self) -> bool {
        self.family == FAMILY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_laid_out_as_the_system_has_it() {
        let guest: Guid = "01020304-0506-0708-090a-0b0c0d0e0f10".parse().unwrap();
        let address = Address::of(guest, 0x234);
        let expected = [
            34, 0, 0, 0, // The family, and nothing.
            4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16, // The guest.
            0x34, 2, 0, 0, 0xcb, 0xfa, 0xe6, 0x11, 0xbd, 0x58, 0x64, 0, 0x6a, 0x79, 0x86,
            0xd3, // The service.
        ];
        assert_eq!(address.bytes, expected);
        assert_eq!(address.bytes.len(), LENGTH);
        assert_eq!(service(1).to_string(), "00000001-facb-11e6-bd58-64006a7986d3");
    }
}
