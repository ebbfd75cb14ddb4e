//! A session against an engine that is made up, so that it can be made to fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use host::engine::{Origin, Target};
use host::ui::{Message, Session, Subscription, Topic, Update};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

#[derive(Clone)]
struct Fake {
    /// State by id.
    containers: Arc<Mutex<BTreeMap<String, String>>>,
    /// The container on the one network, once there is one.
    member: Arc<Mutex<Option<String>>>,
    events: broadcast::Sender<String>,
    /// The filters of each list.
    lists: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn new() -> Self {
        let lists = Arc::default();
        Self { containers: Arc::default(), member: Arc::default(), events: broadcast::channel(1024).0, lists }
    }

    fn set(&self, id: &str, state: &str) {
        self.containers.lock().unwrap().insert(id.into(), state.into());
        self.tell(id, "start");
    }

    fn remove(&self, id: &str) {
        self.containers.lock().unwrap().remove(id);
        self.tell(id, "destroy");
    }

    fn tell(&self, id: &str, action: &str) {
        let event = json!({"Type": "container", "Action": action, "Actor": {"ID": id}});
        // Nobody may listen yet.
        let _ = self.events.send(format!("{event}\n"));
    }

    fn row(id: &str, state: &str) -> Value {
        json!({
            "Id": id, "Names": [format!("/{id}")], "Image": "busybox", "State": state, "Status": "", "Mounts": [],
            "NetworkSettings": {"Networks": {"backend": {}}},
        })
    }

    fn serve(&self, socket: &Path) -> JoinSet<()> {
        let app = Router::new()
            .route("/_ping", get(|| async { "OK" }))
            .route("/info", get(|| async { Json(json!({"ServerVersion": "9.9", "NCPU": 4, "MemTotal": 8})) }))
            .route("/images/json", get(|| async { Json(json!([])) }))
            .route("/events", get(events))
            .route("/networks", get(|| async { Json(json!([{"Name": "backend", "Id": "n1"}])) }))
            .route("/networks/{id}", get(network))
            .route("/volumes", get(|| async { Json(json!({"Volumes": [{"Name": "pgdata"}]})) }))
            .route("/system/df", get(usage))
            .route("/containers/json", get(list))
            .route("/containers/{id}/json", get(page))
            .with_state(self.clone());
        let listener = UnixListener::bind(socket).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        tasks
    }
}

async fn events(State(fake): State<Fake>) -> Response {
    let events = stream::unfold(fake.events.subscribe(), |mut events| async move {
        let event = events.recv().await.ok().filter(|event| event != "hang up")?;
        Some((Ok::<_, std::io::Error>(Bytes::from(event)), events))
    });
    Body::from_stream(events).into_response()
}

async fn list(State(fake): State<Fake>, Query(query): Query<BTreeMap<String, String>>) -> Json<Vec<Value>> {
    let filters = query.get("filters").cloned().unwrap_or_default();
    let wanted: BTreeMap<String, Vec<String>> = serde_json::from_str(&filters).unwrap_or_default();
    fake.lists.lock().unwrap().push(filters);
    let containers = fake.containers.lock().unwrap();
    let passes = |id: &String| wanted.get("id").is_none_or(|ids| ids.contains(id));
    Json(containers.iter().filter(|(id, _)| passes(id)).map(|(id, state)| Fake::row(id, state)).collect())
}

async fn network(State(fake): State<Fake>) -> Json<Value> {
    let member = fake.member.lock().unwrap().clone();
    let members: BTreeMap<_, _> = member
        .map(|id| (id.clone(), json!({"Name": id, "IPv4Address": "10.0.0.2/24"})))
        .into_iter()
        .collect();
    Json(json!({"Name": "backend", "Id": "n1", "Containers": members}))
}

async fn usage() -> Json<Value> {
    let volume = |name: &str, size: i64| json!({"Name": name, "UsageData": {"RefCount": 0, "Size": size}});
    Json(json!({"Volumes": [volume("pgdata", 4096), volume("elsewhere", -1)]}))
}

async fn page(State(fake): State<Fake>, UrlPath(id): UrlPath<String>) -> Response {
    match fake.containers.lock().unwrap().get(&id) {
        Some(state) => Json(json!({
            "Id": id, "State": {"Status": state, "StartedAt": "2026-11-24T11:00:00Z", "FinishedAt": ""},
        }))
        .into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"message": format!("No such container: {id}")})))
            .into_response(),
    }
}

struct Watched {
    subscription: Subscription,
    states: BTreeMap<String, String>,
    started: usize,
}

impl Watched {
    fn new(session: &Session) -> Self {
        Self { subscription: session.open(Topic::Containers), states: BTreeMap::new(), started: 0 }
    }

    async fn update(&mut self) -> Update {
        let wait = Duration::from_secs(10);
        match tokio::time::timeout(wait, self.subscription.next()).await.expect("an update in time") {
            Some(Message::Update(update)) => *update,
            other => panic!("{other:?}"),
        }
    }

    /// Applies updates as a window does until the list is `wanted`.
    async fn until(&mut self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<_, _> =
            wanted.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect();
        while self.states != wanted {
            let (rows, removed) = match self.update().await {
                Update::Containers { rows } => {
                    self.states.clear();
                    (rows, Vec::new())
                }
                Update::Changed { rows, removed } => (rows, removed),
                other => panic!("{other:?}"),
            };
            for row in rows {
                self.started += usize::from(row.started_at.is_some());
                self.states.insert(row.id, row.state);
            }
            for id in removed {
                self.states.remove(&id);
            }
        }
    }
}

fn session(socket: &Path) -> Session {
    let endpoint = format!("unix://{}", socket.display()).parse().unwrap();
    Session::new(Target { endpoint, origin: Origin::Named })
}

#[tokio::test]
async fn a_list_follows_its_engine_one_container_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    fake.set("web", "running");
    let _engine = fake.serve(&socket);
    let session = session(&socket);
    let mut window = Watched::new(&session);
    window.until(&[("web", "running")]).await;
    fake.set("db", "running");
    window.until(&[("web", "running"), ("db", "running")]).await;
    fake.set("web", "exited");
    fake.remove("db");
    window.until(&[("web", "exited")]).await;
    assert!(window.started > 0, "exact times come with a container's page");
    let lists = fake.lists.lock().unwrap().clone();
    assert_eq!(
        lists.iter().filter(|filters| filters.is_empty()).count(),
        1,
        "the whole list is read once: {lists:?}"
    );
    // A second window begins with what is known.
    Watched::new(&session).until(&[("web", "exited")]).await;
    drop(window);
    session.close().await;
}

#[tokio::test]
async fn an_engine_that_goes_is_told_and_what_changed_meanwhile_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    fake.set("web", "running");
    let engine = fake.serve(&socket);
    let session = session(&socket);
    let mut window = Watched::new(&session);
    window.until(&[("web", "running")]).await;
    let mut health = session.open(Topic::Engine);
    let mut next = async || match tokio::time::timeout(Duration::from_secs(10), health.next()).await.unwrap()
    {
        Some(Message::Update(update)) => match *update {
            Update::Engine(state) => state,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let mut state = next().await;
    while state.version.is_empty() {
        state = next().await;
    }
    // axum finishes what it serves even when its task is gone, so the stream is ended first.
    drop(engine);
    fake.events.send("hang up".into()).unwrap();
    std::fs::remove_file(&socket).unwrap();
    let mut state = next().await;
    while state.error.is_none() {
        state = next().await;
    }
    assert!(state.error.unwrap().message.contains("closed the connection"));
    fake.set("web", "exited");
    fake.set("db", "running");
    let _engine = fake.serve(&socket);
    window.until(&[("web", "exited"), ("db", "running")]).await;
    session.close().await;
}

#[tokio::test]
async fn a_storm_of_events_ends_in_the_right_list_for_a_window_that_does_not_keep_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    let _engine = fake.serve(&socket);
    let session = session(&socket);
    let mut window = Watched::new(&session);
    window.until(&[]).await;
    // The first list has come, so the events are subscribed.
    while fake.lists.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for round in 0..300 {
        fake.set(&format!("c{}", round % 40), if round % 3 == 0 { "exited" } else { "running" });
        if round % 7 == 0 {
            fake.remove(&format!("c{}", round % 11));
        }
        if round % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let wanted = fake.containers.lock().unwrap().clone();
    let wanted: Vec<_> = wanted.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect();
    window.until(&wanted).await;
    session.close().await;
}

async fn next(subscription: &mut Subscription) -> Update {
    match tokio::time::timeout(Duration::from_secs(10), subscription.next()).await.unwrap() {
        Some(Message::Update(update)) => *update,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_network_has_a_container_as_its_member_while_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    fake.set("web", "created");
    let _engine = fake.serve(&socket);
    let session = session(&socket);
    let mut networks = session.open(Topic::Networks);
    let mut until = async |wanted: &[&str]| loop {
        let Update::Networks { rows } = next(&mut networks).await else { panic!("another update") };
        let members: Vec<_> = rows[0].members.iter().map(|member| member.name.as_str()).collect();
        if members == wanted {
            return rows[0].clone();
        }
    };
    until(&[]).await;
    // The container's event is all there is: the network's own came before the container ran.
    *fake.member.lock().unwrap() = Some("web".into());
    fake.set("web", "running");
    assert_eq!(until(&["web"]).await.members[0].ipv4, "10.0.0.2");
    *fake.member.lock().unwrap() = None;
    fake.remove("web");
    until(&[]).await;
    session.close().await;
}

#[tokio::test]
async fn volumes_are_listed_and_measured_where_the_engine_knows_how() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    let _engine = fake.serve(&socket);
    let session = session(&socket);
    let Update::Volumes { rows } = next(&mut session.open(Topic::Volumes)).await else { panic!() };
    assert_eq!(rows[0].name, "pgdata");
    let Update::VolumeSizes { sizes } = next(&mut session.open(Topic::VolumeSizes)).await else { panic!() };
    let sizes: Vec<_> = sizes.iter().map(|size| (size.name.as_str(), size.bytes)).collect();
    assert_eq!(sizes, [("pgdata", 4096)]);
    session.close().await;
}

#[tokio::test]
async fn an_engine_older_than_networks_and_volumes_is_watched_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let fake = Fake::new();
    fake.set("web", "running");
    let app = Router::new()
        .route("/_ping", get(|| async { "OK" }))
        .route("/info", get(|| async { Json(json!({"ServerVersion": "9.8"})) }))
        .route("/images/json", get(|| async { Json(json!([])) }))
        .route("/events", get(events))
        .route("/containers/json", get(list))
        .route("/containers/{id}/json", get(page))
        .with_state(fake);
    let listener = UnixListener::bind(&socket).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let session = session(&socket);
    Watched::new(&session).until(&[("web", "running")]).await;
    let Update::Volumes { rows } = next(&mut session.open(Topic::Volumes)).await else { panic!() };
    assert!(rows.is_empty());
    let Update::Networks { rows } = next(&mut session.open(Topic::Networks)).await else { panic!() };
    assert!(rows.is_empty());
    session.close().await;
}
