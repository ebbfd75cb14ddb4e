//! A command line read word by word: `--flag value` and `--flag=value` are the same.

use std::collections::VecDeque;

use crate::error::{Error, Result};

/// What is left of the command line.
pub(super) struct Args {
    words: VecDeque<String>,
    /// The value of the flag taken last, where it was given with `=`.
    inline: Option<String>,
}

impl Args {
    pub(super) fn new(words: impl Iterator<Item = String>) -> Self {
        Self { words: words.collect(), inline: None }
    }

    /// The next word if it is a flag.
    pub(super) fn leading_flag(&mut self) -> Option<String> {
        if self.words.front().is_some_and(|word| word.starts_with('-')) { self.next_word() } else { None }
    }

    /// The next word, a flag's `=value` split off.
    pub(super) fn next_word(&mut self) -> Option<String> {
        let word = self.words.pop_front()?;
        self.inline = None;
        if word.starts_with("--")
            && let Some((flag, value)) = word.split_once('=')
        {
            self.inline = Some(value.to_owned());
            return Some(flag.to_owned());
        }
        Some(word)
    }

    /// The next word as it stands.
    pub(super) fn positional(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// The value of `flag`, which was the last word.
    pub(super) fn value(&mut self, flag: &str) -> Result<String> {
        self.inline
            .take()
            .or_else(|| self.words.pop_front())
            .ok_or_else(|| Error::invalid(format!("flag {flag} needs a value")))
    }

    /// A switch that may be given as `--flag=false`.
    pub(super) fn switch(&mut self) -> bool {
        self.inline.take().is_none_or(|value| value != "false")
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Vec<String> {
        self.words.drain(..).collect()
    }
}
