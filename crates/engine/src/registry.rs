//! Every container, found by id, by name, or by the beginning of its id.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use crate::container::Container;
use crate::error::{Error, Result};

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Also names of containers that are being created.
    by_name: HashMap<String, String>,
}

impl Registry {
    /// Takes a name for a container to be.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(by) = index.by_name.get(name) {
            return Err(Error::NameTaken { name: name.to_owned(), by: by.clone() });
        }
        index.by_name.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives a name back.
    pub(crate) fn release(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).by_name.remove(name);
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        index.by_name.insert(container.name(), container.id.clone());
        index.by_id.insert(container.id.clone(), container);
    }

    pub(crate) fn remove(&self, container: &Container) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let name = container.name();
        // Another may have it by now.
        if index.by_name.get(&name) == Some(&container.id) {
            index.by_name.remove(&name);
        }
        index.by_id.remove(&container.id);
    }

    /// Finds by full id, by name, then by a prefix of the id, as Docker does.
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<Container>> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::NoSuchContainer { name: wanted.to_owned() };
        if let Some(container) = index.by_id.get(wanted) {
            return Ok(Arc::clone(container));
        }
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(id) = index.by_name.get(name) {
            // A name without a container belongs to one that is still being made.
            return index.by_id.get(id).cloned().ok_or_else(missing);
        }
        if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut matches = index.by_id.range(wanted.to_owned()..).take_while(|(id, _)| id.starts_with(wanted));
        match (matches.next(), matches.next()) {
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(Error::AmbiguousId { prefix: wanted.to_owned() }),
            (None, _) => Err(missing()),
        }
    }

    /// All of them, the newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = index.by_id.values().cloned().collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.created));
        all
    }
}
