//! Changes as Windows records them (`FILE_NOTIFY_INFORMATION`), in their order.

use vm_proto::change::{Deed, Hints};

const ADDED: u32 = 1;
const REMOVED: u32 = 2;
const MODIFIED: u32 = 3;
const RENAMED_FROM: u32 = 4;
const RENAMED_TO: u32 = 5;
/// Bytes before a record's name.
const HEAD: usize = 12;

/// What a path is on the host now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Now {
    Nothing,
    File,
    Folder,
}

/// The records of a buffer: what was done, and to which path, with `/` between names. What is no record ends them.
fn records(mut buffer: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let word = |at: usize| {
            let bytes = buffer.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (Some(next), Some(action), Some(length)) = (word(0), word(4), word(8)) else { return found };
        let (Ok(next), Ok(length)) = (usize::try_from(next), usize::try_from(length)) else { return found };
        let Some(name) = buffer.get(HEAD..).and_then(|rest| rest.get(..length)) else { return found };
        let units: Vec<u16> =
            name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        found.push((action, String::from_utf16_lossy(&units).replace('\\', "/").into_bytes()));
        match buffer.get(next..) {
            Some(rest) if next > 0 => buffer = rest,
            _ => return found,
        }
    }
}

/// What the guest is told of a buffer of records; `look` says what a path is now.
pub(crate) fn deeds(buffer: &[u8], look: impl Fn(&[u8]) -> Now) -> Vec<(Vec<u8>, Deed)> {
    let mut told = Vec::new();
    let mut records = records(buffer).into_iter().peekable();
    while let Some((action, path)) = records.next() {
        let is_folder = || look(&path) == Now::Folder;
        let deed = match action {
            ADDED | RENAMED_TO => Deed::Appeared { is_folder: is_folder() },
            RENAMED_FROM => match records.next_if(|(action, _)| *action == RENAMED_TO) {
                Some((_, to)) => Deed::Renamed { to },
                None => Deed::Disappeared { is_folder: false },
            },
            // It is told of what is written over by a rename, too.
            REMOVED if look(&path) != Now::Nothing => {
                Deed::Unclear(Hints { removed: true, ..Hints::default() })
            }
            REMOVED => Deed::Disappeared { is_folder: false },
            // A folder is modified by what happens in it, which is told by itself.
            MODIFIED if is_folder() => continue,
            MODIFIED => Deed::Touched,
            _ => continue,
        };
        told.push((path, deed));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(records: &[(u32, &str)]) -> Vec<u8> {
        let mut buffer = Vec::new();
        for (at, (action, path)) in records.iter().enumerate() {
            let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let length = (HEAD + name.len()).next_multiple_of(4);
            let next = if at + 1 == records.len() { 0 } else { length };
            for word in [next, usize::try_from(*action).unwrap(), name.len()] {
                buffer.extend(u32::try_from(word).unwrap().to_le_bytes());
            }
            buffer.extend(name);
            buffer.resize(buffer.len().next_multiple_of(4), 0);
        }
        buffer
    }

    #[test]
    fn records_are_deeds_in_their_order() {
        let records = [
            (ADDED, r"dir\new"),
            (MODIFIED, r"dir"),
            (MODIFIED, r"dir\new"),
            (RENAMED_FROM, r"dir\new"),
            (RENAMED_TO, "file"),
            (REMOVED, "gone"),
            (REMOVED, "replaced"),
        ];
        let look = |path: &[u8]| match path {
            b"gone" => Now::Nothing,
            b"dir" => Now::Folder,
            _ => Now::File,
        };
        let expected: [(&str, Deed); 5] = [
            ("dir/new", Deed::Appeared { is_folder: false }),
            ("dir/new", Deed::Touched),
            ("dir/new", Deed::Renamed { to: b"file".to_vec() }),
            ("gone", Deed::Disappeared { is_folder: false }),
            ("replaced", Deed::Unclear(Hints { removed: true, ..Hints::default() })),
        ];
        let expected: Vec<_> =
            expected.into_iter().map(|(path, deed)| (path.as_bytes().to_vec(), deed)).collect();
        assert_eq!(deeds(&buffer(&records), look), expected);
    }

    #[test]
    fn a_record_that_is_cut_off_ends_them() {
        let whole = buffer(&[(ADDED, "aa"), (ADDED, "bb")]);
        for length in 0..whole.len() {
            assert!(deeds(&whole[..length], |_| Now::File).len() < 2);
        }
    }
}
