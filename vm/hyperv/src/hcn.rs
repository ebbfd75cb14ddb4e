//! The Host Compute Network: a machine's way out, which is a place at a switch of this computer's. Windows translates
//! addresses there, and answers DHCP and names.
//!
//! Source: Microsoft's "HCN JSON document schemas".

use serde::{Deserialize, Serialize};

use crate::guid::Guid;
use crate::hcs::Failure;

/// The switch that Hyper-V comes with, the same on all computers.
pub const DEFAULT_SWITCH: Guid =
    Guid::new(0xc08c_b7b8, 0x9b3c, 0x408e, [0x8e, 0x30, 0x5e, 0x16, 0xa3, 0xae, 0xb4, 0x44]);

/// A switch of our own, for a Windows that has the hypervisor without that.
pub const OWN_SWITCH: Guid =
    Guid::new(0x7d1c_5b0e, 0x2f4a, 0x4c63, [0x9a, 0x51, 0x63, 0x6f, 0x76, 0x65, 0x00, 0x01]);

/// `EnableDnsProxy` and `EnableDhcpServer`.
const NAMES_AND_ADDRESSES: u32 = 1 | 2;

/// What a machine's adapter is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: Guid,
    /// The adapter's address, `00-15-5D-…`.
    pub mac: String,
}

/// Who makes them.
pub trait Networks {
    /// Makes one; one that was left of the same id goes first.
    ///
    /// # Errors
    /// The service's.
    fn connect(&self, id: Guid) -> Result<Endpoint, Failure>;

    /// Takes one away; one that is not there is as good.
    ///
    /// # Errors
    /// The service's.
    fn disconnect(&self, id: Guid) -> Result<(), Failure>;
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    major: u32,
    minor: u32,
}

const VERSION: Version = Version { major: 2, minor: 0 };

/// The settings of an endpoint at a switch.
#[must_use]
pub fn endpoint(switch: Guid) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Settings {
        schema_version: Version,
        owner: &'static str,
        host_compute_network: String,
    }
    text(&Settings { schema_version: VERSION, owner: "cove", host_compute_network: switch.to_string() })
}

/// The settings of a switch of our own.
#[must_use]
pub fn own_switch() -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Settings {
        schema_version: Version,
        owner: &'static str,
        name: &'static str,
        r#type: &'static str,
        flags: u32,
    }
    text(&Settings {
        schema_version: VERSION,
        owner: "cove",
        name: "Cove",
        r#type: "ICS",
        flags: NAMES_AND_ADDRESSES,
    })
}

/// The adapter's address, of what the service tells of an endpoint.
#[must_use]
pub fn mac(properties: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Properties {
        mac_address: String,
    }
    let found: Properties = serde_json::from_str(properties).ok()?;
    let is_one = found.mac_address.len() == 17
        && found.mac_address.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_one.then_some(found.mac_address)
}

fn text(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("numbers and texts have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_as_the_service_reads_them() {
        assert_eq!(
            endpoint(DEFAULT_SWITCH),
            r#"{"SchemaVersion":{"Major":2,"Minor":0},"Owner":"cove","HostComputeNetwork":"c08cb7b8-9b3c-408e-8e30-5e16a3aeb444"}"#
        );
        assert_eq!(
            own_switch(),
            r#"{"SchemaVersion":{"Major":2,"Minor":0},"Owner":"cove","Name":"Cove","Type":"ICS","Flags":3}"#
        );
    }

    #[test]
    fn the_address_is_found_where_there_is_one() {
        let told = r#"{"ID":"a","MacAddress":"00-15-5D-01-02-03","IPAddress":"172.17.1.2"}"#;
        assert_eq!(mac(told).as_deref(), Some("00-15-5D-01-02-03"));
        for bad in ["", "{}", r#"{"MacAddress":""}"#, r#"{"MacAddress":"00-15-5D-01-02-0\""}"#] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
