//! Certificates as text (RFC 7468): found in files, made of bytes, put together without repeating any.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Letters of a line.
const WIDTH: usize = 64;

/// Certificates, each once, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    text: String,
    known: BTreeSet<Vec<u8>>,
    limit: usize,
}

impl Bundle {
    /// An empty one, whose text is never longer than that.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Adds those of a text. What else is in it is passed over: comments, keys, certificates that are cut off or are no
    /// base64.
    pub(crate) fn add_text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once(BEGIN) {
            let Some((body, behind)) = after.split_once(END) else { return };
            rest = behind;
            // One that was cut off has another's beginning in it.
            let body = body.rsplit_once(BEGIN).map_or(body, |(_, body)| body);
            let letters: String = body.chars().filter(|letter| !letter.is_whitespace()).collect();
            if let Ok(der) = STANDARD.decode(letters) {
                self.add(der);
            }
        }
    }

    /// Adds one (X.509, DER), unless it is there or there is no more room.
    pub(crate) fn add(&mut self, der: Vec<u8>) {
        if der.is_empty() || self.known.contains(&der) {
            return;
        }
        let letters = STANDARD.encode(&der);
        let mut block = format!("{BEGIN}\n");
        for (at, letter) in letters.chars().enumerate() {
            if at > 0 && at.is_multiple_of(WIDTH) {
                block.push('\n');
            }
            block.push(letter);
        }
        block.push('\n');
        block.push_str(END);
        block.push('\n');
        if self.text.len() + block.len() <= self.limit {
            self.text.push_str(&block);
            self.known.insert(der);
        }
    }

    /// All of them.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bundle(texts: &[&str]) -> String {
        let mut bundle = Bundle::new(1 << 20);
        texts.iter().for_each(|text| bundle.add_text(text));
        bundle.into_text()
    }

    #[test]
    fn certificates_are_taken_out_of_what_is_around_them() {
        let block = |body: &str| format!("{BEGIN}\n{body}\n{END}\n");
        let text = format!(
            "# made by hand\n{}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}",
            block("TUlJ"),
            block("VFdP").replace('\n', "\r\n")
        );
        assert_eq!(bundle(&[&text]), block("TUlJ") + &block("VFdP"));
        assert_eq!(bundle(&[&text, &block("TU\nlJ")]), block("TUlJ") + &block("VFdP"), "each once");
        assert_eq!(bundle(&[&format!("{BEGIN}\nTUlJ\n")]), "", "cut off");
        assert_eq!(bundle(&[&format!("{BEGIN}\nTU\n{}", block("VFdP"))]), block("VFdP"));
        assert_eq!(bundle(&[&block("!!!"), &block("")]), "");
    }

    #[test]
    fn what_is_too_much_is_left_out_whole() {
        let mut bundle = Bundle::new(150);
        for certificate in [vec![1; 40], vec![2; 400], vec![3; 3]] {
            bundle.add(certificate);
        }
        let text = bundle.into_text();
        assert!(text.len() <= 150 && text.ends_with(&format!("{END}\n")), "{text}");
        assert_eq!(text.matches(BEGIN).count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8)) {
            let mut made = Bundle::new(1 << 20);
            all.iter().for_each(|der| made.add(der.clone()));
            let text = made.into_text();
            prop_assert!(text.lines().all(|line| line.len() <= WIDTH));
            let different: BTreeSet<_> = all.into_iter().collect();
            prop_assert_eq!(text.matches(BEGIN).count(), different.len());
            let mut read = Bundle::new(1 << 20);
            read.add_text(&text);
            prop_assert_eq!(&read.known, &different);
            prop_assert_eq!(read.into_text(), text);
        }

        #[test]
        fn nothing_that_a_file_holds_is_a_panic(text in "(-----BEGIN CERTIFICATE-----|-----END CERTIFICATE-----|[A-Za-z=\n]{0,9}|é){0,12}") {
            let mut bundle = Bundle::new(200);
            bundle.add_text(&text);
            prop_assert!(bundle.into_text().len() <= 200);
        }
    }
}
