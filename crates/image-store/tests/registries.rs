//! Pulls from registries that do as they should, and from some that don't.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_store::{Config, Error, ImageRecord, ImageStore, Progress, ProgressKind, Registries, SavedForm};
use model::Reference;
use support::image::{Blobs, Compression, Layer, header, noise};
use support::registry::{Answer, Scripted, honest};
use tar::{Builder, EntryType};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How long a registry may be silent in these tests.
const STALL: Duration = Duration::from_millis(300);

fn open(root: &Path) -> Result<ImageStore, Error> {
    let registries = Registries { stall: STALL, ..Registries::default() };
    ImageStore::open(Config { root: root.to_owned(), registries, ..Config::default() })
}

async fn pull(store: &ImageStore, name: &str) -> Result<Arc<ImageRecord>, Error> {
    let reference: Reference = name.parse().map_err(|_| Error::Invalid { what: name.to_owned() })?;
    store.pull(&reference, None, None, Arc::new(|_| {})).await
}

fn archive(files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>, std::io::Error> {
    let mut layer = Builder::new(Vec::new());
    for (name, data) in files {
        layer.append_data(
            &mut header(EntryType::Regular, 0o644, data.len() as u64),
            name,
            data.as_slice(),
        )?;
    }
    layer.into_inner()
}

/// One layer of a megabyte that does not compress, and a small one.
fn image() -> Result<Blobs, Box<dyn std::error::Error>> {
    let large = archive(&[("large", noise(7, 1 << 20)), ("etc/name", b"large\n".to_vec())])?;
    let small = archive(&[("small", b"small\n".to_vec())])?;
    let layers = vec![Layer::pack(&large, Compression::Gzip)?, Layer::pack(&small, Compression::Zstd)?];
    Ok(Blobs::new(layers, &serde_json::json!({ "Cmd": ["/small"] })))
}

/// What a failed pull must leave: no tree half unpacked, once the threads of its other layers have ended.
fn assert_nothing_left(root: &Path) -> Outcome {
    let began = Instant::now();
    loop {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(root.join("ingest"))? {
            kept.push(entry?.file_name().to_string_lossy().into_owned());
        }
        kept.retain(|name| !name.ends_with(".partial"));
        if kept.is_empty() {
            return Ok(());
        }
        assert!(began.elapsed() < Duration::from_secs(10), "left in ingest: {kept:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn layers_of_every_compression_are_pulled_and_told_of() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut layers = Vec::new();
    for (compression, name) in
        [(Compression::None, "none"), (Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")]
    {
        layers.push(Layer::pack(&archive(&[(name, noise(3, 100_000))])?, compression)?);
    }
    let image = Blobs::new(layers, &serde_json::json!({}));
    let digest = image.digest();
    let registry = Scripted::serve(move |request, _| honest(&image, request))?;
    let store = open(dir.path())?;
    let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let tell = Arc::clone(&told);
    let reference: Reference = format!("{}/three:1", registry.host()).parse()?;
    let record = store
        .pull(
            &reference,
            None,
            None,
            Arc::new(move |progress| {
                tell.lock().unwrap_or_else(PoisonError::into_inner).push(progress);
            }),
        )
        .await?;
    assert_eq!(record.repo_digests, [format!("{}/three@{digest}", registry.host())]);
    let complete = {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|step| step.kind == ProgressKind::PullComplete).count()
    };
    assert_eq!(complete, 3);
    // By digest, the same.
    let again = pull(&store, &format!("{}/three@{digest}", registry.host())).await?;
    assert_eq!(again.id, record.id);
    Ok(())
}

#[tokio::test]
async fn a_broken_connection_is_gone_on_with_from_where_it_broke() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let whole = image.clone();
    // Every answer about the large layer ends after 300 kB at most.
    let registry = Scripted::serve(move |request, _| {
        let answer = honest(&image, request);
        if answer.body.len() > 300_000 { answer.cut(300_000) } else { answer }
    })?;
    pull(&open(dir.path())?, &format!("{}/breaks:1", registry.host())).await?;
    let large = support::image::sha256(&whole.layers[0].bytes);
    let offsets: Vec<Option<u64>> = registry
        .requests()
        .into_iter()
        .filter(|request| request.path.ends_with(&large))
        .map(|request| request.from)
        .collect();
    assert_eq!(offsets, [None, Some(300_000), Some(600_000), Some(900_000)]);
    Ok(())
}

#[tokio::test]
async fn a_registry_without_ranges_starts_over() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let registry = Scripted::serve(move |request, before| {
        let whole = honest(&image, &support::registry::Request { from: None, ..request.clone() });
        if whole.body.len() > 300_000 && before == 0 { whole.cut(300_000) } else { whole }
    })?;
    pull(&open(dir.path())?, &format!("{}/ranges:1", registry.host())).await?;
    Ok(())
}

#[tokio::test]
async fn a_pull_that_was_cut_off_is_gone_on_with_by_the_next() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let whole = image.clone();
    let registry = Scripted::serve(move |request, before| {
        let answer = honest(&image, request);
        // The first time, slowly enough to be cut off in the middle.
        if answer.body.len() > 300_000 && before == 0 {
            Answer { pace: Duration::from_millis(20), ..answer }
        } else {
            answer
        }
    })?;
    let name = format!("{}/cut:1", registry.host());
    let store = open(dir.path())?;
    let cut = tokio::time::timeout(Duration::from_millis(500), pull(&store, &name)).await;
    assert!(cut.is_err(), "the pull was too quick to be cut off");
    drop(store);
    pull(&open(dir.path())?, &name).await?;
    let large = support::image::sha256(&whole.layers[0].bytes);
    let last = registry.requests().into_iter().rev().find(|request| request.path.ends_with(&large));
    let from = last.and_then(|request| request.from);
    assert!(from.is_some_and(|from| from > 0), "the second pull began anew: {from:?}");
    Ok(())
}

#[tokio::test]
async fn bytes_kept_from_before_that_are_damaged_are_fetched_anew() -> Outcome {
    let image = image()?;
    let large = image.layers[0].clone();
    let hex = support::image::sha256(&large.bytes);
    let cut = large.bytes[..200_000].to_vec();
    let mut flipped = large.bytes.clone();
    flipped[100_000] ^= 1;
    for (what, kept) in [("zeros", vec![0; 300_000]), ("another byte", flipped), ("garbage", noise(21, 5000))]
    {
        let dir = tempfile::tempdir()?;
        let served = image.clone();
        let registry = Scripted::serve(move |request, _| honest(&served, request))?;
        let store = open(dir.path())?;
        std::fs::write(dir.path().join(format!("ingest/{hex}.partial")), kept)?;
        let pulled = pull(&store, &format!("{}/damaged:1", registry.host())).await;
        assert!(pulled.is_ok(), "{what}: {pulled:?}");
        assert_nothing_left(dir.path())?;
    }
    // A blob that no layer stands on any more is one of those when the store is opened.
    let dir = tempfile::tempdir()?;
    drop(open(dir.path())?);
    std::fs::write(dir.path().join("blobs/sha256").join(&hex), cut)?;
    let store = open(dir.path())?;
    let registry = Scripted::serve(move |request, _| honest(&image, request))?;
    pull(&store, &format!("{}/unfinished:1", registry.host())).await?;
    let asked = registry.requests().into_iter().filter(|request| request.path.ends_with(&hex));
    assert_eq!(asked.map(|request| request.from).collect::<Vec<_>>(), [Some(200_000)]);
    Ok(())
}

#[tokio::test]
async fn an_image_that_lies_about_a_blob_takes_it_from_no_other() -> Outcome {
    let dir = tempfile::tempdir()?;
    let honest_image = image()?;
    let mut liar = honest_image.layers.clone();
    liar[0].diff_id = "1".repeat(64);
    let liar = Blobs::new(liar, &serde_json::json!({}));
    let registry = Scripted::serve(move |request, _| {
        honest(if request.path.contains("/liar/") { &liar } else { &honest_image }, request)
    })?;
    let store = open(dir.path())?;
    let name = format!("{}/good:1", registry.host());
    pull(&store, &name).await?;
    let refused = pull(&store, &format!("{}/liar:1", registry.host())).await;
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    store.save(&[name], SavedForm::Whole, std::io::sink())?;
    Ok(())
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up_on() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let registry = Scripted::serve(move |request, _| {
        let answer = honest(&image, request);
        if request.path.contains("/blobs/") && answer.body.len() > 300_000 {
            Answer { stall: Duration::from_secs(60), ..answer }.cut(0)
        } else {
            answer
        }
    })?;
    let began = Instant::now();
    let store = open(dir.path())?;
    let error = pull(&store, &format!("{}/stalls:1", registry.host())).await.err().ok_or("it was pulled")?;
    assert!(error.to_string().contains(&registry.host()), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_nothing_left(dir.path())
}

/// A registry that sends a byte now and then, of what `is_slow` says; others it answers at once.
fn trickling(image: Blobs, is_slow: impl Fn(&Answer) -> bool + Send + Sync + 'static) -> Outcome<Scripted> {
    Ok(Scripted::serve(move |request, _| {
        let answer = honest(&image, request);
        // Well within what counts as a stall.
        if is_slow(&answer) { Answer { pace: STALL / 6, piece: 1, ..answer } } else { answer }
    })?)
}

fn open_impatient(root: &Path) -> Result<ImageStore, Error> {
    let registries = Registries {
        stall: STALL,
        least_rate: 10_000,
        rate_window: Duration::from_millis(500),
        ..Registries::default()
    };
    ImageStore::open(Config { root: root.to_owned(), registries, ..Config::default() })
}

#[tokio::test]
async fn a_registry_that_trickles_is_given_up_on() -> Outcome {
    let manifest = image()?.manifest;
    for (what, registry) in [
        ("layer", trickling(image()?, |answer| answer.body.len() > 300_000)?),
        ("manifest", trickling(image()?, move |answer| answer.body == manifest)?),
    ] {
        let dir = tempfile::tempdir()?;
        let began = Instant::now();
        let name = format!("{}/trickles:1", registry.host());
        let error = pull(&open_impatient(dir.path())?, &name).await.err().ok_or("it was pulled")?;
        assert!(matches!(error, Error::Unavailable { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&registry.host()), "{what}: {text}");
        assert!(
            text.contains("too slow: it sent ") && text.contains(" bytes in 0.5 seconds"),
            "{what}: {text}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_trickle_is_gone_on_with_as_any_break() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let large = support::image::sha256(&image.layers[0].bytes);
    let slow = large.clone();
    let registry = Scripted::serve(move |request, before| {
        let answer = honest(&image, request);
        // The second try is as it should be.
        let is_slow = request.path.ends_with(&slow) && before == 0;
        if is_slow { Answer { pace: STALL / 2, piece: 100, ..answer } } else { answer }
    })?;
    pull(&open_impatient(dir.path())?, &format!("{}/recovers:1", registry.host())).await?;
    let asked = registry.requests().into_iter().filter(|request| request.path.ends_with(&large));
    let offsets: Vec<Option<u64>> = asked.map(|request| request.from).collect();
    assert!(matches!(offsets[..], [None, Some(from)] if from > 0 && from < 10_000), "{offsets:?}");
    Ok(())
}

/// Without that, a registry that hangs up after each byte would be asked for each.
#[tokio::test]
async fn a_registry_that_hangs_up_after_a_few_bytes_is_given_up_on() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let large = support::image::sha256(&image.layers[0].bytes);
    let counted = large.clone();
    let registry = Scripted::serve(move |request, _| {
        let answer = honest(&image, request);
        if request.path.ends_with(&large) { answer.cut(10) } else { answer }
    })?;
    let name = format!("{}/hangs-up:1", registry.host());
    let error = pull(&open(dir.path())?, &name).await.err().ok_or("it was pulled")?;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let asked = registry.requests().into_iter().filter(|request| request.path.ends_with(&counted)).count();
    assert_eq!(asked, 5);
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn a_layer_of_another_length_is_refused() -> Outcome {
    for extra in [-10_isize, 10] {
        let dir = tempfile::tempdir()?;
        let image = image()?;
        let mut other = image.clone();
        let length = other.layers[0].bytes.len().saturating_add_signed(extra);
        other.layers[0].bytes.resize(length, 0);
        let large = support::image::sha256(&image.layers[0].bytes);
        let registry = Scripted::serve(move |request, _| {
            if !request.path.ends_with(&large) {
                return honest(&image, request);
            }
            let from = usize::try_from(request.from.unwrap_or(0)).unwrap_or(0).min(length);
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            Answer { status, ..Answer::new(other.layers[0].bytes[from..].to_vec()) }
        })?;
        let store = open(dir.path())?;
        let name = format!("{}/length:1", registry.host());
        let error = pull(&store, &name).await.err().ok_or("it was pulled")?;
        assert!(matches!(error, Error::Corrupt { .. } | Error::Unavailable { .. }), "{extra}: {error:?}");
        assert!(store.resolve(&name).is_err());
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_of_other_bytes_is_refused_and_not_kept() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let other = Layer::pack(&archive(&[("evil", noise(9, 2 << 20))])?, Compression::None)?;
    let (length, digest) = (image.layers[0].bytes.len(), support::image::sha256(&image.layers[0].bytes));
    let registry = Scripted::serve(move |request, _| {
        let mut answer = honest(&image, request);
        if answer.body.len() == length {
            answer.body.copy_from_slice(&other.bytes[..length]);
        }
        answer
    })?;
    let store = open(dir.path())?;
    let name = format!("{}/liar:1", registry.host());
    let error = pull(&store, &name).await.err().ok_or("it was pulled")?;
    assert!(matches!(error, Error::Corrupt { .. } | Error::Unpack { .. }), "{error:?}");
    assert!(store.resolve(&name).is_err());
    // Of the other layers, what has come is right, and the next pull goes on from there.
    let hex = digest.as_str();
    let kept = std::fs::read_dir(dir.path().join("ingest"))?.flatten().map(|entry| entry.file_name());
    let kept: Vec<_> = kept.filter(|name| name.to_string_lossy().contains(hex)).collect();
    assert!(kept.is_empty(), "bytes that can't be right were kept: {kept:?}");
    Ok(())
}

#[tokio::test]
async fn manifests_that_are_huge_deep_or_garbage_are_refused() -> Outcome {
    let huge: fn() -> Answer = || Answer { length: None, times: 1600, ..Answer::new(vec![b' '; 64 << 10]) };
    let announced: fn() -> Answer = || Answer { length: Some(100 << 20), ..Answer::new(vec![b' '; 1024]) };
    let deep: fn() -> Answer =
        || Answer::new(format!("{}{}", "[".repeat(200_000), "]".repeat(200_000)).into_bytes());
    let deep_field: fn() -> Answer = || {
        Answer::new(
            format!(
                "{{\"schemaVersion\":2,\"annotations\":{}1{}",
                "{\"a\":".repeat(200_000),
                "}".repeat(200_001)
            )
            .into_bytes(),
        )
    };
    let garbage: fn() -> Answer = || Answer::new(noise(5, 4096));
    let web_page: fn() -> Answer = || Answer::new(b"<html>log in</html>".to_vec());
    for (what, answer) in [
        ("huge", huge),
        ("announced", announced),
        ("deep", deep),
        ("deep field", deep_field),
        ("garbage", garbage),
        ("web page", web_page),
    ] {
        let dir = tempfile::tempdir()?;
        let registry = Scripted::serve(move |_, _| answer())?;
        let store = open(dir.path())?;
        let error = pull(&store, &format!("{}/bad:1", registry.host())).await.err().ok_or(what)?;
        assert!(matches!(error, Error::Corrupt { .. } | Error::Invalid { .. }), "{what}: {error:?}");
        assert!(error.to_string().len() < 2000, "{what}: the error repeats what was sent");
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn an_artifact_is_refused_by_name() -> Outcome {
    let dir = tempfile::tempdir()?;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.helm.config.v1+json",
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 2 },
        "layers": [],
    });
    let registry = Scripted::serve(move |_, _| Answer::new(manifest.to_string().into_bytes()))?;
    let store = open(dir.path())?;
    let error = pull(&store, &format!("{}/chart:1", registry.host())).await.err().ok_or("it was pulled")?;
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("helm"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_gzip_bomb_ends_at_its_manifests_word() -> Outcome {
    let dir = tempfile::tempdir()?;
    // A gigabyte of zeros in one file that says it has ten bytes, packed into a megabyte.
    let bytes = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut head = header(EntryType::Regular, 0o644, 10);
        head.set_path("bomb")?;
        head.set_cksum();
        encoder.write_all(head.as_bytes())?;
        let zeros = vec![0_u8; 1 << 20];
        for _ in 0..1024 {
            encoder.write_all(&zeros)?;
        }
        encoder.finish()?
    };
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = Layer { media_type, bytes, diff_id: "0".repeat(64) };
    let image = Blobs::new(vec![layer], &serde_json::json!({}));
    let registry = Scripted::serve(move |request, _| honest(&image, request))?;
    let store = open(dir.path())?;
    let error = pull(&store, &format!("{}/bomb:1", registry.host())).await.err().ok_or("it was pulled")?;
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_elsewhere() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let behind = image.clone();
    let elsewhere = Scripted::serve(move |request, _| honest(&behind, request))?;
    let target = elsewhere.host();
    let registry = Scripted::serve(move |request, _| {
        if request.authorization.is_none() {
            return Answer::status("401 Unauthorized").with("WWW-Authenticate", "Basic realm=\"here\"");
        }
        if request.path.contains("/blobs/") {
            // Another name of this machine, so another origin.
            let to = format!("http://{}{}", target.replace("127.0.0.1", "localhost"), request.path);
            return Answer::status("307 Temporary Redirect").with("Location", to);
        }
        honest(&image, request)
    })?;
    let store = open(dir.path())?;
    let name = format!("{}/redirects:1", registry.host());
    let auth = image_store::Auth {
        username: "user".into(),
        password: "secret".into(),
        identity_token: String::new(),
    };
    store.pull(&name.parse()?, None, Some(auth), Arc::new(|_| {})).await?;
    let leaked = elsewhere.requests().into_iter().filter(|request| request.authorization.is_some()).count();
    assert_eq!(leaked, 0, "the password went to another host");
    assert!(!elsewhere.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn redirects_in_a_circle_end() -> Outcome {
    let dir = tempfile::tempdir()?;
    let registry = Scripted::serve(|request, _| {
        Answer::status("307 Temporary Redirect").with("Location", request.path.clone())
    })?;
    let store = open(dir.path())?;
    let error = pull(&store, &format!("{}/circle:1", registry.host())).await.err().ok_or("it was pulled")?;
    assert!(error.to_string().contains("redirect"), "{error}");
    assert!(registry.requests().len() < 50, "{} requests", registry.requests().len());
    Ok(())
}

#[tokio::test]
async fn two_clients_fetch_one_image_once() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let whole = image.clone();
    let registry = Scripted::serve(move |request, _| Answer {
        pace: Duration::from_millis(1),
        ..honest(&image, request)
    })?;
    let store = open(dir.path())?;
    let name = format!("{}/shared:1", registry.host());
    let (first, second) = tokio::join!(pull(&store, &name), pull(&store, &name));
    assert_eq!(first?.id, second?.id);
    for layer in &whole.layers {
        let digest = support::image::sha256(&layer.bytes);
        let times = registry.requests().iter().filter(|request| request.path.ends_with(&digest)).count();
        assert_eq!(times, 1, "a layer was fetched {times} times");
    }
    Ok(())
}

#[tokio::test]
async fn a_registry_that_has_a_bad_moment_is_asked_again() -> Outcome {
    let dir = tempfile::tempdir()?;
    let image = image()?;
    let registry = Scripted::serve(move |request, before| {
        if before < 2 { Answer::status("503 Service Unavailable") } else { honest(&image, request) }
    })?;
    pull(&open(dir.path())?, &format!("{}/moody:1", registry.host())).await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_image_is_said_to_be_missing() -> Outcome {
    let dir = tempfile::tempdir()?;
    let registry = Scripted::serve(|_, _| Answer::status("404 Not Found"))?;
    let store = open(dir.path())?;
    let error = pull(&store, &format!("{}/none:1", registry.host())).await.err().ok_or("it was pulled")?;
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 1, "a registry's no was not taken for one");
    Ok(())
}

fn auth(username: &str, password: &str, identity_token: &str) -> image_store::Auth {
    image_store::Auth {
        username: username.into(),
        password: password.into(),
        identity_token: identity_token.into(),
    }
}

/// A registry that wants bearer tokens, and the place that gives them to `user:secret`, to whoever has
/// the identity token `refresh`, and to nobody else. Each token is good for `uses` requests.
fn guarded_by_tokens(image: Blobs, uses: usize) -> Result<Scripted, Box<dyn std::error::Error>> {
    // How often each was used.
    let tokens = Mutex::new(Vec::<usize>::new());
    let gate = Scripted::serve(move |request, _| {
        let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if request.path == "/token" {
            let is_known = request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=")
                || request.body.contains("refresh_token=refresh&");
            if !is_known {
                return Answer::status("401 Unauthorized");
            }
            let token = serde_json::json!({ "token": tokens.len().to_string(), "expires_in": 60 });
            tokens.push(0);
            return Answer::new(token.to_string().into_bytes());
        }
        let given = request.authorization.as_deref().and_then(|proof| proof.strip_prefix("Bearer "));
        let used = given.and_then(|token| tokens.get_mut(token.parse::<usize>().ok()?));
        if let Some(used) = used.filter(|used| **used < uses) {
            *used += 1;
            return honest(&image, request);
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"here\",scope=\"repository:private:pull\"",
            request.host
        );
        Answer::status("401 Unauthorized").with("WWW-Authenticate", challenge)
    })?;
    Ok(gate)
}

#[tokio::test]
async fn tokens_are_fetched_with_a_password_or_a_token_and_renewed() -> Outcome {
    for (given, uses) in
        [(auth("user", "secret", ""), 100), (auth("", "", "refresh"), 100), (auth("user", "secret", ""), 1)]
    {
        let dir = tempfile::tempdir()?;
        let registry = guarded_by_tokens(image()?, uses)?;
        let name = format!("{}/private:1", registry.host());
        let store = open(dir.path())?;
        store.pull(&name.parse()?, None, Some(given), Arc::new(|_| {})).await?;
        assert!(registry.requests().iter().any(|request| request.path == "/token"));
    }
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_denied_in_words() -> Outcome {
    let dir = tempfile::tempdir()?;
    let registry = guarded_by_tokens(image()?, 100)?;
    let name = format!("{}/private:1", registry.host());
    let store = open(dir.path())?;
    for given in [None, Some(auth("user", "wrong", "")), Some(auth("", "", "stolen"))] {
        let error =
            store.pull(&name.parse()?, None, given, Arc::new(|_| {})).await.err().ok_or("it was pulled")?;
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(!error.to_string().contains("wrong") && !error.to_string().contains("stolen"), "{error}");
    }
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn a_mirror_is_asked_before_the_hub_and_passed_over_when_it_fails() -> Outcome {
    let image = image()?;
    let broken = Scripted::serve(|_, _| Answer::status("404 Not Found"))?;
    let mirror = Scripted::serve(move |request, _| honest(&image, request))?;
    let dir = tempfile::tempdir()?;
    let registries = Registries {
        mirrors: vec![format!("http://{}", broken.host()), format!("http://{}", mirror.host())],
        ..Registries::default()
    };
    let store = ImageStore::open(Config { root: dir.path().to_owned(), registries, ..Config::default() })?;
    pull(&store, "app:1").await?;
    store.resolve("app:1")?;
    assert!(!broken.requests().is_empty(), "the first mirror was not asked");
    assert!(
        mirror
            .requests()
            .iter()
            .all(|request| !request.path.contains("/manifests/")
                || request.path.starts_with("/v2/library/app/"))
    );
    Ok(())
}
