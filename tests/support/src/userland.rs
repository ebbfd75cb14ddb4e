//! A root file system of programs of this computer's, with the libraries that they need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType};

use crate::image::{BUSYBOX, header};

/// What is not needed to run anything.
const LEFT_OUT: [&str; 6] = [
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/lib/udev/",
    "/lib/udev/",
];

/// Commands of busybox, where nothing better of their name is there.
const COMMANDS: [&str; 34] = [
    "sh", "ash", "cat", "chmod", "chown", "cp", "cut", "dd", "echo", "env", "find", "grep", "head", "id",
    "kill", "ln", "ls", "mkdir", "mount", "mv", "ps", "readlink", "rm", "sed", "sleep", "sort", "stat",
    "tail", "test", "touch", "tr", "true", "umount", "wc",
];

/// The users there are.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/nonexistent:/bin/false\n\
                      app:x:1000:1000:App:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nmessagebus:x:100:\napp:x:1000:\n";
const SUBORDINATE: &str = "app:100000:65536\n";

/// A layer of Debian's packages, of programs, and of what `guests` need, which are not in it themselves; with busybox
/// and a user `app`. `files` are written as they are.
///
/// # Errors
/// Something is not there.
pub fn layer(
    packages: &[&str],
    programs: &[&Path],
    guests: &[&Path],
    files: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let mut all: BTreeSet<PathBuf> = programs.iter().map(|path| path.to_path_buf()).collect();
    for package in packages {
        all.extend(files_of(package)?);
    }
    let needed = libraries(all.iter().map(PathBuf::as_path).chain(guests.iter().copied()))?;
    all.extend(needed);
    all.insert(BUSYBOX.into());
    let mut layer = Builder::new(Vec::new());
    // Packages list directories, which are links of the system that they are installed on.
    let mut taken: BTreeSet<PathBuf> =
        ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"].map(PathBuf::from).into();
    for dir in [
        "usr",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "proc",
        "sys",
        "dev",
        "run",
        "var",
        "var/lib",
        "root",
    ] {
        layer.append_data(
            &mut header(EntryType::Directory, 0o755, 0),
            format!("{dir}/"),
            std::io::empty(),
        )?;
    }
    for dir in ["tmp", "home", "home/app"] {
        layer.append_data(
            &mut header(EntryType::Directory, 0o1777, 0),
            format!("{dir}/"),
            std::io::empty(),
        )?;
    }
    for dir in ["bin", "sbin", "lib", "lib64"] {
        layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), dir, format!("usr/{dir}"))?;
    }
    for path in &all {
        let inside = place(path);
        if !taken.insert(inside.clone()) {
            continue;
        }
        let kind = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        // A library is asked for by a link's name; what a package links may lead anywhere.
        if kind.is_symlink() && !path.to_string_lossy().contains(".so") {
            let target = std::fs::read_link(path)?;
            layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), &inside, target)?;
            continue;
        }
        let bytes = std::fs::read(path)?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path)?.permissions()) & 0o7777;
        let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
        layer.append_data(&mut header, &inside, bytes.as_slice())?;
    }
    for command in COMMANDS {
        let inside = PathBuf::from("usr/bin").join(command);
        if taken.insert(inside.clone()) {
            layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), inside, "/usr/bin/busybox")?;
        }
    }
    let users = [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/subuid", SUBORDINATE),
        ("etc/subgid", SUBORDINATE),
    ];
    for (name, text) in users.iter().chain(files) {
        let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
        layer.append_data(&mut header, name, text.as_bytes())?;
    }
    Ok(layer.into_inner()?)
}

/// Where it is on a system whose `/bin` leads to `/usr/bin`.
fn place(path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").unwrap_or(path);
    let is_merged = ["bin", "sbin", "lib", "lib64"].iter().any(|dir| path.starts_with(dir));
    if is_merged { Path::new("usr").join(path) } else { path.to_owned() }
}

/// Files and links of a package; none where it is not installed.
fn files_of(package: &str) -> Result<Vec<PathBuf>> {
    let output = stdx::process::command("dpkg-query").args(["-L", package]).output()?;
    let listed = String::from_utf8(output.stdout)?;
    let is_wanted = |path: &Path| {
        !LEFT_OUT.iter().any(|prefix| path.starts_with(prefix))
            && std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_file() || kind.is_symlink())
    };
    Ok(listed.lines().map(PathBuf::from).filter(|path| is_wanted(path)).collect())
}

/// What the programs and libraries among `files` are linked with, the dynamic linker included.
fn libraries<'a>(files: impl Iterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
    let is_elf = |path: &&Path| {
        let mut start = [0; 4];
        let read =
            std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
        read.is_ok() && start == *b"\x7fELF"
    };
    // It tells of files that are linked with nothing by its exit code.
    let output =
        stdx::process::command("ldd").args(files.filter(is_elf)).output().context("there is no ldd")?;
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.starts_with('\t'));
    Ok(lines
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(Into::into)
        .collect())
}
