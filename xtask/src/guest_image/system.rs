//! The guest's system: a read-only file system of our programs, a little of Debian, and modules.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::modules::Modules;
use super::recipe;
use crate::apt::{Index, Suite};
use crate::architecture::Architecture;
use crate::files;
use crate::shell::command;

/// Changes when this module makes something else of the same recipe.
const RECIPE: &str = "1";
/// Places to mount on and to write in, for nothing can be made later.
const DIRECTORIES: &[&str] = &[
    "dev",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/sbin",
    "var/lib/cove",
    "var/log",
    "var/tmp",
];
/// Links of a merged /usr, and what is found elsewhere.
const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/bin/sh", "busybox"),
    ("usr/sbin/modprobe", "../bin/busybox"),
    ("var/run", "../run"),
    ("etc/mtab", "../proc/self/mounts"),
    // Whoever sets up the network writes it.
    ("etc/resolv.conf", "../run/resolv.conf"),
];
/// Any will do, if it is always the same.
const UUID: &str = "c0be0000-0000-4000-8000-000000000001";

/// A line of `vm/image/userland`: a package, and what is taken of it.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    package: String,
    patterns: Vec<String>,
}

/// What of Debian is in the system: a folder in the cache.
pub(super) fn userland(architecture: Architecture, cache: &Path) -> Result<PathBuf> {
    let text = recipe::text("userland")?;
    let taken = parse(&text, architecture)?;
    let suite = Suite::open("trixie", Index::Packages(architecture), cache)?;
    let names: Vec<&str> = taken.iter().map(|line| line.package.as_str()).collect();
    let packages = suite.packages(&names)?;
    let digests: Vec<&str> = packages.iter().map(|package| package.sha256.as_str()).collect();
    let key = files::key(&[RECIPE, &text, &digests.join(" ")]);
    let path = cache.join(format!("userland/{key}"));
    files::cached(&path, |dir| {
        for (line, package) in taken.iter().zip(&packages) {
            let unpacked = dir.join(".unpacked");
            suite.unpack(package, &unpacked)?;
            take(line, &unpacked, dir)?;
            std::fs::remove_dir_all(&unpacked).context("failed to remove an unpacked package")?;
        }
        bundle_certificates(dir)?;
        check_libraries(dir)
    })?;
    Ok(path)
}

/// What a system is made of.
pub(super) struct Parts<'a> {
    pub(super) userland: &'a Path,
    /// The same as the userland's, and can be run here.
    pub(super) busybox: &'a Path,
    pub(super) programs: &'a [PathBuf],
}

/// Makes the file system.
pub(super) fn make(parts: &Parts<'_>, modules: Option<&Modules>, to: &Path) -> Result<()> {
    let scratch = files::Scratch::new(to.parent().context("an image is in a folder")?)?;
    let system = scratch.path().join("system");
    lay_out(parts, modules, &system)?;
    let mut mkfs = command("mkfs.erofs", &["--quiet", "-T0", "-U", UUID, "--all-root", "-x-1"]);
    mkfs.arg(to).arg(&system);
    files::run_quietly(mkfs).context("failed to make the guest's system")
}

/// Makes an archive of the same, with what WSL is told by a file of it.
pub(super) fn make_archive(parts: &Parts<'_>, to: &Path) -> Result<()> {
    let scratch = files::Scratch::new(to.parent().context("an image is in a folder")?)?;
    let system = scratch.path().join("system");
    lay_out(parts, None, &system)?;
    let settings = system.join("etc/wsl.conf");
    files::write(&settings, recipe::text("wsl.conf")?.as_bytes())?;
    files::set_mode(&settings, 0o644)?;
    // WSL writes it itself.
    std::fs::remove_file(system.join("etc/resolv.conf")).context("failed to remove a link")?;
    let mut tar = command("tar", &["--create", "--format=gnu", "--sort=name", "--mtime=@0"]);
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "--directory"]).arg(&system);
    tar.arg("--file").arg(to).arg(".");
    files::run_quietly(tar).context("failed to make the archive of the guest's system")
}

fn lay_out(parts: &Parts<'_>, modules: Option<&Modules>, system: &Path) -> Result<()> {
    let Parts { userland, busybox, programs } = *parts;
    for dir in DIRECTORIES {
        files::make_dir(&system.join(dir))?;
    }
    files::copy_all(userland, system)?;
    let etc = recipe::dir().join("etc");
    for path in files::walk(&etc)? {
        let text = files::read_text(&etc.join(&path))?.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        let path = system.join("etc").join(path);
        files::make_dir(path.parent().context("a file is in a folder")?)?;
        files::write(&path, text.as_bytes())?;
        files::set_mode(&path, 0o644)?;
    }
    if let Some(modules) = modules {
        modules.copy_to(system)?;
    }
    for program in programs {
        let name = program.file_name().context("a program has a name")?;
        files::copy(program, &system.join("usr/bin").join(name))?;
    }
    for (link, target) in LINKS {
        // Not every architecture's loader is there.
        if *link == "lib64" && !system.join(target).exists() {
            continue;
        }
        let link = system.join(link);
        std::os::unix::fs::symlink(target, &link)
            .with_context(|| format!("failed to make {}", link.display()))?;
    }
    link_applets(system, busybox)?;
    set_directory_modes(system)
}

/// A name for each program that busybox is, where nothing else has it: what a rescue shell is used for.
fn link_applets(system: &Path, busybox: &Path) -> Result<()> {
    let names = files::output_of(command(&busybox.display().to_string(), &["--list"]))?;
    for name in names.lines() {
        let places = ["usr/bin", "usr/sbin"].map(|dir| system.join(dir).join(name));
        if places.iter().all(|place| std::fs::symlink_metadata(place).is_err()) {
            let [link, _] = places;
            std::os::unix::fs::symlink("busybox", &link)
                .with_context(|| format!("failed to make {}", link.display()))?;
        }
    }
    Ok(())
}

fn parse(text: &str, architecture: Architecture) -> Result<Vec<Taken>> {
    let (loader_folder, loader) = architecture.loader();
    let names = [
        ("LIB/", format!("usr/lib/{}-linux-gnu/", architecture.name())),
        ("ROOT/", format!("{loader_folder}/")),
        ("LOADER", loader.to_owned()),
    ];
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut taken = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let package = words.next().unwrap_or_default().to_owned();
        let patterns: Vec<String> = words
            .map(|word| names.iter().fold(word.to_owned(), |word, (name, here)| word.replace(name, here)))
            .collect();
        ensure!(!patterns.is_empty(), "vm/image/userland: nothing is taken of {package}");
        taken.push(Taken { package, patterns });
    }
    Ok(taken)
}

fn take(line: &Taken, unpacked: &Path, into: &Path) -> Result<()> {
    let all = files::walk(unpacked)?;
    for pattern in &line.patterns {
        let found: Vec<_> = all.iter().filter(|path| matches(pattern, &path.to_string_lossy())).collect();
        ensure!(
            !found.is_empty(),
            "package {} has no {pattern}, which vm/image/userland takes",
            line.package
        );
        for path in found {
            // Older layouts have /sbin and /lib beside /usr's.
            let target = if path.starts_with("usr") || path.starts_with("etc") {
                into.join(path)
            } else {
                into.join("usr").join(path)
            };
            files::copy(&unpacked.join(path), &target)?;
        }
    }
    Ok(())
}

/// A `*` at the end stands for anything.
fn matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |start| path.starts_with(start))
}

/// One file of all certificates, as programs read it.
fn bundle_certificates(dir: &Path) -> Result<()> {
    let from = dir.join("usr/share/ca-certificates");
    let mut bundle = String::new();
    for path in files::walk(&from)? {
        bundle.push_str(files::read_text(&from.join(path))?.trim_end());
        bundle.push('\n');
    }
    ensure!(bundle.contains("BEGIN CERTIFICATE"), "package ca-certificates has no certificates");
    let to = dir.join("etc/ssl/certs/ca-certificates.crt");
    files::make_dir(to.parent().context("a file is in a folder")?)?;
    files::write(&to, bundle.as_bytes())?;
    std::fs::remove_dir_all(dir.join("usr/share")).context("failed to remove the single certificates")
}

/// What the programs are linked with must be there too.
fn check_libraries(dir: &Path) -> Result<()> {
    let paths = files::walk(dir)?;
    let names: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.file_name().and_then(|name| name.to_str())).collect();
    let mut missing = BTreeSet::new();
    for path in &paths {
        let full = dir.join(path);
        let is_elf =
            !full.is_symlink() && std::fs::read(&full).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        if !is_elf {
            continue;
        }
        let mut readelf = command("readelf", &["-d"]);
        readelf.arg(&full);
        let text = files::output_of(readelf)?;
        let needed = text.lines().filter(|line| line.contains("(NEEDED)"));
        let needed = needed.filter_map(|line| line.split(['[', ']']).nth(1));
        for library in needed.filter(|library| !names.contains(library)) {
            missing.insert(format!("{library}, which {} needs", path.display()));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.into_iter().collect();
    bail!("vm/image/userland lacks {}", missing.join("; "))
}

fn set_directory_modes(system: &Path) -> Result<()> {
    let mut ahead = vec![system.to_owned()];
    while let Some(dir) = ahead.pop() {
        files::set_mode(&dir, 0o755)?;
        ahead.extend(files::list(&dir)?.into_iter().filter(|path| path.is_dir() && !path.is_symlink()));
    }
    for (dir, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)] {
        files::set_mode(&system.join(dir), mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_package_and_what_is_taken_of_it() {
        let text = "# why\n\nlibc6 LIB/libc.so.6* ROOT/LOADER\n";
        let check = |architecture, patterns: [&str; 2]| {
            let lines = parse(text, architecture).expect("a list");
            let patterns = patterns.map(str::to_owned).to_vec();
            assert_eq!(lines, [Taken { package: "libc6".to_owned(), patterns }]);
        };
        check(Architecture::X86, ["usr/lib/x86_64-linux-gnu/libc.so.6*", "usr/lib64/ld-linux-x86-64.so.2"]);
        check(Architecture::Arm, ["usr/lib/aarch64-linux-gnu/libc.so.6*", "usr/lib/ld-linux-aarch64.so.1"]);
        assert!(parse("libmnl0\n", Architecture::X86).is_err());
    }

    #[test]
    fn a_star_stands_for_the_rest_of_a_name() {
        assert!(matches("usr/sbin/nft", "usr/sbin/nft"));
        assert!(!matches("usr/sbin/nft", "usr/sbin/nftables"));
        assert!(matches("usr/lib/libmnl.so.0*", "usr/lib/libmnl.so.0.2.0"));
    }
}
