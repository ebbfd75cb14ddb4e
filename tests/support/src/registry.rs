//! Registries on a loopback port: Debian's own, and one that does what a test wants.

mod uploads;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image::{Blobs, sha256};

pub use uploads::Uploads;

/// Where Debian's package `docker-registry` puts it.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// Debian's registry with a directory of its own; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    dir: Arc<tempfile::TempDir>,
}

/// What a registry asks of its clients.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// Who signs the certificates of its clients.
    pub client_authority: PathBuf,
    /// An htpasswd file.
    pub passwords: PathBuf,
}

impl Registry {
    /// Starts one.
    ///
    /// # Errors
    /// Where it is not installed, or does not answer.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove-registry").tempdir()?;
        Self::serve(Arc::new(dir), "127.0.0.1", "")
    }

    /// Serves the same images at another address of this machine, to those who may.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn guarded(&self, address: &str, by: &Guarded) -> Result<Self> {
        let further = format!(
            ", tls: {{certificate: {}, key: {}, clientcas: [{}]}}}}\nauth: {{htpasswd: {{realm: test, path: {}}}",
            by.certificate.display(),
            by.key.display(),
            by.client_authority.display(),
            by.passwords.display()
        );
        Self::serve(Arc::clone(&self.dir), address, &further)
    }

    /// Serves the same images to those alone who are in an htpasswd file.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn with_passwords(&self, passwords: &Path) -> Result<Self> {
        let further = format!("}}\nauth: {{htpasswd: {{realm: test, path: {}}}", passwords.display());
        Self::serve(Arc::clone(&self.dir), "127.0.0.1", &further)
    }

    fn serve(dir: Arc<tempfile::TempDir>, address: &str, further: &str) -> Result<Self> {
        ensure!(PathBuf::from(PROGRAM).exists(), "{PROGRAM} is missing: install docker-registry");
        // Another program may take the port in between; it then fails to start, and so does the test.
        let address = TcpListener::bind((address, 0))?.local_addr()?;
        let config = dir.path().join(format!("{}.yml", address.port()));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"{further}}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text)?;
        let mut command = stdx::process::command(PROGRAM);
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: command.spawn()?, address, dir };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// Host and port, as in an image's name.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Puts an image there.
    ///
    /// # Errors
    /// Where the registry refuses.
    pub fn push(&self, repository: &str, tag: &str, image: &Blobs) -> Result<()> {
        for blob in image.layers.iter().map(|layer| &layer.bytes).chain([&image.config]) {
            let (head, _) = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
            let location = head
                .lines()
                .find_map(|line| {
                    line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("location"))
                })
                .map(|(_, value)| value.trim().to_owned())
                .context("the registry names no place for an upload")?;
            let path =
                location.split_once("/v2/").map_or(location.clone(), |(_, rest)| format!("/v2/{rest}"));
            let joint = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{joint}digest=sha256:{}", sha256(blob));
            self.send("PUT", &path, "application/octet-stream", blob)?;
        }
        self.push_manifest(repository, tag, &image.media_type, &image.manifest)
    }

    /// Puts a manifest or index there.
    ///
    /// # Errors
    /// Where the registry refuses.
    pub fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        self.send("PUT", &format!("/v2/{repository}/manifests/{tag}"), media_type, bytes).map(drop)
    }

    /// A manifest or index as it is there, byte for byte.
    ///
    /// # Errors
    /// Where there is none.
    pub fn manifest(&self, repository: &str, version: &str) -> Result<String> {
        Ok(self.send("GET", &format!("/v2/{repository}/manifests/{version}"), "", &[])?.1)
    }

    /// How many bytes a blob of a digest like `sha256:…` has there.
    ///
    /// # Errors
    /// Where there is none.
    pub fn blob_length(&self, repository: &str, digest: &str) -> Result<u64> {
        let (head, _) = self.send("HEAD", &format!("/v2/{repository}/blobs/{digest}"), "", &[])?;
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        Ok(length.context("the registry does not say how long a blob is")?.1.trim().parse()?)
    }

    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: {ACCEPT}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            self.host(),
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the registry's answer has no end")?;
        if !head.starts_with("HTTP/1.1 2") {
            bail!("{method} {path}: {answer}");
        }
        Ok((head.to_owned(), body.to_owned()))
    }
}

const ACCEPT: &str =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*";

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request to a [`Scripted`] registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As in `GET`.
    pub method: String,
    /// Path, without a query.
    pub path: String,
    /// What stands behind `?`.
    pub query: String,
    /// First byte of a `Range: bytes=N-`.
    pub from: Option<u64>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Host` header.
    pub host: String,
    /// First byte of a `Content-Range: N-M`.
    pub sent_from: Option<u64>,
    /// What was sent, as text; empty where it is long.
    pub body: String,
    /// What was sent.
    pub bytes: Vec<u8>,
    /// Whether more was to come: the script's answer is not sent then.
    pub is_cut: bool,
}

/// How much of a request's body a [`Scripted`] registry reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// All of it.
    All,
    /// So many bytes, and then it hangs up.
    Cut(u64),
    /// Nothing, for so long; then it hangs up.
    Nothing(Duration),
}

/// What a [`Scripted`] registry does with one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As in `200 OK`.
    pub status: &'static str,
    /// Beside the length.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent.
    pub body: Vec<u8>,
    /// What the head says of the body's length; chunked where unset.
    pub length: Option<u64>,
    /// How often the body is sent, back to back.
    pub times: usize,
    /// Silence after the body, with the connection open.
    pub stall: Duration,
    /// A pause before each piece.
    pub pace: Duration,
    /// Bytes in a piece.
    pub piece: usize,
}

impl Answer {
    /// 200 with a body.
    #[must_use]
    pub fn new(body: Vec<u8>) -> Self {
        let length = Some(body.len() as u64);
        Self {
            status: "200 OK",
            headers: Vec::new(),
            body,
            length,
            times: 1,
            stall: Duration::ZERO,
            pace: Duration::ZERO,
            piece: 16 << 10,
        }
    }

    /// Another status, without a body.
    #[must_use]
    pub fn status(status: &'static str) -> Self {
        Self { status, ..Self::new(Vec::new()) }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With only the first bytes of the body sent, whatever the head says.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.body.truncate(length);
        self
    }
}

/// What an honest registry with one image answers; ranges are supported.
#[must_use]
pub fn honest(image: &Blobs, request: &Request) -> Answer {
    if request.path.contains("/manifests/") {
        return Answer::new(image.manifest.clone()).with("Content-Type", &image.media_type);
    }
    let wanted = request.path.rsplit(':').next().unwrap_or_default();
    let blobs = image.layers.iter().map(|layer| &layer.bytes).chain([&image.config]);
    let Some(blob) = blobs.into_iter().find(|blob| sha256(blob) == wanted) else {
        return Answer::status("404 Not Found");
    };
    match request.from.and_then(|from| blob.get(usize::try_from(from).unwrap_or(usize::MAX)..)) {
        Some(rest) => Answer { status: "206 Partial Content", ..Answer::new(rest.to_vec()) },
        None => Answer::new(blob.clone()),
    }
}

/// A registry whose answers a test writes.
#[derive(Debug)]
pub struct Scripted {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Scripted {
    /// Listens until the test's process ends. `script` also gets how many requests for the same path came before.
    ///
    /// # Errors
    /// Where there is no port.
    pub fn serve(script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Result<Self> {
        Self::serve_some(|_, _| Take::All, script)
    }

    /// As [`Self::serve`]; `take` is asked before a body is read, with as many as came before for the same
    /// path and method.
    ///
    /// # Errors
    /// Where there is no port.
    pub fn serve_some(
        take: impl Fn(&Request, usize) -> Take + Send + Sync + 'static,
        script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen) = (Arc::new((take, script)), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                // A client that hangs up early is what some tests are about.
                std::thread::spawn(move || drop(serve_one(&stream, &script.0, &script.1, &seen)));
            }
        });
        Ok(Self { port, requests })
    }

    /// Host and port, as in an image's name.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Everything it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve_one(
    stream: &TcpStream,
    take: &(dyn Fn(&Request, usize) -> Take + Send + Sync),
    script: &(dyn Fn(&Request, usize) -> Answer + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        let (mut from, mut authorization, mut host, mut length) = (None, None, String::new(), 0_u64);
        let mut sent_from = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("range") {
                from = value.strip_prefix("bytes=").and_then(|v| v.trim_end_matches('-').parse().ok());
            } else if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("host") {
                value.clone_into(&mut host);
            } else if name.eq_ignore_ascii_case("content-range") {
                sent_from = value.split('-').next().and_then(|start| start.parse().ok());
            } else if name.eq_ignore_ascii_case("content-length") {
                length = value.parse()?;
            }
        }
        let (body, bytes) = (String::new(), Vec::new());
        let mut request =
            Request { method, path, query, from, authorization, host, sent_from, body, bytes, is_cut: false };
        let count = |same: &dyn Fn(&Request) -> bool| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|other| same(other)).count()
        };
        let tries = count(&|other| other.path == request.path && other.method == request.method);
        let taken = match take(&request, tries) {
            Take::All => length,
            Take::Cut(most) => most.min(length),
            Take::Nothing(wait) => {
                std::thread::sleep(wait);
                0
            }
        };
        (&mut reader).take(taken.min(64 << 20)).read_to_end(&mut request.bytes)?;
        if request.bytes.len() < 1 << 20 {
            request.body = String::from_utf8_lossy(&request.bytes).into_owned();
        }
        request.is_cut = (request.bytes.len() as u64) < length;
        let before = count(&|other| other.path == request.path);
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let answer = script(&request, before);
        if request.is_cut {
            stream.shutdown(std::net::Shutdown::Both)?;
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {}\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match answer.length {
            Some(length) => format!("Content-Length: {length}\r\n\r\n"),
            None => "Transfer-Encoding: chunked\r\n\r\n".into(),
        };
        writer.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        let mut sent = 0;
        for _ in 0..answer.times {
            for part in answer.body.chunks(answer.piece) {
                if !answer.pace.is_zero() {
                    std::thread::sleep(answer.pace);
                }
                if answer.length.is_none() {
                    writer.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
                }
                writer.write_all(part)?;
                if answer.length.is_none() {
                    writer.write_all(b"\r\n")?;
                }
                sent += part.len() as u64;
            }
        }
        std::thread::sleep(answer.stall);
        match answer.length {
            None => writer.write_all(b"0\r\n\r\n")?,
            // Whoever sends another length than announced can only hang up.
            Some(length) if length != sent => {
                stream.shutdown(std::net::Shutdown::Both)?;
                return Ok(());
            }
            Some(_) => {}
        }
    }
}
