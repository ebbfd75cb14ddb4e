//! Copies of a guest's memory, most of which is zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

/// How much is copied at once; what is zero in it is left out in pieces of [`PAGE`].
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Copies what is in a file, without its holes and without what is zero, to an empty one of the same length.
pub(crate) fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        at = data;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..wanted];
            from.read_exact_at(piece, at)?;
            write_used(piece, to, at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}

/// Writes runs of pages that are not all zero.
fn write_used(piece: &[u8], to: &File, at: u64) -> io::Result<()> {
    let mut run: Option<usize> = None;
    let mut pages = piece.chunks(PAGE).enumerate().peekable();
    while let Some((number, page)) = pages.next() {
        let is_used = page.iter().any(|byte| *byte != 0);
        if is_used {
            run.get_or_insert(number * PAGE);
        }
        let ends = !is_used || pages.peek().is_none();
        if ends && let Some(start) = run.take() {
            let end = if is_used { number * PAGE + page.len() } else { number * PAGE };
            to.write_all_at(piece.get(start..end).unwrap_or_default(), at + start as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn a_copy_is_the_same_and_takes_no_more(pieces: Vec<(u16, bool, u8)>) {
            let dir = tempfile::tempdir().unwrap();
            let open = |name: &str| {
                File::options().create(true).truncate(true).read(true).write(true).open(dir.path().join(name)).unwrap()
            };
            let (from, to) = (open("from"), open("to"));
            from.set_len(4 << 20).unwrap();
            for (at, is_zero, byte) in pieces {
                let bytes = vec![if is_zero { 0 } else { byte }; 3000];
                from.write_all_at(&bytes, u64::from(at) * 61 % ((4 << 20) - 3000)).unwrap();
            }
            copy_sparse(&from, &to).unwrap();
            let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
            proptest::prop_assert!(read("from") == read("to"));
            proptest::prop_assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
        }
    }
}
