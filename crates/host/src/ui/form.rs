//! What all forms have: lines of names and values, a command line that does the same, and what is wrong.

use std::collections::BTreeMap;

use model::ErrorKind;
use serde::{Deserialize, Serialize};

use super::error::UiError;

/// A name and its value: an environment variable, an option, a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A form's command line, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// The arguments of `cove` or `docker` that do the same, quoted for a shell.
    pub words: Vec<String>,
    /// Which of the words is the image, where something is run.
    pub image_at: Option<u32>,
    /// Empty if it can be done.
    pub problems: Vec<Problem>,
}

/// Something wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The field's name in its form, and for a line its number: `env.0`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Preview {
    /// The beginning of a command line.
    pub(crate) fn of(words: &[&str]) -> Self {
        Self { words: words.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    pub(crate) fn word(&mut self, word: &str) {
        self.words.push(quote(word));
    }

    /// A word the user has yet to fill in.
    pub(crate) fn word_or(&mut self, word: &str, blank: &str) {
        self.word(if word.is_empty() { blank } else { word });
    }

    pub(crate) fn option(&mut self, name: &str, value: &str) {
        self.words.push(format!("{name} {}", quote(value)));
    }

    pub(crate) fn problem(&mut self, field: &str, message: &str) {
        self.problems.push(Problem { field: field.to_owned(), message: message.to_owned() });
    }

    /// Lines of names and values as repeated options; lines that are empty are ignored.
    pub(crate) fn pairs(
        &mut self,
        lines: &[Variable],
        field: &str,
        option: &str,
    ) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        for (index, line) in lines.iter().enumerate() {
            let (name, value) = (line.name.trim(), line.value.trim());
            if name.is_empty() && value.is_empty() {
                continue;
            }
            let field = format!("{field}.{index}");
            if name.is_empty() {
                self.problem(&field, "this value has no name");
            } else if name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
                self.problem(&field, "a name has no blank and no = in it");
            } else if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
                self.problem(&field, "this name is there already");
            }
            let shown = if value.is_empty() { name.to_owned() } else { format!("{name}={value}") };
            self.option(option, &shown);
        }
        pairs
    }

    /// What was read, if nothing is wrong with it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check<T>(&self, request: T) -> Result<T, UiError> {
        match self.problems.first() {
            Some(problem) => Err(UiError::new(ErrorKind::InvalidArgument, &problem.message)),
            None => Ok(request),
        }
    }
}

/// What stands between commas or blanks.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t']).filter(|part| !part.is_empty())
}

/// Names and values as they are shown.
pub(crate) fn lines(pairs: BTreeMap<String, String>) -> Vec<Variable> {
    pairs.into_iter().map(|(name, value)| Variable { name, value }).collect()
}

/// A folder with the home folder's name in place of `~`.
pub(crate) fn home(folder: &str) -> String {
    match (folder.strip_prefix('~'), stdx::process::home()) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", home.display())
        }
        _ => folder.to_owned(),
    }
}

/// Whether the engine takes it for a volume's name.
pub(crate) fn is_volume_name(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A word for a shell. `~/` stays outside the quotes, so that it still means the home folder.
fn quote(word: &str) -> String {
    if let Some(rest) = word.strip_prefix("~/") {
        return format!("~/{}", quote(rest));
    }
    // shlex is more careful than readers like: it quotes a mere `=`.
    let safe = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word.to_owned();
    }
    // Only a zero byte can't be quoted, and no field that got this far means anything with one.
    shlex::try_quote(word).map_or_else(|_| "''".to_owned(), std::borrow::Cow::into_owned)
}

/// `1.5` in billionths of a processor.
pub(crate) fn parse_cpus(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(fraction).filter(|nanos| *nanos > 0)
}

/// `512 MB`, `512m`, `1.5g`, `536870912`. Units are powers of 1024, as Docker's are.
pub(crate) fn parse_bytes(text: &str) -> Option<i64> {
    let text = text.to_ascii_lowercase().replace(' ', "");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_i64 << 40,
        _ => return None,
    };
    // Nanos of a unit: the same reader as for processors, so no float is involved.
    let nanos = i128::from(parse_cpus(digits)?);
    i64::try_from(nanos * i128::from(unit) / 1_000_000_000).ok()
}

/// Bytes as Docker's command line takes them.
pub(crate) fn shorten(bytes: i64) -> String {
    for (unit, letter) in [(1 << 30, 'g'), (1 << 20, 'm'), (1 << 10, 'k')] {
        if bytes % unit == 0 {
            return format!("{}{letter}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_options_and_what_is_wrong_with_one_is_told_of_it() {
        let line = |name: &str, value: &str| Variable { name: name.into(), value: value.into() };
        let mut preview = Preview::default();
        let lines =
            [line("tier", "back end"), line("", ""), line("", "x"), line("a b", "c"), line("tier", "")];
        let pairs = preview.pairs(&lines, "labels", "--label");
        assert_eq!(pairs.len(), 1);
        assert_eq!(preview.words[0], "--label 'tier=back end'");
        let fields: Vec<_> = preview.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["labels.2", "labels.3", "labels.4"]);
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let check = |text, expected| assert_eq!(parse_bytes(text), expected, "{text}");
        check("512 MB", Some(512 << 20));
        check("512m", Some(512 << 20));
        check("1.5 GiB", Some(3 << 29));
        check("65536", Some(65536));
        check("1 lot", None);
        check("-1", None);
        check("", None);
        check("99999999999t", None);
    }

    #[test]
    fn a_home_folder_stays_one_when_quoted() {
        assert_eq!(quote("~/my seed"), "~/'my seed'");
    }

    #[test]
    fn a_volumes_name_is_no_folder() {
        assert!(is_volume_name("pgdata") && is_volume_name("a.b_c-1"));
        assert!(!is_volume_name("a") && !is_volume_name("-x") && !is_volume_name("a/b"));
    }
}
