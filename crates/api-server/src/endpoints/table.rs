//! The endpoints of Docker's Engine API, with their queries.

use super::bodies;
use super::{Endpoint, Field, Standing, ignored, partly, query, refused};

/// The names that `filters` takes, by what is listed.
pub(crate) mod filters {
    pub(crate) const CONTAINERS: &[&str] = &[
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "label!",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ];
    pub(crate) const EVENTS: &[&str] = &[
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ];
    pub(crate) const IMAGES: &[&str] =
        &["before", "dangling", "label", "label!", "reference", "since", "until"];
    pub(crate) const NETWORKS: &[&str] =
        &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];
    pub(crate) const PRUNED: &[&str] = &["label", "label!", "until"];
    pub(crate) const PRUNED_IMAGES: &[&str] = &["dangling", "label", "label!", "until"];
    pub(crate) const PRUNED_VOLUMES: &[&str] = &["all", "label", "label!"];
    pub(crate) const SEARCH: &[&str] = &["is-automated", "is-official", "stars"];
    pub(crate) const VOLUMES: &[&str] = &["dangling", "driver", "label", "name"];
}

const BUILDER: &str =
    "images are not built by the engine; build with another tool and load or push the image";
const PLUGINS: &str = "there are no plugins";
const SWARM: &str = "Cove has no swarm: it runs containers on this computer";
const CHECKPOINT: &str = "checkpoints are experimental in Docker and not there";

impl Endpoint {
    const fn done(method: &'static str, path: &'static str) -> Self {
        Self { method, path, standing: Standing::Done, query: &[], filters: &[], body: &[] }
    }

    const fn partly(method: &'static str, path: &'static str, but: &'static str) -> Self {
        Self { standing: Standing::Partly(but), ..Self::done(method, path) }
    }

    const fn ignored(method: &'static str, path: &'static str, why: &'static str) -> Self {
        Self { standing: Standing::Ignored(why), ..Self::done(method, path) }
    }

    const fn refused(method: &'static str, path: &'static str, why: &'static str) -> Self {
        Self { standing: Standing::Refused(why), ..Self::done(method, path) }
    }

    const fn no_swarm(method: &'static str, path: &'static str) -> Self {
        Self { standing: Standing::NoSwarm, ..Self::done(method, path) }
    }

    const fn query(self, query: &'static [Field]) -> Self {
        Self { query, ..self }
    }

    const fn filters(self, filters: &'static [&'static str]) -> Self {
        Self { filters, ..self }
    }

    const fn body(self, body: &'static [Field]) -> Self {
        Self { body, ..self }
    }
}

const FILTERS: &[Field] = &[query("filters")];
const SIZE_OF_TERMINAL: &[Field] = &[query("h"), query("w")];
const ATTACH: &[Field] =
    &[query("detachKeys"), query("logs"), query("stream"), query("stdin"), query("stdout"), query("stderr")];
const ATTACH_WEBSOCKET: &[Field] = &[
    query("detachKeys"),
    query("logs"),
    query("stream"),
    query("stdin").since(42),
    query("stdout").since(42),
    query("stderr").since(42),
];

/// The first that fits is meant: those with words where others have names come first.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    // The engine.
    Endpoint::done("GET", "/_ping"),
    Endpoint::done("HEAD", "/_ping"),
    Endpoint::done("GET", "/version"),
    Endpoint::done("GET", "/info"),
    Endpoint::done("GET", "/events")
        .query(&[query("since"), query("until"), query("filters")])
        .filters(filters::EVENTS),
    Endpoint::done("GET", "/system/df").query(&[query("type").since(42), query("verbose").since(52)]),
    // Containers.
    Endpoint::done("GET", "/containers/json")
        .query(&[query("all"), query("limit"), query("size"), query("filters")])
        .filters(filters::CONTAINERS),
    Endpoint::done("POST", "/containers/create")
        .query(&[query("name"), query("platform").since(41)])
        .body(bodies::CREATE_CONTAINER),
    Endpoint::done("POST", "/containers/prune").query(FILTERS).filters(filters::PRUNED),
    Endpoint::done("GET", "/containers/{id}/json").query(&[query("size")]),
    Endpoint::done("GET", "/containers/{id}/top").query(&[query("ps_args")]),
    Endpoint::done("GET", "/containers/{id}/logs").query(&[
        query("follow"),
        query("stdout"),
        query("stderr"),
        query("since"),
        query("until").since(35),
        query("timestamps"),
        query("tail"),
        query("details"),
    ]),
    Endpoint::done("GET", "/containers/{id}/changes"),
    Endpoint::done("GET", "/containers/{id}/export"),
    Endpoint::done("GET", "/containers/{id}/stats").query(&[query("stream"), query("one-shot").since(41)]),
    Endpoint::done("POST", "/containers/{id}/resize").query(SIZE_OF_TERMINAL),
    Endpoint::done("POST", "/containers/{id}/start").query(&[
        ignored("detachKeys", "the keys of each attach count; so in Docker"),
        refused("checkpoint", CHECKPOINT),
        refused("checkpoint-dir", CHECKPOINT),
    ]),
    Endpoint::done("POST", "/containers/{id}/stop").query(&[query("signal").since(42), query("t")]),
    Endpoint::done("POST", "/containers/{id}/restart").query(&[query("signal").since(42), query("t")]),
    Endpoint::done("POST", "/containers/{id}/kill").query(&[query("signal")]),
    Endpoint::done("POST", "/containers/{id}/update").body(bodies::UPDATE_CONTAINER),
    Endpoint::done("POST", "/containers/{id}/rename").query(&[query("name")]),
    Endpoint::done("POST", "/containers/{id}/pause"),
    Endpoint::done("POST", "/containers/{id}/unpause"),
    Endpoint::done("POST", "/containers/{id}/attach").query(ATTACH),
    Endpoint::done("GET", "/containers/{id}/attach/ws").query(ATTACH_WEBSOCKET),
    Endpoint::done("POST", "/containers/{id}/wait").query(&[query("condition").since(30)]),
    Endpoint::done("POST", "/containers/{id}/exec").body(bodies::CREATE_EXEC),
    Endpoint::done("HEAD", "/containers/{id}/archive").query(&[query("path")]),
    Endpoint::done("GET", "/containers/{id}/archive").query(&[query("path")]),
    Endpoint::done("PUT", "/containers/{id}/archive").query(&[
        query("path"),
        query("noOverwriteDirNonDir"),
        query("copyUIDGID"),
    ]),
    Endpoint::done("DELETE", "/containers/{id}").query(&[
        query("v"),
        query("force"),
        refused("link", "a link is removed by its container and its name, /containers/{id}/{alias}"),
    ]),
    Endpoint::done("DELETE", "/containers/{id}/{alias}").query(&[
        query("link"),
        ignored("v", "a link has no volumes"),
        ignored("force", "a link has no process"),
    ]),
    Endpoint::refused("GET", "/containers/{id}/checkpoints", CHECKPOINT),
    Endpoint::refused("POST", "/containers/{id}/checkpoints", CHECKPOINT),
    Endpoint::refused("DELETE", "/containers/{id}/checkpoints/{checkpoint}", CHECKPOINT),
    // Processes in containers.
    Endpoint::done("POST", "/exec/{id}/start").body(bodies::START_EXEC),
    Endpoint::done("POST", "/exec/{id}/resize").query(SIZE_OF_TERMINAL),
    Endpoint::done("GET", "/exec/{id}/json"),
    // Images.
    Endpoint::done("GET", "/images/json")
        .query(&[
            ignored("all", "there are no images between others: layers have no name of their own"),
            query("filters"),
            query("shared-size").since(42),
            ignored("digests", "they are always given"),
            query("manifests").since(47),
            ignored("identity", "signatures are kept with images, but not judged"),
            query("filter").until(40),
        ])
        .filters(filters::IMAGES),
    Endpoint::done("POST", "/images/create").query(&[
        query("fromImage"),
        partly("fromSrc", "", "`-`, the request's body; the engine fetches nothing from addresses"),
        query("repo"),
        query("tag"),
        query("message"),
        query("changes"),
        query("platform").since(32),
    ]),
    Endpoint::done("POST", "/images/load").query(&[
        ignored("quiet", "no progress is told that could be left out"),
        refused("platform", "an archive is loaded with all its platforms"),
    ]),
    Endpoint::done("GET", "/images/get").query(&[query("names"), query("platform").since(48)]),
    Endpoint::done("POST", "/images/prune").query(FILTERS).filters(filters::PRUNED_IMAGES),
    Endpoint::done("GET", "/images/search")
        .query(&[query("term"), query("limit"), query("filters")])
        .filters(filters::SEARCH),
    Endpoint::done("GET", "/images/{name...}/json")
        .query(&[query("manifests").since(48), query("platform").since(49)]),
    Endpoint::done("GET", "/images/{name...}/history").query(&[query("platform").since(48)]),
    Endpoint::done("GET", "/images/{name...}/get").query(&[query("platform").since(48)]),
    Endpoint::refused(
        "GET",
        "/images/{name...}/attestations",
        "attestations are kept with images, but not read",
    ),
    Endpoint::done("POST", "/images/{name...}/push").query(&[query("tag"), query("platform").since(46)]),
    Endpoint::done("POST", "/images/{name...}/tag").query(&[query("repo"), query("tag")]),
    Endpoint::done("DELETE", "/images/{name...}").query(&[
        query("force"),
        ignored("noprune", "there are no images between others that could be kept"),
        refused("platforms", "all platforms of an image go together"),
    ]),
    Endpoint::done("POST", "/commit")
        .query(&[
            query("container"),
            query("repo"),
            query("tag"),
            query("comment"),
            query("author"),
            query("pause"),
            query("changes"),
        ])
        .body(bodies::COMMIT),
    Endpoint::done("POST", "/auth").body(bodies::AUTH),
    Endpoint::done("GET", "/distribution/{name...}/json"),
    Endpoint::refused("POST", "/build", BUILDER),
    Endpoint::refused("POST", "/build/prune", BUILDER),
    Endpoint::refused("POST", "/build/cancel", BUILDER),
    Endpoint::refused("POST", "/session", BUILDER),
    Endpoint::refused("POST", "/grpc", BUILDER),
    // Networks.
    Endpoint::done("GET", "/networks").query(FILTERS).filters(filters::NETWORKS),
    Endpoint::done("POST", "/networks/create").body(bodies::CREATE_NETWORK),
    Endpoint::done("POST", "/networks/prune").query(FILTERS).filters(filters::PRUNED),
    Endpoint::partly("GET", "/networks/{id}", "without `Status`, the count of leased addresses of 1.52")
        .query(&[ignored("verbose", "it shows the services of a swarm"), query("scope").since(31)]),
    Endpoint::done("DELETE", "/networks/{id}"),
    Endpoint::done("POST", "/networks/{id}/connect").body(bodies::CONNECT_NETWORK),
    Endpoint::done("POST", "/networks/{id}/disconnect").body(bodies::DISCONNECT_NETWORK),
    // Volumes.
    Endpoint::done("GET", "/volumes").query(FILTERS).filters(filters::VOLUMES),
    Endpoint::done("POST", "/volumes/create").body(bodies::CREATE_VOLUME),
    Endpoint::done("POST", "/volumes/prune").query(FILTERS).filters(filters::PRUNED_VOLUMES),
    Endpoint::done("GET", "/volumes/{name}"),
    Endpoint::refused(
        "PUT",
        "/volumes/{name}",
        "only cluster volumes can be updated, and those are Swarm's, which is not there",
    ),
    Endpoint::done("DELETE", "/volumes/{name}").query(&[query("force")]),
    // Plugins, of which there are none.
    Endpoint::ignored("GET", "/plugins", "the list is empty").query(&[ignored("filters", PLUGINS)]),
    Endpoint::refused("GET", "/plugins/privileges", PLUGINS),
    Endpoint::refused("POST", "/plugins/pull", PLUGINS),
    Endpoint::refused("POST", "/plugins/create", PLUGINS),
    Endpoint::refused("GET", "/plugins/{name...}/json", PLUGINS),
    Endpoint::refused("POST", "/plugins/{name...}/enable", PLUGINS),
    Endpoint::refused("POST", "/plugins/{name...}/disable", PLUGINS),
    Endpoint::refused("POST", "/plugins/{name...}/upgrade", PLUGINS),
    Endpoint::refused("POST", "/plugins/{name...}/push", PLUGINS),
    Endpoint::refused("POST", "/plugins/{name...}/set", PLUGINS),
    Endpoint::refused("DELETE", "/plugins/{name...}", PLUGINS),
    // Swarm.
    Endpoint::refused("POST", "/swarm/init", SWARM),
    Endpoint::refused("POST", "/swarm/join", SWARM),
    Endpoint::no_swarm("GET", "/swarm"),
    Endpoint::no_swarm("POST", "/swarm/leave"),
    Endpoint::no_swarm("POST", "/swarm/update"),
    Endpoint::no_swarm("GET", "/swarm/unlockkey"),
    Endpoint::no_swarm("POST", "/swarm/unlock"),
    Endpoint::no_swarm("GET", "/nodes"),
    Endpoint::no_swarm("GET", "/nodes/{id}"),
    Endpoint::no_swarm("DELETE", "/nodes/{id}"),
    Endpoint::no_swarm("POST", "/nodes/{id}/update"),
    Endpoint::no_swarm("GET", "/services"),
    Endpoint::no_swarm("POST", "/services/create"),
    Endpoint::no_swarm("GET", "/services/{id}"),
    Endpoint::no_swarm("DELETE", "/services/{id}"),
    Endpoint::no_swarm("POST", "/services/{id}/update"),
    Endpoint::no_swarm("GET", "/services/{id}/logs"),
    Endpoint::no_swarm("GET", "/tasks"),
    Endpoint::no_swarm("GET", "/tasks/{id}"),
    Endpoint::no_swarm("GET", "/tasks/{id}/logs"),
    Endpoint::no_swarm("GET", "/secrets"),
    Endpoint::no_swarm("POST", "/secrets/create"),
    Endpoint::no_swarm("GET", "/secrets/{id}"),
    Endpoint::no_swarm("DELETE", "/secrets/{id}"),
    Endpoint::no_swarm("POST", "/secrets/{id}/update"),
    Endpoint::no_swarm("GET", "/configs"),
    Endpoint::no_swarm("POST", "/configs/create"),
    Endpoint::no_swarm("GET", "/configs/{id}"),
    Endpoint::no_swarm("DELETE", "/configs/{id}"),
    Endpoint::no_swarm("POST", "/configs/{id}/update"),
];
