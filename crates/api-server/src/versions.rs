//! What older and newer clients see differently: every difference between versions of Docker's API that is not
//! only a field or a parameter that came or went (which the table of endpoints knows) is in this file.
//!
//! A change of an answer rewrites its JSON for the versions it names, so that nobody else pays for it.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::endpoints::Endpoint;

/// A difference that clients of some versions see.
pub(crate) struct Change {
    endpoint: (&'static str, &'static str),
    /// Minor versions.
    versions: RangeInclusive<u32>,
    /// For the document.
    #[cfg_attr(not(test), expect(dead_code, reason = "the document is written by a test"))]
    pub(crate) what: &'static str,
    apply: fn(&mut Value),
}

impl Change {
    const fn new(
        endpoint: (&'static str, &'static str),
        versions: RangeInclusive<u32>,
        what: &'static str,
        apply: fn(&mut Value),
    ) -> Self {
        Self { endpoint, versions, what, apply }
    }

    fn concerns(&self, endpoint: &Endpoint, minor: u32) -> bool {
        self.endpoint == (endpoint.method, endpoint.path) && self.versions.contains(&minor)
    }

    /// The endpoint, and the first and the last version (where there are others).
    #[cfg(test)]
    pub(crate) fn scope(&self) -> (String, Option<u32>, Option<u32>) {
        let (method, path) = self.endpoint;
        let (first, last) = (*self.versions.start(), *self.versions.end());
        let name = format!("{method} {}", path.replace("...", ""));
        (name, (first > 0).then_some(first), (last < u32::MAX).then_some(last))
    }
}

const CREATE: (&str, &str) = ("POST", "/containers/create");
const INSPECT: (&str, &str) = ("GET", "/containers/{id}/json");
const IMAGE: (&str, &str) = ("GET", "/images/{name...}/json");
const IMAGES: (&str, &str) = ("GET", "/images/json");
const USAGE: (&str, &str) = ("GET", "/system/df");
const INFO: (&str, &str) = ("GET", "/info");

/// Of bodies that clients send, before they are read.
pub(crate) const REQUESTS: &[Change] = &[
    Change::new(CREATE, 0..=39, "`HostConfig.IpcMode` is `shareable` unless given", |body| {
        host_default(body, "IpcMode", "shareable");
    }),
    Change::new(CREATE, 0..=40, "`HostConfig.CgroupnsMode` is `host` where cgroups are version 1", |body| {
        if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            host_default(body, "CgroupnsMode", "host");
        }
    }),
    Change::new(
        CREATE,
        0..=41,
        "options of a mount that are another type's are left out, not refused",
        |body| {
            let mounts = body.pointer_mut("/HostConfig/Mounts").and_then(Value::as_array_mut);
            for mount in mounts.into_iter().flatten() {
                let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
                for (of, options) in
                    [("bind", "BindOptions"), ("volume", "VolumeOptions"), ("tmpfs", "TmpfsOptions")]
                {
                    if kind != of {
                        remove(mount, options);
                    }
                }
            }
        },
    ),
];

/// Of answers, before they are sent.
pub(crate) const ANSWERS: &[Change] = &[
    Change::new(
        INSPECT,
        0..=44,
        "`Aliases` on networks of one's own have the short id and the host name",
        |answer| {
            let short = answer["Id"].as_str().and_then(|id| id.get(..12)).unwrap_or_default().to_owned();
            let hostname = answer["Config"]["Hostname"].as_str().unwrap_or_default().to_owned();
            let networks = answer.pointer_mut("/NetworkSettings/Networks").and_then(Value::as_object_mut);
            for (name, endpoint) in networks.into_iter().flatten() {
                if matches!(name.as_str(), "bridge" | "host" | "none") {
                    continue;
                }
                let mut aliases = endpoint["Aliases"].as_array().cloned().unwrap_or_default();
                for alias in [&short, &hostname] {
                    if !alias.is_empty() && !aliases.iter().any(|known| known == alias.as_str()) {
                        aliases.push(alias.as_str().into());
                    }
                }
                endpoint["Aliases"] = aliases.into();
            }
        },
    ),
    Change::new(
        INSPECT,
        52..=u32::MAX,
        "`NetworkSettings` is without what is also in `Networks`; an empty `Config.OnBuild` is not there",
        |answer| {
            for name in [
                "Bridge",
                "HairpinMode",
                "LinkLocalIPv6Address",
                "LinkLocalIPv6PrefixLen",
                "SecondaryIPAddresses",
                "SecondaryIPv6Addresses",
                "EndpointID",
                "Gateway",
                "GlobalIPv6Address",
                "GlobalIPv6PrefixLen",
                "IPAddress",
                "IPPrefixLen",
                "IPv6Gateway",
                "MacAddress",
            ] {
                remove(&mut answer["NetworkSettings"], name);
            }
            remove_empty(&mut answer["Config"], &["OnBuild"]);
        },
    ),
    Change::new(
        IMAGE,
        0..=43,
        "`VirtualSize` is `Size`; a `Created` that is not known is the year 1",
        |answer| {
            virtual_size(answer);
            if answer.get("Created").is_none() {
                answer["Created"] = "0001-01-01T00:00:00Z".into();
            }
        },
    ),
    Change::new(IMAGE, 0..=44, "`ContainerConfig` is there, and empty", |answer| {
        let config = api::container::ContainerConfig::default();
        answer["ContainerConfig"] = serde_json::to_value(config).unwrap_or_default();
    }),
    Change::new(IMAGE, 50..=u32::MAX, "`Config` is without fields that only containers have", |answer| {
        for name in [
            "Hostname",
            "Domainname",
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "Tty",
            "OpenStdin",
            "StdinOnce",
            "Image",
            "NetworkDisabled",
            "MacAddress",
            "StopTimeout",
        ] {
            remove(&mut answer["Config"], name);
        }
    }),
    Change::new(IMAGE, 52..=u32::MAX, "fields that are empty are not there", |answer| {
        let config = ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"];
        remove_empty(&mut answer["Config"], &config);
        remove_empty(answer, &["Parent", "Comment", "DockerVersion", "Author"]);
    }),
    Change::new(IMAGES, 0..=43, "`VirtualSize` is `Size`", |answer| each(answer, virtual_size)),
    Change::new(IMAGES, 0..=42, "images without a name are called `<none>`", |answer| {
        each(answer, |image| {
            let is_empty = |field: &Value| field.as_array().is_none_or(Vec::is_empty);
            if is_empty(&image["RepoTags"]) && is_empty(&image["RepoDigests"]) {
                image["RepoTags"] = json!(["<none>:<none>"]);
                image["RepoDigests"] = json!(["<none>@<none>"]);
            }
        });
    }),
    Change::new(IMAGES, 0..=50, "`Containers` is -1, not counted", |answer| {
        each(answer, |image| image["Containers"] = (-1).into());
    }),
    Change::new(USAGE, 0..=43, "`VirtualSize` of images is `Size`", |answer| {
        each(&mut answer["Images"], virtual_size);
    }),
    Change::new(USAGE, 0..=41, "`BuilderSize` is 0", |answer| answer["BuilderSize"] = 0.into()),
    Change::new(USAGE, 0..=51, "sums by kind (`ImageUsage` and others) are not there", |answer| {
        for name in ["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"] {
            remove(answer, name);
        }
    }),
    Change::new(INFO, 0..=49, "`BridgeNfIptables` and `BridgeNfIp6tables` are there, and false", |answer| {
        answer["BridgeNfIptables"] = false.into();
        answer["BridgeNfIp6tables"] = false.into();
    }),
    Change::new(INFO, 0..=41, "`KernelMemory` and `KernelMemoryTCP` are there, and false", |answer| {
        answer["KernelMemory"] = false.into();
        answer["KernelMemoryTCP"] = false.into();
    }),
    Change::new(INFO, 0..=24, "`SecurityOptions` are names alone", |answer| {
        each(&mut answer["SecurityOptions"], |option| {
            let text = option.as_str().unwrap_or_default();
            let name = text.split(',').find_map(|part| part.strip_prefix("name=")).unwrap_or(text);
            *option = name.to_owned().into();
        });
    }),
];

/// What handlers ask before they answer, for the document.
#[cfg(test)]
pub(crate) const ASKED: &[(&str, &str)] = &[
    ("`GET /networks`", "before 1.28: with each network's containers"),
    ("`POST /volumes/prune`", "before 1.42: volumes with a name too"),
    ("`POST /containers/create`", "before 1.44: a read-only bind mount is so at its top alone"),
    ("attach, exec, logs", "before 1.42: the type of the stream never tells that it is multiplexed"),
    ("`GET /events`", "before 1.52: with `status`, `id` and `from`"),
    ("`GET /containers/{id}/attach/ws`", "before 1.28: text frames; before 1.42: all streams"),
];

/// Whether a list of networks has each one's containers.
pub(crate) fn lists_members(minor: u32) -> bool {
    minor < 28
}

/// Whether pruning takes volumes that have a name.
pub(crate) fn prunes_named_volumes(minor: u32) -> bool {
    minor < 42
}

/// Whether read-only stops at a bind mount itself, and does not reach mounts below.
pub(crate) fn is_readonly_shallow(minor: u32) -> bool {
    minor < 44
}

/// Whether the type of a stream tells that it is in frames.
pub(crate) fn names_multiplexed_streams(minor: u32) -> bool {
    minor >= 42
}

/// Whether events have fields as of before 1.22 beside the others.
pub(crate) fn has_older_event_fields(minor: u32) -> bool {
    minor < 52
}

/// Whether output comes over a websocket in frames of text.
pub(crate) fn has_text_frames(minor: u32) -> bool {
    minor < 28
}

/// Whether who attaches over a websocket gets every stream, without asking.
pub(crate) fn attaches_all_streams(minor: u32) -> bool {
    minor < 42
}

/// Makes of a request what its client meant.
pub(crate) fn request(endpoint: &Endpoint, minor: u32, body: &mut Value) {
    for change in REQUESTS.iter().filter(|change| change.concerns(endpoint, minor)) {
        (change.apply)(body);
    }
}

/// Whether the answer is another than the one that is made.
pub(crate) fn changes_answer(endpoint: &Endpoint, minor: u32) -> bool {
    ANSWERS.iter().any(|change| change.concerns(endpoint, minor))
}

/// Makes of an answer what its client expects.
pub(crate) fn answer(endpoint: &Endpoint, minor: u32, answer: &mut Value) {
    for change in ANSWERS.iter().filter(|change| change.concerns(endpoint, minor)) {
        (change.apply)(answer);
    }
}

fn host_default(body: &mut Value, name: &str, value: &str) {
    if let Some(body) = body.as_object_mut() {
        let host = body.entry("HostConfig").or_insert_with(|| json!({}));
        let is_given = host[name].as_str().is_some_and(|given| !given.is_empty());
        if let Some(host) = host.as_object_mut().filter(|_| !is_given) {
            host.insert(name.to_owned(), value.into());
        }
    }
}

fn each(list: &mut Value, apply: fn(&mut Value)) {
    list.as_array_mut().into_iter().flatten().for_each(apply);
}

fn virtual_size(image: &mut Value) {
    image["VirtualSize"] = image["Size"].clone();
}

fn remove(from: &mut Value, name: &str) {
    if let Some(fields) = from.as_object_mut() {
        fields.remove(name);
    }
}

fn remove_empty(from: &mut Value, names: &[&str]) {
    let Some(fields) = from.as_object_mut() else { return };
    for name in names {
        let is_empty = fields.get(*name).is_some_and(|value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        });
        if is_empty {
            fields.remove(*name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[track_caller]
    fn check(path: &str, minor: u32, made: Value, expected: &Value) {
        let endpoint = Endpoint::find(&Method::GET, path).unwrap();
        let mut sent = made;
        answer(endpoint, minor, &mut sent);
        assert_eq!(sent, *expected, "{path} at 1.{minor}");
    }

    #[test]
    fn answers_are_what_each_version_expects() {
        let image = || json!({ "Size": 7, "RepoTags": [], "RepoDigests": [], "Containers": 2 });
        check("/images/json", 51, json!([image()]), &json!([image()]));
        let counted = json!([{ "Size": 7, "RepoTags": [], "RepoDigests": [], "Containers": -1 }]);
        check("/images/json", 44, json!([image()]), &counted);
        let named = json!([{
            "Size": 7, "VirtualSize": 7, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"],
            "Containers": -1
        }]);
        check("/images/json", 42, json!([image()]), &named);

        let config = || json!({ "Cmd": ["a"], "User": "", "Image": "", "Tty": false });
        let of = |config: Value| json!({ "Size": 7, "Parent": "", "Created": "x", "Config": config });
        check("/images/a/json", 49, of(config()), &of(config()));
        check("/images/a/json", 50, of(config()), &of(json!({ "Cmd": ["a"], "User": "" })));
        let short = json!({ "Size": 7, "Created": "x", "Config": { "Cmd": ["a"] } });
        check("/images/a/json", 52, of(config()), &short);
        let endpoint = Endpoint::find(&Method::GET, "/images/a/json").unwrap();
        let mut older = json!({ "Size": 7, "Config": {} });
        answer(endpoint, 43, &mut older);
        assert_eq!(older["VirtualSize"], 7);
        assert_eq!(older["Created"], "0001-01-01T00:00:00Z");
        assert_eq!(older["ContainerConfig"]["Tty"], false);

        let container = || {
            json!({
                "Id": "0123456789abcdef", "Config": { "Hostname": "h" }, "HostConfig": {},
                "NetworkSettings": { "IPAddress": "a", "Networks": {
                    "bridge": { "Aliases": null, "DNSNames": null },
                    "web": { "Aliases": ["x"], "DNSNames": ["x"] }
                } }
            })
        };
        check("/containers/a/json", 45, container(), &container());
        let mut expected = container();
        remove(&mut expected["NetworkSettings"], "IPAddress");
        check("/containers/a/json", 52, container(), &expected);
        let mut expected = container();
        expected["NetworkSettings"]["Networks"]["web"]["Aliases"] = json!(["x", "0123456789ab", "h"]);
        check("/containers/a/json", 44, container(), &expected);
        check("/containers/a/json", 24, container(), &expected);
    }

    #[test]
    fn requests_mean_what_they_meant_to_their_version() {
        let endpoint = Endpoint::find(&Method::POST, "/containers/create").unwrap();
        let sent = |minor: u32, body: Value| {
            let mut body = body;
            request(endpoint, minor, &mut body);
            body
        };
        assert_eq!(sent(41, json!({})), json!({}));
        assert_eq!(sent(39, json!({}))["HostConfig"]["IpcMode"], "shareable");
        let given = json!({ "HostConfig": { "IpcMode": "host" } });
        assert_eq!(sent(24, given)["HostConfig"]["IpcMode"], "host");
        let mount = json!({ "HostConfig": { "Mounts": [{ "Type": "bind", "VolumeOptions": {} }] } });
        assert_eq!(sent(42, mount.clone()), mount);
        assert_eq!(sent(41, mount)["HostConfig"]["Mounts"], json!([{ "Type": "bind" }]));
        // A body that is no object is refused by who reads it.
        assert_eq!(sent(24, json!([1])), json!([1]));
        let _ = sent(24, json!({ "HostConfig": 7 }));
    }
}
