//! What a guest knows of a share, and which changes on the host it must be told of. Knows no files, so it is tested alone.
//!
//! The host's kernel tells of every change of a folder, the guest's own included. Those are recognised by what the guest
//! left behind: the file it made is there under that name, the file it wrote looks as it did right after.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The guest's number of the share's own folder.
pub(crate) const ROOT: u64 = 1;
/// Names that are remembered; beyond, all are forgotten, and the guest is told of some changes that it made itself.
const MAX_NAMES: usize = 1 << 20;

/// A name in a folder, which the guest knows by a number.
pub(crate) type Place = (u64, CString);

/// How a file looked: if it looks so again, nothing has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
    pub(crate) shape: Shape,
}

/// What kind of a file it is, as far as making one differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    File,
    Folder,
    Link,
}

/// What the host's kernel told of a name, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) appeared: bool,
    pub(crate) disappeared: bool,
}

/// What the guest is to see happen at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created(Shape),
    Modified,
    Removed(Shape),
}

#[derive(Clone, Copy, Debug)]
struct Name {
    stamp: Stamp,
    /// The guest's number, if it has looked.
    node: Option<u64>,
    made_by_guest: bool,
}

#[derive(Debug)]
struct Node {
    place: Place,
    references: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    names: HashMap<Place, Name>,
    /// By the host's number of the file, which all its names share.
    stamps: HashMap<u64, Stamp>,
    nodes: HashMap<u64, Node>,
    removed_by_guest: HashSet<Place>,
}

impl Known {
    /// The guest was given a number for a name; what it knew of the file before still counts as what it knows.
    pub(crate) fn looked_up(&mut self, place: Place, node: u64, stamp: Stamp) {
        self.refer(&place, node);
        self.stamps.entry(stamp.inode).or_insert(stamp);
        let name = self.names.entry(place).or_insert(Name { stamp, node: None, made_by_guest: false });
        name.node = Some(node);
        self.bound();
    }

    /// The guest made a name.
    pub(crate) fn made(&mut self, place: Place, node: u64, stamp: Stamp) {
        self.refer(&place, node);
        self.moved_here(place, Some(node), stamp);
        self.bound();
    }

    fn moved_here(&mut self, place: Place, node: Option<u64>, stamp: Stamp) {
        self.removed_by_guest.remove(&place);
        self.stamps.insert(stamp.inode, stamp);
        self.names.insert(place, Name { stamp, node, made_by_guest: true });
    }

    /// The guest changed a file, which looks so now.
    pub(crate) fn changed(&mut self, stamp: Stamp) {
        self.stamps.insert(stamp.inode, stamp);
    }

    /// The guest removed a name.
    pub(crate) fn removed(&mut self, place: Place) {
        self.names.remove(&place);
        self.removed_by_guest.insert(place);
        self.bound();
    }

    /// The guest renamed.
    pub(crate) fn renamed(&mut self, from: Place, to: Place) {
        let name = self.names.get(&from).copied();
        self.removed(from);
        if let Some(Name { stamp, node, .. }) = name {
            if let Some(entry) = node.and_then(|node| self.nodes.get_mut(&node)) {
                entry.place = to.clone();
            }
            let latest = self.stamps.get(&stamp.inode).copied().unwrap_or(stamp);
            self.moved_here(to, node, latest);
        }
    }

    /// The guest gave references back.
    pub(crate) fn forgot(&mut self, node: u64, count: u64) {
        let Some(entry) = self.nodes.get_mut(&node) else { return };
        entry.references = entry.references.saturating_sub(count);
        if entry.references == 0
            && let Some(entry) = self.nodes.remove(&node)
            && let Some(name) = self.names.get_mut(&entry.place)
            && name.node == Some(node)
        {
            name.node = None;
        }
    }

    /// The number by which the guest knows, or knew last, a name.
    pub(crate) fn node(&self, place: &Place) -> Option<u64> {
        self.names.get(place)?.node
    }

    /// The path of a folder or a name in it, from the share's root.
    pub(crate) fn path(&self, folder: u64, name: Option<&CStr>) -> Option<PathBuf> {
        let mut parts: Vec<&[u8]> = name.map(CStr::to_bytes).into_iter().collect();
        let mut node = folder;
        while node != ROOT {
            let Node { place: (parent, name), .. } = self.nodes.get(&node)?;
            parts.push(name.as_bytes());
            // A guest can't make a circle, but a rename that was missed might have.
            if parts.len() > 1000 {
                return None;
            }
            node = *parent;
        }
        Some(parts.iter().rev().map(|part| OsStr::from_bytes(part)).collect())
    }

    /// What the guest is to be told, in this order, now that a name is as `stamp` says.
    pub(crate) fn decide(&mut self, place: &Place, told: Told, stamp: Option<Stamp>) -> Vec<Change> {
        let known = self.names.get(place).copied();
        let by_guest = self.removed_by_guest.remove(place);
        let Some(stamp) = stamp else {
            let name = self.names.remove(place);
            // What came and went unseen is nothing.
            let unseen = name.is_none() && told.appeared;
            if by_guest || unseen || !told.disappeared {
                return Vec::new();
            }
            return vec![Change::Removed(name.map_or(Shape::File, |name| name.stamp.shape))];
        };
        let mut changes = Vec::new();
        let before = self.stamps.insert(stamp.inode, stamp);
        let replaced = known.filter(|name| name.stamp.inode != stamp.inode);
        if told.appeared || replaced.is_some() {
            if known.is_some_and(|name| name.made_by_guest) && replaced.is_none() {
                // Its own; or, of the same file, a change on the host since.
                let own = before.is_none_or(|before| before == stamp);
                return if own { changes } else { vec![Change::Modified] };
            }
            changes.extend(replaced.map(|name| Change::Removed(name.stamp.shape)));
            changes.push(Change::Created(stamp.shape));
            let node = known.filter(|_| replaced.is_none()).and_then(|name| name.node);
            self.names.insert(place.clone(), Name { stamp, node, made_by_guest: false });
        } else if before != Some(stamp) {
            changes.push(Change::Modified);
        }
        changes
    }

    fn refer(&mut self, place: &Place, node: u64) {
        let entry = self.nodes.entry(node).or_insert_with(|| Node { place: place.clone(), references: 0 });
        entry.references = entry.references.saturating_add(1);
    }

    fn bound(&mut self) {
        if self.names.len().max(self.stamps.len()) + self.removed_by_guest.len() > MAX_NAMES {
            self.names.clear();
            self.stamps.clear();
            self.removed_by_guest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        (ROOT, CString::new(name).unwrap())
    }

    fn stamp(inode: u64, time: i64) -> Stamp {
        Stamp { inode, size: 0, modified: (time, 0), changed: (time, 0), shape: Shape::File }
    }

    const APPEARED: Told = Told { appeared: true, disappeared: false };
    const DISAPPEARED: Told = Told { appeared: false, disappeared: true };
    const TOUCHED: Told = Told { appeared: false, disappeared: false };

    #[test]
    fn what_the_guest_did_itself_it_is_not_told() {
        let mut known = Known::default();
        known.made(place("a"), 2, stamp(10, 1));
        assert_eq!(known.decide(&place("a"), APPEARED, Some(stamp(10, 1))), []);
        known.changed(stamp(10, 2));
        assert_eq!(known.decide(&place("a"), TOUCHED, Some(stamp(10, 2))), []);
        known.renamed(place("a"), place("b"));
        assert_eq!(known.decide(&place("a"), DISAPPEARED, None), []);
        assert_eq!(known.decide(&place("b"), APPEARED, Some(stamp(10, 2))), []);
        known.removed(place("b"));
        assert_eq!(known.decide(&place("b"), DISAPPEARED, None), []);
    }

    #[test]
    fn what_the_host_did_is_told_once() {
        let mut known = Known::default();
        assert_eq!(known.decide(&place("a"), APPEARED, Some(stamp(10, 1))), [Change::Created(Shape::File)]);
        known.looked_up(place("a"), 2, stamp(10, 1));
        assert_eq!(known.decide(&place("a"), TOUCHED, Some(stamp(10, 1))), []);
        assert_eq!(known.decide(&place("a"), TOUCHED, Some(stamp(10, 2))), [Change::Modified]);
        assert_eq!(known.decide(&place("a"), DISAPPEARED, None), [Change::Removed(Shape::File)]);
        assert_eq!(known.decide(&place("passing"), Told { appeared: true, disappeared: true }, None), []);
    }

    #[test]
    fn a_save_by_renaming_over_the_file_is_a_removal_and_a_new_file() {
        let mut known = Known::default();
        known.looked_up(place("a"), 2, stamp(10, 1));
        let told = known.decide(&place("a"), APPEARED, Some(stamp(11, 2)));
        assert_eq!(told, [Change::Removed(Shape::File), Change::Created(Shape::File)]);
    }

    #[test]
    fn a_look_by_the_guest_does_not_hide_a_change() {
        let mut known = Known::default();
        known.looked_up(place("a"), 2, stamp(10, 1));
        known.looked_up(place("a"), 2, stamp(10, 2));
        assert_eq!(known.decide(&place("a"), TOUCHED, Some(stamp(10, 2))), [Change::Modified]);
    }

    #[test]
    fn paths_follow_renames_and_end_when_forgotten() {
        let mut known = Known::default();
        known.looked_up(place("dir"), 2, stamp(10, 1));
        known.looked_up((2, c"file".into()), 3, stamp(11, 1));
        known.renamed(place("dir"), place("moved"));
        assert_eq!(known.path(2, Some(c"file")), Some("moved/file".into()));
        known.forgot(2, 1);
        assert_eq!(known.path(2, None), None);
    }
}
