//! Packages of Debian by a root of apt's of our own: the system's sources, lists and packages stay as they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::architecture::Architecture;
use crate::files;
use crate::shell::command;

/// Where Debian's packages are, if the system is not Debian's.
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How old an index may be before a new one is asked for. Where there is no network, any age will do.
const FRESH: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A release of Debian: `trixie`, `sid`.
pub(crate) struct Suite {
    name: &'static str,
    index: Index,
    dir: PathBuf,
    debs: PathBuf,
}

/// What the index says of a package.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    depends: String,
}

impl Package {
    /// The package it depends on whose name begins so: what a metapackage stands for.
    pub(crate) fn dependency(&self, prefix: &str) -> Result<&str> {
        let names = self.depends.split(',').filter_map(|clause| clause.split_whitespace().next());
        names.into_iter().find(|name| name.starts_with(prefix)).with_context(|| {
            format!("package {} depends on nothing that begins with {prefix}: {}", self.name, self.depends)
        })
    }
}

/// What is asked for: one architecture's packages, or sources, whose index is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Index {
    Packages(Architecture),
    Sources,
}

impl Suite {
    /// Fetches the index unless there is a fresh one, or there is one and no network.
    pub(crate) fn open(name: &'static str, index: Index, cache: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing, by which Debian's packages are verified: install debian-archive-keyring"
        );
        let folder = match index {
            Index::Packages(Architecture::X86) => name.to_owned(),
            Index::Packages(architecture) => format!("{name}-{}", architecture.debian()),
            Index::Sources => format!("{name}-sources"),
        };
        let suite = Self { name, index, dir: cache.join("apt").join(folder), debs: cache.join("debs") };
        for dir in
            [suite.dir.join("lists/partial"), suite.dir.join("cache/archives/partial"), suite.debs.clone()]
        {
            files::make_dir(&dir)?;
        }
        let deb = if index == Index::Sources { "deb-src" } else { "deb" };
        let source = format!("{deb} [signed-by={KEYRING}] {} {name} main\n", mirror());
        let list = suite.dir.join("sources.list");
        // One that is newer has apt read the whole index again.
        if !std::fs::read_to_string(&list).is_ok_and(|text| text == source) {
            files::write(&list, source.as_bytes())?;
            // That of another mirror is of no use.
            let _ = std::fs::remove_file(suite.dir.join("fetched"));
        }
        suite.updated()
    }

    /// Fetches the index unless there is a fresh one.
    fn updated(self) -> Result<Self> {
        let stamp = self.dir.join("fetched");
        let age = std::fs::metadata(&stamp).and_then(|meta| meta.modified());
        let age = age.ok().map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        if age.is_none_or(|age| age > FRESH) {
            match self.update() {
                Err(error) if age.is_none() => return Err(error),
                // It is asked for again in a week, not by each command until there is a network.
                Err(error) => {
                    println!("going on with the index of {} that is here: {error:#}", self.name);
                    files::write(&stamp, b"")?;
                }
                Ok(()) => {}
            }
        }
        Ok(self)
    }

    /// Fetches the index anew.
    fn update(&self) -> Result<()> {
        println!("fetching Debian's index of {}", self.name);
        let mut update = self.apt("apt-get");
        update.args(["-qq", "-o", "Acquire::Retries=3", "-o", "APT::Update::Error-Mode=any", "update"]);
        files::run_quietly(update).with_context(|| {
            format!("failed to fetch Debian's index of {} from {}: is there a network?", self.name, mirror())
        })?;
        files::write(&self.dir.join("fetched"), b"")
    }

    /// What the index says of these packages, in their order.
    pub(crate) fn packages(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut show = self.apt("apt-cache");
        show.args(["show", "--no-all-versions"]).args(names);
        let text = files::output_of(show)
            .with_context(|| format!("one of these is not in Debian's {}: {}", self.name, names.join(" ")))?;
        let mut known: BTreeMap<String, Package> = BTreeMap::new();
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            let package = parse(paragraph)?;
            known.entry(package.name.clone()).or_insert(package);
        }
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let package = known.get(*name);
            let package = package.with_context(|| format!("Debian's {} has no package {name}", self.name))?;
            found.push(package.clone());
        }
        Ok(found)
    }

    pub(crate) fn package(&self, name: &str) -> Result<Package> {
        self.packages(&[name])?.pop().with_context(|| format!("Debian's {} has no package {name}", self.name))
    }

    /// The package's file, fetched unless it is here.
    pub(crate) fn fetch(&self, package: &Package) -> Result<PathBuf> {
        let path = self.debs.join(format!("{}.deb", package.sha256));
        if path.exists() {
            return Ok(path);
        }
        println!("fetching {} {}", package.name, package.version);
        let dir = files::Scratch::new(&self.debs)?;
        let mut download = self.apt("apt-get");
        download.args(["-qq", "-o", "Acquire::Retries=3", "download"]);
        download.arg(format!("{}={}", package.name, package.version)).current_dir(dir.path());
        if let Err(error) = files::run_quietly(download) {
            // Mirrors keep only what their index names.
            let hint = match self.update() {
                Ok(()) => "the index was older than the mirror and is fetched anew: run the same again",
                Err(_) => "is there a network?",
            };
            return Err(error.context(format!("failed to fetch package {}: {hint}", package.name)));
        }
        let fetched = files::list(dir.path())?.pop().context("apt-get download left no file")?;
        let digest = files::sha256(&fetched)?;
        ensure!(digest == package.sha256, "package {} is not what the index says: {digest}", package.name);
        std::fs::rename(&fetched, &path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// Removes the package's file.
    pub(crate) fn forget(&self, package: &Package) -> Result<()> {
        let path = self.debs.join(format!("{}.deb", package.sha256));
        std::fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))
    }

    /// Fetches and unpacks the package into a folder.
    pub(crate) fn unpack(&self, package: &Package, into: &Path) -> Result<()> {
        let deb = self.fetch(package)?;
        let mut unpack = command("dpkg-deb", &["-x"]);
        unpack.arg(&deb).arg(into);
        files::run_quietly(unpack).with_context(|| format!("failed to unpack package {}", package.name))
    }

    /// A folder in the cache with what the package holds.
    pub(crate) fn unpacked(&self, name: &str, cache: &Path) -> Result<PathBuf> {
        let package = self.package(name)?;
        let path = cache.join(format!("{name}/{}", package.sha256));
        files::cached(&path, |into| {
            self.unpack(&package, into)?;
            self.forget(&package)
        })?;
        Ok(path)
    }

    /// Fetches a file of the newest source package of this version (`1.95.0`), by the end of its name.
    pub(crate) fn fetch_source(
        &self,
        name: &str,
        version: &str,
        ending: &str,
        into: &Path,
    ) -> Result<PathBuf> {
        let mut show = self.apt("apt-cache");
        show.args(["showsrc", name]);
        let text = files::output_of(show).with_context(|| format!("Debian has no source of {name}"))?;
        let versions = text.lines().filter_map(|line| line.strip_prefix("Version: "));
        let wanted = format!("{version}+");
        let full = versions.into_iter().rfind(|full| full.starts_with(&wanted));
        let full =
            full.with_context(|| format!("Debian's {} has no source of {name} {version}", self.name))?;
        println!("fetching the source of {name} {full}");
        let mut source = self.apt("apt-get");
        source.args(["-qq", "-o", "Acquire::Retries=3", "source", "--download-only", "--tar-only"]);
        source.arg(format!("{name}={full}")).current_dir(into);
        files::run_quietly(source).with_context(|| format!("failed to fetch the source of {name} {full}"))?;
        let found = files::list(into)?.into_iter().find(|path| path.to_string_lossy().ends_with(ending));
        found.with_context(|| format!("the source of {name} {full} has no {ending}"))
    }

    /// One of apt's programs on this root. Options of the command line go over all configuration; proxies
    /// and credentials of the system's stay.
    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program, &[]);
        let dir = |name: &str, path: &str| format!("Dir::{name}={}", self.dir.join(path).display());
        let architecture = match self.index {
            Index::Packages(architecture) => architecture.debian(),
            Index::Sources => Architecture::X86.debian(),
        };
        for option in [
            dir("State::lists", "lists"),
            dir("Cache", "cache"),
            // Images of containers have them switched off, without which each question takes a second.
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            dir("Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            "Dir::State::status=/dev/null".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            "Acquire::Languages=none".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

fn parse(paragraph: &str) -> Result<Package> {
    let field = |name: &str| {
        let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(|value| value.trim().to_owned())
    };
    let needed = |name: &str| field(name).with_context(|| format!("the index names no {name}:\n{paragraph}"));
    Ok(Package {
        name: needed("Package")?,
        version: needed("Version")?,
        sha256: needed("SHA256")?,
        depends: field("Depends").unwrap_or_default(),
    })
}

/// The system's own mirror where that is Debian's, for it may be the only one that is reached.
fn mirror() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") {
        return MIRROR.to_owned();
    }
    let parts = files::list(Path::new("/etc/apt/sources.list.d")).unwrap_or_default();
    let lists = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts);
    let texts = lists.filter(|path| path.extension().is_some_and(|end| end == "list" || end == "sources"));
    let texts = texts.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.into_iter().find_map(|text| mirror_of(&text)).unwrap_or_else(|| MIRROR.to_owned())
}

/// The first address of a list of sources, of either form, that leads to Debian's main archive.
fn mirror_of(text: &str) -> Option<String> {
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    let lines = text.lines().filter(|line| !is_comment(line));
    let lines = lines.filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let words = lines.flat_map(str::split_whitespace);
    let mut addresses = words.filter(|word| word.contains("://") || word.starts_with("mirror+file:"));
    addresses.find(|address| address.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_main_archive_in_either_form_of_list() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(mirror_of(text).as_deref(), expected);
        check(
            "Types: deb\n# http://old.example/debian\nURIs: http://a.example/debian\nSuites: trixie\n",
            Some("http://a.example/debian"),
        );
        check(
            "deb https://packages.example/apt other main\ndeb [arch=amd64] https://b.example/debian/ trixie main\n",
            Some("https://b.example/debian/"),
        );
        check("URIs: http://a.example/debian-security\n", None);
    }

    #[test]
    fn a_metapackage_names_the_package_it_stands_for() {
        let package = parse(
            "Package: linux-image-cloud-amd64\nVersion: 6.12.1-1\nSHA256: ab\n\
             Depends: linux-base, linux-image-6.12.1-cloud-amd64 (= 6.12.1-1)\n",
        )
        .expect("a paragraph");
        assert_eq!(package.dependency("linux-image-").ok(), Some("linux-image-6.12.1-cloud-amd64"));
        assert!(package.dependency("linux-modules-").is_err());
    }
}
