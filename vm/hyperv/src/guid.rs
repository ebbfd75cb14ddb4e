//! Ids as Windows has them.

use std::fmt;
use std::str::FromStr;

/// An id of 128 bits, its bytes as Windows lays them out: the first three parts with their lowest byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid([u8; 16]);

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no id of the form 00000000-0000-0000-0000-000000000000")]
pub struct NoGuid {
    /// What was given.
    pub text: String,
}

/// FNV-1a of 128 bits: nobody gains by two names with the same id.
const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Guid {
    /// One of parts, as its text has them.
    #[must_use]
    pub const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest);
        Self([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    /// The same for the same name, and of the form of those that are made of names (RFC 9562, version 8).
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let digest =
            name.bytes().fold(OFFSET, |digest, byte| (digest ^ u128::from(byte)).wrapping_mul(PRIME));
        let mut bytes = digest.to_le_bytes();
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// As it lies in memory.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl FromStr for Guid {
    type Err = NoGuid;

    fn from_str(text: &str) -> Result<Self, NoGuid> {
        let wrong = || NoGuid { text: text.to_owned() };
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        if lengths != [8, 4, 4, 4, 12] || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let whole = u128::from_str_radix(&parts.concat(), 16).map_err(|_| wrong())?;
        let mut bytes = whole.to_be_bytes();
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        Ok(Self(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, place) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[place])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_it_is_shown() {
        let text = "0000a1b2-facb-11e6-bd58-64006a7986d3";
        let guid: Guid = text.parse().unwrap();
        assert_eq!(guid.to_string(), text);
        assert_eq!(guid, text.to_ascii_uppercase().parse().unwrap());
        assert_eq!(guid, Guid::new(0xa1b2, 0xfacb, 0x11e6, [0xbd, 0x58, 0x64, 0, 0x6a, 0x79, 0x86, 0xd3]));
        assert_eq!(guid.bytes()[..8], [0xb2, 0xa1, 0, 0, 0xcb, 0xfa, 0xe6, 0x11]);
        for bad in ["", "x", "{0000a1b2-facb-11e6-bd58-64006a7986d3}", "+000a1b2-facb-11e6-bd58-64006a7986d3"]
        {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_has_one_id() {
        let (dev, ci) = (Guid::of_name("cove-dev"), Guid::of_name("cove-ci"));
        assert_eq!(dev, Guid::of_name("cove-dev"));
        assert_ne!(dev, ci);
        assert_eq!(&dev.to_string()[14..15], "8");
    }
}
