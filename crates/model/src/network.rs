//! What a network is asked to be, and what a container asks of one. The engine keeps these as records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A network. Addresses are as the caller wrote them until they are checked; after that they are complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Its name, which no other has.
    pub name: String,
    /// `bridge`, `macvlan` or `ipvlan`.
    pub driver: String,
    /// Whether it speaks IPv4.
    pub has_v4: bool,
    /// Whether it speaks IPv6.
    pub has_v6: bool,
    /// Whether there is no way out of it.
    pub is_internal: bool,
    /// Whether single containers may join a cluster's network; only shown.
    pub is_attachable: bool,
    /// Where addresses come from.
    pub ranges: Vec<RangeSpec>,
    /// What was said to whoever chooses addresses; only shown.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// User's key and value pairs.
    pub labels: BTreeMap<String, String>,
}

/// Where addresses come from. Empty is left to the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RangeSpec {
    /// `172.20.0.0/16`.
    pub subnet: String,
    /// The part of it that is given out.
    pub range: String,
    /// The address of this computer.
    pub gateway: String,
    /// Addresses of others, by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// What a container asks of a network. Empty is left to the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// Further names for others to find it by.
    pub aliases: Vec<String>,
    /// `container:alias`: names that it finds others by.
    pub links: Vec<String>,
    /// Its address of IPv4.
    pub v4: String,
    /// Its address of IPv6.
    pub v6: String,
    /// Further addresses, of the link alone.
    pub link_local: Vec<String>,
    /// Its hardware address.
    pub mac: String,
    /// Which network's gateway leads out: the highest.
    pub priority: i64,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}
