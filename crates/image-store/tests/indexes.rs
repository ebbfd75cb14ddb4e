//! Images for several platforms: loaded, pulled, pushed, saved and removed with the index that names them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use image_store::{Config, Error, ImageStore, Progress, ProgressKind, PushOptions, Pushed, SavedForm};
use model::{Platform, Reference};
use serde_json::json;
use support::image::{Blobs, sha256};
use support::index::{Index, PROCESSORS, layout, named};
use support::registry::{Answer, Request, Scripted, Uploads};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn open(root: &Path) -> Result<ImageStore, Error> {
    ImageStore::open(Config { root: root.to_owned(), ..Config::default() })
}

/// The platform that this machine is not.
fn other() -> Platform {
    Platform { os: "linux".into(), architecture: PROCESSORS[1].into(), variant: String::new() }
}

fn registry() -> Outcome<(Scripted, Arc<Uploads>)> {
    registry_with(|_, answer| answer)
}

fn registry_with(
    change: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> Outcome<(Scripted, Arc<Uploads>)> {
    let uploads = Arc::new(Uploads::default());
    let kept = Arc::clone(&uploads);
    Ok((Scripted::serve(move |request, _| change(request, kept.answer(request)))?, uploads))
}

async fn push(
    store: &ImageStore,
    name: &str,
    platform: Option<Platform>,
) -> Result<Vec<ProgressKind>, Error> {
    let reference: Reference = name.parse().map_err(|_| Error::Invalid { what: name.to_owned() })?;
    let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let tell = Arc::clone(&told);
    let tell = move |progress| tell.lock().unwrap_or_else(PoisonError::into_inner).push(progress);
    let options = PushOptions { platform, ..PushOptions::default() };
    store.push(&reference, reference.tag(), options, Arc::new(tell)).await?;
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(told.iter().map(|progress| progress.kind.clone()).collect())
}

async fn pull(store: &ImageStore, name: &str, platform: Option<&Platform>) -> Outcome {
    store.pull(&name.parse()?, platform, None, Arc::new(|_| {})).await?;
    Ok(())
}

fn load(store: &ImageStore, archive: &[u8]) -> Result<Vec<String>, Error> {
    store.load(archive, |_| {})
}

/// An index that was not pushed, and what was instead.
fn instead(told: &[ProgressKind]) -> Option<(&Pushed, &Pushed)> {
    told.iter().find_map(|kind| match kind {
        ProgressKind::OnePlatform { original, selected } => Some((original, selected)),
        _ => None,
    })
}

/// Checks that a registry has all of an index under a tag.
fn assert_whole(uploads: &Uploads, index: &Index, tag: &str) {
    assert_eq!(uploads.manifest("app", tag).as_ref(), Some(&index.bytes));
    for image in &index.images {
        assert_has(uploads, image);
    }
}

fn assert_has(uploads: &Uploads, image: &Blobs) {
    assert_eq!(uploads.manifest("app", &image.digest()).as_ref(), Some(&image.manifest));
    for bytes in image.layers.iter().map(|layer| &layer.bytes).chain([&image.config]) {
        assert_eq!(uploads.blob(&format!("sha256:{}", sha256(bytes))).as_ref(), Some(bytes));
    }
}

fn blobs(root: &Path) -> Outcome<usize> {
    Ok(std::fs::read_dir(root.join("blobs/sha256"))?.count())
}

#[tokio::test]
async fn a_layout_of_several_platforms_is_pushed_as_it_came() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = registry()?;
    let index = Index::of_noise()?;
    let name = format!("{}/app:1", registry.host());
    let store = open(dir.path())?;
    assert_eq!(load(&store, &index.layout(&name)?)?, [name.as_str()]);
    // Also after a start, which sweeps what nobody needs.
    drop(store);
    let store = open(dir.path())?;
    let told = push(&store, &name, None).await?;
    assert_whole(&uploads, &index, "1");
    assert_has(&uploads, &index.attestation);
    let (digest, size) = (index.digest().parse()?, index.bytes.len() as u64);
    assert_eq!(told.last(), Some(&ProgressKind::PushedTag { tag: "1".into(), digest, size }));
    // Two layers of each platform, of which they share one, and the attestation.
    assert_eq!(told.iter().filter(|kind| **kind == ProgressKind::Pushed).count(), 4);
    let requests = registry.requests();
    let manifests = requests.iter().filter(|one| one.method == "PUT" && one.path.contains("/manifests/"));
    let order: Vec<&str> = manifests.filter_map(|one| one.path.rsplit('/').next()).collect();
    let children = [index.images[0].digest(), index.images[1].digest(), index.attestation.digest()];
    assert_eq!(order, [&children[0], &children[1], &children[2], "1"]);
    let image = store.resolve(&name)?;
    assert_eq!(image.architecture, PROCESSORS[0]);
    assert_eq!(image.repo_digests, [format!("{}/app@{}", registry.host(), index.digest())]);

    // Into another repository it is mounted.
    let elsewhere = format!("{}/team/app:2", registry.host());
    store.tag(&name, &elsewhere.parse()?)?;
    let told = push(&store, &elsewhere, None).await?;
    assert_eq!(told.iter().filter(|kind| **kind == ProgressKind::Mounted("app".into())).count(), 4);
    assert_eq!(uploads.manifest("team/app", "2").as_ref(), Some(&index.bytes));
    Ok(())
}

#[tokio::test]
async fn what_was_pulled_for_one_platform_is_pushed_so_and_said() -> Outcome {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (registry, uploads) = registry()?;
    let index = Index::of_noise()?.plain();
    let name = format!("{}/app:1", registry.host());
    let source = open(first.path())?;
    load(&source, &index.layout(&name)?)?;
    push(&source, &name, None).await?;

    let store = open(second.path())?;
    pull(&store, &name, None).await?;
    assert_eq!(store.resolve(&name)?.repo_digests, [format!("{}/app@{}", registry.host(), index.digest())]);
    let copy = format!("{}/app:2", registry.host());
    store.tag(&name, &copy.parse()?)?;
    let told = push(&store, &copy, None).await?;
    assert_eq!(uploads.manifest("app", "2").as_ref(), Some(&index.images[0].manifest));
    let (original, selected) = instead(&told).ok_or("it was not said")?;
    assert_eq!(original.digest.to_string(), index.digest());
    assert_eq!(
        (selected.digest.to_string(), original.media_type.as_str()),
        (index.images[0].digest(), INDEX)
    );

    // With the other platform there too, it is whole.
    pull(&store, &name, Some(&other())).await?;
    store.tag(&name, &format!("{}/app:3", registry.host()).parse()?)?;
    push(&store, &format!("{}/app:3", registry.host()), None).await?;
    assert_whole(&uploads, &index, "3");
    Ok(())
}

#[tokio::test]
async fn an_index_goes_through_save_and_load_unchanged() -> Outcome {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (registry, uploads) = registry()?;
    let index = Index::of_noise()?.signed();
    let name = format!("{}/app:1", registry.host());
    let store = open(first.path())?;
    load(&store, &index.layout(&name)?)?;
    let mut saved = Vec::new();
    store.save(std::slice::from_ref(&name), SavedForm::Whole, &mut saved)?;
    let again = open(second.path())?;
    assert_eq!(load(&again, &saved)?, [name.as_str()]);
    push(&again, &name, None).await?;
    assert_whole(&uploads, &index, "1");
    assert_has(&uploads, &index.attestation);
    assert_has(&uploads, &index.referrers[0]);

    // What is there of an index is saved too.
    pull(&store, &name, None).await?;
    let third = tempfile::tempdir()?;
    let partial = open(third.path())?;
    pull(&partial, &name, None).await?;
    let mut saved = Vec::new();
    partial.save(std::slice::from_ref(&name), SavedForm::Whole, &mut saved)?;
    let fourth = tempfile::tempdir()?;
    let loaded = open(fourth.path())?;
    load(&loaded, &saved)?;
    let told = push(&loaded, &name, None).await?;
    let (original, _) = instead(&told).ok_or("it was not said")?;
    assert_eq!(original.digest.to_string(), index.digest());
    // Of one platform, when that is asked for.
    let mut saved = Vec::new();
    store.save(std::slice::from_ref(&name), SavedForm::OnePlatform, &mut saved)?;
    let fifth = tempfile::tempdir()?;
    let loaded = open(fifth.path())?;
    load(&loaded, &saved)?;
    assert_eq!(instead(&push(&loaded, &name, None).await?), None);
    Ok(())
}

#[tokio::test]
async fn one_platform_is_pushed_when_it_is_asked_for() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = registry()?;
    let index = Index::of_noise()?;
    let name = format!("{}/app:1", registry.host());
    let store = open(dir.path())?;
    load(&store, &index.layout(&name)?)?;
    let told = push(&store, &name, Some(other())).await?;
    assert_eq!(uploads.manifest("app", "1").as_ref(), Some(&index.images[1].manifest));
    assert_eq!(instead(&told), None);
    push(&store, &name, Some(Platform::host())).await?;
    assert_eq!(uploads.manifest("app", "1").as_ref(), Some(&index.images[0].manifest));
    let error = push(&store, &name, Some("linux/s390x".parse()?)).await.err().ok_or("it was pushed")?;
    assert!(error.to_string().contains("no image here for linux/s390x"), "{error}");
    Ok(())
}

#[test]
fn another_platform_is_unpacked_when_it_is_asked_for() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let index = Index::of_noise()?;
    load(&store, &index.layout("docker.io/library/app:1")?)?;
    let layers = std::fs::read_dir(dir.path().join("layers"))?.count();
    let host = store.resolve("app:1")?;
    let image = store.for_platform("app:1", &other())?.ok_or("it is not there")?;
    assert_eq!(image.architecture, PROCESSORS[1]);
    assert_eq!(store.resolve("app:1")?.id, image.id);
    assert_eq!(std::fs::read_dir(dir.path().join("layers"))?.count(), layers + 1);
    assert!(store.for_platform("app:1", &"linux/s390x".parse()?)?.is_none());
    // What has no name any more goes, and can be had again.
    store.prune(false, &[], |_| true)?;
    assert!(store.resolve(&host.id.to_string()).is_err());
    let back = store.for_platform("app:1", &Platform::host())?.ok_or("it is gone")?;
    assert_eq!(back.id, host.id);
    Ok(())
}

#[test]
fn an_index_goes_with_its_last_name() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let before = blobs(dir.path())?;
    let index = Index::of_noise()?.signed();
    load(&store, &index.layout("docker.io/library/app:1")?)?;
    // Three layers and a configuration each; those of attestation and signature are the same.
    let all = before + 3 + 2 + 1 + 2;
    assert_eq!(blobs(dir.path())?, all);
    store.tag("app:1", &"app:2".parse()?)?;
    store.remove("app:1", false, &[])?;
    store.gc()?;
    assert_eq!(blobs(dir.path())?, all);
    store.remove("app:2", false, &[])?;
    assert_eq!(blobs(dir.path())?, before);
    // A name that comes to mean another image lets go of the index too.
    load(&store, &index.layout("docker.io/library/app:1")?)?;
    let plain = support::image::docker_archive("app:1", &[], &json!({}))?;
    load(&store, &plain)?;
    store.prune(false, &[], |_| true)?;
    assert_eq!(blobs(dir.path())?, before);
    Ok(())
}

#[tokio::test]
async fn a_referrer_is_listed_where_the_registry_does_not_do_so() -> Outcome {
    for does_list in [false, true] {
        let dir = tempfile::tempdir()?;
        let (registry, uploads) = registry_with(move |request, answer| {
            let has_subject = String::from_utf8_lossy(&request.bytes).contains("\"subject\"");
            if does_list && has_subject { answer.with("OCI-Subject", "sha256:0") } else { answer }
        })?;
        let index = Index::of_noise()?.signed();
        let name = format!("{}/app:1", registry.host());
        let store = open(dir.path())?;
        load(&store, &index.layout(&name)?)?;
        for _ in 0..2 {
            push(&store, &name, None).await?;
        }
        assert_has(&uploads, &index.referrers[0]);
        let listed = uploads.manifest("app", &format!("sha256-{}", sha256(&index.bytes)));
        assert_eq!(listed.is_some(), !does_list);
        if let Some(listed) = listed {
            let listed: serde_json::Value = serde_json::from_slice(&listed)?;
            let entry = named(MANIFEST, &index.referrers[0].manifest);
            assert_eq!(listed["manifests"][0]["digest"], entry["digest"]);
            assert_eq!(listed["manifests"][0]["artifactType"], "application/vnd.example.signature");
            assert_eq!(listed["manifests"].as_array().map(Vec::len), Some(1));
        }
    }
    Ok(())
}

#[test]
fn hostile_indexes_are_refused_in_words() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let before = blobs(dir.path())?;
    let refused = |archive: &[u8], why: &str| -> Outcome {
        let error = load(&store, archive).err().ok_or("it was loaded")?.to_string();
        assert!(error.contains(why), "{error}");
        let left = std::fs::read_dir(dir.path().join("ingest"))?.count();
        assert_eq!(left, 0, "{why}");
        Ok(())
    };
    let index_of = |entries: serde_json::Value| {
        json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes()
    };

    let many: Vec<_> = (0..5000_u32).map(|number| named(MANIFEST, &number.to_le_bytes())).collect();
    let many = index_of(many.into());
    refused(&layout(&[named(INDEX, &many)], &[many])?, "5000 entries")?;

    let long = index_of(json!([{ "mediaType": "x".repeat(6 << 20) }]));
    refused(&layout(&[named(INDEX, &long)], &[long])?, "4194304 are allowed")?;

    let mut nested = vec![index_of(json!([named(MANIFEST, b"gone")]))];
    for _ in 0..100 {
        nested.push(index_of(json!([named(INDEX, &nested[nested.len() - 1])])));
    }
    refused(&layout(&[named(INDEX, &nested[100])], &nested)?, "deeper than 4")?;

    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    refused(&layout(&[named(INDEX, &deep)], &[deep])?, "malformed")?;

    let mut lies = named(INDEX, &nested[0]);
    lies["size"] = json!(1);
    refused(&layout(&[lies], &nested)?, "not 1 as is said")?;

    // Of a child's layer; and addresses of blobs are never asked.
    let index = Index::of_noise()?;
    let image = &index.images[0];
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest)?;
    manifest["layers"][0]["size"] = json!(1);
    manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
    let manifest = manifest.to_string().into_bytes();
    let lying = index_of(json!([named(MANIFEST, &manifest)]));
    let mut parts = vec![lying.clone(), manifest, image.config.clone()];
    parts.extend(image.layers.iter().map(|layer| layer.bytes.clone()));
    refused(&layout(&[named(INDEX, &lying)], &parts)?, "not 1 as is said")?;
    parts.truncate(4);
    refused(&layout(&[named(INDEX, &lying)], &parts)?, "lacks the blob")?;

    // A child that is not what it is named by.
    let mut archive = tar::Builder::new(Vec::new());
    let root = index_of(json!([named(MANIFEST, b"what it was")]));
    let entries = index_of(json!([named(INDEX, &root)]));
    for (name, bytes) in [
        ("index.json".to_owned(), entries),
        (format!("blobs/sha256/{}", sha256(&root)), root.clone()),
        (format!("blobs/sha256/{}", sha256(b"what it was")), b"what it is!".to_vec()),
    ] {
        let mut header = support::image::header(tar::EntryType::Regular, 0o444, bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice())?;
    }
    refused(&archive.into_inner()?, "has the digest")?;

    drop(store);
    let store = open(dir.path())?;
    assert_eq!(blobs(dir.path())?, before);
    drop(store);
    Ok(())
}

#[tokio::test]
async fn a_registry_with_a_hostile_index_is_refused() -> Outcome {
    let image = Index::of_noise()?.images.remove(0);
    let host = |mut entry: serde_json::Value| {
        entry["platform"] = json!({ "os": "linux", "architecture": PROCESSORS[0] });
        entry
    };
    let honest = host(named(MANIFEST, &image.manifest));
    let mut lies = honest.clone();
    lies["size"] = json!(1);
    let inner = json!({ "schemaVersion": 2, "manifests": [honest] }).to_string().into_bytes();
    let cases = [
        (vec![honest.clone(); 5000], "5000 entries"),
        (vec![lies], "not 1 as its index says"),
        (vec![host(named(INDEX, &inner))], "names no configuration"),
    ];
    for (entries, why) in cases {
        let dir = tempfile::tempdir()?;
        let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
        let (served, inner) = (image.clone(), inner.clone());
        let registry = Scripted::serve(move |request, _| {
            if request.path.ends_with("/manifests/1") {
                return Answer::new(index.clone());
            }
            if request.path.ends_with(&sha256(&inner)) {
                return Answer::new(inner.clone());
            }
            support::registry::honest(&served, request)
        })?;
        let store = open(dir.path())?;
        let before = blobs(dir.path())?;
        let error = pull(&store, &format!("{}/app:1", registry.host()), None).await.err().ok_or(why)?;
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(blobs(dir.path())?, before);
    }
    Ok(())
}

#[tokio::test]
async fn an_index_of_several_names_with_lists_that_are_null_is_kept() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = registry()?;
    let image = Index::of_noise()?.images.remove(0);
    // As tools in Go write what is empty.
    let config = b"{}".to_vec();
    let kind = "application/vnd.oci.empty.v1+json";
    let artifact =
        json!({ "schemaVersion": 2, "config": named(kind, &config), "layers": null, "manifests": null });
    let artifact = artifact.to_string().into_bytes();
    let entries = [named(MANIFEST, &image.manifest), named(MANIFEST, &artifact)];
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes();
    let names = ["app:1", "app:2"].map(|name| format!("{}/{name}", registry.host()));
    let roots = names.clone().map(|name| {
        let mut root = named(INDEX, &index);
        root["annotations"] = json!({ "io.containerd.image.name": name });
        root
    });
    let mut parts =
        vec![index.clone(), artifact.clone(), config, image.manifest.clone(), image.config.clone()];
    parts.extend(image.layers.iter().map(|layer| layer.bytes.clone()));
    let store = open(dir.path())?;
    assert_eq!(load(&store, &layout(&roots, &parts)?)?, names);
    // Both go in one archive, which has the index once.
    let mut saved = Vec::new();
    store.save(&names, SavedForm::Whole, &mut saved)?;
    let second = tempfile::tempdir()?;
    let store = open(second.path())?;
    assert_eq!(load(&store, &saved)?, names);
    for name in &names {
        push(&store, name, None).await?;
    }
    for tag in ["1", "2"] {
        assert_eq!(uploads.manifest("app", tag).as_ref(), Some(&index));
    }
    let digest = format!("sha256:{}", sha256(&artifact));
    assert_eq!(uploads.manifest("app", &digest), Some(artifact));
    Ok(())
}

#[tokio::test]
async fn what_signs_one_image_and_what_signs_that_go_along() -> Outcome {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (registry, uploads) = registry()?;
    let image = Index::of_noise()?.images.remove(0);
    let empty = b"{}".to_vec();
    let signing = |subject: &[u8]| {
        let config = named("application/vnd.oci.empty.v1+json", &empty);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.signature",
            "config": config, "layers": [config], "subject": named(MANIFEST, subject),
        });
        manifest.to_string().into_bytes()
    };
    let signature = signing(&image.manifest);
    let countersigned = signing(&signature);
    let stranger = signing(b"of nothing here");
    let name = format!("{}/app:1", registry.host());
    let mut root = named(MANIFEST, &image.manifest);
    root["annotations"] = json!({ "io.containerd.image.name": name });
    let entries =
        [named(MANIFEST, &countersigned), named(MANIFEST, &stranger), root, named(MANIFEST, &signature)];
    let mut parts = vec![
        image.manifest.clone(),
        image.config.clone(),
        signature.clone(),
        countersigned.clone(),
        stranger.clone(),
        empty.clone(),
    ];
    parts.extend(image.layers.iter().map(|layer| layer.bytes.clone()));
    let store = open(first.path())?;
    assert_eq!(load(&store, &layout(&entries, &parts)?)?, [name.as_str()]);
    let mut saved = Vec::new();
    store.save(std::slice::from_ref(&name), SavedForm::Whole, &mut saved)?;
    let store = open(second.path())?;
    let before = blobs(second.path())?;
    load(&store, &saved)?;
    let told = push(&store, &name, None).await?;
    assert_eq!(instead(&told), None);
    assert_eq!(uploads.manifest("app", "1").as_ref(), Some(&image.manifest));
    let at = |bytes: &[u8]| uploads.manifest("app", &format!("sha256:{}", sha256(bytes)));
    assert_eq!(at(&signature).as_ref(), Some(&signature));
    assert_eq!(at(&countersigned).as_ref(), Some(&countersigned));
    assert_eq!(at(&stranger), None);
    for (subject, referrer) in [(&image.manifest, &signature), (&signature, &countersigned)] {
        let listed = uploads.manifest("app", &format!("sha256-{}", sha256(subject))).ok_or("no list")?;
        let listed: serde_json::Value = serde_json::from_slice(&listed)?;
        assert_eq!(listed["manifests"][0]["digest"], named(MANIFEST, referrer)["digest"]);
    }
    store.remove(&name, false, &[])?;
    assert_eq!(blobs(second.path())?, before);
    Ok(())
}
