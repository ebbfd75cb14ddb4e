//! The client against a scripted server on a real socket.

use std::time::Duration;

use futures_util::StreamExt;
use model::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::containers::{Attach, ListContainers, Logs};
use super::{Client, Endpoint, Filters};

struct Server {
    listener: tokio::sync::Mutex<ipc::Listener>,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = ipc::address(dir.path(), "engine");
        let listener = tokio::sync::Mutex::new(ipc::bind(&path).unwrap());
        Self { listener, client: Client::new(Endpoint::local(path)).with_version("1.43"), _dir: dir }
    }

    /// Accepts one connection, reads a request's head, and answers with `answer`.
    async fn answer(&self, answer: &[u8]) -> (String, ipc::Stream) {
        let mut stream = ipc::accept(&mut *self.listener.lock().await).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer).await.unwrap();
        (String::from_utf8(head).unwrap(), stream)
    }
}

/// An answer with a length.
fn answer(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test]
async fn a_list_asks_for_what_was_said_and_reads_what_comes() {
    let server = Server::new();
    let list = ListContainers {
        all: true,
        filters: Filters::default().with("label", "a=b c"),
        ..Default::default()
    };
    let body = answer("200 OK", r#"[{"Id":"abc","Names":["/web"],"State":"running"}]"#);
    let (rows, (head, _stream)) = tokio::join!(server.client.list_containers(&list), server.answer(&body));
    assert_eq!(rows.unwrap()[0].names, ["/web"]);
    let line = head.lines().next().unwrap();
    assert_eq!(
        line,
        "GET /v1.43/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3Db+c%22%5D%7D HTTP/1.1"
    );
}

#[tokio::test]
async fn a_name_can_not_change_the_path() {
    let server = Server::new();
    let body = answer("404 Not Found", r#"{"message":"No such container: a?b"}"#);
    let (error, (head, _stream)) =
        tokio::join!(server.client.inspect_container("a?b#c d"), server.answer(&body));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "No such container: a?b");
    assert!(head.starts_with("GET /v1.43/containers/a%3Fb%23c%20d/json HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_silent_engine_is_a_timeout_and_a_missing_one_unavailable() {
    let server = Server::new();
    let error = server.client.ping(Duration::from_millis(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let nowhere = Client::new(Endpoint::local(ipc::address(std::path::Path::new("/nonexistent"), "engine")));
    assert_eq!(nowhere.ping(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn json_lines_come_one_by_one_across_any_chunks() {
    let server = Server::new();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let serve = async {
        let (_, mut stream) = server.answer(head).await;
        for part in [r#"{"Action":"sta"#, "rt\"}\r\n{\"Acti", "on\":\"die\"}", "{\"Action\":\"destroy\"}\n"] {
            stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let read = async {
        let events = server.client.events(None, None, &Filters::default()).await.unwrap();
        events.map(|event| event.unwrap().action).collect::<Vec<_>>().await
    };
    let (actions, ()) = tokio::join!(read, serve);
    assert_eq!(actions, ["start", "die", "destroy"]);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_not_an_end() {
    let server = Server::new();
    let serve = async {
        let (_, mut stream) = server.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        stream.write_all(b"4\r\nabcd\r\n").await.unwrap();
    };
    let logs = Logs { stdout: true, ..Default::default() };
    let read = async { server.client.container_logs("x", &logs).await.unwrap().collect::<Vec<_>>().await };
    let (chunks, ()) = tokio::join!(read, serve);
    assert_eq!(chunks[0].as_ref().unwrap(), "abcd");
    assert_eq!(chunks[1].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(chunks.len(), 2);
}

#[tokio::test]
async fn dropping_a_body_closes_its_connection() {
    let server = Server::new();
    let serve = async {
        let (_, mut stream) = server.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        stream.write_all(b"2\r\n{}\r\n").await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    };
    let read = async {
        let mut events = server.client.events(None, None, &Filters::default()).await.unwrap();
        events.next().await.unwrap().unwrap();
    };
    tokio::join!(read, serve);
}

#[tokio::test]
async fn a_hijacked_connection_keeps_early_bytes_and_its_halves_apart() {
    let server = Server::new();
    let serve = async {
        let head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
                     Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ";
        let (request, mut stream) = server.answer(head).await;
        assert!(request.to_ascii_lowercase().contains("upgrade: tcp"), "{request}");
        let mut input = String::new();
        stream.read_to_string(&mut input).await.unwrap();
        stream.write_all(format!("got {input}").as_bytes()).await.unwrap();
    };
    let talk = async {
        let attach = Attach { stdin: true, stdout: true, stream: true, ..Default::default() };
        let mut upgraded = server.client.attach_container("x", &attach).await.unwrap();
        assert!(upgraded.multiplexed);
        upgraded.writer.write_all(b"input").await.unwrap();
        upgraded.writer.shutdown().await.unwrap();
        let mut output = String::new();
        upgraded.reader.read_to_string(&mut output).await.unwrap();
        output
    };
    let (output, ()) = tokio::join!(talk, serve);
    assert_eq!(output, "early got input");
}

#[tokio::test]
async fn an_attach_that_is_refused_says_why() {
    let server = Server::new();
    let body = answer("409 Conflict", r#"{"message":"You cannot attach to a stopped container"}"#);
    let attach = Attach::default();
    let (error, _) = tokio::join!(server.client.attach_container("x", &attach), server.answer(&body));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Conflict);
    let body = answer("200 OK", "");
    let (error, _) = tokio::join!(server.client.attach_container("x", &attach), server.answer(&body));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}
