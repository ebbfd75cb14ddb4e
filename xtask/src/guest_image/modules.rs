//! Modules of a kernel that has them: those the guest may need, and which of them the first process loads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::recipe::Machine;
use crate::files;
use crate::shell::command;

/// `vm/image/modules` for one machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Loaded by the first process, before there is a system.
    boot: Vec<String>,
    /// In the system, to be loaded by the kernel when it asks.
    need: Vec<String>,
    /// The same, where the kernel has them.
    want: Vec<String>,
}

impl Wanted {
    /// Reads lines like `boot-qemu virtio_blk virtio_net`.
    pub(super) fn parse(text: &str, machine: Machine) -> Result<Self> {
        let mut wanted = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace().map(str::to_owned);
            let kind = words.next().unwrap_or_default();
            let (kind, only) = kind.split_once('-').unwrap_or((&kind, machine.name()));
            let list = match kind {
                "boot" => &mut wanted.boot,
                "need" => &mut wanted.need,
                "want" => &mut wanted.want,
                other => bail!("vm/image/modules: {other:?} is none of boot, need and want"),
            };
            if only == machine.name() {
                list.extend(words);
            }
        }
        Ok(wanted)
    }
}

/// Modules taken out of a kernel's package.
pub(super) struct Modules {
    /// Holds `usr/lib/modules/VERSION`.
    dir: PathBuf,
    version: String,
}

impl Modules {
    /// Takes those that are wanted, and what they depend on, out of `from` (`…/lib/modules/VERSION`)
    /// into `into`, decompressed, with new indexes.
    pub(super) fn take(from: &Path, wanted: &Wanted, into: &Path) -> Result<()> {
        let version = from
            .file_name()
            .and_then(|name| name.to_str())
            .context("modules are in a folder of a version")?;
        // depmod wants its own layout.
        let base = into.join("all");
        let all = base.join("lib/modules").join(version);
        files::make_dir(all.parent().context("it has a parent")?)?;
        std::fs::rename(from, &all).context("failed to move the modules")?;
        depmod(&base, version)?;
        let index = Index::read(&all)?;
        let made = into.join("modules");
        let target = made.join("usr/lib/modules").join(version);
        let boot = index.closure(&wanted.boot, true)?;
        let mut taken: BTreeSet<String> = boot.iter().cloned().collect();
        taken.extend(index.closure(&wanted.need, true)?);
        taken.extend(index.closure(&wanted.want, false)?);
        for path in &taken {
            decompress(&all.join(path), &target.join(plain(path)))?;
        }
        for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            files::copy(&all.join(name), &target.join(name))?;
        }
        let boot: String = boot.iter().map(|path| format!("{}\n", plain(path))).collect();
        files::write(&made.join("boot"), boot.as_bytes())?;
        files::write(&made.join("version"), version.as_bytes())?;
        // Of a merged /usr, depmod knows only what a link shows.
        std::os::unix::fs::symlink("usr/lib", made.join("lib")).context("failed to link lib")?;
        depmod(&made, version)?;
        std::fs::remove_file(made.join("lib")).context("failed to remove the link lib")?;
        // The guest's modprobe is busybox's, which reads the text of these.
        for path in
            files::list(&target)?.iter().filter(|path| path.extension().is_some_and(|end| end == "bin"))
        {
            std::fs::remove_file(path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
        std::fs::remove_dir_all(&base).context("failed to remove the modules that are not taken")
    }

    /// Those that [`take`](Self::take) left in a folder, if the kernel has modules.
    pub(super) fn open(dir: &Path) -> Result<Option<Self>> {
        let dir = dir.join("modules");
        if !dir.exists() {
            return Ok(None);
        }
        let version = files::read_text(&dir.join("version"))?;
        Ok(Some(Self { dir, version }))
    }

    /// For the system: `usr/lib/modules/VERSION`.
    pub(super) fn copy_to(&self, system: &Path) -> Result<()> {
        files::copy_all(&self.dir.join("usr"), &system.join("usr"))
    }

    /// For the first process, in the order of loading.
    pub(super) fn boot(&self) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join("usr/lib/modules").join(&self.version);
        Ok(files::read_text(&self.dir.join("boot"))?.lines().map(|line| dir.join(line)).collect())
    }
}

/// `modules.dep` and `modules.builtin`: by name, where a module is and what it depends on.
#[derive(Debug)]
struct Index {
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Index {
    fn read(dir: &Path) -> Result<Self> {
        let builtin = files::read_text(&dir.join("modules.builtin"))?;
        Ok(Self::parse(&files::read_text(&dir.join("modules.dep"))?, &builtin))
    }

    fn parse(dependencies: &str, builtin: &str) -> Self {
        let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
        let modules = lines.map(|(path, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (name(path), (path.to_owned(), needs))
        });
        Self { modules: modules.collect(), builtin: builtin.lines().map(name).collect() }
    }

    /// The files of these modules, each after what it depends on.
    fn closure(&self, names: &[String], all_must_be: bool) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        let mut order: Vec<String> = Vec::new();
        for wanted in names {
            match self.modules.get(wanted) {
                // modules.dep names all that is needed, the first to load last.
                Some((path, needs)) => {
                    for path in needs.iter().rev().chain(std::iter::once(path)) {
                        if !order.contains(path) {
                            order.push(path.clone());
                        }
                    }
                }
                None if self.builtin.contains(wanted) => {}
                None => missing.push(wanted.as_str()),
            }
        }
        ensure!(
            missing.is_empty() || !all_must_be,
            "the kernel has no {}, which vm/image/modules asks for",
            missing.join(", ")
        );
        Ok(order)
    }
}

/// `kernel/net/vmw_vsock/vsock.ko.xz` is `vsock`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn plain(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

fn decompress(from: &Path, to: &Path) -> Result<()> {
    files::make_dir(to.parent().context("a module is in a folder")?)?;
    if from.extension().is_none_or(|end| end != "xz") {
        return files::copy(from, to);
    }
    let mut unxz = command("xz", &["-dc"]);
    unxz.arg(from)
        .stdout(std::fs::File::create(to).with_context(|| format!("failed to make {}", to.display()))?);
    let status = unxz.status().context("failed to run xz: install xz-utils")?;
    ensure!(status.success(), "xz could not decompress {}", from.display());
    files::set_mode(to, 0o644)
}

fn depmod(base: &Path, version: &str) -> Result<()> {
    let sbin = Path::new("/usr/sbin/depmod");
    let program = if sbin.exists() { "/usr/sbin/depmod" } else { "depmod" };
    let mut depmod = command(program, &["-b"]);
    depmod.arg(base).arg(version);
    files::run_quietly(depmod).context("failed to index the modules (package kmod)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# what\nboot erofs\nboot-qemu virtio_blk\nneed veth  bridge\nwant hv_sock\n";

    #[test]
    fn a_machine_has_its_own_lines_and_those_for_all() {
        let qemu = Wanted::parse(LIST, Machine::Qemu).expect("a list");
        assert_eq!(qemu.boot, ["erofs", "virtio_blk"]);
        let uml = Wanted::parse(LIST, Machine::Uml).expect("a list");
        assert_eq!((uml.boot, uml.need.len(), uml.want.len()), (vec!["erofs".to_owned()], 2, 1));
        assert!(Wanted::parse("boots erofs", Machine::Uml).is_err());
    }

    #[test]
    fn modules_come_after_what_they_depend_on_and_once() {
        let index = Index::parse(
            "kernel/net/a.ko.xz: kernel/net/b.ko.xz kernel/lib/c-d.ko.xz\nkernel/net/b.ko.xz: kernel/lib/c-d.ko.xz\n\
             kernel/lib/c-d.ko.xz:\n",
            "kernel/fs/ext4/ext4.ko\n",
        );
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let order = index.closure(&names(&["a", "b", "ext4"]), true).expect("all are there");
        assert_eq!(order, ["kernel/lib/c-d.ko.xz", "kernel/net/b.ko.xz", "kernel/net/a.ko.xz"]);
        assert!(index.closure(&names(&["x"]), true).is_err());
        assert!(index.closure(&names(&["x"]), false).expect("it may lack").is_empty());
    }
}
