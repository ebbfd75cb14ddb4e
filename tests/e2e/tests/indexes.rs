//! Images for several platforms, between engines and a real registry.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::daemon::Daemon;
use support::image::{Blobs, busybox_layer, header, noise, sha256};
use support::index::{Index, PROCESSORS};
use support::registry::Registry;
use tar::{Builder, EntryType};

/// Of busybox, which is told apart by a file; for both it is this machine's.
fn index(size: usize) -> Result<Index> {
    let mut own = Vec::new();
    for (architecture, seed) in PROCESSORS.iter().zip([41, 43]) {
        let mut layer = Builder::new(Vec::new());
        for (name, data) in [("for", architecture.as_bytes().to_vec()), ("large", noise(seed, size))] {
            layer.append_data(
                &mut header(EntryType::Regular, 0o644, data.len() as u64),
                name,
                data.as_slice(),
            )?;
        }
        // An archive ends with two blocks of zeros: busybox goes in their place.
        let mut bytes = layer.into_inner()?;
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(busybox_layer()?);
        own.push(bytes);
    }
    Index::new([&own[0], &own[1]])
}

fn load(daemon: &Daemon, archive: &[u8]) -> Result<()> {
    let file = daemon.dir().join("layout.tar");
    std::fs::write(&file, archive)?;
    daemon.docker_ok(&["load", "-i", &file.display().to_string()]).map(drop)
}

/// Checks that a registry has an index with all that it names, byte for byte.
fn assert_whole(registry: &Registry, repository: &str, tag: &str, index: &Index) -> Result<()> {
    assert_eq!(registry.manifest(repository, tag)?.as_bytes(), index.bytes);
    for child in index.images.iter().chain([&index.attestation]) {
        assert_eq!(registry.manifest(repository, &child.digest())?.as_bytes(), child.manifest);
        let blobs = child.layers.iter().map(|layer| &layer.bytes).chain([&child.config]);
        for blob in blobs {
            let length = registry.blob_length(repository, &format!("sha256:{}", sha256(blob)))?;
            assert_eq!(length, blob.len() as u64);
        }
    }
    Ok(())
}

/// Checks that a registry has the signature of an index, and can tell which that is.
fn assert_signed(registry: &Registry, repository: &str, index: &Index) -> Result<()> {
    let signature = &index.referrers[0];
    assert_eq!(registry.manifest(repository, &signature.digest())?.as_bytes(), signature.manifest);
    // Debian's registry keeps no account of referrers.
    let tag = format!("sha256-{}", sha256(&index.bytes));
    let listed: Value = serde_json::from_str(&registry.manifest(repository, &tag)?)?;
    let entry = &listed["manifests"][0];
    assert_eq!(entry["digest"], signature.digest());
    assert_eq!(entry["artifactType"], "application/vnd.example.signature");
    Ok(())
}

/// Where a daemon runs what it says of the image it runs.
fn run_for(daemon: &Daemon, name: &str, architecture: &str) -> Result<()> {
    let platform = format!("linux/{architecture}");
    let said =
        daemon.cove(&["run", "--rm", "--network", "none", "--platform", &platform, name, "cat", "/for"])?;
    assert_eq!((said.code, said.out.as_str()), (0, architecture), "{said:?}");
    Ok(())
}

/// Checks what is told of an index's entries, by the API and by Docker's command line.
fn assert_listed(daemon: &Daemon, name: &str, index: &Index) -> Result<()> {
    let inspected: Value =
        serde_json::from_str(&daemon.ask("GET", &format!("/v1.48/images/{name}/json?manifests=1"), "")?.1)?;
    let entries = inspected["Manifests"].as_array().context("no manifests")?;
    let all: Vec<&str> = entries.iter().filter_map(|entry| entry["ID"].as_str()).collect();
    let children = [index.images[0].digest(), index.images[1].digest(), index.attestation.digest()];
    assert_eq!(all, children);
    assert!(entries.iter().all(|entry| entry["Available"] == true), "{entries:?}");
    let kinds: Vec<&str> = entries.iter().filter_map(|entry| entry["Kind"].as_str()).collect();
    assert_eq!(kinds, ["image", "image", "attestation"]);
    assert_eq!(entries[1]["ImageData"]["Platform"]["architecture"], PROCESSORS[1]);
    assert_eq!(entries[2]["AttestationData"]["For"], children[0]);
    let plain: Value =
        serde_json::from_str(&daemon.ask("GET", &format!("/v1.47/images/{name}/json?manifests=1"), "")?.1)?;
    assert!(plain.get("Manifests").is_none(), "{plain}");
    // Docker's command line of before 27 has no trees.
    let said = daemon.docker(&["images", "--tree"])?;
    if said.code == 0 {
        let has = |architecture: &str| said.out.contains(&format!("linux/{architecture}"));
        assert!(PROCESSORS.into_iter().all(has), "{said:?}");
    }
    Ok(())
}

#[test]
fn an_index_goes_between_engines_and_a_registry_unchanged() -> Result<()> {
    let registry = Registry::start()?;
    let index = index(1 << 20)?.signed();
    let name = format!("{}/team/multi:1", registry.host());
    let first = Daemon::start_empty(&[])?;
    load(&first, &index.layout(&name)?)?;
    let said = first.docker(&["push", &name])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains(&format!("1: digest: {}", index.digest())), "{said:?}");
    assert_whole(&registry, "team/multi", "1", &index)?;
    assert_signed(&registry, "team/multi", &index)?;
    let digests = first.docker_ok(&["image", "inspect", "-f", "{{.RepoDigests}}", &name])?;
    assert_eq!(digests, format!("[{}/team/multi@{}]", registry.host(), index.digest()));
    // Each platform runs, under a name that no registry has.
    first.docker_ok(&["tag", &name, "local/multi:1"])?;
    for architecture in [PROCESSORS[1], PROCESSORS[0]] {
        run_for(&first, "local/multi:1", architecture)?;
    }
    run_for(&first, &name, PROCESSORS[1])?;
    let shown = first.docker_ok(&["image", "inspect", "-f", "{{.Architecture}} {{.RepoDigests}}", &name])?;
    assert_eq!(shown, format!("{} {digests}", PROCESSORS[1]));
    assert_listed(&first, &name, &index)?;

    // Through a file.
    let file = first.dir().join("saved.tar");
    first.docker_ok(&["save", "-o", &file.display().to_string(), &name])?;
    let second = Daemon::start_empty(&[])?;
    load(&second, &std::fs::read(&file)?)?;
    let copy = format!("{}/team/copy:1", registry.host());
    second.docker_ok(&["tag", &name, &copy])?;
    let said = second.cove(&["push", &copy])?;
    ensure!(said.code == 0 && !said.err.contains("Not all"), "{said:?}");
    assert_whole(&registry, "team/copy", "1", &index)?;
    assert_signed(&registry, "team/copy", &index)?;

    // Of what was pulled, one platform is there.
    let third = Daemon::start_empty(&[])?;
    third.docker_ok(&["pull", &name])?;
    let digests = third.docker_ok(&["image", "inspect", "-f", "{{.RepoDigests}}", &name])?;
    assert_eq!(digests, format!("[{}/team/multi@{}]", registry.host(), index.digest()));
    let one = format!("{}/team/one:1", registry.host());
    third.docker_ok(&["tag", &name, &one])?;
    let said = third.cove(&["push", &one])?;
    assert_eq!(said.code, 0, "{said:?}");
    let note = format!("{} -> {}", index.digest(), index.images[0].digest());
    assert!(
        said.err.contains("Not all multiplatform-content is present") && said.err.contains(&note),
        "{said:?}"
    );
    assert_eq!(registry.manifest("team/one", "1")?.as_bytes(), index.images[0].manifest);
    let (status, told) =
        third.ask("POST", &format!("/v1.46/images/{}/team/one/push?tag=1", registry.host()), "")?;
    assert_eq!(status, 200, "{told}");
    let aux = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let aux = aux.map(|line| line["aux"].clone()).find(|aux| aux.get("originalIndex").is_some());
    let aux = aux.with_context(|| format!("no such record: {told}"))?;
    assert_eq!(aux["manifestPushedInsteadOfIndex"], true);
    assert_eq!(aux["originalIndex"]["digest"], index.digest());
    assert_eq!(aux["selectedManifest"]["digest"], index.images[0].digest());
    Ok(())
}

#[test]
fn one_platform_of_an_index_is_pushed_by_name() -> Result<()> {
    let registry = Registry::start()?;
    let index = index(1 << 10)?;
    let name = format!("{}/multi:1", registry.host());
    let daemon = Daemon::start_empty(&[])?;
    load(&daemon, &index.layout(&name)?)?;
    let push = |architecture: &str| {
        let platform = format!("linux/{architecture}");
        daemon.cove(&["push", "--platform", &platform, &name])
    };
    let at = |image: &Blobs| -> Result<()> {
        assert_eq!(registry.manifest("multi", "1")?.as_bytes(), image.manifest);
        Ok(())
    };
    for (architecture, image) in PROCESSORS.iter().zip(&index.images) {
        let said = push(architecture)?;
        assert_eq!(said.code, 0, "{said:?}");
        at(image)?;
    }
    let said = push("s390x")?;
    assert!(said.code != 0 && said.err.contains("linux/s390x"), "{said:?}");
    at(&index.images[1])
}

#[test]
fn a_crash_in_mid_load_leaves_nothing_wrong() -> Result<()> {
    let registry = Registry::start()?;
    let index = index(24 << 20)?;
    let name = format!("{}/multi:1", registry.host());
    let archive = index.layout(&name)?;
    let mut daemon = Daemon::start_empty(&[])?;
    let before = daemon.entries("root/blobs/sha256").len();
    let file = daemon.dir().join("layout.tar");
    std::fs::write(&file, &archive)?;
    for blobs in [before + 1, before + 2, before + 4] {
        let mut command = stdx::process::command("docker");
        command.env("DOCKER_HOST", daemon.address()).args(["load", "-i"]).arg(&file);
        let mut child = command.stdin(std::process::Stdio::null()).spawn()?;
        daemon.wait_for("a blob", || daemon.entries("root/blobs/sha256").len() >= blobs)?;
        daemon.crash()?;
        child.wait()?;
        daemon.launch()?;
        if daemon.docker(&["image", "inspect", &name])?.code == 0 {
            daemon.docker_ok(&["rmi", &name])?;
        }
        assert_eq!(daemon.entries("root/blobs/sha256").len(), before);
    }
    load(&daemon, &archive)?;
    // Nor does a crash after it take any of it away.
    daemon.crash()?;
    daemon.launch()?;
    daemon.docker_ok(&["push", &name])?;
    assert_whole(&registry, "multi", "1", &index)?;
    daemon.docker_ok(&["rmi", &name])?;
    assert_eq!(daemon.entries("root/blobs/sha256").len(), before);
    Ok(())
}
