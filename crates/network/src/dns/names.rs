//! Which names lead where, by network.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

/// The names of every network of an engine.
#[derive(Debug, Default)]
pub struct Names(RwLock<HashMap<String, Network>>);

#[derive(Debug, Default)]
struct Network {
    /// The network's own name, which containers' may be followed by.
    domain: String,
    members: BTreeMap<String, Member>,
    /// Lower-case names, each with the members that have it.
    index: HashMap<String, Vec<String>>,
}

#[derive(Debug, Clone)]
struct Member {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    /// Lets a container be found on a network: `names` without regard to case, the first of them also the
    /// other way round.
    pub fn insert(&self, network: &str, domain: &str, key: &str, names: &[String], addresses: &[IpAddr]) {
        self.remove(network, key);
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let network = all.entry(network.to_owned()).or_default();
        domain.to_ascii_lowercase().clone_into(&mut network.domain);
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        for name in &names {
            network.index.entry(name.clone()).or_default().push(key.to_owned());
        }
        network.members.insert(key.to_owned(), Member { names, addresses: addresses.to_vec() });
    }

    /// Lets it no longer be found.
    pub fn remove(&self, network: &str, key: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = all.get_mut(network) else { return };
        let Some(member) = found.members.remove(key) else { return };
        for name in member.names {
            if let Some(keys) = found.index.get_mut(&name) {
                keys.retain(|other| other != key);
                if keys.is_empty() {
                    found.index.remove(&name);
                }
            }
        }
        if found.members.is_empty() {
            all.remove(network);
        }
    }

    /// Where a name leads on one of these networks, the first that knows it; nowhere: none knows it.
    pub(crate) fn find(&self, networks: &[String], name: &str) -> Option<Vec<IpAddr>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().filter_map(|id| all.get(id)).find_map(|network| {
            let bare = || name.strip_suffix(network.domain.as_str())?.strip_suffix('.');
            let keys = network.index.get(name).or_else(|| network.index.get(bare()?))?;
            let members = keys.iter().filter_map(|key| network.members.get(key));
            Some(members.flat_map(|member| member.addresses.iter().copied()).collect())
        })
    }

    /// Whose an address is.
    pub(crate) fn reverse(&self, networks: &[String], address: IpAddr) -> Option<String> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().filter_map(|id| all.get(id)).find_map(|network| {
            let member = network.members.values().find(|member| member.addresses.contains(&address))?;
            Some(format!("{}.{}", member.names.first()?, network.domain))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_members_while_they_are_there() {
        let names = Names::default();
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        names.insert("n", "Net", "a", &list(&["web-1", "Web", "web-1"]), &[one]);
        names.insert("n", "net", "b", &list(&["web-2", "web"]), &[two]);
        let on = list(&["n"]);
        assert_eq!(names.find(&on, "web"), Some(vec![one, two]), "several behind one alias");
        assert_eq!(names.find(&on, "web-2.net"), Some(vec![two]));
        assert_eq!(names.find(&on, "web-2.other"), None);
        assert_eq!(names.find(&list(&["m"]), "web"), None, "other networks don't know it");
        assert_eq!(names.reverse(&on, one).as_deref(), Some("web-1.net"));
        names.remove("n", "a");
        assert_eq!(names.find(&on, "web"), Some(vec![two]));
        assert_eq!(names.find(&on, "web-1"), None);
        names.remove("n", "b");
        assert!(names.0.read().unwrap().is_empty());
    }
}
