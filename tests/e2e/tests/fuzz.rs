//! Requests that nobody would send: made at random, by a seed, from all that the API has.
//!
//! `COVE_TEST_FUZZ` is how many requests (800 unless given), `COVE_TEST_SEED` which.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::daemon::Daemon;

/// Written from the table that the server asks.
const COVERAGE: &str = include_str!("../../../docs/api-coverage.md");

/// What an answer's head may take, on a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(20);

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Splitmix64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug)]
struct Endpoint {
    method: String,
    path: String,
    parameters: Vec<String>,
    filters: Vec<String>,
    /// Paths of its body's fields: `HostConfig.Mounts[].Type`.
    fields: Vec<String>,
    /// Always refused, whatever is asked.
    is_refused: bool,
}

/// The endpoints by the document.
fn endpoints() -> Vec<Endpoint> {
    let ticks =
        |line: &str| -> Vec<String> { line.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut all: Vec<Endpoint> = Vec::new();
    let mut body_of = None;
    for line in COVERAGE.lines() {
        let words = ticks(line);
        let Some(first) = words.first() else { continue };
        let split = first.split_once(' ').map(|(method, path)| (method.to_owned(), path.to_owned()));
        let is_of = |one: &Endpoint| split.as_ref() == Some(&(one.method.clone(), one.path.clone()));
        if line.starts_with("## Body of") {
            body_of = all.iter().position(is_of);
        } else if line.starts_with("## ") {
            body_of = None;
        } else if line.starts_with("- `") {
            if let Some(endpoint) = all.iter_mut().find(|one| is_of(one)) {
                endpoint.parameters = words[1..].to_vec();
                let filters = line.split_once("; filters: ").map_or("", |(_, names)| names);
                endpoint.filters =
                    filters.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            }
        } else if let Some(at) = body_of {
            all[at].fields.push(first.clone());
        } else if let Some((method, path)) = split.clone().filter(|(_, path)| path.starts_with('/'))
            && !all.iter().any(is_of)
        {
            let is_refused = line.contains("| no swarm |") || line.contains("| refused |");
            all.push(Endpoint {
                method,
                path,
                parameters: vec![],
                filters: vec![],
                fields: vec![],
                is_refused,
            });
        }
    }
    all
}

/// Those that would speak to the network, where nothing is to be learnt.
const ELSEWHERE: [&str; 4] = ["/images/search", "/auth", "/distribution/{name}/json", "/images/{name}/push"];

const NAMES: [&str; 16] = [
    "box",
    "busybox",
    "nosuch",
    "none",
    "bridge",
    "made",
    "..",
    "%2e%2e%2f%2e%2e",
    "%00",
    "%ff%fe",
    "a%20b",
    "-",
    "{id}",
    "sha256:0",
    "%F0%9F%90%B3",
    "a/../b",
];

const VALUES: [&str; 22] = [
    "",
    "1",
    "0",
    "-1",
    "true",
    "no",
    "99999999999999999999",
    "2000000000.999999999",
    "box",
    "busybox",
    "%00",
    "%ff",
    "..%2f..%2fetc",
    "KILL",
    "SIGTERM",
    "/",
    "/etc",
    "ctrl-!",
    "%7B",
    "%5B%22a%22%5D",
    "linux/amd64",
    "1e400",
];

fn query(random: &mut Random, endpoint: &Endpoint) -> String {
    let mut pairs = Vec::new();
    for name in &endpoint.parameters {
        if random.once_in(2) {
            continue;
        }
        let long = "x".repeat(3000);
        let value = match name.as_str() {
            "fromImage" => "127.0.0.1:1/nothing".to_owned(),
            // A stop that takes long is what was asked for.
            "t" => random.one(&["0", "1", "x", "-7", "99999999999999999999"]).to_owned(),
            "filters" if !endpoint.filters.is_empty() && !random.once_in(3) => {
                let name = &endpoint.filters[random.below(endpoint.filters.len())];
                let value = random.one(&VALUES);
                match random.below(3) {
                    0 => format!("%7B%22{name}%22%3A%5B%22{value}%22%5D%7D"),
                    1 => format!("%7B%22{name}%22%3A%7B%22{value}%22%3Atrue%7D%7D"),
                    _ => format!("%7B%22{name}%22%3A7%7D"),
                }
            }
            _ if random.once_in(20) => long,
            _ => random.one(&VALUES).to_owned(),
        };
        pairs.push(format!("{name}={value}"));
    }
    if random.once_in(10) {
        pairs.push("nobodys=%zz&&=&a".into());
    }
    pairs.join("&")
}

fn value(random: &mut Random) -> Value {
    let samples = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1e308",
        "1.5",
        "\"\"",
        "\"busybox\"",
        "\"none\"",
        "\"box\"",
        "\"../../etc\"",
        "\"a\\u0000b\"",
        "\"/\"",
        "[]",
        "[1]",
        "[\"a\"]",
        "[\"A=b\",\"\"]",
        "[null]",
        "{}",
        "{\"a\":null}",
        "{\"80/tcp\":[{\"HostPort\":\"99999\"}]}",
        "{\"a\":\"b\"}",
        "{\"a\":{\"b\":[]}}",
        "\"container:box\"",
        "[\"/:/a\"]",
        "[\"a:b:c:d\"]",
        "{\"/a\":{}}",
        "[\"sh\",\"-c\",\"true\"]",
        "\"10.99.0.0/24\"",
        "\"fd00::/64\"",
        "\"0.0.0.0/0\"",
    ];
    if random.once_in(30) {
        return Value::String("x".repeat(100_000));
    }
    serde_json::from_str(random.one(&samples)).unwrap_or_default()
}

/// Puts a value at `HostConfig.Mounts[].Type`.
fn put(body: &mut Value, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        body[path] = value;
        return;
    };
    let (name, is_list) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    let inner = &mut body[name];
    if is_list {
        if !inner.is_array() {
            *inner = Value::Array(vec![Value::Object(serde_json::Map::new())]);
        }
        if let Some(inner) = inner.get_mut(0).filter(|inner| inner.is_object()) {
            put(inner, rest, value);
        }
    } else {
        if !inner.is_object() {
            *inner = Value::Object(serde_json::Map::new());
        }
        put(inner, rest, value);
    }
}

fn body(random: &mut Random, endpoint: &Endpoint) -> Vec<u8> {
    if endpoint.fields.is_empty() {
        let garbage: [&[u8]; 4] = [b"", b"{}", b"\x1f\x8b\x08nothing", &[0; 1024]];
        return garbage[random.below(garbage.len())].to_vec();
    }
    if random.once_in(12) {
        let broken: [&[u8]; 7] =
            [b"", b"{", b"null", b"[]", b"\"a\"", b"{\"Image\":\"busybox\"} more", b"\xff\xfe"];
        return broken[random.below(broken.len())].to_vec();
    }
    let mut body = Value::Object(serde_json::Map::new());
    if endpoint.path == "/containers/create" && !random.once_in(10) {
        put(&mut body, "Image", "busybox".into());
        put(&mut body, "HostConfig.NetworkMode", "none".into());
    }
    if endpoint.path == "/networks/create" && random.once_in(2) {
        put(&mut body, "Name", "made".into());
    }
    for _ in 0..=random.below(4) {
        let field = &endpoint.fields[random.below(endpoint.fields.len())];
        let value = value(random);
        put(&mut body, &field.replace(".*", ".a"), value);
    }
    body.to_string().into_bytes()
}

/// One request, whole.
fn request(random: &mut Random, endpoint: &Endpoint) -> Vec<u8> {
    let mut path = endpoint.path.clone();
    while let Some((start, rest)) = path.split_once('{') {
        let end = rest.split_once('}').map_or("", |(_, end)| end);
        let usual = ["containers", "images", "networks", "volumes", "exec"]
            .into_iter()
            .zip(["box", "busybox", "made", "made"]);
        let known = usual.filter(|(kind, _)| start.contains(kind)).map(|(_, name)| name).next();
        let name = match known {
            Some(known) if !random.once_in(3) => known.to_owned(),
            _ if random.once_in(30) => "n".repeat(5000),
            _ => random.one(&NAMES).to_owned(),
        };
        // A template among the names stays one, and is none of ours.
        path = format!("{start}{}{end}", name.replace(['{', '}'], "%7B"));
    }
    let version = random.one(&[
        "", "", "", "", "/v1.24", "/v1.41", "/v1.44", "/v1.44", "/v1.52", "/v1.52", "/v1.99", "/v1.", "/v2.0",
    ]);
    let query = query(random, endpoint);
    let body = body(random, endpoint);
    let method = if random.once_in(30) {
        random.one(&["PATCH", "PUT", "OPTIONS", "A"])
    } else {
        endpoint.method.as_str()
    };
    let mut bytes = format!(
        "{method} {version}{path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

/// What comes back, as far as it comes soon.
fn send(daemon: &Daemon, bytes: &[u8], is_closed: bool) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(daemon.socket()).context("the daemon is gone")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // It may refuse to read all of it.
    let _ = stream.write_all(bytes);
    if is_closed {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let began = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let has_head = answer.windows(4).any(|window| window == b"\r\n\r\n");
        // Streams have no end: their head will do.
        let wait = if has_head { Duration::from_millis(50) } else { PATIENCE };
        stream.set_read_timeout(Some(wait))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(_) if has_head => break,
            Err(error) => {
                ensure!(began.elapsed() < PATIENCE, "no answer within {PATIENCE:?}");
                return if answer.is_empty() { Err(error.into()) } else { Ok(answer) };
            }
        }
        if answer.len() > 1 << 20 {
            break;
        }
    }
    Ok(answer)
}

/// What must be true of every answer to a whole request.
fn check(endpoint: &Endpoint, answer: &[u8]) -> Result<u16> {
    let text = String::from_utf8_lossy(answer);
    let status: u16 = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no answer: {:?}", text.get(..200).unwrap_or(&text)))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    // Docker's clients ask for heads without bodies.
    let is_bare = endpoint.method == "HEAD" || head.to_lowercase().contains("content-length: 0");
    if status >= 400 && !is_bare {
        let body = body.get(body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)).unwrap_or_default();
        let error: Value = serde_json::from_str(body).with_context(|| format!("{status} {body:?}"))?;
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(!message.is_empty() && !message.contains("panicked"), "{status} {body}");
    }
    Ok(status)
}

/// Nothing is left of what was made, and all still works.
fn check_state(daemon: &Daemon) -> Result<()> {
    ensure!(!daemon.log().contains("panicked"), "the daemon panicked: {}", daemon.log());
    let ids = daemon.docker_ok(&["ps", "-aq", "--no-trunc"])?;
    for id in ids.lines() {
        daemon.docker_ok(&["rm", "-fv", id])?;
    }
    for args in [&["network", "prune", "-f"][..], &["volume", "prune", "-af"]] {
        daemon.docker_ok(args)?;
    }
    for args in
        [&["ps", "-aq"][..], &["volume", "ls", "-q"], &["network", "ls", "-q", "--filter", "type=custom"]]
    {
        ensure!(daemon.docker_ok(args)?.is_empty(), "{args:?}");
    }
    for dir in ["root/containers", "root/snapshots", "run/containers", "root/volumes"] {
        let left = daemon.entries(dir);
        ensure!(left.is_empty(), "{dir}: {left:?}");
    }
    ensure!(daemon.docker_ok(&["run", "--rm", "--network", "none", "busybox", "echo", "fine"])? == "fine");
    Ok(())
}

#[test]
fn requests_at_random_are_answered_and_leave_nothing_half_made() -> Result<()> {
    let daemon = Daemon::start()?;
    let endpoints = endpoints();
    ensure!(
        endpoints.len() > 100 && endpoints.iter().any(|one| one.fields.len() > 100),
        "the document is another"
    );
    let seed = number("COVE_TEST_SEED", 1);
    let mut random = Random(seed);
    let mut counts = std::collections::BTreeMap::<u16, u32>::new();
    let mut failures = Vec::new();
    for turn in 0..number("COVE_TEST_FUZZ", 800) {
        if turn % 50 == 0 {
            // Somebody to do it to.
            let run = ["run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c"];
            daemon.docker(&[&run[..], &["trap exit TERM; while :; do sleep 0.05; done"]].concat())?;
        }
        let endpoint = &endpoints[random.below(endpoints.len())];
        let is_apart =
            ELSEWHERE.contains(&endpoint.path.as_str()) || endpoint.is_refused && !random.once_in(10);
        // Without the image, there is nothing to make containers of.
        let takes_images = endpoint.method == "DELETE" && endpoint.path.starts_with("/images");
        if is_apart || takes_images || endpoint.path == "/images/prune" {
            continue;
        }
        let bytes = request(&mut random, endpoint);
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(1500)]).into_owned();
        let answer =
            send(&daemon, &bytes, false).with_context(|| format!("seed {seed}, turn {turn}: {}", shown()))?;
        match check(endpoint, &answer) {
            // What fails inside is nobody's fault but ours.
            Ok(500) => {
                let said = String::from_utf8_lossy(&answer).into_owned();
                failures.push(format!(
                    "turn {turn}: {}\n  {}",
                    shown(),
                    said.lines().last().unwrap_or_default()
                ));
            }
            Ok(status) => *counts.entry(status).or_default() += 1,
            Err(error) => failures.push(format!("turn {turn}: {}\n  {error:#}", shown())),
        }
    }
    support::tell(&format!("answers by status: {counts:?}"));
    ensure!(failures.is_empty(), "seed {seed}: {}", failures.join("\n"));
    check_state(&daemon)
}

#[test]
fn bytes_at_random_on_the_socket_harm_nobody() -> Result<()> {
    let daemon = Daemon::start()?;
    let endpoints = endpoints();
    let seed = number("COVE_TEST_SEED", 1);
    let mut random = Random(seed ^ 0xbad);
    for turn in 0..number("COVE_TEST_FUZZ", 800) / 2 {
        let endpoint = &endpoints[random.below(endpoints.len())];
        if ELSEWHERE.contains(&endpoint.path.as_str()) || endpoint.path.starts_with("/images") {
            continue;
        }
        let mut bytes = request(&mut random, endpoint);
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len());
            let byte = u8::try_from(random.below(256)).unwrap_or(0);
            match random.below(4) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at.max(1)),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        // Cut short, there may be no answer; what there is, is HTTP.
        let answer =
            send(&daemon, &bytes, true).with_context(|| format!("seed {seed}, turn {turn}: {bytes:?}"))?;
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1."),
            "seed {seed}, turn {turn}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    check_state(&daemon)
}

#[test]
fn a_filter_of_a_million_labels_is_refused_at_once() -> Result<()> {
    let daemon = Daemon::start()?;
    for count in [20_000, 1_000_000] {
        let labels: Vec<String> = (0..count).map(|n| format!("%22l{n}%22")).collect();
        let path = format!("/containers/json?filters=%7B%22label%22%3A%5B{}%5D%7D", labels.join("%2C"));
        let began = Instant::now();
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = send(&daemon, bytes.as_bytes(), false)?;
        ensure!(answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
        ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    // As many labels as a body holds are a container's affair.
    let labels: Vec<String> = (0..100_000).map(|n| format!("\"l{n}\":\"v\"")).collect();
    let body = format!(
        "{{\"Image\":\"busybox\",\"Labels\":{{{}}},\"HostConfig\":{{\"NetworkMode\":\"none\"}}}}",
        labels.join(",")
    );
    let (status, said) = daemon.ask("POST", "/containers/create", &body)?;
    ensure!(status == 201 || status == 400, "{status} {said}");
    let (status, said) = daemon.ask("POST", "/containers/create", &"x".repeat(9 << 20))?;
    ensure!(status == 400 || status == 413, "{status} {said}");
    check_state(&daemon)
}
