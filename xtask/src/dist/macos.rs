//! What macOS' installer is made of. It is built by `packaging/macos/package.sh`, on a Mac.

use serde_json::Value;

use super::manifests::{Check, Facts, Of, VERSION};
use super::xml::{Element, plist};

const PROGRAMS: &str = "/Applications/Cove.app/Contents/MacOS/";
const VIRTUALIZATION: &str = "com.apple.security.virtualization";
/// The names that Apple gave to what our programs ask for.
const ENTITLEMENTS: &[&str] =
    &[VIRTUALIZATION, "com.apple.security.network.client", "com.apple.security.network.server"];
const MINIMUM: &str = "13.0";

/// What is wrong in `packaging/macos`.
pub(super) fn wrong(facts: &Facts) -> Vec<String> {
    let mut check = Check::new("macos", facts);
    check.file("entitlements.plist", plist, |of, list| {
        for (name, value) in list.as_object().into_iter().flatten() {
            if !ENTITLEMENTS.contains(&name.as_str()) {
                of.wrong(&format!("{name} is no entitlement that Cove needs"));
            }
            of.equal(name, value.clone(), true);
        }
        of.equal(VIRTUALIZATION, list[VIRTUALIZATION].clone(), true);
        of.stands_in("vm/vz/src/lib.rs", VIRTUALIZATION);
    });
    check.file("Info.plist", plist, |of, list| {
        of.equal("CFBundleIdentifier", list["CFBundleIdentifier"].clone(), of.facts().identifier.as_str());
        of.program(list["CFBundleExecutable"].as_str().unwrap_or_default());
        of.equal("CFBundlePackageType", list["CFBundlePackageType"].clone(), "APPL");
        of.equal("LSMinimumSystemVersion", list["LSMinimumSystemVersion"].clone(), MINIMUM);
        for key in ["CFBundleShortVersionString", "CFBundleVersion"] {
            of.equal(key, list[key].clone(), VERSION);
        }
    });
    check.file("components.plist", plist, |of, list| {
        of.equal("the app", list[0]["RootRelativeBundlePath"].clone(), "Applications/Cove.app");
        of.equal("BundleIsRelocatable", list[0]["BundleIsRelocatable"].clone(), false);
    });
    for job in ["dev.cove.machine.login", "dev.cove.machine.boot"] {
        check.file(&format!("{job}.plist"), plist, |of, list| launched(of, list, job));
    }
    check.file("Distribution.xml", Element::parse, distribution);
    check.script("package.sh", |of, text| script(of, text));
    check.done()
}

/// A job of launchd's.
fn launched(of: &mut Of<'_, '_>, list: &Value, label: &str) {
    of.equal("Label", list["Label"].clone(), label);
    of.equal("Disabled", list["Disabled"].clone(), true);
    let words: Vec<&str> =
        list["ProgramArguments"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let program = words.first().copied().unwrap_or_default();
    of.program(program.strip_prefix(PROGRAMS).unwrap_or(program));
    let pairs = words.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
    for (flag, value) in pairs {
        match flag {
            "--images" => of.stands_in("crates/host/src/sys/macos.rs", &format!("\"{value}\"")),
            "--data" => of.stands_in("crates/host/src/machine/places.rs", &format!("\"{value}\"")),
            _ => {}
        }
        if flag.starts_with("--") {
            of.stands_in(
                "vm/supervisor/src/main.rs",
                &format!("    {}: PathBuf,", flag.trim_start_matches('-')),
            );
        }
    }
}

/// productbuild's description.
fn distribution(of: &mut Of<'_, '_>, root: &Element) {
    of.equal("the element", root.name.as_str(), "installer-gui-script");
    let choices: Vec<&str> = root.all("choice").iter().map(|choice| choice.attribute("id")).collect();
    for line in root.all("line") {
        if !choices.contains(&line.attribute("choice")) {
            of.wrong(&format!("there is no choice {:?}", line.attribute("choice")));
        }
    }
    let packages = root.all("pkg-ref");
    let files: Vec<_> = packages.iter().filter(|package| !package.text().is_empty()).collect();
    of.equal("the number of packages", files.len(), 1);
    for package in &packages {
        let id = package.attribute("id");
        of.stands_in("packaging/macos/package.sh", &format!("--identifier {id} "));
    }
    for package in files {
        of.equal("the package's version", package.attribute("version"), VERSION);
        of.stands_in("packaging/macos/package.sh", &format!("/{}\"", package.text()));
    }
    for version in root.all("os-version") {
        of.equal("the oldest macOS", version.attribute("min"), MINIMUM);
    }
}

fn script(of: &mut Of<'_, '_>, text: &str) {
    for rest in text.split("$here/").skip(1) {
        let name = rest.split(['"', ' ', '\n']).next().unwrap_or_default();
        if !name.starts_with("../") {
            of.beside(name);
        }
    }
    for line in text.lines() {
        let listed = line.trim().strip_prefix("for program in ").and_then(|rest| rest.strip_suffix("; do"));
        for program in listed.into_iter().flat_map(str::split_whitespace) {
            of.program(program);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::packaging;
    use crate::files;
    use crate::shell::command;

    /// Programs of Apple's, which tell what they were called with, and keep what the package is made of.
    const STAND_IN: &str = r#"#!/bin/sh
name=${0##*/}
echo "$name $*" >>"$OUT/calls"
if [ "$name" = pkgbuild ]; then
    cp -R "$2" "$OUT/root"
fi
"#;

    /// The script's calls, with what the test made in `dir/out`.
    fn calls(dir: &Path, environment: &[(&str, &str)]) -> Vec<String> {
        for name in ["sips", "iconutil", "codesign", "pkgbuild", "productbuild", "xcrun"] {
            files::make_dir(&dir.join("bin")).unwrap();
            files::write(&dir.join("bin").join(name), STAND_IN.as_bytes()).unwrap();
            files::set_mode(&dir.join("bin").join(name), 0o755).unwrap();
        }
        for name in ["cove", "cove-machine", "cove-desktop"] {
            files::make_dir(&dir.join("programs")).unwrap();
            files::write(&dir.join("programs").join(name), b"").unwrap();
        }
        files::make_dir(&dir.join("guest/qemu-own")).unwrap();
        files::write(&dir.join("guest/qemu-own/image.json"), b"{}").unwrap();
        let mut script = command("sh", &[]);
        script.arg(packaging().join("macos/package.sh"));
        script.arg(dir.join("programs")).arg(dir.join("out")).arg("1.2.3").arg(dir.join("guest"));
        script.env("OUT", dir.join("out"));
        script.env("PATH", format!("{}:/usr/bin:/bin", dir.join("bin").display()));
        script.envs(environment.iter().copied());
        files::run_quietly(script).unwrap();
        let calls = files::read_text(&dir.join("out/calls")).unwrap();
        let is_picture = |call: &str| call.starts_with("sips ") || call.starts_with("iconutil ");
        calls.lines().filter(|call| !is_picture(call)).map(str::to_owned).collect()
    }

    fn check(calls: &[String], expected: &[&[&str]]) {
        assert_eq!(calls.len(), expected.len(), "{calls:#?}");
        for (call, parts) in calls.iter().zip(expected) {
            for part in *parts {
                assert!(call.contains(part), "{part:?} is not in {call}");
            }
        }
    }

    #[test]
    fn an_installer_is_signed_from_the_inside_out_and_notarized() {
        let dir = tempfile::tempdir().unwrap();
        let environment =
            [("COVE_SIGN_APPLICATION", "App"), ("COVE_SIGN_INSTALLER", "Inst"), ("COVE_NOTARY_PROFILE", "P")];
        let calls = calls(dir.path(), &environment);
        let signed = "codesign --force --sign App --options runtime --timestamp ";
        check(
            &calls,
            &[
                &[signed, "--identifier dev.cove.cli ", "MacOS/cove"],
                &[signed, "--identifier dev.cove.machine --entitlements ", "MacOS/cove-machine"],
                &[signed, "/Applications/Cove.app"],
                &["codesign --verify "],
                &["pkgbuild --root ", "--version 1.2.3 ", "/cove.pkg"],
                &["productbuild --distribution ", "--sign Inst --timestamp ", "/Cove-1.2.3.pkg"],
                &["xcrun notarytool submit ", "/Cove-1.2.3.pkg --keychain-profile P --wait"],
                &["xcrun stapler staple ", "/Cove-1.2.3.pkg"],
            ],
        );
        assert!(!calls[0].contains("--entitlements") && !calls[2].contains("--entitlements"), "{calls:#?}");
        let root = dir.path().join("out/root");
        let app = root.join("Applications/Cove.app/Contents");
        let info = super::plist(&files::read_text(&app.join("Info.plist")).unwrap()).unwrap();
        assert_eq!(info["CFBundleVersion"], "1.2.3");
        for path in [
            "Library/LaunchAgents/dev.cove.machine.login.plist",
            "Library/LaunchDaemons/dev.cove.machine.boot.plist",
            "Library/Application Support/Cove/guest/qemu-own/image.json",
        ] {
            assert!(root.join(path).is_file(), "{path}");
        }
        let link = std::fs::read_link(root.join("usr/local/bin/cove")).unwrap();
        assert_eq!(link, Path::new("/Applications/Cove.app/Contents/MacOS/cove"));
    }

    #[test]
    fn without_identities_it_is_for_this_mac_alone() {
        let dir = tempfile::tempdir().unwrap();
        let calls = calls(dir.path(), &[("COVE_SIGN_APPLICATION", "-")]);
        check(
            &calls,
            &[
                &["codesign --force --sign - --identifier dev.cove.cli "],
                &["codesign --force --sign - --identifier dev.cove.machine --entitlements "],
                &["codesign --force --sign - "],
                &["codesign --verify "],
                &["pkgbuild "],
                &["productbuild "],
            ],
        );
        assert!(calls.iter().all(|call| !call.contains("--timestamp")), "{calls:#?}");
    }
}
