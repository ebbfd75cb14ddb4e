//! The index in memory: images with their names, and layers.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Digest, Reference};

use super::{ImageRecord, Names, familiar, parse_config};
use crate::database::{Database, LayerRow};
use crate::error::{Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) images: HashMap<Digest, Arc<ImageRecord>>,
    names: Names,
    /// What names, and images by their ids, came by, where that is more than one manifest.
    origins: HashMap<String, Digest>,
    pub(crate) layers: HashMap<Digest, LayerRow>,
}

impl Index {
    pub(super) fn load(database: &Database) -> Result<Self> {
        let mut index = Self::default();
        for layer in database.layers()? {
            index.layers.insert(layer.diff_id, layer);
        }
        for image in database.images()? {
            index.add(image.id, image.config, image.parent)?;
        }
        for row in database.names()? {
            index.set_name(row.name, row.image, None);
        }
        index.origins.extend(database.origins()?);
        Ok(index)
    }

    /// Adds an image; one that is there keeps its parent unless it gets another.
    pub(super) fn add(&mut self, id: Digest, raw: Vec<u8>, parent: Option<Digest>) -> Result<()> {
        let config = parse_config(&raw)?;
        let size = config
            .rootfs
            .diff_ids
            .iter()
            .filter_map(|diff_id| self.layers.get(diff_id))
            .map(|l| l.size)
            .sum();
        let parent = parent.or_else(|| self.images.get(&id)?.parent);
        let record = ImageRecord {
            id,
            parent,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created: config.created.unwrap_or_default(),
            size,
            config: config.config.unwrap_or_default().into(),
            architecture: config.architecture,
            os: config.os,
            variant: config.variant,
            author: config.author,
            comment: config.comment,
            docker_version: config.docker_version,
            diff_ids: config.rootfs.diff_ids,
            history: config.history,
            raw_config: raw,
        };
        self.images.insert(id, Arc::new(record));
        self.refresh(&id);
        Ok(())
    }

    /// Gives a name to an image, taking it from another.
    pub(super) fn set_name(&mut self, name: String, id: Digest, root: Option<Digest>) {
        match root {
            Some(root) => drop(self.origins.insert(name.clone(), root)),
            None => drop(self.origins.remove(&name)),
        }
        let before = self.names.insert(name, id);
        if let Some(before) = before {
            self.refresh(&before);
        }
        self.refresh(&id);
    }

    pub(super) fn set_origin(&mut self, image: &Digest, root: Digest) {
        self.origins.insert(image.to_string(), root);
    }

    /// What a name, or the id of an image, leads to where that is more than one manifest.
    pub(super) fn origin(&self, name: &str) -> Option<Digest> {
        let id = || self.resolve(name).ok().map(|image| image.id.to_string());
        self.origins.get(&self.stored_name(name).or_else(id)?).copied()
    }

    /// What anything here came by.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Digest> {
        self.origins.values()
    }

    pub(super) fn remove_name(&mut self, name: &str) {
        self.origins.remove(name);
        if let Some(id) = self.names.remove(name) {
            self.refresh(&id);
        }
    }

    pub(super) fn remove_image(&mut self, id: &Digest) {
        self.images.remove(id);
        for child in self.images.values_mut().filter(|image| image.parent == Some(*id)) {
            Arc::make_mut(child).parent = None;
        }
        self.origins.remove(&id.to_string());
        let origins = &mut self.origins;
        self.names.retain(|name, image| {
            let is_kept = image != id;
            if !is_kept {
                origins.remove(name);
            }
            is_kept
        });
    }

    pub(super) fn names_of(&self, id: &Digest) -> Vec<String> {
        self.names.iter().filter(|(_, image)| *image == id).map(|(name, _)| name.clone()).collect()
    }

    /// Writes an image's names into its record.
    fn refresh(&mut self, id: &Digest) {
        let names = self.names_of(id);
        if let Some(image) = self.images.get_mut(id) {
            let (digests, tags): (Vec<String>, Vec<String>) =
                names.iter().map(|name| familiar(name)).partition(|n| n.contains('@'));
            let image = Arc::make_mut(image);
            image.repo_tags = tags;
            image.repo_digests = digests;
        }
    }

    /// A name as it is kept, where it is one.
    pub(super) fn stored_name(&self, name: &str) -> Option<String> {
        self.known_name(name).map(|(name, _)| name.clone())
    }

    /// The name as it is kept, and the image's id.
    fn known_name(&self, name: &str) -> Option<(&String, &Digest)> {
        let reference = name.parse::<Reference>().ok()?;
        let is_there = |(_, id): &(&String, &Digest)| self.images.contains_key(id);
        let exact = self.names.get_key_value(&reference.to_string()).filter(is_there);
        // With tag and digest both, the digest decides.
        exact.or_else(|| {
            let by_digest = reference.at(reference.digest()?).to_string();
            self.names.get_key_value(&by_digest).filter(is_there)
        })
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Arc<ImageRecord>> {
        let missing = || Error::NoSuchImage { name: name.to_owned() };
        let by_id = |id: &Digest| self.images.get(id).cloned();
        if let Ok(digest) = name.parse::<Digest>() {
            return by_id(&digest).ok_or_else(missing);
        }
        if let Some(image) = self.known_name(name).and_then(|(_, id)| by_id(id)) {
            return Ok(image);
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(missing());
        }
        let mut matches = self.images.values().filter(|image| image.id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(image), None) => Ok(Arc::clone(image)),
            (Some(_), Some(_)) => Err(Error::AmbiguousId { prefix: name.to_owned() }),
            (None, _) => Err(missing()),
        }
    }
}
