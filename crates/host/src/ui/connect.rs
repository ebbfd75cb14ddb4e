//! Putting a container on a network: the form, its command line, and its request.

use std::net::IpAddr;

use api::container::{EndpointIpam, EndpointSettings};
use api::network::ConnectNetwork;
use serde::{Deserialize, Serialize};

use super::error::UiError;
use super::form::{Preview, list};

/// What a user fills in; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectForm {
    /// The network's name.
    pub network: String,
    /// The container's name.
    pub container: String,
    /// Names by which others there find it besides its own, divided by commas.
    pub aliases: String,
    /// Its address there. Empty: the engine chooses, as with the next.
    pub ipv4: String,
    /// Likewise.
    pub ipv6: String,
}

impl ConnectForm {
    /// Checks the form.
    #[must_use]
    pub fn preview(&self) -> Preview {
        self.read().0
    }

    /// What to ask for.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn request(&self) -> Result<ConnectNetwork, UiError> {
        let (preview, request) = self.read();
        preview.check(request)
    }

    fn read(&self) -> (Preview, ConnectNetwork) {
        let mut preview = Preview::of(&["network", "connect"]);
        let aliases: Vec<String> = list(&self.aliases).map(str::to_owned).collect();
        for alias in &aliases {
            preview.option("--alias", alias);
        }
        let mut address =
            |field: &str, option: &str, text: &str, is_fine: fn(&IpAddr) -> bool, sample: &str| {
                let text = text.trim();
                if !text.is_empty() {
                    preview.option(option, text);
                    if !text.parse().is_ok_and(|address| is_fine(&address)) {
                        preview.problem(field, &format!("an address of this version is written as {sample}"));
                    }
                }
                text.to_owned()
            };
        let ipv4 = address("ipv4", "--ip", &self.ipv4, IpAddr::is_ipv4, "10.9.0.5");
        let ipv6 = address("ipv6", "--ip6", &self.ipv6, IpAddr::is_ipv6, "fd00::5");
        let (network, container) = (self.network.trim(), self.container.trim());
        preview.word_or(network, "NETWORK");
        preview.word_or(container, "CONTAINER");
        if network.is_empty() {
            preview.problem("network", "choose a network");
        }
        if container.is_empty() {
            preview.problem("container", "choose a container");
        }
        let has_address = !ipv4.is_empty() || !ipv6.is_empty();
        let ipam = EndpointIpam { ipv4_address: ipv4, ipv6_address: ipv6, link_local_ips: None };
        let request = ConnectNetwork {
            container: container.to_owned(),
            endpoint_config: EndpointSettings {
                aliases: (!aliases.is_empty()).then_some(aliases),
                ipam_config: has_address.then_some(ipam),
                ..EndpointSettings::default()
            },
        };
        (preview, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_asks_only_for_what_was_filled_in() {
        let form =
            ConnectForm { network: "backend".into(), container: "db".into(), ..ConnectForm::default() };
        assert_eq!(form.preview().words.join(" "), "network connect backend db");
        let request = form.request().unwrap();
        assert_eq!(request.endpoint_config, EndpointSettings::default());
        let form = ConnectForm { aliases: "store, main".into(), ipv4: " 10.9.0.5".into(), ..form };
        let wanted = "network connect --alias store --alias main --ip 10.9.0.5 backend db";
        assert_eq!(form.preview().words.join(" "), wanted);
        let settings = form.request().unwrap().endpoint_config;
        assert_eq!(settings.aliases.as_deref(), Some(&["store".to_owned(), "main".to_owned()][..]));
        assert_eq!(settings.ipam_config.unwrap().ipv4_address, "10.9.0.5");
    }

    #[test]
    fn an_address_of_the_other_version_is_a_problem_of_its_field() {
        let form = ConnectForm { ipv4: "fd00::5".into(), ipv6: "10.9".into(), ..ConnectForm::default() };
        let fields: Vec<_> = form.preview().problems.into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["ipv4", "ipv6", "network", "container"]);
        assert!(form.request().is_err());
    }
}
