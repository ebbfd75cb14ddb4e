//! Programs of Windows under Wine, in a prefix of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::files;
use crate::shell::{command, has, root};

/// Debian keeps the program here, out of PATH.
const INSTALLED: &str = "/usr/lib/wine/wine64";
const SHIM: &str = include_str!("wine/bcryptprimitives.c");
const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// Wine with what our programs need.
pub(super) struct Wine {
    program: PathBuf,
    prefix: PathBuf,
}

impl Wine {
    /// Makes the prefix unless there is one: it takes a quarter of a minute and 700 MB.
    pub(super) fn prepare() -> Result<Self> {
        let program = if Path::new(INSTALLED).exists() { INSTALLED } else { "wine64" };
        ensure!(Path::new(program).exists() || has(program), "there is no {program}: install wine64");
        let prefix = root().join("target/wine").join(files::key(&[SHIM]));
        let wine = Self { program: program.into(), prefix };
        files::cached(&wine.prefix, |into| {
            println!("making a prefix for Wine");
            let mut boot = command("timeout", &["120"]);
            boot.arg(&wine.program).args(["wineboot", "--init"]);
            Self::apply(&mut boot, into);
            files::run_quietly(boot).context("failed to make a prefix for Wine")?;
            let system = into.join("drive_c/windows/system32");
            ensure!(system.is_dir(), "Wine made no {}", system.display());
            let shim = root().join("xtask/src/cross/wine/bcryptprimitives.c");
            compile(&shim, &system.join("bcryptprimitives.dll"), &["-shared", "-ladvapi32"])?;
            // What Wine has under way knows the folder by its name, which changes now.
            let mut wait = command("timeout", &["60"]);
            wait.arg(wine.program.with_file_name("wineserver64")).arg("--wait");
            Self::apply(&mut wait, into);
            files::run_quietly(wait).context("Wine does not end")
        })?;
        Ok(wine)
    }

    /// Has cargo run what it builds for Windows by Wine.
    pub(super) fn run_by(&self, cargo: &mut Command) {
        cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &self.program);
        Self::apply(cargo, &self.prefix);
    }

    /// The folder that is drive C.
    pub(super) fn drive(&self) -> PathBuf {
        self.prefix.join("drive_c")
    }

    /// What a program prints.
    pub(super) fn output(&self, program: &Path, args: &[&str]) -> Result<String> {
        self.output_with(program, args, &[])
    }

    /// What a program prints that has some variables more.
    pub(super) fn output_with(
        &self,
        program: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<String> {
        let mut run = command("timeout", &["120"]);
        run.arg(&self.program).arg(program).args(args).envs(variables.iter().copied());
        Self::apply(&mut run, &self.prefix);
        // A program that it leaves behind would keep a pipe open.
        let said = tempfile::NamedTempFile::new().context("failed to make a file")?;
        let output = said.reopen()?;
        let status = run.stdout(output.try_clone()?).stderr(output).status();
        let status = status.with_context(|| format!("failed to run {} by Wine", program.display()))?;
        let said = files::read_text(said.path())?;
        ensure!(status.success(), "{} {} ended with {status}: {said}", program.display(), args.join(" "));
        Ok(said)
    }

    /// Where a file of ours is for a program that Wine runs.
    pub(super) fn path(file: &Path) -> String {
        format!("Z:{}", file.display()).replace('/', "\\")
    }

    fn apply(command: &mut Command, prefix: &Path) {
        command.env("WINEPREFIX", prefix).env("WINEDEBUG", "-all");
        // Neither .NET nor a browser is asked for, and no window opened.
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml=").env_remove("DISPLAY");
    }
}

/// Compiles a file in C for Windows.
pub(super) fn compile(source: &Path, into: &Path, flags: &[&str]) -> Result<()> {
    let mut compile = command(MINGW, &["-O2", "-Wall", "-Werror", "-o"]);
    compile.arg(into).arg(source).args(flags);
    files::run_quietly(compile).with_context(|| format!("failed to compile {}", source.display()))
}
