//! Files of `[Section]` and `Key=value`: systemd's units and the desktop's entries.

use anyhow::{Context, Result, bail};

/// What such a file says, in order.
#[derive(Debug)]
pub(super) struct Keyfile(Vec<(String, String, String)>);

impl Keyfile {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut section = None;
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = Some(name.to_owned());
                continue;
            }
            let number = number + 1;
            let Some((key, value)) = line.split_once('=') else { bail!("line {number} has no =: {line}") };
            let section = section.clone().with_context(|| format!("line {number} is in no section"))?;
            entries.push((section, key.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(Self(entries))
    }

    /// The value that counts, which is the last; nothing where there is none.
    pub(super) fn get(&self, section: &str, key: &str) -> &str {
        let found = self.0.iter().rev().find(|(at, name, _)| at == section && name == key);
        found.map(|(_, _, value)| value.as_str()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_their_section() {
        let file = Keyfile::parse("# a\n[A]\nKey=1\n\n[B]\nKey = two = three\n").unwrap();
        assert_eq!((file.get("A", "Key"), file.get("B", "Key")), ("1", "two = three"));
        assert_eq!((file.get("A", "Other"), file.get("C", "Key")), ("", ""));
    }

    #[test]
    fn lines_that_say_nothing_are_refused() {
        assert!(Keyfile::parse("Key=1\n").is_err());
        assert!(Keyfile::parse("[A]\nKey\n").is_err());
    }
}
