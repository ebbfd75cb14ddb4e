//! What a guest knows of a share, by its own deeds and by what it was told. Knows no files, so it is tested alone.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The guest's number of the share's own folder.
pub const ROOT: u64 = 1;
/// Names that are remembered; beyond, all are forgotten, and the guest is told of some changes that it made itself.
const MAX_NAMES: usize = 1 << 20;

/// A name in a folder, which the guest knows by a number.
pub type Place = (u64, CString);

/// How a file looked: if it looks so again, nothing has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its number where it is.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// When its content was changed last, in seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// The same of anything of it.
    pub changed: (i64, i64),
    /// What it is.
    pub shape: Shape,
}

impl Stamp {
    fn content(&self) -> (u64, (i64, i64), Shape) {
        (self.size, self.modified, self.shape)
    }
}

/// What kind of a file it is, as far as making and writing one differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With content.
    File,
    /// A directory.
    Folder,
    /// A symbolic one.
    Link,
    /// A pipe, a socket, a device.
    Special,
}

impl Shape {
    /// Of what is a folder, or is not.
    #[must_use]
    pub fn of(is_folder: bool) -> Shape {
        if is_folder { Shape::Folder } else { Shape::File }
    }

    /// Of a file's mode (inode(7)).
    #[must_use]
    pub fn of_mode(mode: u32) -> Shape {
        match mode & 0o170_000 {
            0o040_000 => Shape::Folder,
            0o120_000 => Shape::Link,
            0o100_000 => Shape::File,
            _ => Shape::Special,
        }
    }
}

/// How a file differs from how it looked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// In what is in it.
    Content,
    /// In what is said of it alone, such as its permissions.
    Attributes,
}

/// What a guest is to see of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// That it is one.
    Rename,
    /// Of each name what is right by now.
    Apart {
        /// What had the old name is gone.
        is_gone: bool,
        /// Something has the new name that had it not.
        is_new: bool,
    },
}

/// What is known by a name.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The file's number where it is.
    pub inode: u64,
    /// What it is.
    pub shape: Shape,
    /// The guest's number, if it has looked.
    pub node: Option<u64>,
    /// The guest made it, or was or will be told of it.
    pub is_told: bool,
}

#[derive(Debug)]
struct Node {
    place: Place,
    references: u64,
}

/// What a guest knows.
#[derive(Debug, Default)]
pub struct Known {
    names: HashMap<Place, Name>,
    /// By the host's number of the file, which all its names share.
    stamps: HashMap<u64, Stamp>,
    nodes: HashMap<u64, Node>,
}

impl Known {
    /// The guest was given a number for a name; what it knew of the file before still counts as what it knows. Whether it is a
    /// folder that had lost its name: of what happened in it meanwhile it was not told.
    pub fn looked_up(&mut self, place: Place, node: u64, stamp: Stamp) -> bool {
        let is_found_again =
            stamp.shape == Shape::Folder && self.nodes.contains_key(&node) && !self.is_there(node);
        self.refer(&place, node, stamp.shape == Shape::Folder);
        self.stamps.entry(stamp.inode).or_insert(stamp);
        let new = Name { inode: stamp.inode, shape: stamp.shape, node: None, is_told: false };
        self.names.entry(place).or_insert(new).node = Some(node);
        self.bound();
        is_found_again
    }

    /// The guest made a name.
    pub fn made(&mut self, place: Place, node: u64, stamp: Stamp) {
        self.refer(&place, node, stamp.shape == Shape::Folder);
        self.stamps.insert(stamp.inode, stamp);
        let name = Name { inode: stamp.inode, shape: stamp.shape, node: Some(node), is_told: true };
        self.names.insert(place, name);
        self.bound();
    }

    /// The host made a name, which the guest will be told of.
    pub fn appeared(&mut self, place: Place, stamp: Stamp) {
        self.stamps.insert(stamp.inode, stamp);
        let name = Name { inode: stamp.inode, shape: stamp.shape, node: None, is_told: true };
        self.names.insert(place, name);
        self.bound();
    }

    /// The host gave a file this name, and it looks so now: a new time of change by itself is no change of the file.
    pub fn moved(&mut self, place: Place, stamp: Stamp) {
        let before = self.stamps.entry(stamp.inode).or_insert(stamp);
        if before.content() == stamp.content() {
            *before = stamp;
        }
        let new = Name { inode: stamp.inode, shape: stamp.shape, node: None, is_told: true };
        self.names.entry(place).or_insert(new);
        self.bound();
    }

    /// The guest changed a file, which looks so now.
    pub fn changed(&mut self, stamp: Stamp) {
        self.stamps.insert(stamp.inode, stamp);
    }

    /// Of a file only what is said of it has changed, such as its permissions: one that was not known had this in it before.
    pub fn was_so(&mut self, stamp: Stamp) {
        self.stamps.entry(stamp.inode).or_insert(Stamp { changed: (0, 0), ..stamp });
        self.bound();
    }

    /// A file looks so now; how that differs from what is known, if it does.
    pub fn differs(&mut self, stamp: Stamp) -> Option<Difference> {
        let before = self.stamps.insert(stamp.inode, stamp);
        match before {
            Some(before) if before == stamp => None,
            Some(before) if before.content() == stamp.content() => Some(Difference::Attributes),
            _ if stamp.shape == Shape::File => Some(Difference::Content),
            _ => Some(Difference::Attributes),
        }
    }

    /// A name is gone; what was known by it.
    pub fn removed(&mut self, place: &Place) -> Option<Name> {
        self.names.remove(place)
    }

    /// A name became another; what was known by the first, and by the second before.
    pub fn renamed(&mut self, from: &Place, to: Place) -> (Option<Name>, Option<Name>) {
        let Some(mut name) = self.names.remove(from) else { return (None, self.names.remove(&to)) };
        name.is_told = true;
        if let Some(entry) = name.node.and_then(|node| self.nodes.get_mut(&node)) {
            entry.place = to.clone();
        }
        (Some(name), self.names.insert(to, name))
    }

    /// Two names became each other.
    pub fn exchanged(&mut self, one: &Place, other: &Place) {
        let names = (self.names.remove(one), self.names.remove(other));
        for (name, place) in [(names.0, other), (names.1, one)] {
            let Some(name) = name else { continue };
            if let Some(entry) = name.node.and_then(|node| self.nodes.get_mut(&node)) {
                entry.place = place.clone();
            }
            self.names.insert(place.clone(), name);
        }
    }

    /// Whether the guest made what has this name or was told of it, and holds it: then what happened to the name before is over.
    #[must_use]
    pub fn is_right(&self, place: &Place, stamp: Option<Stamp>) -> bool {
        let known = self.name(place).filter(|name| name.is_told && name.node.is_some());
        known.zip(stamp).is_some_and(|(name, stamp)| name.inode == stamp.inode)
    }

    /// What the guest is to see of it that the host gave what was at `from` the name `to`, a while ago; `was` and `is` are
    /// what is there now.
    #[must_use]
    pub fn see_rename(
        &self,
        (from, was): (&Place, Option<Stamp>),
        (to, is): (&Place, Option<Stamp>),
    ) -> Seen {
        let (is_old_right, is_new_right) = (self.is_right(from, was), self.is_right(to, is));
        // What it holds by the old name is what has the new one, or it holds nothing and finds that.
        let held = self.name(from).filter(|name| name.node.is_some());
        let is_it = held.is_none_or(|held| is.is_some_and(|is| is.inode == held.inode));
        if is_it && !is_old_right && !is_new_right {
            return Seen::Rename;
        }
        Seen::Apart { is_gone: !is_old_right, is_new: !is_new_right }
    }

    /// The guest gave references back; whether it knows that number no longer.
    pub fn forgot(&mut self, node: u64, count: u64) -> bool {
        let Some(entry) = self.nodes.get_mut(&node) else { return false };
        entry.references = entry.references.saturating_sub(count);
        if entry.references > 0 {
            return false;
        }
        if let Some(entry) = self.nodes.remove(&node)
            && let Some(name) = self.names.get_mut(&entry.place)
            && name.node == Some(node)
        {
            name.node = None;
        }
        true
    }

    /// What is known by a name.
    pub fn name(&self, place: &Place) -> Option<Name> {
        self.names.get(place).copied()
    }

    /// The folder of a file that the guest knows by this number.
    pub fn folder(&self, node: u64) -> Option<u64> {
        self.nodes.get(&node).map(|node| node.place.0)
    }

    /// Whether a file that the guest knows by this number still has the name that it was found by.
    pub fn is_there(&self, node: u64) -> bool {
        let place = self.nodes.get(&node).map(|node| &node.place);
        place.and_then(|place| self.names.get(place)).is_some_and(|name| name.node == Some(node))
    }

    /// Whether it has a name, and not this one.
    pub fn is_elsewhere(&self, node: u64, place: &Place) -> bool {
        self.is_there(node) && self.nodes.get(&node).is_some_and(|node| node.place != *place)
    }

    /// The folders that the guest knows by numbers.
    #[must_use]
    pub fn folders(&self) -> Vec<u64> {
        let known = self.names.values().filter(|name| name.shape == Shape::Folder);
        std::iter::once(ROOT).chain(known.filter_map(|name| name.node)).collect()
    }

    /// The place of a path from the share's root, if the guest knows the folder.
    #[must_use]
    pub fn place(&self, path: &[u8]) -> Option<Place> {
        let mut folder = ROOT;
        let mut names = path.split(|byte| *byte == b'/').map(CString::new);
        let mut name = names.next()?.ok()?;
        for next in names {
            folder = self.names.get(&(folder, name))?.node?;
            name = next.ok()?;
        }
        (!name.is_empty()).then_some((folder, name))
    }

    /// The names in each folder.
    pub fn by_folder(&self) -> HashMap<u64, Vec<CString>> {
        let mut folders: HashMap<u64, Vec<CString>> = HashMap::new();
        for (folder, name) in self.names.keys() {
            folders.entry(*folder).or_default().push(name.clone());
        }
        folders
    }

    /// Those in one.
    pub fn names_in(&self, folder: u64) -> Vec<CString> {
        self.names.keys().filter(|(other, _)| *other == folder).map(|(_, name)| name.clone()).collect()
    }

    /// The path of a folder or a name in it, from the share's root.
    pub fn path(&self, folder: u64, name: Option<&CStr>) -> Option<PathBuf> {
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

    fn refer(&mut self, place: &Place, node: u64, is_folder: bool) {
        // A folder is at one place, which is where it was found last.
        let is_elsewhere = is_folder || !self.is_there(node);
        let entry = self.nodes.entry(node).or_insert_with(|| Node { place: place.clone(), references: 0 });
        if is_elsewhere {
            entry.place.clone_from(place);
        }
        entry.references = entry.references.saturating_add(1);
    }

    fn bound(&mut self) {
        if self.names.len().max(self.stamps.len()) > MAX_NAMES {
            self.names.clear();
            self.stamps.clear();
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

    #[test]
    fn a_file_differs_from_how_the_guest_left_it_and_from_nothing_else() {
        let mut known = Known::default();
        known.made(place("a"), 2, stamp(10, 1));
        assert_eq!(known.differs(stamp(10, 1)), None);
        known.changed(stamp(10, 2));
        assert_eq!(known.differs(stamp(10, 2)), None);
        assert_eq!(known.differs(stamp(10, 3)), Some(Difference::Content));
        assert_eq!(known.differs(stamp(10, 3)), None);
        let permissions = Stamp { changed: (4, 0), ..stamp(10, 3) };
        assert_eq!(known.differs(permissions), Some(Difference::Attributes));
        assert_eq!(known.differs(stamp(11, 1)), Some(Difference::Content));
        known.was_so(stamp(12, 1));
        assert_eq!(known.differs(stamp(12, 1)), Some(Difference::Attributes), "that was told of it");
        known.was_so(stamp(12, 2));
        assert_eq!(known.differs(stamp(12, 2)), Some(Difference::Content), "what was known counts");
    }

    #[test]
    fn a_look_by_the_guest_does_not_hide_a_change() {
        let mut known = Known::default();
        known.looked_up(place("a"), 2, stamp(10, 1));
        known.looked_up(place("a"), 2, stamp(10, 2));
        assert_eq!(known.differs(stamp(10, 2)), Some(Difference::Content));
    }

    #[test]
    fn a_rename_takes_its_number_along_and_says_what_was_in_the_way() {
        let mut known = Known::default();
        known.looked_up(place("a"), 2, stamp(10, 1));
        known.looked_up(place("b"), 3, stamp(11, 1));
        let (moved, replaced) = known.renamed(&place("a"), place("b"));
        assert_eq!(
            (moved.and_then(|name| name.node), replaced.and_then(|name| name.node)),
            (Some(2), Some(3))
        );
        assert_eq!(known.name(&place("b")).and_then(|name| name.node), Some(2));
        assert!(known.name(&place("a")).is_none());
    }

    #[test]
    fn a_rename_is_seen_as_one_unless_the_guest_has_been_there_since() {
        let (a, b) = (place("a"), place("b"));
        let mut known = Known::default();
        let see =
            |known: &Known, was: Option<Stamp>, is: Option<Stamp>| known.see_rename((&a, was), (&b, is));
        let apart = |is_gone, is_new| Seen::Apart { is_gone, is_new };
        assert_eq!(see(&known, None, Some(stamp(10, 1))), Seen::Rename, "of what it does not know");
        known.looked_up(a.clone(), 2, stamp(10, 1));
        known.looked_up(b.clone(), 3, stamp(11, 1));
        assert_eq!(see(&known, None, Some(stamp(10, 1))), Seen::Rename);
        assert_eq!(
            see(&known, Some(stamp(12, 1)), Some(stamp(10, 1))),
            Seen::Rename,
            "another has the old name"
        );
        assert_eq!(see(&known, None, Some(stamp(12, 1))), apart(true, true), "another has the new one");
        assert_eq!(see(&known, None, None), apart(true, true), "it is gone already");
        // The guest does the same.
        known.made(a.clone(), 4, stamp(12, 2));
        assert_eq!(see(&known, Some(stamp(12, 2)), Some(stamp(10, 1))), apart(false, true));
        known.renamed(&a, b.clone());
        assert_eq!(see(&known, None, Some(stamp(12, 3))), apart(true, false));
        known.made(a.clone(), 5, stamp(13, 4));
        assert_eq!(see(&known, Some(stamp(13, 4)), Some(stamp(12, 3))), apart(false, false));
    }

    #[test]
    fn a_folder_that_is_found_elsewhere_is_known_there() {
        let mut known = Known::default();
        let folder = Stamp { shape: Shape::Folder, ..stamp(10, 1) };
        assert_eq!([(); 2].map(|()| known.looked_up(place("dir"), 2, folder)), [false, false]);
        known.removed(&place("dir"));
        assert!(known.looked_up(place("moved"), 2, folder));
        assert!(!known.looked_up(place("moved"), 2, folder));
        assert_eq!(known.path(2, Some(c"file")), Some("moved/file".into()));
    }

    #[test]
    fn paths_follow_renames_and_end_when_forgotten() {
        let mut known = Known::default();
        known.looked_up(place("dir"), 2, stamp(10, 1));
        known.looked_up((2, c"file".into()), 3, stamp(11, 1));
        known.renamed(&place("dir"), place("moved"));
        assert_eq!(known.path(2, Some(c"file")), Some("moved/file".into()));
        assert_eq!(known.place(b"moved/file"), Some((2, c"file".into())));
        assert_eq!([known.place(b"dir/file"), known.place(b"")], [None, None]);
        assert!(known.forgot(2, 1));
        assert_eq!(known.path(2, None), None);
    }
}
