//! Changes of a system that merges what happens quickly and tells of paths, not of deeds, as macOS' FSEvents does: what each
//! came to is found out in the guest, by a look.

use std::collections::HashMap;

use vm_proto::change::{Deed, Hints};

/// What is told of a path (`FSEventStreamEventFlags`).
mod flag {
    pub(super) const MUST_SCAN: u32 = 0x1;
    pub(super) const DROPPED: u32 = 0x2 | 0x4;
    pub(super) const ROOT_CHANGED: u32 = 0x20;
    pub(super) const CREATED: u32 = 0x100;
    pub(super) const REMOVED: u32 = 0x200;
    pub(super) const RENAMED: u32 = 0x800;
    pub(super) const MODIFIED: u32 = 0x1000;
}

/// What is told at once of one path, from the share's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) path: Vec<u8>,
    pub(crate) flags: u32,
    /// The file's number; zero where none is told.
    pub(crate) file: u64,
}

/// What the guest is told, in the order of the first word of each path; but both names of a renamed file follow each other.
pub(crate) fn deeds(told: Vec<Merged>) -> Vec<(Vec<u8>, Deed)> {
    let mut found: Vec<(Vec<u8>, Deed)> = Vec::new();
    let mut places: HashMap<(Vec<u8>, u64), usize> = HashMap::new();
    let mut halves: HashMap<u64, usize> = HashMap::new();
    for Merged { path, flags, file } in told {
        let has = |what: u32| flags & what != 0;
        if has(flag::DROPPED | flag::ROOT_CHANGED) {
            return vec![(Vec::new(), Deed::Lost)];
        }
        if has(flag::MUST_SCAN) {
            found.push((path, Deed::Lost));
            continue;
        }
        let new = Hints {
            created: has(flag::CREATED),
            removed: has(flag::REMOVED),
            renamed: has(flag::RENAMED),
            modified: has(flag::MODIFIED),
            file,
        };
        let known = places.get(&(path.clone(), file)).and_then(|at| found.get_mut(*at));
        if let Some((_, Deed::Unclear(hints))) = known {
            hints.created |= new.created;
            hints.removed |= new.removed;
            hints.renamed |= new.renamed;
            hints.modified |= new.modified;
            continue;
        }
        let other = halves.remove(&file).filter(|_| new.renamed && file != 0);
        // Others move on by one.
        let at = other.map_or(found.len(), |other| other + 1);
        for place in places.values_mut().chain(halves.values_mut()).filter(|place| **place >= at) {
            *place += 1;
        }
        places.insert((path.clone(), file), at);
        if new.renamed && file != 0 && other.is_none() {
            halves.insert(file, at);
        }
        found.insert(at, (path, Deed::Unclear(new)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, flags: u32, file: u64) -> Merged {
        Merged { path: path.into(), flags, file }
    }

    fn paths(told: Vec<Merged>) -> Vec<String> {
        deeds(told).into_iter().map(|(path, _)| String::from_utf8(path).unwrap()).collect()
    }

    #[test]
    fn both_names_of_a_renamed_file_follow_each_other() {
        let saved = vec![
            told("new", flag::CREATED | flag::RENAMED | flag::MODIFIED, 7),
            told("other", flag::MODIFIED, 8),
            told("file", flag::RENAMED, 7),
            told("last", flag::MODIFIED, 9),
        ];
        assert_eq!(paths(saved), ["new", "file", "other", "last"]);
    }

    #[test]
    fn what_is_told_of_a_path_is_told_once() {
        let written = vec![told("a", flag::CREATED, 7), told("b", 0, 8), told("a", flag::MODIFIED, 7)];
        let found = deeds(written);
        let hints = Hints { created: true, modified: true, file: 7, ..Hints::default() };
        assert_eq!(found.first(), Some(&(b"a".to_vec(), Deed::Unclear(hints))));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_was_dropped_is_looked_for_everywhere_and_what_was_merged_below_where_it_was() {
        let merged = vec![told("a", flag::MODIFIED, 7), told("dir", flag::MUST_SCAN, 0)];
        assert_eq!(deeds(merged.clone()).last(), Some(&(b"dir".to_vec(), Deed::Lost)));
        let dropped = [merged, vec![told("", flag::MUST_SCAN | flag::DROPPED, 0)]].concat();
        assert_eq!(deeds(dropped), [(Vec::new(), Deed::Lost)]);
    }
}
