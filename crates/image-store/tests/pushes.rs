//! Pushes to registries that do as they should, and to some that don't.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_store::{Auth, Config, Error, ImageStore, Progress, ProgressKind, PushOptions, Registries};
use model::Reference;
use support::image::{Blobs, Compression, Layer, docker_archive, header, noise};
use support::registry::{Answer, Request, Scripted, Take, Uploads, honest};
use tar::{Builder, EntryType};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How long a registry may be silent in these tests.
const STALL: Duration = Duration::from_millis(500);

fn open(root: &Path) -> Result<ImageStore, Error> {
    let registries = Registries { stall: STALL, ..Registries::default() };
    ImageStore::open(Config { root: root.to_owned(), registries, ..Config::default() })
}

fn archive(name: &str, data: &[u8]) -> Outcome<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    layer.append_data(&mut header(EntryType::Regular, 0o644, data.len() as u64), name, data)?;
    Ok(layer.into_inner()?)
}

/// A store with an image of one uncompressed layer of noise, of about so many bytes, named `name`.
fn loaded(root: &Path, name: &str, size: usize) -> Outcome<ImageStore> {
    let store = open(root)?;
    let bytes = docker_archive(name, &[archive("noise", &noise(5, size))?], &serde_json::json!({}))?;
    store.load(bytes.as_slice(), |_| {})?;
    Ok(store)
}

async fn push(store: &ImageStore, name: &str) -> Result<Vec<ProgressKind>, Error> {
    push_as(store, name, None).await
}

async fn push_as(store: &ImageStore, name: &str, auth: Option<Auth>) -> Result<Vec<ProgressKind>, Error> {
    let reference: Reference = name.parse().map_err(|_| Error::Invalid { what: name.to_owned() })?;
    let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let tell = Arc::clone(&told);
    let tell = move |progress| tell.lock().unwrap_or_else(PoisonError::into_inner).push(progress);
    let options = PushOptions { auth, ..PushOptions::default() };
    store.push(&reference, reference.tag(), options, Arc::new(tell)).await?;
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(told.iter().map(|progress| progress.kind.clone()).collect())
}

/// A registry that takes pushes.
fn honest_uploads() -> Outcome<(Scripted, Arc<Uploads>)> {
    scripted(|_, _| Take::All, |_, _| None)
}

/// One that does what `lie` says, where it says something.
fn scripted(
    take: impl Fn(&Request, usize) -> Take + Send + Sync + 'static,
    lie: impl Fn(&Request, usize) -> Option<Answer> + Send + Sync + 'static,
) -> Outcome<(Scripted, Arc<Uploads>)> {
    let uploads = Arc::new(Uploads::default());
    let kept = Arc::clone(&uploads);
    let registry = Scripted::serve_some(take, move |request, before| {
        lie(request, before).unwrap_or_else(|| kept.answer(request))
    })?;
    Ok((registry, uploads))
}

fn tell_count(told: &[ProgressKind], kind: &ProgressKind) -> usize {
    told.iter().filter(|one| *one == kind).count()
}

/// What a push leaves behind: nothing that is not a blob half fetched.
fn assert_nothing_left(root: &Path) -> Outcome {
    let began = Instant::now();
    loop {
        let names = std::fs::read_dir(root.join("ingest"))?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<std::io::Result<Vec<_>>>()?;
        if names.is_empty() {
            return Ok(());
        }
        assert!(began.elapsed() < Duration::from_secs(10), "left in ingest: {names:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bodies<'a>(requests: &'a [Request], method: &str) -> Vec<(Option<u64>, &'a [u8])> {
    let sent =
        requests.iter().filter(|request| request.method == method && !request.path.contains("/manifests/"));
    sent.map(|request| (request.sent_from, request.bytes.as_slice())).collect()
}

#[tokio::test]
async fn what_was_pulled_is_pushed_byte_for_byte() -> Outcome {
    for is_lacking_type in [false, true] {
        let dir = tempfile::tempdir()?;
        let layers = vec![
            Layer::pack(&archive("one", &noise(3, 100_000))?, Compression::Gzip)?,
            Layer::pack(&archive("two", &noise(4, 100_000))?, Compression::Zstd)?,
        ];
        let mut image = Blobs::new(layers, &serde_json::json!({}));
        if is_lacking_type {
            // OCI lets a manifest leave its own type out; what stands in it beside is kept too.
            let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest)?;
            manifest["annotations"] = serde_json::json!({ "org.example": "kept" });
            if image.media_type.contains("oci") {
                manifest.as_object_mut().ok_or("no object")?.remove("mediaType");
            }
            image.manifest = serde_json::to_vec_pretty(&manifest)?;
        }
        let served = image.clone();
        let source = Scripted::serve(move |request, _| honest(&served, request))?;
        let (registry, uploads) = honest_uploads()?;
        let store = open(dir.path())?;
        let from = format!("{}/app:1", source.host());
        store.pull(&from.parse()?, None, None, Arc::new(|_| {})).await?;
        let to = format!("{}/app:2", registry.host());
        store.tag(&from, &to.parse()?)?;
        let told = push(&store, &to).await?;
        for layer in &image.layers {
            let digest = format!("sha256:{}", support::image::sha256(&layer.bytes));
            assert_eq!(uploads.blob(&digest).as_ref(), Some(&layer.bytes));
        }
        assert_eq!(uploads.manifest("app", "2").as_ref(), Some(&image.manifest));
        assert_eq!(told.first(), Some(&ProgressKind::PushRefers(format!("{}/app", registry.host()))));
        assert_eq!(tell_count(&told, &ProgressKind::Preparing), 2);
        assert_eq!(tell_count(&told, &ProgressKind::Pushed), 2);
        let (digest, size) = (image.digest().parse()?, image.manifest.len() as u64);
        assert_eq!(told.last(), Some(&ProgressKind::PushedTag { tag: "2".into(), digest, size }));
        let record = store.resolve(&to)?;
        assert!(record.repo_digests.contains(&format!("{}/app@{digest}", registry.host())));
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_is_kept_uncompressed_is_compressed_once() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = honest_uploads()?;
    let name = format!("{}/app:1", registry.host());
    let store = loaded(dir.path(), &name, 1 << 20)?;
    push(&store, &name).await?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&uploads.manifest("app", "1").ok_or("no manifest")?)?;
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let bytes = uploads.blob(layer["digest"].as_str().unwrap_or_default()).ok_or("no layer")?;
    assert_eq!(bytes[..2], [0x1f, 0x8b]);
    assert_nothing_left(dir.path())?;

    // Again, and after a restart: nothing is sent, and to another repository it is mounted.
    drop(store);
    let store = open(dir.path())?;
    let before = registry.requests().len();
    let told = push(&store, &name).await?;
    assert_eq!(tell_count(&told, &ProgressKind::LayerExists), 1);
    let other = format!("{}/team/other:1", registry.host());
    store.tag(&name, &other.parse()?)?;
    let told = push(&store, &other).await?;
    assert_eq!(tell_count(&told, &ProgressKind::Mounted("app".into())), 1);
    let requests = registry.requests();
    let sent: usize = bodies(&requests[before..], "PUT").iter().map(|(_, body)| body.len()).sum();
    assert!(sent < 10_000, "{sent} bytes were sent again");
    assert_nothing_left(dir.path())?;

    // What was pushed is an image that can be pulled.
    let fresh = tempfile::tempdir()?;
    let pulled = open(fresh.path())?.pull(&other.parse()?, None, None, Arc::new(|_| {})).await?;
    assert_eq!(pulled.id, store.resolve(&other)?.id);
    Ok(())
}

#[tokio::test]
async fn a_break_in_mid_upload_is_gone_on_with_from_where_it_broke() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = scripted(
        |request, _| {
            let is_large = request.method == "PUT" && request.path.ends_with("/uploads/1");
            if is_large { Take::Cut(300_000) } else { Take::All }
        },
        |_, _| None,
    )?;
    let name = format!("{}/breaks:1", registry.host());
    // The registry hangs up in each PUT of the layer: the rest comes by PATCH, and the last PUT is empty.
    push(&loaded(dir.path(), &name, 1 << 20)?, &name).await?;
    let requests = registry.requests();
    let patched = bodies(&requests, "PATCH");
    assert_eq!(patched.len(), 1);
    assert_eq!(patched[0].0, Some(300_000), "it went on from another byte");
    assert!(uploads.manifest("breaks", "1").is_some());
    assert_eq!(uploads.unfinished(), 0);
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn a_large_layer_goes_in_pieces_and_a_break_costs_only_what_was_lost() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = scripted(
        |request, before| {
            let is_second = request.method == "PATCH" && before == 1;
            if is_second { Take::Cut(1 << 20) } else { Take::All }
        },
        |_, _| None,
    )?;
    let name = format!("{}/large:1", registry.host());
    push(&loaded(dir.path(), &name, 40 << 20)?, &name).await?;
    let requests = registry.requests();
    let patched = bodies(&requests, "PATCH");
    let starts: Vec<Option<u64>> = patched.iter().map(|(start, _)| *start).collect();
    assert_eq!(starts, [Some(0), Some(16 << 20), Some(17 << 20), Some(33 << 20)]);
    assert!(uploads.manifest("large", "1").is_some());
    Ok(())
}

#[tokio::test]
async fn an_upload_that_the_registry_lost_is_begun_again() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = scripted(
        |request, _| if request.path.ends_with("/uploads/1") { Take::Cut(100_000) } else { Take::All },
        // It hangs up, and knows nothing of it afterwards.
        |request, _| request.path.ends_with("/uploads/1").then(|| Answer::status("404 Not Found")),
    )?;
    let name = format!("{}/lost:1", registry.host());
    push(&loaded(dir.path(), &name, 1 << 20)?, &name).await?;
    assert!(uploads.manifest("lost", "1").is_some());
    Ok(())
}

#[tokio::test]
async fn failures_of_the_server_are_tried_again() -> Outcome {
    let dir = tempfile::tempdir()?;
    let seen = Mutex::new(Vec::new());
    let (registry, uploads) = scripted(
        |_, _| Take::All,
        // The first of each kind of request, at each path; uploads differ in their numbers only.
        move |request, _| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let one = (request.method.clone(), request.path.trim_end_matches(char::is_numeric).to_owned());
            if seen.contains(&one) || matches!(request.method.as_str(), "GET" | "DELETE") {
                return None;
            }
            seen.push(one);
            Some(Answer::status("503 Service Unavailable"))
        },
    )?;
    let name = format!("{}/busy:1", registry.host());
    push(&loaded(dir.path(), &name, 100_000)?, &name).await?;
    assert!(uploads.manifest("busy", "1").is_some());
    Ok(())
}

#[tokio::test]
async fn a_registry_that_only_fails_is_given_up_on_and_named() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = scripted(
        |_, _| Take::All,
        |request, _| {
            let is_blob = request.method == "PUT" && request.path.contains("/blobs/");
            is_blob.then(|| Answer::status("500 Internal Server Error"))
        },
    )?;
    let name = format!("{}/fails:1", registry.host());
    let error = push(&loaded(dir.path(), &name, 100_000)?, &name).await.err().ok_or("it was pushed")?;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&registry.host()) && text.contains("500"), "{text}");
    assert_eq!(uploads.unfinished(), 0, "an upload was left at the registry");
    assert!(uploads.manifest("fails", "1").is_none());
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn when_one_layer_is_refused_the_others_are_taken_back() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, uploads) = scripted(
        |_, _| Take::All,
        |request, _| {
            let is_blob = request.method == "PUT" && request.path.contains("/blobs/");
            // The large one's pieces take long; the small one is refused when the large one is begun.
            if request.method == "PATCH" || (is_blob && request.bytes.len() < 10_000) {
                std::thread::sleep(Duration::from_millis(100));
            }
            (is_blob && request.bytes.len() < 10_000).then(|| Answer::status("403 Forbidden"))
        },
    )?;
    let name = format!("{}/half:1", registry.host());
    let store = open(dir.path())?;
    // Compressed, so that both are begun at once.
    let mut layers = Vec::new();
    for (name, data) in [("large", noise(6, 60 << 20)), ("small", noise(7, 1000))] {
        layers.push(Layer::pack(&archive(name, &data)?, Compression::Gzip)?);
    }
    let image = Blobs::new(layers, &serde_json::json!({}));
    let source = Scripted::serve(move |request, _| honest(&image, request))?;
    let from = format!("{}/half:1", source.host());
    store.pull(&from.parse()?, None, None, Arc::new(|_| {})).await?;
    store.tag(&from, &name.parse()?)?;
    let error = push(&store, &name).await.err().ok_or("it was pushed")?;
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(bodies(&registry.requests(), "PATCH").len() < 4, "the large one was sent to its end");
    assert!(registry.requests().iter().any(|request| request.method == "DELETE"));
    // A piece that was on its way when it was cut off comes to nothing.
    assert_eq!(uploads.unfinished(), 0, "an upload was left at the registry");
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn a_registry_that_stops_reading_is_given_up_on() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (registry, _) = scripted(
        |request, _| {
            let is_blob =
                matches!(request.method.as_str(), "PUT" | "PATCH") && request.path.contains("/blobs/");
            if is_blob { Take::Nothing(Duration::from_secs(30)) } else { Take::All }
        },
        |_, _| None,
    )?;
    let name = format!("{}/stalls:1", registry.host());
    let began = Instant::now();
    let error = push(&loaded(dir.path(), &name, 1 << 20)?, &name).await.err().ok_or("it was pushed")?;
    assert!(error.to_string().contains(&registry.host()), "{error}");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_nothing_left(dir.path())
}

#[tokio::test]
async fn a_registry_that_lies_about_a_digest_is_told_of() -> Outcome {
    let other = format!("sha256:{}", "0".repeat(64));
    for (method, part) in [("PUT", "/blobs/"), ("HEAD", "/blobs/"), ("PUT", "/manifests/")] {
        let dir = tempfile::tempdir()?;
        let lied = other.clone();
        let (registry, _) = scripted(
            |_, _| Take::All,
            move |request, _| {
                let is_lie = request.method == method && request.path.contains(part);
                is_lie.then(|| Answer::status("200 OK").with("Docker-Content-Digest", lied.clone()))
            },
        )?;
        let name = format!("{}/lies:1", registry.host());
        let store = loaded(dir.path(), &name, 10_000)?;
        let error = push(&store, &name).await.err().ok_or("it was pushed")?;
        assert!(matches!(error, Error::Corrupt { .. }), "{method} {part}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&registry.host()) && text.contains(&other), "{method} {part}: {text}");
        assert!(store.resolve(&name)?.repo_digests.is_empty(), "it was noted as pushed");
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn refusals_are_told_in_words_that_name_the_registry() -> Outcome {
    for (status, expected) in [
        ("403 Forbidden", "denied: requested access to the resource is denied"),
        ("401 Unauthorized", "unauthorized: authentication required"),
        ("404 Not Found", "has no repository refuses to push to"),
        ("405 Method Not Allowed", "takes no pushes"),
        ("413 Payload Too Large", "refuses the"),
    ] {
        let dir = tempfile::tempdir()?;
        let (registry, _) = scripted(
            |_, _| Take::All,
            move |request, _| (request.method == "POST").then(|| Answer::status(status)),
        )?;
        let name = format!("{}/refuses:1", registry.host());
        let error = push(&loaded(dir.path(), &name, 10_000)?, &name).await.err().ok_or("it was pushed")?;
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&registry.host()), "{status}: {text}");
        assert_nothing_left(dir.path())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_no_image_has_is_told_as_docker_tells_it() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = loaded(dir.path(), "127.0.0.1:1/here:1", 1000)?;
    for (name, expected) in [
        ("127.0.0.1:1/nowhere:1", "An image does not exist locally with the tag: 127.0.0.1:1/nowhere"),
        ("127.0.0.1:1/here:2", "tag does not exist: 127.0.0.1:1/here:2"),
    ] {
        let error = push(&store, name).await.err().ok_or("it was pushed")?;
        assert_eq!(error.to_string(), expected);
    }
    Ok(())
}

fn user(password: &str) -> Auth {
    Auth { username: "user".into(), password: password.into(), identity_token: String::new() }
}

/// Lets in who has a token that `/token` gave out for the scope of a push.
fn guarded_by_tokens(uploads: &Arc<Uploads>) -> Outcome<Scripted> {
    let uploads = Arc::clone(uploads);
    Ok(Scripted::serve(move |request, _| {
        if request.path == "/token" {
            if request.authorization.as_deref() != Some("Basic dXNlcjpzZWNyZXQ=") {
                let body =
                    br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
                return Answer { status: "401 Unauthorized", ..Answer::new(body.to_vec()) };
            }
            let can_push = request.query.contains("scope=repository%3Aprivate%3Apull%2Cpush");
            let mut token = serde_json::json!({ "token": if can_push { "push" } else { "pull" } });
            if request.query.contains("offline_token=true") {
                token["refresh_token"] = "refresh".into();
            }
            return Answer::new(token.to_string().into_bytes());
        }
        let needed: &[&str] = match (request.path.as_str(), request.method.as_str()) {
            ("/v2/", _) | (_, "HEAD" | "GET") => &["Bearer pull", "Bearer push"],
            _ => &["Bearer push"],
        };
        if request.authorization.as_deref().is_some_and(|proof| needed.contains(&proof)) {
            return uploads.answer(request);
        }
        let scope = if request.path == "/v2/" { "" } else { ",scope=\"repository:private:pull\"" };
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"here\"{scope}", request.host);
        Answer::status("401 Unauthorized").with("WWW-Authenticate", challenge)
    })?)
}

#[tokio::test]
async fn a_push_asks_for_the_right_to_push_and_one_users_token_is_no_others() -> Outcome {
    let dir = tempfile::tempdir()?;
    let uploads = Arc::new(Uploads::default());
    let registry = guarded_by_tokens(&uploads)?;
    let name = format!("{}/private:1", registry.host());
    let store = loaded(dir.path(), &name, 10_000)?;
    push_as(&store, &name, Some(user("secret"))).await?;
    assert!(uploads.manifest("private", "1").is_some());
    for auth in [Some(user("wrong")), None] {
        let error = push_as(&store, &name, auth).await.err().ok_or("it was pushed")?;
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn logins_are_checked_at_the_registry_each_time() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let tokens = guarded_by_tokens(&Arc::default())?;
    let passwords = Scripted::serve(|request, _| {
        if request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=") {
            Answer::new(b"{}".to_vec())
        } else {
            Answer::status("401 Unauthorized").with("WWW-Authenticate", "Basic realm=\"here\"")
        }
    })?;
    for (registry, token) in [(&tokens, "refresh"), (&passwords, "")] {
        let login = store.check_login(&registry.host(), &user("secret")).await?;
        assert_eq!(login.identity_token, token);
        let error = store.check_login(&registry.host(), &user("wrong")).await.err().ok_or("it was let in")?;
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("http://{}/v2/", registry.host())), "{error}");
    }
    // Where nobody is asked for a password, any will do.
    let (free, _) = honest_uploads()?;
    store.check_login(&free.host(), &user("any")).await?;
    Ok(())
}

#[tokio::test]
async fn a_search_is_handed_on_and_a_name_is_described() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let image =
        Blobs::new(vec![Layer::pack(&archive("a", b"a")?, Compression::Gzip)?], &serde_json::json!({}));
    let served = image.clone();
    let registry = Scripted::serve(move |request, _| {
        if request.path == "/v1/search" && request.query == "q=a%20word&n=7" {
            let found = serde_json::json!({ "results": [{ "name": "found", "star_count": 3 }] });
            return Answer::new(found.to_string().into_bytes());
        }
        honest(&served, request)
    })?;
    let found = store.search(&format!("{}/a word", registry.host()), 7, None).await?;
    assert_eq!((found.len(), found[0].name.as_str(), found[0].star_count), (1, "found", 3));
    let described = store.describe(&format!("{}/app:1", registry.host()).parse()?, None).await?;
    assert_eq!(described.digest.to_string(), image.digest());
    assert_eq!(described.size, image.manifest.len() as u64);
    assert_eq!(described.platforms.len(), 1);
    assert_eq!(described.platforms[0].os, "linux");
    Ok(())
}
