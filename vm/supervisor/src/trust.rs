//! What the guest takes over from this computer: certificates it trusts, proxies.

/// Used on macOS, tested everywhere.
#[cfg(any(target_os = "macos", test))]
pub(crate) mod domains;
mod pem;

use crate::platform;
pub(crate) use pem::Bundle;

/// Bytes: all of a guest's configuration must fit into one message.
pub(crate) const LIMIT: usize = 2 << 20;

/// Certificates (PEM) that people made this computer trust, and those of `SSL_CERT_FILE`. Blocks.
pub(crate) fn certificates() -> String {
    let mut bundle = Bundle::new(LIMIT);
    platform::add_certificates(&mut bundle);
    // What is no text is no PEM.
    if let Some(Ok(text)) = std::env::var_os("SSL_CERT_FILE").map(std::fs::read_to_string) {
        bundle.add_text(&text);
    }
    bundle.into_text()
}

/// What a guest knows its host by.
pub(crate) const HOST: &str = "host.docker.internal";

/// Variables that name proxies. One on this computer's loopback is reached by the way out, which is `host` for the guest.
pub(crate) fn proxies(host: Option<&str>) -> Vec<(String, String)> {
    let set = stdx::process::PROXIES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    set.map(|(name, value)| {
        let is_list = name.eq_ignore_ascii_case("no_proxy");
        let value = host.filter(|_| !is_list).map_or(value.clone(), |host| seen_from_inside(&value, host));
        (name, value)
    })
    .collect()
}

fn seen_from_inside(proxy: &str, host: &str) -> String {
    for loopback in ["127.0.0.1", "localhost", "[::1]"] {
        for before in ["://", "@"] {
            let here = format!("{before}{loopback}:");
            if proxy.contains(&here) {
                return proxy.replace(&here, &format!("{before}{host}:"));
            }
        }
    }
    proxy.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_on_this_computer_is_reached_from_inside() {
        for (given, expected) in [
            ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
            ("http://me:pw@localhost:3128/", "http://me:pw@10.0.2.2:3128/"),
            ("http://proxy.example:3128", "http://proxy.example:3128"),
        ] {
            assert_eq!(seen_from_inside(given, "10.0.2.2"), expected);
        }
    }
}
