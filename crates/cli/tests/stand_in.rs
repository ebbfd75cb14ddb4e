//! `cove` against a stand-in of an engine, at the kind of address that engines of this computer have: a Unix socket, or a
//! named pipe on Windows.

#![expect(clippy::unwrap_used, reason = "the tests' own fixture")]

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How long a conversation may take; Wine's first program takes seconds to start.
const DEADLINE: Duration = Duration::from_secs(60);

/// An engine that is made up.
struct StandIn {
    listener: ipc::Listener,
    address: String,
    _dir: tempfile::TempDir,
}

/// What somebody asked.
struct Asked {
    line: String,
    body: Vec<u8>,
    stream: ipc::Stream,
}

impl StandIn {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = ipc::address(dir.path(), "stand-in");
        let listener = ipc::bind(&path).unwrap();
        let address = api::client::Endpoint::local(path).to_string();
        Self { listener, address, _dir: dir }
    }

    /// `cove` with this engine, under way.
    fn cove(&self, args: &[&str]) -> tokio::process::Child {
        let mut command = stdx::process::command(env!("CARGO_BIN_EXE_cove"));
        command.args(["--host", &self.address]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tokio::process::Command::from(command).spawn().unwrap()
    }

    /// The next request that opens a connection: a probe says nothing and is passed over.
    async fn asked(&mut self) -> Asked {
        loop {
            let mut stream = ipc::accept(&mut self.listener).await.unwrap();
            if let Some((line, body)) = read_request(&mut stream).await {
                return Asked { line, body, stream };
            }
        }
    }
}

/// A request's first line and its body; `None` where nothing was said.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = field("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head.lines().next().unwrap_or_default().to_owned(), body))
}

impl Asked {
    async fn answer(&mut self, status: &str, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
}

#[tokio::test]
async fn a_list_is_had_from_an_engine_of_this_computer() {
    let mut engine = StandIn::new();
    let cove = engine.cove(&["ps", "--format", "{{.Names}} {{.State}}"]);
    let serve = async {
        let mut asked = engine.asked().await;
        assert!(asked.line.contains("/containers/json"), "{}", asked.line);
        asked
            .answer(
                "200 OK",
                &json!([{ "Id": "abc", "Names": ["/web"], "Image": "nginx", "State": "running" }]),
            )
            .await;
    };
    let (output, ()) = in_time(async { tokio::join!(cove.wait_with_output(), serve) }).await;
    let output = output.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "web running", "{output:?}");
    assert!(output.status.success());
}

#[tokio::test]
async fn the_engine_is_told_a_folder_as_it_sees_it() {
    let (folder, seen) = if cfg!(windows) {
        (r"C:\Users\me:/src:ro", "/c/Users/me:/src:ro")
    } else {
        ("/home/me:/src:ro", "/home/me:/src:ro")
    };
    let mut engine = StandIn::new();
    let cove = engine.cove(&["create", "-v", folder, "alpine"]);
    let serve = async {
        let mut asked = engine.asked().await;
        assert!(asked.line.contains("/containers/create"), "{}", asked.line);
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!(body.pointer("/HostConfig/Binds"), Some(&json!([seen])));
        asked.answer("201 Created", &json!({ "Id": "abc", "Warnings": [] })).await;
    };
    let (output, ()) = in_time(async { tokio::join!(cove.wait_with_output(), serve) }).await;
    assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout).trim(), "abc");
}

#[tokio::test]
async fn a_program_hears_the_end_of_its_input_and_is_heard_after_it() {
    let mut engine = StandIn::new();
    let mut cove = engine.cove(&["exec", "-i", "web", "cat"]);
    let mut input = cove.stdin.take().unwrap();
    let feed = async move {
        input.write_all(b"all of it").await.unwrap();
        // Dropped: its end.
    };
    let serve = async {
        let mut asked = engine.asked().await;
        assert!(asked.line.contains("/containers/web/exec"), "{}", asked.line);
        asked.answer("201 Created", &json!({ "Id": "e1" })).await;
        let mut asked = engine.asked().await;
        assert!(asked.line.contains("/exec/e1/start"), "{}", asked.line);
        let head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
                    Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        asked.stream.write_all(head.as_bytes()).await.unwrap();
        let (mut from, mut to) = ipc::split(asked.stream);
        let mut heard = Vec::new();
        from.read_to_end(&mut heard).await.unwrap();
        let heard = [b"heard ", heard.as_slice()].concat();
        let length = u32::try_from(heard.len()).unwrap().to_be_bytes();
        to.write_all(&[&[1, 0, 0, 0], length.as_slice(), &heard].concat()).await.unwrap();
        to.shutdown().await.unwrap();
        let mut asked = engine.asked().await;
        assert!(asked.line.contains("/exec/e1/json"), "{}", asked.line);
        asked.answer("200 OK", &json!({ "ID": "e1", "Running": false, "ExitCode": 7 })).await;
    };
    let (output, (), ()) = in_time(async { tokio::join!(cove.wait_with_output(), serve, feed) }).await;
    let output = output.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard all of it", "{output:?}");
    assert_eq!(output.status.code(), Some(7));
}

#[tokio::test]
async fn where_nobody_answers_it_says_so() {
    let engine = StandIn::new();
    let address = engine.address.clone();
    drop(engine);
    let mut command = stdx::process::command(env!("CARGO_BIN_EXE_cove"));
    command.args(["--host", &address, "ps"]);
    let output = tokio::process::Command::from(command).output();
    let output = in_time(output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no engine answers at") && said.contains("hint:"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// Wine has neither of the two ways; where there is one, it is told why that one.
#[cfg(windows)]
#[tokio::test]
async fn doctor_tells_which_way_machines_are_run() {
    let mut command = stdx::process::command(env!("CARGO_BIN_EXE_cove"));
    command.arg("doctor");
    let output = in_time(tokio::process::Command::from(command).output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let has_way = said.contains("ok   machines: ");
    let has_none =
        said.contains("FAIL this Windows can't run Linux machines: ") && said.contains("wsl --install");
    assert!(has_way || has_none, "{said}");
}
