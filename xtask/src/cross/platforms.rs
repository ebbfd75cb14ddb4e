//! Which packages are for which system: all for all, but for those whose `Cargo.toml` says otherwise:
//!
//! ```toml
//! [package.metadata.cove]
//! platforms = ["linux"]
//! ```
//!
//! With `wine = true` a package's tests are run under Wine too.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::output;

/// A system that Cove is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platform {
    Linux,
    Macos,
    Windows,
}

impl Platform {
    /// As `Cargo.toml` names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Macos => "macos",
            Self::Windows => "windows",
        }
    }

    /// What is checked for it.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::Linux => "x86_64-unknown-linux-gnu",
            Self::Macos => "aarch64-apple-darwin",
            Self::Windows => "x86_64-pc-windows-msvc",
        }
    }

    /// Compilers of C for the few dependencies that have some.
    pub(super) fn apply(self, command: &mut Command) {
        match self {
            Self::Linux => {}
            Self::Macos => {
                command.env("CC_aarch64_apple_darwin", "clang").env("AR_aarch64_apple_darwin", "llvm-ar");
            }
            Self::Windows => {
                command.env("CC_x86_64_pc_windows_msvc", "x86_64-w64-mingw32-gcc");
                command.env("AR_x86_64_pc_windows_msvc", "x86_64-w64-mingw32-ar");
            }
        }
    }

    fn parse(name: &str) -> Result<Self> {
        let all = [Self::Linux, Self::Macos, Self::Windows];
        all.into_iter()
            .find(|platform| platform.name() == name)
            .with_context(|| format!("{name:?} is no platform"))
    }
}

/// A package of the workspace.
pub(super) struct Member {
    pub(super) name: String,
    /// `None` for all.
    platforms: Option<Vec<Platform>>,
    /// Whether its tests are run under Wine too.
    pub(super) runs_under_wine: bool,
}

impl Member {
    pub(super) fn is_for(&self, platform: Platform) -> bool {
        self.platforms.as_ref().is_none_or(|platforms| platforms.contains(&platform))
    }
}

/// All packages, as their manifests say.
pub(super) fn members() -> Result<Vec<Member>> {
    let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps"]);
    let text = text.context("cargo metadata does not work")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Result<Member> {
    let name = package["name"].as_str().context("a package has a name")?.to_owned();
    let cove = &package["metadata"]["cove"];
    let platforms = match &cove["platforms"] {
        Value::Null => None,
        Value::Array(names) => {
            let names = names.iter().map(|name| Platform::parse(name.as_str().unwrap_or_default()));
            Some(names.collect::<Result<_>>().with_context(|| format!("in the Cargo.toml of {name}"))?)
        }
        other => bail!("platforms in the Cargo.toml of {name} are a list, not {other}"),
    };
    let runs_under_wine = cove["wine"].as_bool().unwrap_or(false);
    Ok(Member { name, platforms, runs_under_wine })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_for_all_systems_unless_it_says_for_which() {
        let check = |metadata: &str, expected: [bool; 3]| {
            let package = format!(r#"{{"name":"a","metadata":{metadata}}}"#);
            let member = member(&serde_json::from_str(&package).unwrap()).unwrap();
            let all = [Platform::Linux, Platform::Macos, Platform::Windows];
            assert_eq!(all.map(|platform| member.is_for(platform)), expected, "{metadata}");
        };
        check("null", [true; 3]);
        check(r#"{"cove":{"platforms":["linux"]}}"#, [true, false, false]);
        check(r#"{"cove":{"platforms":["linux","windows"]}}"#, [true, false, true]);
        let wrong = serde_json::json!({ "name": "a", "metadata": { "cove": { "platforms": ["beos"] } } });
        assert!(member(&wrong).is_err());
    }
}
