//! A machine of WSL's under Wine: `cove.exe` and `cove-machine.exe` as they are, a program that stands in for Windows'
//! `wsl.exe`, and behind it, in namespaces of this computer, a real agent with a real engine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::wsl::Distributions;

use super::wine::{self, Wine};
use crate::files;
use crate::shell::{command, root, run_command};

/// How long a container may take until it answers.
const DEADLINE: Duration = Duration::from_secs(30);
/// What a container finds in a folder of the drive.
const WORD: &str = "a word of this drive";
/// A line of a certificate, of nobody's.
const CERTIFICATE: &str = "b2YgdGhlIHRlc3RzIG9mIG1hY2hpbmVz";

/// Has one made, started, used, stopped and removed.
pub(super) fn run(wine: &Wine, programs: &Path) -> Result<()> {
    let images = root().join("target/guest");
    if !images.join("wsl2-debian/image.json").is_file() {
        crate::guest_image::guest_image(&["--machine".to_owned(), "wsl2".to_owned()])?;
    }
    let scratch = files::Scratch::new(&root().join("target/wine"))?;
    let image = scratch.path().join("busybox.tar");
    support::image::write_busybox(&image).context("failed to make the tests' image")?;
    let distributions = scratch.path().join("distributions");
    files::make_dir(&distributions)?;
    let drive = wine.drive();
    let folder = drive.join("cove-share");
    files::make_dir(&folder)?;
    files::write(&folder.join("word"), WORD.as_bytes())?;
    let served = Distributions::serve(&distributions, &drive)?;
    let _stand_in = StandIn::put(&drive.join("windows/system32"), served.port())?;
    let (machines, certificates) = (scratch.path().join("machines"), scratch.path().join("certificates.pem"));
    let certificate = format!("-----BEGIN CERTIFICATE-----\n{CERTIFICATE}\n-----END CERTIFICATE-----\n");
    files::write(&certificates, certificate.as_bytes())?;
    let user = User { wine, cove: programs.join("cove.exe"), images, machines, certificates };
    let tried = user.try_machine(&served, &image, &folder);
    if tried.is_err() {
        let said = std::fs::read_to_string(user.machines.join("default/machine.log")).unwrap_or_default();
        println!("the machine's log:\n{said}");
        // It would go on.
        let _ = user.cove(&["machine", "stop", "--force", "default"]);
    }
    tried
}

/// A program where Windows' own would be, for as long as this is kept.
struct StandIn([PathBuf; 2]);

impl StandIn {
    fn put(system: &Path, port: u16) -> Result<Self> {
        let stand_in = Self([system.join("wsl.exe"), system.join("wsl.port")]);
        let [program, says_where] = &stand_in.0;
        let source = root().join("vm/hyperv/tests/stand_in/wsl.c");
        wine::compile(&source, program, &["-municode", "-lws2_32"])?;
        files::write(says_where, port.to_string().as_bytes())?;
        Ok(stand_in)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Somebody at Windows' command line.
struct User<'a> {
    wine: &'a Wine,
    cove: PathBuf,
    images: PathBuf,
    machines: PathBuf,
    /// A file of them, as they are told to programs.
    certificates: PathBuf,
}

impl User<'_> {
    fn cove(&self, args: &[&str]) -> Result<String> {
        let [images, machines, certificates] =
            [&self.images, &self.machines, &self.certificates].map(|path| Wine::path(path));
        let variables = [
            ("COVE_GUEST_IMAGES", images.as_str()),
            ("COVE_MACHINES", &machines),
            ("SSL_CERT_FILE", &certificates),
        ];
        self.wine.output_with(&self.cove, args, &variables)
    }

    /// The same with the engine of the machine.
    fn engine(&self, args: &[&str]) -> Result<String> {
        self.cove(&[&["--host", "machine://default"], args].concat())
    }

    fn try_machine(&self, served: &Distributions, image: &Path, folder: &Path) -> Result<()> {
        // Before there is a machine, whose watchers would hear of it.
        let mut cc = command("cc", &["-static", "-O1", "-o"]);
        cc.arg(folder.join("watcher")).arg(root().join("tests/e2e/tests/watcher.c"));
        run_command(cc).context("failed to compile the watcher")?;
        // The drive lasts, and with it what a run left that did not get far.
        let _ = std::fs::remove_file(folder.join("draft"));
        self.cove(&["machine", "init", "--share", r"C:\cove-share"])?;
        self.cove(&["machine", "start"])?;
        let count = ["grep", "-c", CERTIFICATE, "/etc/ssl/certs/ca-certificates.crt"];
        let count = self.cove(&[&["machine", "shell", "default", "--"], &count[..]].concat())?;
        ensure!(count.trim() == "1", "what is trusted here is trusted in the guest: {count:?}");
        ensure!(served.names()? == ["cove-default"], "the machine is the distribution cove-default");
        let status = self.cove(&["machine", "status", "--format", "json"])?;
        ensure!(
            status.contains(r#""phase":"running""#) || status.contains(r#""phase": "running""#),
            "{status}"
        );
        self.engine(&["load", "--input", &Wine::path(image)])?;
        let said =
            self.engine(&["run", "--rm", "-v", r"C:\cove-share:/shared", "busybox", "cat", "/shared/word"])?;
        ensure!(said.contains(WORD), "a container sees a folder of the drive: {said:?}");
        self.try_changes(folder)?;
        let said = self.cove(&["machine", "shell", "default", "--", "cat", "/proc/1/cmdline"])?;
        ensure!(said.contains("inside-first"), "the agent is the first process: {said:?}");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let published = format!("127.0.0.1:{port}:80");
        let serve = "mkdir /w && echo served > /w/index.html && exec httpd -f -p 80 -h /w";
        self.engine(&["run", "-d", "--name", "web", "-p", &published, "busybox", "sh", "-c", serve])?;
        ensure!(
            ask((Ipv4Addr::LOCALHOST, port).into())?.contains("served"),
            "a published port answers on this computer"
        );
        self.cove(&["machine", "stop"])?;
        self.cove(&["machine", "start"])?;
        let all = self.engine(&["ps", "-a"])?;
        ensure!(all.contains("web"), "what was there is there after a stop: {all}");
        self.cove(&["machine", "stop", "--force"])?;
        self.cove(&["machine", "start"])?;
        ensure!(self.engine(&["ps", "-a"])?.contains("web"), "what was there is there after an end at once");
        self.cove(&["machine", "stop"])?;
        self.cove(&["machine", "rm", "--force", "default"])?;
        ensure!(served.names()?.is_empty(), "nothing of the machine is left in WSL");
        Ok(())
    }

    /// Has a container watch a folder of the drive, and changes it here: by making, as an editor saves, by removing.
    fn try_changes(&self, folder: &Path) -> Result<()> {
        let watch = ["run", "-d", "--name", "watcher", "-v", r"C:\cove-share:/shared", "busybox"];
        self.engine(&[&watch[..], &["/shared/watcher", "/shared"]].concat())?;
        let seen = |expected: &[&str]| {
            let begin = Instant::now();
            loop {
                let said = self.engine(&["logs", "watcher"])?;
                let said: Vec<&str> =
                    said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
                if said == expected {
                    return anyhow::Ok(());
                }
                ensure!(
                    begin.elapsed() < DEADLINE,
                    "a container sees {said:?} of the drive, not {expected:?}"
                );
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        let mut expected = vec!["ready"];
        seen(&expected)?;
        std::fs::File::create(folder.join("draft"))?;
        expected.push("create draft");
        seen(&expected)?;
        std::fs::rename(folder.join("draft"), folder.join("word"))?;
        expected.extend(["from draft", "to word"]);
        seen(&expected)?;
        // As a file is replaced whole.
        files::write(&folder.join("word"), b"again")?;
        let draft = format!("word.new-{}", std::process::id());
        let replaced = ["create", "from"].map(|deed| format!("{deed} {draft}"));
        expected.extend(replaced.iter().map(String::as_str));
        expected.push("to word");
        seen(&expected)?;
        std::fs::remove_file(folder.join("word"))?;
        expected.push("delete word");
        seen(&expected)?;
        self.engine(&["rm", "--force", "watcher"])?;
        Ok(())
    }
}

/// What a web server of a container answers, once it does.
pub(super) fn ask(address: SocketAddr) -> Result<String> {
    let begin = Instant::now();
    loop {
        let mut said = String::new();
        let asked = TcpStream::connect(address).and_then(|mut stream| {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut said)
        });
        if asked.is_ok() && !said.is_empty() {
            return Ok(said);
        }
        ensure!(begin.elapsed() < DEADLINE, "{address} does not answer: {asked:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
