//! `network` and the verbs behind it, and the flags of `run` that say which networks a container is on.

use std::collections::BTreeMap;

use api::client::Client;
use api::container::{EndpointIpam, EndpointSettings, NetworkingConfig};
use api::network::{ConnectNetwork, CreateNetwork, DisconnectNetwork, Ipam, IpamConfig, Network};
use clap::{Args, Subcommand};

use crate::containers::{each, filters};
use crate::exit::{Failure, Outcome};
use crate::spec::{list, pairs};
use crate::table::{Columns, FormatArgs, Row, print, print_found};
use crate::{printer, terminal};

/// What `network` is followed by.
#[derive(Subcommand, Debug)]
pub(crate) enum NetworkVerb {
    /// Make a network
    Create(Box<CreateArgs>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show all about networks, as JSON
    Inspect(InspectArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Put a container on a network
    Connect(ConnectArgs),
    /// Take a container off a network
    Disconnect(DisconnectArgs),
    /// Remove networks that no container has
    Prune(PruneArgs),
}

/// Flags of `network create`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove network create web
  cove network create --subnet 10.80.0.0/24 --gateway 10.80.0.1 web
  cove network create --internal --ipv6 db
  cove network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 lan")]
pub(crate) struct CreateArgs {
    /// bridge, macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Give its containers addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// Whether to give addresses of IPv4
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    ipv4: bool,
    /// No way out of it, nor into it
    #[arg(long)]
    internal: bool,
    /// Only shown: every network here may be joined by single containers
    #[arg(long)]
    attachable: bool,
    /// What it spans, such as 10.80.0.0/24; one for each version of IP
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// The part of a subnet that is given out
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// This computer's address in it
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// An address of somebody else: name=address
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// An option of the driver, such as com.docker.network.driver.mtu=1400
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// KEY=value
    #[arg(long)]
    label: Vec<String>,
    /// Its name
    name: String,
}

/// Flags of `network ls`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove network ls --filter type=custom\n  cove network ls --format '{{.Name}}: {{.Driver}}'"
)]
pub(crate) struct ListArgs {
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
    /// name=…, driver=…, label=…, type=custom, dangling=true
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
}

/// Flags of `network inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// json, or a Go template: '{{range .IPAM.Config}}{{.Subnet}}{{end}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// Flags of `network rm`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Don't mind those that are not there
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// Flags of `network connect`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove network connect web db\n  cove network connect --alias sql --ip 10.80.0.9 web db"
)]
pub(crate) struct ConnectArgs {
    /// A further name for others to find it by
    #[arg(long)]
    alias: Vec<String>,
    /// CONTAINER[:ALIAS]: a name that it finds another by
    #[arg(long)]
    link: Vec<String>,
    /// Its address of IPv4
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its address of IPv6
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Of several networks, the one of the highest priority leads out
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "NUMBER")]
    gw_priority: i64,
    /// The network
    network: String,
    /// The container
    container: String,
}

/// Flags of `network disconnect`.
#[derive(Args, Debug)]
pub(crate) struct DisconnectArgs {
    /// Also one that does not run any more
    #[arg(short, long)]
    force: bool,
    /// The network
    network: String,
    /// The container
    container: String,
}

/// Flags of `network prune`.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// label=…, until=… (a time, or how long ago)
    #[arg(long)]
    filter: Vec<String>,
}

/// Does what was asked.
pub(crate) async fn dispatch(client: &Client, verb: NetworkVerb) -> Outcome {
    match verb {
        NetworkVerb::Create(args) => create(client, *args).await,
        NetworkVerb::Ls(args) => ls(client, args).await,
        NetworkVerb::Inspect(args) => inspect(client, args).await,
        NetworkVerb::Rm(args) => remove(client, args).await,
        NetworkVerb::Connect(args) => connect(client, args).await,
        NetworkVerb::Disconnect(args) => {
            let disconnect = DisconnectNetwork { container: args.container, force: args.force };
            client.disconnect_network(&args.network, &disconnect).await?;
            Ok(0)
        }
        NetworkVerb::Prune(args) => prune(client, args).await,
    }
}

async fn create(client: &Client, args: CreateArgs) -> Outcome {
    let network = CreateNetwork {
        ipam: Ipam { driver: "default".into(), config: ranges(&args)?, ..Ipam::default() },
        name: args.name,
        driver: args.driver,
        enable_ipv4: Some(args.ipv4),
        enable_ipv6: args.ipv6.then_some(true),
        internal: args.internal,
        attachable: args.attachable,
        options: pairs(&args.opt),
        labels: pairs(&args.label),
        ..CreateNetwork::default()
    };
    printer::line(client.create_network(&network).await?.id);
    Ok(0)
}

/// What belongs to which subnet: the addresses' version of IP tells.
fn ranges(args: &CreateArgs) -> Outcome<Vec<IpamConfig>> {
    let mut ranges: Vec<IpamConfig> = args
        .subnet
        .iter()
        .map(|subnet| IpamConfig { subnet: subnet.clone(), ..IpamConfig::default() })
        .collect();
    let of = |text: &str, what: &str| {
        let at = ranges.iter().position(|range| range.subnet.contains(':') == text.contains(':'));
        at.ok_or_else(|| Failure::new(format!("{what} {text} needs a --subnet of its version of IP")))
    };
    let mut found = Vec::new();
    for range in &args.ip_range {
        found.push((of(range, "--ip-range")?, "range", String::new(), range.clone()));
    }
    for gateway in &args.gateway {
        found.push((of(gateway, "--gateway")?, "gateway", String::new(), gateway.clone()));
    }
    for pair in &args.aux_address {
        let (name, address) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("invalid --aux-address '{pair}': expected name=address")))?;
        found.push((of(address, "--aux-address")?, "aux", name.to_owned(), address.to_owned()));
    }
    for (at, what, name, value) in found {
        let Some(range) = ranges.get_mut(at) else { continue };
        match what {
            "range" => range.ip_range = value,
            "gateway" => range.gateway = value,
            _ => drop(range.auxiliary_addresses.insert(name, value)),
        }
    }
    Ok(ranges)
}

const NETWORKS: &Columns = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("CreatedAt", "CREATED AT"),
    ("Labels", "LABELS"),
];

async fn ls(client: &Client, args: ListArgs) -> Outcome {
    let all = client.list_networks(&filters(&args.filter)?).await?;
    let id = |network: &Network| {
        if args.no_trunc { network.id.clone() } else { network.id.chars().take(12).collect() }
    };
    if args.quiet {
        all.iter().for_each(|network| printer::line(id(network)));
        return Ok(0);
    }
    let row = |network: &Network| {
        let labels: Vec<String> =
            network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Row::new(
            NETWORKS,
            [
                id(network),
                network.name.clone(),
                network.driver.clone(),
                network.scope.clone(),
                network.enable_ipv4.to_string(),
                network.enable_ipv6.to_string(),
                network.internal.to_string(),
                network.created.clone(),
                labels.join(","),
            ],
        )
    };
    print(&args.format, NETWORKS, 4, all.iter().map(row).collect())?;
    Ok(0)
}

async fn inspect(client: &Client, args: InspectArgs) -> Outcome {
    let mut found = Vec::new();
    let mut worst = 0;
    for name in &args.names {
        match client.inspect_network(name).await {
            Ok(network) => found.push(serde_json::to_value(network).unwrap_or_default()),
            Err(error) => {
                printer::failure(&error.into());
                worst = 1;
            }
        }
    }
    print_found(args.format.as_deref(), found)?;
    Ok(worst)
}

async fn remove(client: &Client, args: RemoveArgs) -> Outcome {
    let is_forced = args.force;
    each(&args.names, |name| async move {
        match client.remove_network(&name).await {
            Err(error) if is_forced && error.kind() == api::client::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })
    .await
}

async fn connect(client: &Client, args: ConnectArgs) -> Outcome {
    let connect = ConnectNetwork {
        container: args.container,
        endpoint_config: EndpointSettings {
            ipam_config: ipam(args.ip.as_deref(), args.ip6.as_deref()),
            links: list(&args.link),
            aliases: list(&args.alias),
            gw_priority: args.gw_priority,
            ..EndpointSettings::default()
        },
    };
    client.connect_network(&args.network, &connect).await?;
    Ok(0)
}

async fn prune(client: &Client, args: PruneArgs) -> Outcome {
    if !args.force && !terminal::agrees("all networks that no container has")? {
        return Ok(0);
    }
    let removed = client.prune_networks(&filters(&args.filter)?).await?;
    for name in removed.networks_deleted.iter().flatten() {
        printer::line(name);
    }
    Ok(0)
}

fn ipam(v4: Option<&str>, v6: Option<&str>) -> Option<EndpointIpam> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    (v4.is_some() || v6.is_some()).then(|| EndpointIpam {
        ipv4_address: text(v4),
        ipv6_address: text(v6),
        link_local_ips: None,
    })
}

/// Flags of `run` and `create` about networks.
#[derive(Args, Debug)]
pub(crate) struct NetworkFlags {
    /// A network, none, host or container:NAME; with options: name=web,alias=db,ip=10.80.0.9
    #[arg(long, alias = "net")]
    network: Vec<String>,
    /// A further name for others on its network to find it by
    #[arg(long, alias = "net-alias", value_name = "ALIAS")]
    network_alias: Vec<String>,
    /// Its address of IPv4
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its address of IPv6
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Its hardware address: 92:d0:c6:0a:29:33
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// CONTAINER[:ALIAS]: a name that it finds another by
    #[arg(long)]
    link: Vec<String>,
}

impl NetworkFlags {
    /// The mode: the first network.
    pub(crate) fn mode(&self) -> Outcome<String> {
        Ok(match self.network.first() {
            Some(text) => parse(text)?.0,
            None => "default".into(),
        })
    }

    /// Links, which for the default bridge are not the network's.
    pub(crate) fn links(&self) -> Option<Vec<String>> {
        list(&self.link)
    }

    /// What is asked of each network.
    pub(crate) fn endpoints(&self) -> Outcome<NetworkingConfig> {
        let mut endpoints = BTreeMap::new();
        for text in &self.network {
            let (name, endpoint) = parse(text)?;
            if endpoints.insert(name.clone(), Some(endpoint)).is_some() {
                return Err(Failure::new(format!("network {name:?} is specified multiple times")));
            }
        }
        let is_asked = !self.network_alias.is_empty()
            || self.ip.is_some()
            || self.ip6.is_some()
            || self.mac_address.is_some();
        if is_asked {
            // Flags of their own are about the first network.
            let first: &mut EndpointSettings =
                endpoints.entry(self.mode()?).or_default().get_or_insert_default();
            let aliases = first.aliases.get_or_insert_default();
            aliases.extend(self.network_alias.iter().cloned());
            if aliases.is_empty() {
                first.aliases = None;
            }
            if let Some(ipam) = ipam(self.ip.as_deref(), self.ip6.as_deref()) {
                first.ipam_config = Some(ipam);
            }
            if let Some(mac) = &self.mac_address {
                first.mac_address.clone_from(mac);
            }
        }
        // A mode that is no network of its own has none, unless something is asked of it.
        if endpoints.len() == 1 {
            endpoints.retain(|name, endpoint| {
                !matches!(name.as_str(), "none" | "host") && !name.starts_with("container:")
                    || endpoint.as_ref().is_some_and(|endpoint| *endpoint != EndpointSettings::default())
            });
        }
        Ok(NetworkingConfig { endpoints_config: endpoints })
    }
}

/// `NAME`, or `name=NAME,alias=…,ip=…` as Docker has it.
fn parse(text: &str) -> Outcome<(String, EndpointSettings)> {
    let mut endpoint = EndpointSettings::default();
    if !text.contains('=') {
        return Ok((text.to_owned(), endpoint));
    }
    let (mut name, mut v4, mut v6) = (None, None, None);
    for field in text.split(',') {
        let bad = || Failure::new(format!("invalid field {field:?} in --network {text}"));
        let (key, value) = field.split_once('=').ok_or_else(bad)?;
        let value = value.to_owned();
        match key {
            "name" => name = Some(value),
            "alias" => endpoint.aliases.get_or_insert_default().push(value),
            "link" => endpoint.links.get_or_insert_default().push(value),
            "ip" => v4 = Some(value),
            "ip6" => v6 = Some(value),
            "mac-address" => endpoint.mac_address = value,
            "gw-priority" => endpoint.gw_priority = value.parse().map_err(|_| bad())?,
            "driver-opt" => {
                let (option, value) = value.split_once('=').ok_or_else(bad)?;
                endpoint.driver_opts.get_or_insert_default().insert(option.to_owned(), value.to_owned());
            }
            _ => return Err(bad()),
        }
    }
    endpoint.ipam_config = ipam(v4.as_deref(), v6.as_deref());
    let name = name.ok_or_else(|| Failure::new(format!("--network {text} has no name=…")))?;
    Ok((name, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_in_both_forms() {
        assert_eq!(parse("web").unwrap(), ("web".to_owned(), EndpointSettings::default()));
        let (name, endpoint) = parse("name=web,alias=a,alias=b,ip=10.0.0.9,gw-priority=2").unwrap();
        assert_eq!(name, "web");
        assert_eq!(endpoint.aliases.unwrap(), ["a", "b"]);
        assert_eq!(
            (endpoint.ipam_config.unwrap().ipv4_address.as_str(), endpoint.gw_priority),
            ("10.0.0.9", 2)
        );
        for bad in ["alias=a", "name=web,frob=1", "name=web,gw-priority=x", "name=web,alias"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
