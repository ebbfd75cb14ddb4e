//! Shared folders of a machine against QEMU's own 9p, of the same folder, in the same guest, in the same run.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;

use super::{Table, median};
use crate::shell::{command, output};

/// How often each thing is done on each file system, in turns.
const ROUNDS: usize = 3;
/// Files of the tree: folders by files in each.
const TREE: (usize, usize) = (60, 20);
/// Bytes of the smallest file; others are up to eight times as large.
const SMALLEST: usize = 1 << 10;

/// Where the guest has them: ours, and 9p by how it caches.
const PLACES: [(&str, &str); 3] = [("ours", ""), ("none", "/mnt/none"), ("loose", "/mnt/loose")];

/// What is done, in `$1`, with `$2` for the share as the guest always has it.
const WORK: [(&str, &str); 4] = [
    (
        "untar",
        "rm -rf \"$1\"/tree; sync; echo 3 > /proc/sys/vm/drop_caches; BEGIN; tar xf \"$2\"/tree.tar -C \"$1\"; END",
    ),
    (
        "git status",
        // The first takes note of how files look on this file system: else each would be read.
        "GIT -C \"$1\"/repository status --porcelain; sync; echo 3 > /proc/sys/vm/drop_caches; \
         BEGIN; GIT -C \"$1\"/repository status --porcelain; END",
    ),
    (
        "find",
        "echo 3 > /proc/sys/vm/drop_caches; BEGIN; find \"$1\"/repository -type f -size +1k | wc -l; END",
    ),
    (
        "read all",
        "echo 3 > /proc/sys/vm/drop_caches; BEGIN; find \"$1\"/repository -type f -exec cat {} + | wc -c; END",
    ),
];

/// Measures, where the guest's kernel has 9p.
pub(super) fn bench(table: &mut Table, programs: &Path) -> Result<()> {
    let Some(mut machine) = Machine::init_from("qemu", Some(programs))? else { return Ok(()) };
    // The machine's own QEMU, with a device more for each: one can't be mounted twice.
    let wrappers = tempfile::tempdir()?;
    let qemu = output("which", &["qemu-system-x86_64"]).context("QEMU is not installed")?;
    let share = machine.shared().display().to_string();
    let device = |tag: &str| {
        format!(
            "-fsdev local,id={tag},path={share},security_model=none -device virtio-9p-pci,fsdev={tag},mount_tag={tag}"
        )
    };
    let script = format!("#!/bin/sh\nexec {qemu} \"$@\" {} {}\n", device("none"), device("loose"));
    let wrapper = wrappers.path().join("qemu-system-x86_64");
    std::fs::write(&wrapper, script)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    machine.search_first(wrappers.path());
    prepare(&machine.shared())?;
    machine.bring_up()?;
    let shell = |script: &str| machine.cove(&["machine", "shell", "test", "--", "sh", "-c", script]);
    let options = "trans=virtio,version=9p2000.L,msize=524288";
    let mounted = shell(&format!(
        "set -e; for cache in none loose; do mkdir -p /mnt/$cache; \
         mount -t 9p -o {options},cache=$cache $cache /mnt/$cache; done; cp -r {share}/git /tmp/git"
    ))?;
    if mounted.code != 0 {
        println!("left out: shares against 9p, which this guest's kernel has not ({})", mounted.err);
        return Ok(());
    }
    for (what, work) in WORK {
        let mut times = [const { Vec::new() }; PLACES.len()];
        for _ in 0..ROUNDS {
            for (times, (_, place)) in times.iter_mut().zip(PLACES) {
                let place = if place.is_empty() { share.as_str() } else { place };
                times.push(once(&machine, work, place, &share)?);
            }
        }
        let [ours, none, loose] = times.map(median);
        let what = format!("qemu: shares, {what}");
        table.compare(&what, ours, "9p, cache=none", Some(none), "≤ 1/3");
        table.compare(&what, ours, "9p, cache=loose", Some(loose), "≤ 1/1.5");
    }
    Ok(())
}

/// A tree as an archive, the same as a repository, and git for the guest.
fn prepare(share: &Path) -> Result<()> {
    let tree = share.join("repository");
    for folder in 0..TREE.0 {
        let folder = tree.join(format!("package-{folder}/lib"));
        std::fs::create_dir_all(&folder)?;
        for file in 0..TREE.1 {
            let size = SMALLEST * (1 + file % 8);
            let mut to = std::fs::File::create(folder.join(format!("file-{file}.js")))?;
            to.write_all(&vec![b'a' + u8::try_from(file % 26)?; size])?;
        }
    }
    let path = tree.display().to_string();
    let run = |program: &str, args: &[&str]| -> Result<()> {
        let status = command(program, args).status()?;
        ensure!(status.success(), "{program} {args:?} ended with {status}");
        Ok(())
    };
    let archive = share.join("tree.tar").display().to_string();
    run(
        "tar",
        &[
            "-cf",
            &archive,
            "-C",
            &share.display().to_string(),
            "--transform",
            "s/^repository/tree/",
            "repository",
        ],
    )?;
    run("git", &["-C", &path, "init", "-q"])?;
    run("git", &["-C", &path, "add", "-A"])?;
    let who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"];
    run("git", &[&["-C", &path][..], &who, &["commit", "-qm", "all"]].concat())?;
    let folder = share.join("git");
    std::fs::create_dir_all(&folder)?;
    let git = output("sh", &["-c", "readlink -f \"$(command -v git)\""]).context("git is not installed")?;
    std::fs::copy(&git, folder.join("git"))?;
    let linked = output("ldd", &[&git]).context("git's libraries")?;
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(library).file_name().context("a library has a name")?;
        std::fs::copy(library, folder.join(name))?;
    }
    Ok(())
}

/// How long one thing takes, by the guest's clock, with nothing of it cached there before.
fn once(machine: &Machine, work: &str, place: &str, share: &str) -> Result<Duration> {
    let git = "/tmp/git/ld-linux-x86-64.so.2 --library-path /tmp/git /tmp/git/git -c safe.directory='*' -c core.preloadIndex=false";
    let clock = "$(cut -d' ' -f1 /proc/uptime)";
    let script = work
        .replace("BEGIN", &format!("begin={clock}"))
        .replace("END", &format!("echo \"$begin {clock}\" >&2"))
        .replace("GIT", git);
    let began = Instant::now();
    let words =
        ["machine", "shell", "test", "--", "sh", "-c", &format!("set -e; {script}"), "sh", place, share];
    let said = machine.cove(&words)?;
    ensure!(said.code == 0, "{work} in {place}: {said:?}");
    let line =
        said.err.lines().last().with_context(|| format!("no time of {work} after {:?}", began.elapsed()))?;
    let (begin, end) = line.split_once(' ').context("two times")?;
    let seconds = end.parse::<f64>()? - begin.parse::<f64>()?;
    Ok(Duration::from_secs_f64(seconds.max(0.01)))
}
