//! Sizes as people write them.

/// Bytes of `512M`, `4G`, `1.5g`, `64GiB` or `1073741824`; units are powers of 1024, as Docker's are.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (number, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(1 << shift)?;
    if !part.is_empty() {
        let digits = u32::try_from(part.len()).ok().filter(|digits| *digits <= 6)?;
        let part: u64 = part.parse().ok()?;
        bytes = bytes.checked_add((part << shift) / 10_u64.pow(digits))?;
    }
    Some(bytes)
}

/// `512 MiB`, `1.5 GiB`.
#[must_use]
pub fn show(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        0x4000_0000..0x100_0000_0000 => ("GiB", 30),
        _ => ("TiB", 40),
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("512M", Some(512 << 20)),
            ("4g", Some(4 << 30)),
            ("64GiB", Some(64 << 30)),
            ("1.5G", Some(3 << 29)),
            ("1048576", Some(1 << 20)),
            ("", None),
            ("x", None),
            ("-1G", None),
            ("99999999999T", None),
            ("1.2345678G", None),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
        assert_eq!(show(512 << 20), "512 MiB");
        assert_eq!(show(3 << 29), "1.5 GiB");
    }
}
