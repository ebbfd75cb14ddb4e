//! Linking for macOS, against stubs of what its libraries and frameworks export: nothing of Apple's is copied, and nothing is
//! run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::frameworks::Frameworks;
use super::platforms::Platform;
use crate::files;
use crate::shell::{command, root, run_command};
use crate::sysroot::{self, Target};

/// A compiler on PyPI that brings along a list of what macOS' system library exports, and the digest of its file.
const PACKAGE: &str = "ziglang==0.15.2";
const DIGEST: &str = "806316453d1ede7174ed3fefb8e5348154629089c3bb5fe812dfd0e172fac130";
const SYSTEM: &str = "ziglang/lib/libc/darwin/libSystem.tbd";
/// Other libraries, by what they are known as when a program is loaded, and what they export. The `libc` package asks
/// for this one by name; nothing of ours calls it.
const STUBS: &[(&str, &str, [&str; 3])] =
    &[("libiconv.tbd", "/usr/lib/libiconv.2.dylib", ["iconv", "iconv_open", "iconv_close"])];
/// Which system the stubs are of.
const SETTINGS: &str =
    r#"{"CanonicalName":"macosx15.5","Version":"15.5","MaximumDeploymentTarget":"15.5.99"}"#;
/// Changes when this module makes something else of the same package.
const RECIPE: &str = "1";
/// What is linked: packages, and their programs.
const PROGRAMS: &[(&str, &str)] =
    &[("cli", "cove"), ("vm-supervisor", "cove-machine"), ("cove-desktop", "cove-desktop")];

/// What rustc is to know to link for macOS.
pub(super) struct Linker {
    sdk: PathBuf,
    program: PathBuf,
}

impl Linker {
    /// Fetches the stubs unless they are here.
    pub(super) fn prepare() -> Result<Self> {
        let sdk = files::cache().join(format!("macos/{}", files::key(&[RECIPE, DIGEST])));
        files::cached(&sdk, make_stubs)?;
        Ok(Self { sdk, program: sysroot::lld()? })
    }

    /// Links all programs, and looks at what came out.
    pub(super) fn link(&self, target: &Target) -> Result<()> {
        let system = files::read_text(&self.sdk.join("usr/lib/libSystem.tbd"))?;
        let frameworks = Frameworks::prepare(target.triple, &system)?;
        let mut build = command("cargo", &["build", "--bins"]);
        for (package, _) in PROGRAMS {
            build.args(["-p", package]);
        }
        let linker = [format!("-Clinker={}", self.program.display()), "-Clinker-flavor=ld64.lld".to_owned()];
        target.apply(&mut build, &[&linker[..], &frameworks.flags()].concat());
        Platform::Macos.apply(&mut build);
        build.env("SDKROOT", &self.sdk);
        run_command(build).context("failed to link for macOS")?;
        for (_, name) in PROGRAMS {
            let program = root().join("target").join(target.triple).join("debug").join(name);
            check(&program)?;
            println!("cross: {} is a program of macOS, for arm64", program.display());
        }
        Ok(())
    }
}

/// A list of what a library exports (`.tbd`), by what it is known as when a program is loaded.
pub(super) fn stub<'a>(known_as: &str, exports: impl IntoIterator<Item = &'a str>) -> String {
    let exports: Vec<String> = exports.into_iter().map(|symbol| format!("'_{symbol}'")).collect();
    format!(
        "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{known_as}'\n\
         exports:\n  - targets: [ arm64-macos ]\n    symbols: [ {} ]\n...\n",
        exports.join(", ")
    )
}

fn make_stubs(into: &Path) -> Result<()> {
    let libraries = into.join("usr/lib");
    files::make_dir(&libraries)?;
    let wheel = fetch(into)?;
    let mut unpack = command("unzip", &["-p"]);
    unpack.arg(&wheel).arg(SYSTEM);
    let system = files::output_of(unpack).context("failed to unpack the list of macOS' system library")?;
    // By the other two names the same library is linked.
    for name in ["libSystem.tbd", "libc.tbd", "libm.tbd"] {
        files::write(&libraries.join(name), system.as_bytes())?;
    }
    for (name, known_as, exports) in STUBS {
        files::write(&libraries.join(name), stub(known_as, *exports).as_bytes())?;
    }
    files::write(&into.join("SDKSettings.json"), SETTINGS.as_bytes())?;
    std::fs::remove_file(&wheel).context("failed to remove the package")
}

/// The package's file, which must be the one we know.
fn fetch(into: &Path) -> Result<PathBuf> {
    println!("fetching {PACKAGE}, for a list of what macOS' system library exports");
    let mut download = command("pip3", &["download", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    // That of one platform, or the digest would be another.
    download.args(["--platform", "manylinux2010_x86_64", PACKAGE, "--dest"]).arg(into);
    files::run_quietly(download).context("failed to fetch a package from PyPI: is there a network?")?;
    let found = files::list(into)?.into_iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
    let wheel = found.context("pip fetched no package")?;
    let digest = files::sha256(&wheel)?;
    ensure!(digest == DIGEST, "{PACKAGE} is not what it was: {digest}");
    Ok(wheel)
}

/// Whether a file is a program of macOS' for arm64, of which nothing is undefined but what libraries have
/// (`mach-o/loader.h`).
fn check(program: &Path) -> Result<()> {
    /// `MH_MAGIC_64`, `CPU_TYPE_ARM64`, `MH_EXECUTE`, `MH_NOUNDEFS`.
    const MAGIC: u32 = 0xfeed_facf;
    const ARM64: u32 = 0x0100_000c;
    const PROGRAM: u32 = 2;
    const WHOLE: u32 = 1;
    let bytes = std::fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
    let (words, _) = bytes.as_chunks::<4>();
    let word = |at: usize| words.get(at).map(|word| u32::from_le_bytes(*word)).unwrap_or_default();
    ensure!(word(0) == MAGIC && word(1) == ARM64, "{} is no Mach-O for arm64", program.display());
    ensure!(word(3) == PROGRAM && word(6) & WHOLE != 0, "{} is no whole program", program.display());
    Ok(())
}
