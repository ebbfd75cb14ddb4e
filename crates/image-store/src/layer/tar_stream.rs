//! Reads a tar archive entry by entry: ustar, PAX and GNU, as layers are written in.
//!
//! Our own, because attribute values hold any byte (newlines too, which the `tar` package's PAX
//! reader splits at), and because unpacking layers is what a pull takes its time for.

use std::io::{self, Read};

use tar::{EntryType, Header};

/// PAX and GNU headers longer than this describe no file.
const MAX_EXTENSION: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// One entry, its extensions applied.
#[derive(Debug)]
pub(crate) struct TarEntry {
    pub(crate) header: Header,
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// Seconds since the epoch, and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Extended attributes.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the file; for a sparse one, holes included.
    pub(crate) size: u64,
    /// Parts of a sparse file that hold data: offset and length.
    pub(crate) parts: Option<Vec<(u64, u64)>>,
}

/// An archive being read.
pub(crate) struct TarStream<R> {
    inner: R,
    /// Bytes of the current entry's data not read yet, and of its padding.
    left: u64,
    padding: u64,
    /// Values of PAX global headers.
    global: Vec<(Vec<u8>, Vec<u8>)>,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, global: Vec::new() }
    }

    /// The next entry; `None` at the archive's end. What was not read of the last one is passed over.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<TarEntry>> {
        let mut pax = self.global.clone();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => pax.extend(parse_pax(&self.read_extension(size)?)?),
                EntryType::XGlobalHeader => {
                    self.global = parse_pax(&self.read_extension(size)?)?;
                    pax.extend(self.global.clone());
                }
                EntryType::GNULongName => long_path = Some(terminated(self.read_extension(size)?)),
                EntryType::GNULongLink => long_link = Some(terminated(self.read_extension(size)?)),
                _ => return self.entry(header, &pax, long_path, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: Header,
        pax: &[(Vec<u8>, Vec<u8>)],
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<TarEntry> {
        // Of several values the last counts, as POSIX has it; an empty one takes the value away.
        let value = |key: &[u8]| {
            pax.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_slice()).filter(|v| !v.is_empty())
        };
        let number = |key: &[u8]| value(key).map(parse_decimal).transpose();
        let stored = match number(b"size")? {
            Some(size) => size,
            None => header.entry_size()?,
        };
        let path = long_path
            .or_else(|| value(b"path").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link
            .or_else(|| value(b"linkpath").map(<[u8]>::to_vec))
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let mut kind = header.entry_type();
        // Before POSIX, a directory was a file whose name ends with a slash.
        if kind == EntryType::Regular && header.as_old().linkflag[0] == 0 && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let holds_data = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        // Links and directories may carry a size that means nothing, yet unknown kinds do carry data.
        let has_none = matches!(
            kind,
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Directory
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
        );
        self.left = if has_none && kind != EntryType::Directory { 0 } else { stored };
        self.padding = (BLOCK - self.left % BLOCK) % BLOCK;
        let mut size = if holds_data { stored } else { 0 };
        let mut parts = None;
        let mut real_path = path;
        if kind == EntryType::GNUSparse {
            let (real, found) = self.gnu_parts(&header)?;
            (size, parts) = (real, Some(found));
        } else if holds_data && value(b"GNU.sparse.major").is_some_and(|major| major == b"1") {
            size =
                number(b"GNU.sparse.realsize")?.ok_or_else(|| malformed("a sparse file without its size"))?;
            parts = Some(self.pax_parts()?);
        }
        if let Some(name) = value(b"GNU.sparse.name") {
            real_path = name.to_vec();
        }
        let old = header.as_old();
        let uid = number(b"uid")?.map_or_else(|| id(&old.uid, header.uid()), narrow)?;
        let gid = number(b"gid")?.map_or_else(|| id(&old.gid, header.gid()), narrow)?;
        let mtime = match value(b"mtime") {
            Some(text) => parse_time(text)?,
            None => (header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0), 0),
        };
        let attributes = pax
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())))
            .collect();
        let mode = header.mode()? & 0o7777;
        Ok(TarEntry { header, kind, path: real_path, link, uid, gid, mode, mtime, attributes, size, parts })
    }

    /// The header of the next entry; `None` at two blocks of zeros, or at the end of the stream,
    /// which some writers leave without them.
    fn read_header(&mut self) -> io::Result<Option<Header>> {
        let mut zeros = 0;
        loop {
            let mut header = Header::new_old();
            match self.read_block(header.as_mut_bytes())? {
                0 => return Ok(None),
                512 => {}
                _ => return Err(malformed("the archive is cut off in a header")),
            }
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                zeros += 1;
                if zeros == 2 {
                    return Ok(None);
                }
                continue;
            }
            let mut sum: u32 = header.as_bytes().iter().map(|byte| u32::from(*byte)).sum();
            // The checksum field itself counts as blanks.
            for byte in header.as_old().cksum {
                sum = sum + 32 - u32::from(byte);
            }
            if header.cksum()? != sum {
                return Err(malformed("a header's checksum is wrong"));
            }
            return Ok(Some(header));
        }
    }

    fn read_block(&mut self, block: &mut [u8; 512]) -> io::Result<usize> {
        let mut known = 0;
        while known < block.len() {
            match self.inner.read(block.get_mut(known..).unwrap_or_default())? {
                0 => break,
                length => known += length,
            }
        }
        Ok(known)
    }

    fn read_extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(malformed("an extension header is over 1 MiB"));
        }
        let mut bytes = Vec::new();
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        self.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(malformed("the archive is cut off in an extension header"));
        }
        Ok(bytes)
    }

    fn skip_data(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())?;
        if skipped < rest && rest >= BLOCK {
            return Err(malformed("the archive is cut off in a file"));
        }
        Ok(())
    }

    /// The map of an old GNU sparse file: four entries in the header, more in blocks after it.
    fn gnu_parts(&mut self, header: &Header) -> io::Result<(u64, Vec<(u64, u64)>)> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file without a GNU header"))?;
        let size = gnu.real_size()?;
        let mut parts = Vec::new();
        let mut add = |list: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for entry in list.iter().filter(|entry| !entry.is_empty()) {
                parts.push((entry.offset()?, entry.length()?));
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut extra = tar::GnuExtSparseHeader::new();
            if self.read_block(extra.as_mut_bytes())? != 512 {
                return Err(malformed("the archive is cut off in a sparse map"));
            }
            add(&extra.sparse)?;
            is_extended = extra.is_extended();
        }
        Ok((size, parts))
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the beginning of its data, padded.
    fn pax_parts(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut used = 0;
        let mut line = || -> io::Result<u64> {
            let mut text = Vec::new();
            loop {
                let mut byte = [0];
                self.read_exact(&mut byte)?;
                used += 1;
                match byte[0] {
                    b'\n' => return parse_decimal(&text),
                    digit if text.len() < 20 => text.push(digit),
                    _ => return Err(malformed("a sparse map is malformed")),
                }
            }
        };
        let count = line()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push((line()?, line()?));
            if parts.len() > 1 << 20 {
                return Err(malformed("a sparse map is too long"));
            }
        }
        let padding = (BLOCK - used % BLOCK) % BLOCK;
        io::copy(&mut self.by_ref().take(padding), &mut io::sink())?;
        Ok(parts)
    }
}

/// The current entry's data.
impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        if length == 0 {
            return Err(malformed("the archive is cut off in a file"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// `LENGTH KEY=VALUE\n` records; the length counts itself.
fn parse_pax(mut bytes: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bad = || malformed("an extension header is malformed");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length =
            usize::try_from(parse_decimal(bytes.get(..space).unwrap_or_default())?).map_err(|_| bad())?;
        let record = bytes.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = record.split_at(equals);
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(records)
}

fn parse_decimal(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| malformed("a number is malformed"))
}

/// Seconds with a fraction, perhaps before the epoch.
fn parse_time(text: &[u8]) -> io::Result<(i64, u32)> {
    let text = std::str::from_utf8(text).map_err(|_| malformed("a time is malformed"))?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| malformed("a time is malformed"))?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| malformed("a time is malformed"))?;
    // The fraction of a time before the epoch counts towards the past.
    Ok(if text.starts_with('-') && nanos > 0 {
        (seconds - 1, 1_000_000_000 - nanos)
    } else {
        (seconds, nanos)
    })
}

/// A name up to its zero byte.
fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// An id of the header; a field left blank, as some archives have it, is 0.
fn id(field: &[u8], value: io::Result<u64>) -> io::Result<u32> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { narrow(value?) }
}

fn narrow(id: u64) -> io::Result<u32> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| malformed("an id is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header
    }

    #[test]
    fn attributes_hold_any_byte_and_long_names_are_whole() {
        let long = format!("dir/{}", "n".repeat(250));
        let bytes = archive(|builder| {
            builder.append_pax_extensions([("SCHILY.xattr.user.bin", b"a\nb=\0c".as_slice())]).unwrap();
            builder.append_data(&mut file(5), &long, b"hello".as_slice()).unwrap();
            builder.append_data(&mut file(0), "next", io::empty()).unwrap();
        });
        let mut stream = TarStream::new(bytes.as_slice());
        let entry = stream.next_entry().unwrap().unwrap();
        assert_eq!(entry.path, long.as_bytes());
        assert_eq!(entry.attributes, [(b"user.bin".to_vec(), b"a\nb=\0c".to_vec())]);
        assert_eq!((entry.uid, entry.gid, entry.mode, entry.size), (7, 8, 0o644, 5));
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        assert_eq!(data, b"hello");
        let entry = stream.next_entry().unwrap().unwrap();
        assert_eq!((entry.path.as_slice(), entry.attributes.len()), (b"next".as_slice(), 0));
        assert!(stream.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_missing_end_is_an_end_and_a_cut_is_an_error() {
        let whole = archive(|builder| builder.append_data(&mut file(600), "f", [1; 600].as_slice()).unwrap());
        let names = |bytes: &[u8]| -> io::Result<usize> {
            let mut stream = TarStream::new(bytes);
            let mut count = 0;
            while stream.next_entry()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(names(&whole).unwrap(), 1);
        assert_eq!(names(&whole[..512 + 1024]).unwrap(), 1, "no end blocks");
        assert!(names(&whole[..512 + 100]).is_err());
        assert!(names(&whole[..100]).is_err());
        let mut broken = whole;
        broken[0] ^= 1;
        assert!(names(&broken).is_err());
    }

    #[test]
    fn times_and_pax_records_are_read_as_posix_has_them() {
        assert_eq!(parse_time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(parse_time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(parse_pax(b"8 a=b\nc\n").unwrap(), [(b"a".to_vec(), b"b\nc".to_vec())]);
        assert!(parse_pax(b"99 a=b\n").is_err());
        assert!(parse_pax(b"x a=b\n").is_err());
    }
}
