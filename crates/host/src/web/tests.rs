//! The doors of the browser's window, tried from outside.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::engine::{Origin, Target};

struct Server {
    address: SocketAddr,
    token: String,
    _dir: tempfile::TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
    _tasks: tokio::task::JoinSet<()>,
}

async fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index.html"), "<!doctype html>").unwrap();
    let target = Target { endpoint: "unix:///nonexistent/cove.sock".parse().unwrap(), origin: Origin::Named };
    let assets = Assets::folder(dir.path().to_owned()).unwrap();
    let web = Web::bind("127.0.0.1:0".parse().unwrap(), assets, Session::new(target)).await.unwrap();
    let (address, url) = (web.address, web.url());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { web.serve(async { drop(stopped.await) }).await.unwrap() });
    let token = url.split_once("#token=").unwrap().1.to_owned();
    Server { address, token, _dir: dir, _stop: stop, _tasks: tasks }
}

impl Server {
    /// Sends a request and returns the whole answer.
    async fn send(&self, line: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut request =
            format!("{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        let host = self.address.to_string();
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn log_in(&self) -> String {
        let answer = self.send("POST /session", &[("Origin", &self.origin())], &self.token).await;
        let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

const PREVIEW: &str = r#"{"op":"runPreview","form":{"image":"busybox","name":"","command":"","env":[],
    "mounts":[],"cpus":"","memory":"","onExit":"keep","network":"host"}}"#;

#[tokio::test]
async fn a_browser_with_the_token_gets_in_once() {
    let server = start().await;
    let origin = server.origin();
    assert_eq!(status(&server.send("POST /rpc", &[("Origin", &origin)], PREVIEW).await), "403");
    let cookie = server.log_in().await;
    let headers = [("Origin", origin.as_str()), ("Cookie", cookie.as_str())];
    let answer = server.send("POST /rpc", &headers, PREVIEW).await;
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.contains(r#""words":["run","-d","--network host","busybox"]"#), "{answer}");
    // The token is spent, but not for the browser that spent it.
    assert_eq!(status(&server.send("POST /session", &headers[..1], &server.token).await), "403");
    assert_eq!(status(&server.send("POST /session", &headers, &server.token).await), "204");
}

#[tokio::test]
async fn a_foreign_name_origin_cookie_or_token_does_not() {
    let server = start().await;
    let origin = server.origin();
    let cookie = server.log_in().await;
    let rpc =
        async |headers: &[(&str, &str)]| status(&server.send("POST /rpc", headers, PREVIEW).await).to_owned();
    let good = ("Cookie", cookie.as_str());
    assert_eq!(rpc(&[("Origin", &origin), good]).await, "200");
    assert_eq!(rpc(&[good]).await, "403");
    assert_eq!(rpc(&[("Origin", "http://evil.example"), good]).await, "403");
    assert_eq!(rpc(&[("Origin", "null"), good]).await, "403");
    assert_eq!(rpc(&[("Host", "evil.example"), ("Origin", &origin), good]).await, "403");
    assert_eq!(rpc(&[("Origin", &origin), ("Cookie", "cove-1=00")]).await, "403");
    assert_eq!(status(&server.send("GET /", &[("Host", "evil.example:80")], "").await), "403");
    let upgrade = [("Origin", "http://evil.example"), ("Upgrade", "websocket"), good];
    assert_eq!(status(&server.send("GET /ws", &upgrade, "").await), "403");
    assert_eq!(status(&server.send("POST /session", &[("Origin", &origin)], "00").await), "403");
}

#[tokio::test]
async fn files_stay_inside_their_folder_and_carry_the_policy() {
    let server = start().await;
    let answer = server.send("GET /", &[], "").await;
    assert_eq!(status(&answer), "200");
    assert!(answer.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{answer}");
    assert!(answer.ends_with("<!doctype html>"));
    assert_eq!(status(&server.send("GET /../../etc/passwd", &[], "").await), "404");
    assert_eq!(status(&server.send("GET //etc/passwd", &[], "").await), "404");
}

#[tokio::test]
async fn topics_travel_over_one_socket_for_whoever_was_let_in() {
    let server = start().await;
    let connect = async |headers: &[(&'static str, &str)]| {
        let mut request = format!("ws://{}/ws", server.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        tokio_tungstenite::connect_async(request).await
    };
    let origin = server.origin();
    assert!(connect(&[("Origin", &origin)]).await.is_err(), "no cookie");
    let cookie = server.log_in().await;
    assert!(connect(&[("Origin", "http://evil.example"), ("Cookie", &cookie)]).await.is_err());
    let (mut socket, _) = connect(&[("Origin", &origin), ("Cookie", &cookie)]).await.unwrap();
    let send = |text: &str| Frame::text(text.to_owned());
    socket.send(send(r#"{"open":7,"topic":{"topic":"engine"}}"#)).await.unwrap();
    let first = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(first.starts_with(r#"{"id":7,"update":{"type":"engine","state":"#), "{first}");
    // A topic that ends says so; one whose container is not there says why first.
    socket.send(send(r#"{"close":7}"#)).await.unwrap();
    socket.send(send(r#"{"open":8,"topic":{"topic":"logs","id":"none"}}"#)).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
        if text.starts_with(r#"{"id":8"#) {
            answers.push(text.to_string());
        }
    }
    assert!(answers[0].contains(r#""type":"failed","kind":"unavailable""#), "{answers:?}");
    assert_eq!(answers[1], r#"{"id":8,"end":true}"#);
    // What is no request ends the connection, and nothing else.
    socket.send(send(r#"{"open":9,"topic":{"topic":"everything"}}"#)).await.unwrap();
    let end = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(std::time::Duration::from_secs(5), end).await.unwrap();
    assert!(connect(&[("Origin", &origin), ("Cookie", &cookie)]).await.is_ok());
}

#[tokio::test]
async fn nothing_is_served_to_other_computers() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index.html"), "").unwrap();
    let target = Target { endpoint: "unix:///nonexistent/cove.sock".parse().unwrap(), origin: Origin::Named };
    let assets = Assets::folder(dir.path().to_owned()).unwrap();
    let error = Web::bind("0.0.0.0:0".parse().unwrap(), assets, Session::new(target)).await.unwrap_err();
    assert!(matches!(error, Error::NotLoopback { .. }));
}
