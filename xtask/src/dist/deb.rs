//! Debian's packages: `cove`, and `cove-guest` with what machines boot. The same inputs give the same bytes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::packaging;
use crate::files;
use crate::shell::{command, root};

/// A program of the package.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Whether it is of `cargo xtask musl`, without which there is no package.
    pub(super) is_shipped: bool,
}

pub(super) const PROGRAMS: &[Program] = &[
    Program { name: "cove", is_shipped: true },
    Program { name: "coved", is_shipped: true },
    Program { name: "cove-runtime", is_shipped: true },
    Program { name: "cove-machine", is_shipped: false },
    Program { name: DESKTOP, is_shipped: false },
];
/// Maintainer scripts.
pub(super) const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];
/// The icon's name.
pub(super) const ICON: &str = "cove-desktop";
/// Where `cove machine` looks for images.
pub(super) const GUEST: &str = "usr/share/cove/guest";

const DESKTOP: &str = "cove-desktop";
const MAINTAINER: &str = "Cove contributors";
/// What programs are linked with beside glibc, and the packages that have it.
const LIBRARIES: &[(&str, &str)] = &[("libgcc_s.so.1", "libgcc-s1"), ("libcap-ng.so.0", "libcap-ng0")];
const DESCRIPTION: &str = "\
containers on your computer
 Cove runs containers: from a window, a tray icon, a command line, or the
 Docker client you already have. It has an engine and an OCI runtime of its
 own, and can run the engine in a light virtual machine.
 .
 The service for all of the computer is installed, and not enabled:
 systemctl enable --now cove";
const GUEST_DESCRIPTION: &str = "\
containers on your computer: what machines boot
 Kernels and a small system for the machines that \"cove machine\" runs with
 QEMU or User Mode Linux.";

/// What a package is made from beside its files.
pub(super) struct Origin {
    pub(super) version: String,
    /// The time of all files, in seconds since 1970.
    pub(super) epoch: u64,
    /// The folder that it goes to.
    pub(super) out: PathBuf,
}

/// What apt is told.
struct Control<'a> {
    package: &'a str,
    fields: Vec<(&'static str, String)>,
    description: &'a str,
}

/// The package `cove`, of these programs.
pub(super) fn cove(origin: &Origin, programs: &[PathBuf]) -> Result<PathBuf> {
    files::make_dir(&origin.out)?;
    let scratch = files::Scratch::new(&origin.out)?;
    let tree = scratch.path().join("tree");
    let mut has_desktop = false;
    for program in programs {
        let name = program.file_name().context("a program has a name")?;
        has_desktop |= name == DESKTOP;
        files::copy(program, &tree.join("usr/bin").join(name))?;
        files::set_mode(&tree.join("usr/bin").join(name), 0o755)?;
    }
    let linux = packaging().join("linux");
    let units = tree.join("usr/lib/systemd");
    files::copy(&linux.join("cove.service"), &units.join("system/cove.service"))?;
    files::copy(&linux.join("cove.user.service"), &units.join("user/cove.service"))?;
    if has_desktop {
        files::copy(
            &linux.join("cove-desktop.desktop"),
            &tree.join("usr/share/applications/cove-desktop.desktop"),
        )?;
        let icons = tree.join("usr/share/icons/hicolor");
        for (from, size) in [
            ("32x32.png", "32x32"),
            ("128x128.png", "128x128"),
            ("icon.png", "512x512"),
            ("cove.svg", "scalable"),
        ] {
            let from = root().join("src-tauri/icons").join(from);
            let extension = from.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            files::copy(&from, &icons.join(size).join("apps").join(format!("{ICON}.{extension}")))?;
        }
    }
    completions(&tree)?;
    for script in SCRIPTS {
        files::copy(&linux.join(script), &tree.join("DEBIAN").join(script))?;
        files::set_mode(&tree.join("DEBIAN").join(script), 0o755)?;
    }
    // Networks need nftables. A server has use for neither the window nor machines, so their libraries and QEMU can be
    // done without; what a user's engine needs, most computers want.
    let depends = [dependencies(programs)?, vec!["nftables".to_owned()]].concat();
    let mut recommends = vec!["passt", "uidmap"];
    if has_desktop {
        recommends.insert(0, "libwebkit2gtk-4.1-0");
    }
    let control = Control {
        package: "cove",
        fields: vec![
            ("Section", "admin".to_owned()),
            ("Depends", depends.join(", ")),
            ("Recommends", recommends.join(", ")),
            ("Suggests", "cove-guest, qemu-system-x86".to_owned()),
        ],
        description: DESCRIPTION,
    };
    pack(origin, &tree, &control)
}

/// The package `cove-guest`, of these images.
pub(super) fn guest(origin: &Origin, images: &[PathBuf]) -> Result<PathBuf> {
    files::make_dir(&origin.out)?;
    let scratch = files::Scratch::new(&origin.out)?;
    let tree = scratch.path().join("tree");
    for image in images {
        files::copy_all(image, &tree.join(GUEST).join(image.file_name().context("an image has a name")?))?;
    }
    let control = Control {
        package: "cove-guest",
        fields: vec![
            ("Section", "admin".to_owned()),
            ("Depends", "cove".to_owned()),
            ("Recommends", "qemu-system-x86, passt".to_owned()),
        ],
        description: GUEST_DESCRIPTION,
    };
    pack(origin, &tree, &control)
}

/// What `cove` itself says of its command line, where shells look.
fn completions(tree: &Path) -> Result<()> {
    let program = tree.join("usr/bin/cove").display().to_string();
    for (shell, place) in [
        ("bash", "bash-completion/completions/cove"),
        ("zsh", "zsh/vendor-completions/_cove"),
        ("fish", "fish/vendor_completions.d/cove.fish"),
    ] {
        let script = files::output_of(command(&program, &["completion", shell]))?;
        ensure!(!script.is_empty(), "cove completes nothing for {shell}");
        let path = tree.join("usr/share").join(place);
        files::make_dir(path.parent().context("a completion is in a folder")?)?;
        files::write(&path, script.as_bytes())?;
    }
    Ok(())
}

/// The packages of the libraries that programs are linked with; those of the window are recommended instead.
fn dependencies(programs: &[PathBuf]) -> Result<Vec<String>> {
    let mut glibc = None;
    let mut found = Vec::new();
    for program in programs {
        let bytes =
            std::fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
        glibc = glibc.max(newest_glibc(&bytes));
        for (library, package) in LIBRARIES {
            let name = library.as_bytes();
            if bytes.windows(name.len()).any(|window| window == name) {
                found.push((*package).to_owned());
            }
        }
    }
    found.extend(glibc.map(|minor| format!("libc6 (>= 2.{minor})")));
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The newest version of glibc that a program has symbols of, by the names of versions in it.
fn newest_glibc(program: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\0GLIBC_2.";
    let places = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let versions = places.filter_map(|(at, _)| {
        let rest = program.get(at + NAME.len()..)?;
        let digits = rest.split(|byte| !byte.is_ascii_digit()).next()?;
        str::from_utf8(digits).ok()?.parse().ok()
    });
    versions.max()
}

fn pack(origin: &Origin, tree: &Path, control: &Control<'_>) -> Result<PathBuf> {
    let doc = tree.join("usr/share/doc").join(control.package);
    files::copy(&root().join("LICENSE"), &doc.join("copyright"))?;
    let installed: Vec<PathBuf> =
        files::walk(tree)?.into_iter().filter(|path| !path.starts_with("DEBIAN")).collect();
    files::make_dir(&tree.join("DEBIAN"))?;
    let mut size = 0;
    let mut sums = command("md5sum", &["--"]);
    sums.current_dir(tree);
    for path in &installed {
        let metadata = tree.join(path).symlink_metadata().context("a file of the package is there")?;
        // As dpkg-gencontrol counts: whole KiB, a file.
        size += metadata.len().div_ceil(1024);
        if metadata.is_file() {
            sums.arg(path);
        }
    }
    files::write(&tree.join("DEBIAN/md5sums"), files::output_of(sums)?.as_bytes())?;
    files::write(&tree.join("DEBIAN/control"), control.text(&origin.version, size).as_bytes())?;
    settle(tree, SystemTime::UNIX_EPOCH + Duration::from_secs(origin.epoch))?;
    let name = format!("{}_{}_amd64.deb", control.package, origin.version);
    let made = tree.with_file_name(&name);
    // Threads of xz cut its input another way than one does.
    let mut build = command("dpkg-deb", &["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]);
    build.arg(tree).arg(&made).env("SOURCE_DATE_EPOCH", origin.epoch.to_string());
    files::run_quietly(build)?;
    let package = origin.out.join(&name);
    std::fs::rename(&made, &package).with_context(|| format!("failed to make {}", package.display()))?;
    Ok(package)
}

impl Control<'_> {
    fn text(&self, version: &str, kibibytes: u64) -> String {
        let mut text = format!(
            "Package: {}\nVersion: {version}\nArchitecture: amd64\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {kibibytes}\nPriority: optional\n",
            self.package
        );
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str(&format!("Description: {}\n", self.description));
        text
    }
}

/// One time for all, and folders of one mode whatever this process' umask; files first, for they touch their folders.
fn settle(dir: &Path, time: SystemTime) -> Result<()> {
    for path in files::list(dir)? {
        if path.is_dir() && !path.is_symlink() {
            settle(&path, time)?;
        } else if path.is_file() && !path.is_symlink() {
            let mode = if is_executable(&path)? { 0o755 } else { 0o644 };
            files::set_mode(&path, mode)?;
            set_time(&path, time)?;
        }
    }
    files::set_mode(dir, 0o755)?;
    set_time(dir, time)
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata().with_context(|| format!("failed to look at {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o111 != 0)
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.set_modified(time))
        .with_context(|| format!("failed to set the time of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that are none, of which `cove` knows how to complete.
    fn stand_ins(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
        let made = names.iter().map(|name| {
            let path = dir.join(name);
            files::write(&path, b"#!/bin/sh\necho \"$1 of $2\"\n").unwrap();
            files::set_mode(&path, 0o700).unwrap();
            path
        });
        made.collect()
    }

    fn origin(out: &Path) -> Origin {
        Origin { version: "1.2.3".into(), epoch: 1_700_000_000, out: out.to_owned() }
    }

    fn told(args: &[&str], package: &Path) -> String {
        let mut tell = command("dpkg-deb", args);
        // Times are told in this computer's zone.
        tell.arg(package).env("TZ", "UTC");
        files::output_of(tell).unwrap()
    }

    #[test]
    fn the_package_holds_what_belongs_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
        let package = cove(&origin(dir.path()), &stand_ins(dir.path(), &names)).unwrap();
        assert_eq!(package, dir.path().join("cove_1.2.3_amd64.deb"));
        let contents = told(&["--contents"], &package);
        for line in contents.lines() {
            assert!(line.contains(" root/root ") && line.contains(" 2023-11-14 22:13 "), "{line}");
        }
        for expected in [
            "drwxr-xr-x ./usr/bin/",
            "-rwxr-xr-x ./usr/bin/cove",
            "-rwxr-xr-x ./usr/bin/coved",
            "-rwxr-xr-x ./usr/bin/cove-runtime",
            "-rwxr-xr-x ./usr/bin/cove-machine",
            "-rwxr-xr-x ./usr/bin/cove-desktop",
            "-rw-r--r-- ./usr/lib/systemd/system/cove.service",
            "-rw-r--r-- ./usr/lib/systemd/user/cove.service",
            "-rw-r--r-- ./usr/share/applications/cove-desktop.desktop",
            "-rw-r--r-- ./usr/share/icons/hicolor/512x512/apps/cove-desktop.png",
            "-rw-r--r-- ./usr/share/icons/hicolor/scalable/apps/cove-desktop.svg",
            "-rw-r--r-- ./usr/share/bash-completion/completions/cove",
            "-rw-r--r-- ./usr/share/zsh/vendor-completions/_cove",
            "-rw-r--r-- ./usr/share/fish/vendor_completions.d/cove.fish",
            "-rw-r--r-- ./usr/share/doc/cove/copyright",
        ] {
            let (mode, path) = expected.split_once(' ').unwrap();
            let is_there =
                contents.lines().any(|line| line.starts_with(mode) && line.ends_with(&format!(" {path}")));
            assert!(is_there, "{expected} is not in\n{contents}");
        }
        let control = told(&["--field"], &package);
        for expected in [
            "Package: cove\n",
            "Version: 1.2.3\n",
            "Architecture: amd64\n",
            "\nDepends: nftables\n",
            "\nRecommends: libwebkit2gtk-4.1-0, passt, uidmap\n",
        ] {
            assert!(control.contains(expected), "{expected:?} is not in\n{control}");
        }
        let info = told(&["--info"], &package);
        for part in ["control", "md5sums", "postinst", "prerm", "postrm"] {
            assert!(info.lines().any(|line| line.split_whitespace().any(|word| word == part)), "{info}");
        }
        let unpacked = dir.path().join("unpacked");
        let mut unpack = command("dpkg-deb", &["--extract"]);
        unpack.arg(&package).arg(&unpacked);
        files::run_quietly(unpack).unwrap();
        let completion = unpacked.join("usr/share/zsh/vendor-completions/_cove");
        assert_eq!(files::read_text(&completion).unwrap(), "completion of zsh\n");
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let made = |names: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let mut programs = stand_ins(dir.path(), names);
            programs.sort();
            std::fs::read(cove(&origin(dir.path()), &programs).unwrap()).unwrap()
        };
        let first = made(&["cove", "coved", "cove-runtime"]);
        // The folder's order on disk, and the times of its files, are others.
        assert!(first == made(&["cove-runtime", "coved", "cove"]), "the same programs gave another package");
        assert!(first != made(&["cove", "coved"]), "other programs gave the same package");
    }

    #[test]
    fn without_the_window_there_is_no_entry_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let package =
            cove(&origin(dir.path()), &stand_ins(dir.path(), &["cove", "coved", "cove-runtime"])).unwrap();
        let contents = told(&["--contents"], &package);
        assert!(!contents.contains("desktop") && !contents.contains("icons"), "{contents}");
        assert!(told(&["--field"], &package).contains("\nRecommends: passt, uidmap\n"));
    }

    #[test]
    fn images_are_where_machines_look_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("uml-own");
        files::make_dir(&image).unwrap();
        files::write(&image.join("kernel"), b"kernel").unwrap();
        files::set_mode(&image.join("kernel"), 0o755).unwrap();
        let package = guest(&origin(dir.path()), &[image]).unwrap();
        let contents = told(&["--contents"], &package);
        let line = contents.lines().find(|line| line.ends_with(" ./usr/share/cove/guest/uml-own/kernel"));
        assert!(line.is_some_and(|line| line.starts_with("-rwxr-xr-x root/root")), "{contents}");
    }

    #[test]
    fn the_newest_glibc_that_a_program_asks_for_counts() {
        assert_eq!(newest_glibc(b"..\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0"), Some(34));
        assert_eq!(newest_glibc(b"linked with musl, says nothing of GLIBC_2.99"), None);
    }
}
