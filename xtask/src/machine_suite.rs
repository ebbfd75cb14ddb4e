//! The engine's end-to-end tests against an engine in a machine: the same files that are run against the one here, and
//! can be run against Docker's. A machine has cgroup v2 alone, a kernel with modules, and a disk of its own.

use std::path::Path;

use anyhow::{Context, Result};

use crate::shell::{command, root, run_command};

const NAME: &str = "suite";
const TESTS: &[&str] = &["docker_cli", "networks", "volumes", "api"];
/// What looks at the engine's files, mounts or interfaces from this computer, where a machine's are not.
const NOT_FROM_HERE: &[&str] = &[
    "an_empty_volume_takes_what_the_image_has_at_its_place",
    "read_only_binds_reach_what_is_mounted_below",
    "what_is_wrong_is_refused_and_nothing_is_left_of_it",
    "containers_speak_ipv6_where_their_network_does",
];

/// Starts a machine, runs the tests against it, and removes it.
pub(crate) fn run(image: &Path) -> Result<()> {
    let guest = root().join("target/guest");
    // A kernel of our own for User Mode Linux has all that QEMU's has, and runs at the processor's speed.
    let backend = if guest.join("uml-own").is_dir() { "uml" } else { "qemu" };
    let folder = tempfile::Builder::new().prefix("cove-suite").tempdir()?;
    let cove = root().join("target/debug/cove").display().to_string();
    let machine = |args: &[&str]| {
        let mut command = command(&cove, &[&["machine"], args].concat());
        command
            .env("COVE_MACHINES", folder.path())
            .env("COVE_GUEST_IMAGES", &guest)
            .env("COVE_ACCELERATION", "tcg");
        run_command(command)
    };
    // Tests bind folders that they make where temporary files are.
    let share = std::env::temp_dir().canonicalize()?.display().to_string();
    machine(&[
        "init",
        NAME,
        "--backend",
        backend,
        "--memory",
        "1G",
        "--disk",
        "8G",
        "--cpus",
        "2",
        "--share",
        &share,
    ])?;
    let outcome = machine(&["start", NAME]).and_then(|()| {
        let socket = folder.path().join(".run").join(NAME).join("engine.sock");
        // Of the whole workspace, as before: for one package alone others would be built with other features.
        let mut tests = command("cargo", &["test", "--workspace", "--no-fail-fast"]);
        tests.args(TESTS.iter().flat_map(|test| ["--test", test])).args(["--", "--test-threads=1"]);
        tests.args(NOT_FROM_HERE.iter().flat_map(|name| ["--skip", name]));
        tests
            .env("COVE_TEST_DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("COVE_TEST_IMAGE_TAR", image);
        tests.env("COVE_TEST_IN_MACHINE", "1");
        run_command(tests).with_context(|| format!("the tests in a machine ({backend})"))
    });
    let removed = machine(&["rm", "-f", NAME]);
    outcome.and(removed)
}
