//! Stubs of Apple's frameworks to link against: of each, what the crates that a program is made of declare that it exports.
//!
//! A name that is none of Apple's is not found that way, as it would be in the system library; that all else is there, is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::darwin::stub;
use crate::files;
use crate::shell::{command, root};

/// Changes when this module makes something else of the same packages.
const RECIPE: &str = "1";
/// The runtime of Objective-C, which is no framework. Its crate declares what it has by macros; what handles exceptions is
/// asked for by C.
const RUNTIME: (&str, &str, [&str; 2]) =
    ("libobjc.tbd", "/usr/lib/libobjc.A.dylib", ["__objc_personality_v0", "OBJC_EHTYPE_id"]);

/// Where they are: frameworks, and libraries.
#[derive(Debug)]
pub(super) struct Frameworks(PathBuf);

/// Names of frameworks, and what they export.
type Exports = BTreeMap<String, BTreeSet<String>>;

impl Frameworks {
    /// Makes those that the workspace's packages are linked with on a target, unless they are here. What is in `system` is the
    /// system library's.
    pub(super) fn prepare(triple: &str, system: &str) -> Result<Self> {
        let lock = files::read_text(&root().join("Cargo.lock"))?;
        let path = files::cache().join(format!("macos/frameworks-{}", files::key(&[RECIPE, &lock])));
        files::cached(&path, |into| make(triple, system, into))?;
        Ok(Self(path))
    }

    /// What rustc is to be told.
    pub(super) fn flags(&self) -> [String; 2] {
        let place = self.0.display();
        [format!("-Lframework={place}"), format!("-Lnative={place}")]
    }
}

fn make(triple: &str, system: &str, into: &Path) -> Result<()> {
    let words = system.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_$".contains(letter)));
    let of_system: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix('_')).collect();
    let (frameworks, runtime) = exports(triple)?;
    for (name, symbols) in frameworks {
        let folder = into.join(format!("{name}.framework"));
        files::make_dir(&folder)?;
        let known_as = format!("/System/Library/Frameworks/{name}.framework/Versions/A/{name}");
        let symbols = symbols.iter().map(String::as_str).filter(|symbol| !of_system.contains(symbol));
        files::write(&folder.join(format!("{name}.tbd")), stub(&known_as, symbols).as_bytes())?;
    }
    let (file, known_as, more) = RUNTIME;
    let symbols = runtime.iter().map(String::as_str).chain(more);
    files::write(&into.join(file), stub(known_as, symbols).as_bytes())
}

/// What the packages that are for a target declare: of frameworks, and of the runtime.
fn exports(triple: &str) -> Result<(Exports, BTreeSet<String>)> {
    let mut metadata = command("cargo", &["metadata", "--format-version", "1", "--filter-platform", triple]);
    metadata.env_remove("CARGO_ENCODED_RUSTFLAGS");
    let text = files::output_of(metadata).context("cargo metadata does not work")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let (mut frameworks, mut runtime) = (Exports::new(), BTreeSet::new());
    for package in packages {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let source = manifest.with_file_name("src");
        let files = if source.is_dir() { files::walk(&source)? } else { Vec::new() };
        let (mut names, mut declared) = (BTreeSet::new(), BTreeSet::new());
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
            let text = without_comments(&files::read_text(&source.join(file))?);
            names.extend(linked(&text).map(str::to_owned));
            blocks(&text).for_each(|block| declared.extend(declarations(block)));
            if package["name"] == "objc2" && file.parent().is_some_and(|dir| dir.ends_with("ffi")) {
                runtime.extend(declarations(&text));
            }
        }
        for name in names {
            frameworks.entry(name).or_default().extend(declared.iter().cloned());
        }
    }
    Ok((frameworks, runtime))
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The frameworks that an attribute names: `link(name = "AppKit", kind = "framework")`.
fn linked(text: &str) -> impl Iterator<Item = &str> {
    text.split("link(").skip(1).filter_map(|rest| {
        let attribute = rest.split(')').next()?;
        let is_framework = attribute.contains(r#"kind = "framework""#);
        attribute.split_once(r#"name = ""#)?.1.split('"').next().filter(|_| is_framework)
    })
}

/// What stands in blocks of declarations: `extern "C" { … }`.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(r#"extern "C"#).filter_map(|(at, begun)| {
        let rest = text.get(at + begun.len()..)?;
        let rest = rest.strip_prefix("-unwind").unwrap_or(rest);
        let inside = rest.strip_prefix('"')?.trim_start().strip_prefix('{')?;
        // Declarations have no bodies.
        inside.split('}').next()
    })
}

/// Names of functions and values that are declared; by which name they are linked, where that is another.
fn declarations(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut words = text.split_whitespace().filter(|word| *word != "mut");
    let mut other = None;
    while let Some(word) = words.next() {
        if word.ends_with("link_name") {
            other = words.nth(1).map(|quoted| quoted.trim_matches(['"', ']', ')']).to_owned());
        } else if matches!(word, "fn" | "static") {
            let name = words.next().and_then(|next| next.split(['(', ':', '<']).next()).unwrap_or_default();
            found.insert(other.take().unwrap_or_else(|| name.to_owned()));
        }
    }
    found.retain(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crate_declares_is_found() {
        let text = r#"
            #[cfg_attr(target_vendor = "apple", link(name = "AppKit", kind = "framework"))]
            #[link(name = "z")]
            extern "C-unwind" {
                // fn NotThere();
                pub fn NSBeep();
                #[link_name = "NSOther"]
                pub(crate) safe fn other<'a>(of: Option<extern "C" fn(u8) -> u8>);
                pub static mut NSApp: *const u8;
            }
            extern "C" fn ours(_: u8) -> u8 { 0 }
        "#;
        let text = without_comments(text);
        assert_eq!(linked(&text).collect::<Vec<_>>(), ["AppKit"]);
        let declared: BTreeSet<String> = blocks(&text).flat_map(declarations).collect();
        assert_eq!(declared.iter().collect::<Vec<_>>(), ["NSApp", "NSBeep", "NSOther"]);
    }
}
