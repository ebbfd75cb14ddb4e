//! Folders that a machine shares, as programs use them: POSIX's rules, contents at random against a model, git, and trees of
//! thousands of files, from both sides.
//!
//! `COVE_TEST_FUZZ` is how many operations at random (3000 unless given), `COVE_TEST_SEED` which.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use support::machine::Machine;

/// How soon a guest must know of what happened here: long before it would ask again by itself.
const SOON: Duration = Duration::from_secs(5);
/// How soon it must have acted out some ten thousand of them, still before it would ask.
const CAUGHT_UP: Duration = Duration::from_secs(30);
/// How a folder looks: some names in it that may be there, and what is listed.
const LOOK: &str = r#"cd "$1"; for name in changed grown secret removed replaced swapped linked absent folder/inner other/inner; do
if [ -e $name ]; then stat -c '%n %s %a' $name; cat $name; else echo $name is not there; fi; done; for folder in . folder other; do if [ -d $folder ]; then ls $folder; fi; done"#;

/// All that is in a folder and below.
const TREE: &str = r#"cd "$1"; find . | LC_ALL=C sort | while read -r name; do
stat -c '%n %F %a' "$name"; if [ -L "$name" ]; then readlink "$name"; elif [ -f "$name" ]; then wc -c <"$name"; cat "$name"; fi; done"#;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn exerciser(machine: &Machine) -> Result<String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exerciser.c");
    Ok(machine.compile(Path::new(source))?.display().to_string())
}

/// A new folder in the shared one.
fn folder(machine: &Machine, name: &str) -> Result<String> {
    let dir = machine.shared().join(name);
    std::fs::create_dir(&dir)?;
    Ok(dir.display().to_string())
}

/// What a command here printed.
fn here(program: &str, args: &[&str]) -> Result<String> {
    let output = stdx::process::command(program).args(args).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if !output.status.success() {
        bail!(
            "{program} {args:?} ended with {}: {text} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}

/// What it printed in a container.
fn there(machine: &Machine, args: &[&str]) -> Result<String> {
    let said = machine.run_in_share(args)?;
    ensure!(said.code == 0, "{args:?} ended with {} in a container: {} {}", said.code, said.out, said.err);
    Ok(said.out)
}

#[test]
fn a_share_keeps_the_rules_of_a_file_system() -> Result<()> {
    for backend in ["uml", "qemu"] {
        let Some(machine) = Machine::start(backend)? else { continue };
        keeps_the_rules(&machine)?;
    }
    Ok(())
}

#[test]
fn it_keeps_them_behind_the_guests_layer() -> Result<()> {
    let Some(machine) = Machine::start_layered("uml")? else { return Ok(()) };
    keeps_the_rules(&machine)
}

fn keeps_the_rules(machine: &Machine) -> Result<()> {
    let (backend, exerciser) = (machine.backend(), exerciser(machine)?);
    // The host's own file system proves the rules.
    let holds = |said: &str| said.ends_with(" checks, 0 failed");
    let said = here(&exerciser, &["rules", &folder(machine, "here")?])?;
    ensure!(holds(&said), "here: {said}");
    let said = there(machine, &[&exerciser, "rules", &folder(machine, "there")?])
        .with_context(|| format!("on {backend}"))?;
    ensure!(holds(&said), "on {backend}: {said}");
    // What was made there looks the same from both sides.
    let made = machine.shared().join("there").display().to_string();
    assert_eq!(there(machine, &[&exerciser, "sum", &made])?, here(&exerciser, &["sum", &made])?);
    Ok(())
}

/// A name, and a deed.
type Deed<'a> = (&'a str, &'a dyn Fn() -> std::io::Result<()>);

#[test]
fn what_a_guest_has_looked_at_is_right_again_soon_whatever_happens_to_it_here() -> Result<()> {
    for backend in ["uml", "qemu"] {
        let Some(machine) = Machine::init(backend)? else { continue };
        machine.bring_up()?;
        let folder = folder(&machine, "followed")?;
        let at = |name: &str| Path::new(&folder).join(name);
        for name in ["changed", "grown", "secret", "removed", "replaced", "swapped", "linked"] {
            std::fs::write(at(name), "before\n")?;
        }
        std::fs::create_dir(at("folder"))?;
        std::fs::write(at("folder/inner"), "inner\n")?;
        // By a name that no guest can see.
        let outside = machine.shared().with_file_name("outside");
        std::fs::hard_link(at("linked"), &outside)?;
        let look = || {
            let args = ["machine", "shell", "test", "--", "sh", "-c", LOOK, "sh", &folder];
            anyhow::Ok(machine.cove_ok(&args)?.trim_end().to_owned())
        };
        let expected = || here("sh", &["-c", LOOK, "sh", &folder]);
        let deeds: [Deed<'_>; 11] = [
            ("nothing", &|| Ok(())),
            ("other content", &|| std::fs::write(at("changed"), "behind\n")),
            ("more content", &|| std::fs::write(at("grown"), "before and after\n")),
            ("permissions", &|| {
                std::fs::set_permissions(at("secret"), std::fs::Permissions::from_mode(0o600))
            }),
            ("a removal", &|| std::fs::remove_file(at("removed"))),
            ("a replacement", &|| {
                std::fs::write(at("new"), "replaced\n")?;
                std::fs::rename(at("new"), at("replaced"))
            }),
            ("a replacement from elsewhere", &|| {
                let elsewhere = outside.with_file_name("elsewhere");
                std::fs::write(&elsewhere, "from elsewhere\n")?;
                std::fs::rename(elsewhere, at("swapped"))
            }),
            ("another name of it", &|| std::fs::write(&outside, "by another name\n")),
            ("a new file", &|| std::fs::write(at("absent"), "present\n")),
            ("a file in a folder", &|| std::fs::write(at("folder/more"), "")),
            ("a folder's new name", &|| std::fs::rename(at("folder"), at("other"))),
        ];
        for (what, deed) in deeds {
            // All of it is known there.
            look()?;
            deed()?;
            let (begin, expected) = (Instant::now(), expected()?);
            while look()? != expected {
                ensure!(begin.elapsed() < SOON, "on {backend}, after {what}: {} is not {expected}", look()?);
            }
        }
    }
    Ok(())
}

/// Runs a test on each kind of machine; it is told the share of the work that is done on one that is emulated.
fn on_each(test: impl Fn(&Machine, u64) -> Result<()>) -> Result<()> {
    for (backend, share) in [("uml", 1), ("qemu", 5)] {
        let Some(machine) = Machine::start(backend)? else { continue };
        test(&machine, share).with_context(|| format!("on {backend}"))?;
    }
    Ok(())
}

/// And behind the guest's layer, where it does that share of the work.
fn on_each_way(layered: u64, test: impl Fn(&Machine, u64) -> Result<()>) -> Result<()> {
    on_each(&test)?;
    let Some(machine) = Machine::start_layered("uml")? else { return Ok(()) };
    test(&machine, layered).context("behind the guest's layer")
}

#[test]
fn random_reads_writes_and_mappings_of_a_share_agree_with_a_model() -> Result<()> {
    on_each(agree_with_a_model)
}

fn agree_with_a_model(machine: &Machine, share: u64) -> Result<()> {
    let exerciser = exerciser(machine)?;
    let folder = folder(machine, "fsx")?;
    let count = (number("COVE_TEST_FUZZ", 3000) / share).to_string();
    let seed = number("COVE_TEST_SEED", 1);
    for seed in seed..seed + 2 {
        let file = format!("{folder}/{seed}");
        there(machine, &[&exerciser, "fsx", &file, &seed.to_string(), &count])
            .with_context(|| format!("COVE_TEST_SEED={seed}"))?;
    }
    // The same operations here leave the same files.
    let sum = there(machine, &[&exerciser, "sum", &folder])?;
    assert_eq!(sum, here(&exerciser, &["sum", &folder])?);
    for seed in seed..seed + 2 {
        here(&exerciser, &["fsx", &format!("{folder}/{seed}"), &seed.to_string(), &count])?;
    }
    assert_eq!(sum, here(&exerciser, &["sum", &folder])?);
    assert_eq!(sum, there(machine, &[&exerciser, "sum", &folder])?);
    Ok(())
}

#[test]
fn trees_of_thousands_of_files_are_the_same_from_both_sides() -> Result<()> {
    on_each(trees_are_the_same)
}

fn trees_are_the_same(machine: &Machine, share: u64) -> Result<()> {
    let (all, some) = ((3000 / share).to_string(), (500 / share).to_string());
    let exerciser = exerciser(machine)?;
    let (from_here, from_there) = (folder(machine, "from-here")?, folder(machine, "from-there")?);
    here(&exerciser, &["grow", &from_here, &all])?;
    let expected = here(&exerciser, &["sum", &from_here])?;
    there(machine, &[&exerciser, "grow", &from_there, &all])?;
    assert_eq!(here(&exerciser, &["sum", &from_there])?, expected);
    assert_eq!(there(machine, &[&exerciser, "sum", &from_here])?, expected);
    assert_eq!(there(machine, &[&exerciser, "sum", &from_there])?, expected);
    // Each side takes away what the other has made, and what the guest had cached of it is gone, too.
    here(&exerciser, &["clear", &from_there])?;
    there(machine, &[&exerciser, "clear", &from_here])?;
    ensure!(std::fs::read_dir(&from_here)?.next().is_none());
    machine.wait_for("the end of what was removed here", || {
        there(machine, &["ls", "-A", &from_there]).is_ok_and(|left| left.is_empty())
    })?;
    // And again, in the place of what was there.
    here(&exerciser, &["grow", &from_there, &some])?;
    let expected = here(&exerciser, &["sum", &from_there])?;
    machine.wait_for("the new tree", || {
        there(machine, &[&exerciser, "sum", &from_there]).is_ok_and(|sum| sum == expected)
    })
}

#[test]
fn what_the_guest_makes_is_not_taken_away_by_what_the_host_did_before() -> Result<()> {
    on_each_way(5, replace_from_both_sides)
}

fn replace_from_both_sides(machine: &Machine, share: u64) -> Result<()> {
    let exerciser = exerciser(machine)?;
    let folder = folder(machine, "replaced")?;
    let (many, some) = ((3000 / share).to_string(), (300 / share).to_string());
    let on_host = || here(&exerciser, &["locks", &folder, &many]);
    let in_guest = || there(machine, &[&exerciser, "locks", &folder, &some]);
    for round in 0..number("COVE_TEST_ROUNDS", 2).div_ceil(share) {
        // So fast that the guest is told of it while it does the same.
        let one_by_one = on_host().and_then(|host| Ok([host, in_guest()?]));
        let at_once = std::thread::scope(|scope| {
            let host = scope.spawn(on_host);
            let guest = in_guest();
            anyhow::Ok([host.join().map_err(|_| anyhow::anyhow!("the host's half panicked"))??, guest?])
        });
        for (how, said) in [("one by one", one_by_one), ("at once", at_once)] {
            let said = said.with_context(|| format!("{how}, round {round}"))?;
            let is_right = said.iter().all(|said| said.ends_with(" checks, 0 failed"));
            ensure!(is_right, "{how}, round {round}: here and there: {said:?}");
        }
    }
    Ok(())
}

#[test]
fn a_folder_that_is_moved_to_where_the_guest_has_not_looked_is_found_there() -> Result<()> {
    on_each_way(1, |machine, _| is_found_where_it_was_moved(machine))
}

fn is_found_where_it_was_moved(machine: &Machine) -> Result<()> {
    let root = PathBuf::from(folder(machine, "moved")?);
    for dir in ["known/folder", "unknown"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::write(root.join("known/folder/inner"), "")?;
    // A program is in it all the while.
    let script = "until_gone() { n=0; while [ $n -lt 200 ] && $1; do sleep .1; n=$((n + 1)); done; }; \
        waits() { [ ! -e \"$root/go-on\" ]; }; is_there() { [ -e \"$root/known/folder\" ]; }; root=$1; \
        cd \"$root/known/folder\"; ls; touch \"$root/ready\"; until_gone waits; until_gone is_there; \
        ls . \"$root/unknown/folder\"; touch here";
    let root_name = root.display().to_string();
    let said = std::thread::scope(|scope| {
        let guest = scope.spawn(|| there(machine, &["sh", "-c", script, "sh", &root_name]));
        machine.wait_for("a program in the folder", || root.join("ready").exists() || guest.is_finished())?;
        std::fs::rename(root.join("known/folder"), root.join("unknown/folder"))?;
        std::fs::write(root.join("go-on"), "")?;
        guest.join().map_err(|_| anyhow::anyhow!("the guest's half panicked"))?
    })?;
    assert_eq!(said, format!("inner\n.:\ninner\n\n{root_name}/unknown/folder:\ninner"));
    ensure!(root.join("unknown/folder/here").exists(), "it is not the same folder");
    Ok(())
}

#[test]
fn whatever_both_sides_do_at_once_they_see_the_same_soon_after() -> Result<()> {
    on_each_way(2, play_from_both_sides)
}

fn play_from_both_sides(machine: &Machine, share: u64) -> Result<()> {
    let exerciser = exerciser(machine)?;
    let folder = folder(machine, "played")?;
    let deeds = (number("COVE_TEST_FUZZ", 1000) / share).to_string();
    let first = number("COVE_TEST_SEED", 1);
    for seed in first..first + number("COVE_TEST_ROUNDS", 2) {
        std::thread::scope(|scope| {
            let (exerciser, folder, deeds) = (&exerciser, &folder, &deeds);
            let play = |seed: u64| ["play".to_owned(), folder.clone(), seed.to_string(), deeds.clone()];
            let args = play(1000 * seed);
            let guest = scope.spawn(move || {
                let [verb, folder, seed, deeds] = &args;
                there(machine, &[exerciser, verb, folder, seed, deeds])
            });
            // For as long as the guest does.
            for seed in 1000 * seed + 1.. {
                here(exerciser, &play(seed).each_ref().map(String::as_str))?;
                if guest.is_finished() {
                    break;
                }
            }
            guest.join().map_err(|_| anyhow::anyhow!("the guest's half panicked"))?
        })?;
        let look = ["sh", "-c", TREE, "sh", &folder];
        let expected = here("sh", &look[1..])?;
        let begin = Instant::now();
        loop {
            let found = there(machine, &look);
            if found.as_ref().is_ok_and(|found| *found == expected) {
                break;
            }
            if begin.elapsed() > CAUGHT_UP {
                let found = found?;
                let lines = |one: &str, other: &str| {
                    let other: std::collections::HashSet<&str> = other.lines().collect();
                    let own = one.lines().filter(|line| !other.contains(line));
                    own.map(|line| format!("\n  {line:?}")).collect::<String>()
                };
                let (here, there) = (lines(&expected, &found), lines(&found, &expected));
                bail!("COVE_TEST_SEED={seed}: only here:{here}\nonly there:{there}");
            }
        }
    }
    Ok(())
}

/// This computer's git with its libraries, as a folder for containers.
fn portable_git(machine: &Machine) -> Result<PathBuf> {
    let root = machine.shared().join("git");
    std::fs::create_dir_all(&root)?;
    let git = here("sh", &["-c", "readlink -f \"$(command -v git)\""])?;
    std::fs::copy(&git, root.join("git"))?;
    for word in here("ldd", &[&git])?.split_whitespace().filter(|word| word.starts_with('/')) {
        let file = Path::new(word).file_name().context("a library")?;
        std::fs::copy(word, root.join(file))?;
    }
    Ok(root)
}

#[test]
fn a_repository_is_worked_on_by_git_from_both_sides() -> Result<()> {
    on_each(git_works_on_both_sides)
}

fn git_works_on_both_sides(machine: &Machine, _share: u64) -> Result<()> {
    let exerciser = exerciser(machine)?;
    let root = portable_git(machine)?.display().to_string();
    let repository = folder(machine, "repository")?;
    // `git` by its own loader, as busybox' image has no libraries; it starts itself by the name in PATH.
    let script = format!(
        "set -e; mkdir /lib64; ln -s {root}/* /lib64/; ln -s {root}/git /bin/git; export LD_LIBRARY_PATH={root} HOME=/; \
         git config --global user.name t; git config --global user.email t@example.org; \
         git config --global --add safe.directory '*'; cd {repository}; "
    );
    let in_guest = |commands: &str| there(machine, &["sh", "-c", &format!("{script}{commands}")]);
    let on_host = |args: &[&str]| {
        let own = ["-C", &repository, "-c", "user.name=h", "-c", "user.email=h@example.org"];
        here("git", &[&own, args].concat())
    };
    on_host(&["init", "-q", "-b", "main"])?;
    here(&exerciser, &["grow", &repository, "400"])?;
    on_host(&["add", "-A"])?;
    on_host(&["commit", "-qm", "from the host"])?;
    // In the guest nothing is changed, then a branch is worked on and the whole is packed anew.
    assert_eq!(in_guest("git status --porcelain")?, "");
    in_guest(
        "git checkout -qb guest; echo changed > package-1/lib/file-0.js; rm package-2/lib/file-2.js; \
         mv package-3 moved; git add -A; git commit -qm guest; git gc -q; git fsck --strict",
    )?;
    assert_eq!(on_host(&["status", "--porcelain"])?, "");
    on_host(&["fsck", "--strict"])?;
    assert_eq!(on_host(&["log", "--format=%s"])?, "guest\nfrom the host");
    // What the host checks out the guest sees.
    on_host(&["checkout", "-q", "main"])?;
    std::fs::write(format!("{repository}/new"), "from the host")?;
    machine.wait_for("the other branch", || {
        in_guest("git status --porcelain").is_ok_and(|status| status == "?? new")
    })?;
    assert_eq!(in_guest("git merge -q guest; cat new package-1/lib/file-0.js")?, "from the hostchanged");
    on_host(&["gc", "-q"])?;
    in_guest("git fsck --strict; git diff --exit-code; git checkout -q guest")?;
    assert_eq!(on_host(&["status", "--porcelain"])?, "?? new");
    Ok(())
}
