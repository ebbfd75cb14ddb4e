//! What manifests must agree with, and the check of all of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{linux, macos, packaging, windows};
use crate::files;
use crate::shell::{command, output, root};

/// What stands for the version in a manifest until it is packed.
pub(super) const VERSION: &str = "@VERSION@";

/// What the code says.
#[derive(Debug)]
pub(super) struct Facts {
    /// The workspace's.
    pub(super) version: String,
    /// The programs that there are.
    pub(super) programs: BTreeSet<String>,
    /// The window's identifier, and its name.
    pub(super) identifier: String,
    pub(super) product: String,
}

impl Facts {
    pub(super) fn read() -> Result<Self> {
        let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .context("cargo metadata failed")?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
        let mut programs = BTreeSet::new();
        let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
        for target in packages.iter().filter_map(|package| package["targets"].as_array()).flatten() {
            if target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"bin".into())) {
                programs.insert(target["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        let own = packages.iter().find(|package| package["name"] == "xtask");
        let version = own.and_then(|package| package["version"].as_str()).context("xtask has no version")?;
        let window = files::read_text(&root().join("src-tauri/tauri.conf.json"))?;
        let window: Value = serde_json::from_str(&window).context("tauri.conf.json is no JSON")?;
        let told = |key: &str| window[key].as_str().map(str::to_owned).context("tauri.conf.json lacks names");
        Ok(Self {
            version: version.to_owned(),
            programs,
            identifier: told("identifier")?,
            product: told("productName")?,
        })
    }
}

/// What is wrong in all manifests.
pub(crate) fn wrong_in_all() -> Result<Vec<String>> {
    let facts = Facts::read()?;
    Ok([linux::wrong(&facts), macos::wrong(&facts), windows::wrong(&facts)].concat())
}

/// Gathers what is wrong in the manifests of one system.
pub(super) struct Check<'a> {
    dir: PathBuf,
    pub(super) facts: &'a Facts,
    wrong: Vec<String>,
}

impl<'a> Check<'a> {
    /// Of `packaging/NAME`.
    pub(super) fn new(name: &str, facts: &'a Facts) -> Self {
        Self { dir: packaging().join(name), facts, wrong: Vec::new() }
    }

    /// Reads a file of it by `parse` and checks it by `check`.
    pub(super) fn file<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T>,
        check: impl FnOnce(&mut Of<'_, 'a>, &T),
    ) {
        let parsed = files::read_text(&self.dir.join(name)).and_then(|text| parse(&text));
        let mut of = Of { check: self, name };
        match parsed {
            Ok(parsed) => check(&mut of, &parsed),
            Err(error) => of.wrong(&format!("{error:#}")),
        }
    }

    /// A shell's script, which the shell must understand.
    pub(super) fn script(&mut self, name: &str, check: impl FnOnce(&mut Of<'_, 'a>, &String)) {
        let path = self.dir.join(name);
        let mut shell = command("sh", &["-n"]);
        shell.arg(&path);
        self.file(name, |text| files::run_quietly(shell).map(|()| text.to_owned()), check);
    }

    pub(super) fn done(self) -> Vec<String> {
        self.wrong
    }
}

/// The check of one file.
pub(super) struct Of<'c, 'a> {
    check: &'c mut Check<'a>,
    name: &'c str,
}

impl<'a> Of<'_, 'a> {
    pub(super) fn facts(&self) -> &'a Facts {
        self.check.facts
    }

    pub(super) fn wrong(&mut self, what: &str) {
        let place = self.check.dir.join(self.name);
        let place = place.strip_prefix(root()).unwrap_or(&place);
        self.check.wrong.push(format!("{}: {what}", place.display()));
    }

    pub(super) fn equal(&mut self, what: &str, found: impl Into<Value>, expected: impl Into<Value>) {
        let (found, expected) = (found.into(), expected.into());
        if found != expected {
            self.wrong(&format!("{what} is {found}, and must be {expected}"));
        }
    }

    /// A program that the workspace builds.
    pub(super) fn program(&mut self, name: &str) {
        if !self.facts().programs.contains(name) {
            self.wrong(&format!("no package builds a program {name:?}"));
        }
    }

    /// A file beside it.
    pub(super) fn beside(&mut self, name: &str) {
        if !self.check.dir.join(name).is_file() {
            self.wrong(&format!("{name} is not there"));
        }
    }

    /// A text that a source file must hold, so that both say the same.
    pub(super) fn stands_in(&mut self, source: &str, text: &str) {
        match files::read_text(&root().join(Path::new(source))) {
            Ok(code) if !text.is_empty() && code.contains(text) => {}
            Ok(_) => self.wrong(&format!("{text:?} does not stand in {source}")),
            Err(error) => self.wrong(&format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keyfile::Keyfile;
    use super::super::xml;
    use super::*;

    #[test]
    fn manifests_agree_with_the_code() {
        assert_eq!(wrong_in_all().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_agree_is_told() {
        let facts = Facts {
            version: "2.0.0".into(),
            programs: ["other".to_owned()].into(),
            identifier: "org.other".into(),
            product: "other".into(),
        };
        let wrong = [linux::wrong(&facts), macos::wrong(&facts), windows::wrong(&facts)].concat();
        for expected in [
            "packaging/linux/cove.service: no package builds a program \"coved\"",
            "packaging/linux/cove-desktop.desktop: StartupWMClass is \"cove-desktop\", and must be \"other\"",
            "packaging/macos/Info.plist: CFBundleIdentifier is \"dev.cove.desktop\", and must be \"org.other\"",
            "packaging/macos/package.sh: no package builds a program \"cove-machine\"",
            "packaging/windows/cove.wxs: no package builds a program \"cove\"",
            "packaging/windows/logon.xml: no package builds a program \"cove\"",
        ] {
            assert!(wrong.iter().any(|line| line == expected), "{expected} is not in {wrong:#?}");
        }
    }

    #[test]
    fn a_file_that_is_broken_or_not_there_is_told() {
        let facts = Facts::read().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.plist"), "<plist version='1.0'><dict></plist>").unwrap();
        std::fs::write(dir.path().join("a.sh"), "if true; then\n").unwrap();
        let mut check = Check { dir: dir.path().to_owned(), facts: &facts, wrong: Vec::new() };
        check.file("a.plist", xml::plist, |_, _| {});
        check.script("a.sh", |_, _| {});
        check.file("a.service", Keyfile::parse, |_, _| {});
        assert_eq!(check.done().len(), 3);
    }
}
