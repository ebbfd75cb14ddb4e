//! Distributions of a WSL that is made up: each is a folder, and what runs in one runs in namespaces of its own on this
//! computer. `vm/hyperv/tests/stand_in/wsl.c` is the program that leads here, over TCP.
//!
//! A connection begins with the program's words, each ended by a zero, and an empty one. From then on the program's input
//! follows, and comes back: pieces of output (`O`), of error output (`E`), each with its length (four bytes, little endian),
//! and the exit code (`X`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// How much of a program's output is sent at once.
const PIECE: usize = 64 << 10;
/// What a distribution begins with: mounts as WSL makes them, a drive, and a process that holds the namespaces.
const BEGIN: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mkdir -p proc sys dev run c
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount --bind "$2" c
echo "nameserver 10.255.255.254" > etc/resolv.conf
echo ready
exec chroot . /bin/busybox sleep 1000000000
"#;
/// What WSL says where there is no such distribution.
const MISSING: &str = "There is no such distribution.\r\nError code: Wsl/Service/WSL_E_DISTRO_NOT_FOUND\r\n";

/// All of them, for as long as this is kept.
#[derive(Debug)]
pub struct Distributions {
    shared: Arc<Shared>,
    port: u16,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    drive: PathBuf,
    running: Mutex<BTreeMap<String, Holder>>,
}

/// The process that a distribution is there by.
#[derive(Debug)]
struct Holder {
    unshare: Child,
    pid: u32,
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The first process of its namespace ends with it, and so do all others.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

impl Distributions {
    /// Serves them from a folder; `drive` is the folder that is Windows' drive C.
    ///
    /// # Errors
    /// No port can be had.
    pub fn serve(folder: &Path, drive: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            drive: drive.to_owned(),
            running: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || {
                    // The program sees that its answer ends.
                    let _ = served.answer(&stream);
                });
            }
        });
        Ok(Self { shared, port })
    }

    /// Where the program finds them.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The names of those that were imported.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn names(&self) -> Result<Vec<String>> {
        self.shared.names()
    }
}

impl Drop for Distributions {
    fn drop(&mut self) {
        self.shared.running().clear();
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Holder>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder)?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        let mut from = BufReader::new(stream.try_clone()?);
        let mut words = Vec::new();
        loop {
            let mut word = Vec::new();
            from.read_until(0, &mut word)?;
            word.pop();
            if word.is_empty() {
                break;
            }
            words.push(String::from_utf8(word)?);
        }
        let all: Vec<&str> = words.iter().map(String::as_str).collect();
        let (said, code) = match *all.as_slice() {
            ["--version"] => ("WSL version: 2.3.24.0\r\n".to_owned(), 0),
            ["--list", "--quiet"] => match self.names()? {
                names if names.is_empty() => {
                    ("None.\r\nError code: Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\r\n".to_owned(), 1)
                }
                names => (names.join("\r\n") + "\r\n", 0),
            },
            ["--import", name, _, archive, "--version", "2"] => {
                self.import(name, &self.here(archive))?;
                (String::new(), 0)
            }
            ["--unregister", name] if self.has(name) => {
                self.running().remove(name);
                fs::remove_dir_all(self.folder.join(name))?;
                (String::new(), 0)
            }
            ["--terminate", name] if self.has(name) => {
                self.running().remove(name);
                (String::new(), 0)
            }
            ["--unregister" | "--terminate", _] => (MISSING.to_owned(), 1),
            ["--distribution", name, "--user", "root", "--exec", ref words @ ..] if self.has(name) => {
                return self.execute(name, words, from, stream);
            }
            ["--distribution", ..] => (MISSING.to_owned(), 1),
            _ => ("Error code: Wsl/E_INVALIDARG\r\n".to_owned(), 1),
        };
        let out = Mutex::new(stream.try_clone()?);
        send(&out, b'O', said.as_bytes())?;
        send(&out, b'X', &i32::to_le_bytes(code))
    }

    fn has(&self, name: &str) -> bool {
        self.folder.join(name).is_dir()
    }

    /// A file of Windows' on this computer: of the drive, or of Wine's that is all of it.
    fn here(&self, path: &str) -> PathBuf {
        let (drive, rest) = path.split_at(path.len().min(2));
        let rest = rest.replace('\\', "/");
        match drive {
            "Z:" => rest.into(),
            _ => self.drive.join(rest.trim_start_matches('/')),
        }
    }

    fn import(&self, name: &str, archive: &Path) -> Result<()> {
        let half = self.folder.with_extension("half");
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half)?;
        let status = stdx::process::command("tar").arg("-xf").arg(archive).arg("-C").arg(&half).status()?;
        ensure!(status.success(), "failed to unpack {}", archive.display());
        Ok(fs::rename(&half, self.folder.join(name))?)
    }

    /// The process that holds a distribution's namespaces, which is begun where there is none.
    fn holder(&self, name: &str) -> Result<u32> {
        let mut running = self.running();
        if let Some(holder) = running.get_mut(name) {
            if holder.unshare.try_wait()?.is_none() {
                return Ok(holder.pid);
            }
            running.remove(name);
        }
        let mut command = stdx::process::command("unshare");
        command.args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]);
        command.args(["sh", "-c", BEGIN, "sh"]).arg(self.folder.join(name)).arg(&self.drive);
        let mut unshare = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(unshare.stdout.take().context("it has an output")?).read_line(&mut said)?;
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id()))?;
        let holder = Holder { pid: children.trim().parse().unwrap_or(0), unshare };
        ensure!(said == "ready\n" && holder.pid > 0, "the distribution {name} did not begin");
        Ok(running.entry(name.to_owned()).or_insert(holder).pid)
    }

    fn execute(
        &self,
        name: &str,
        words: &[&str],
        mut from: BufReader<TcpStream>,
        stream: &TcpStream,
    ) -> Result<()> {
        let holder = self.holder(name)?;
        let mut command = stdx::process::command("nsenter");
        command.args(["--target", &holder.to_string(), "--all", "--root", "--wd"]).args(words);
        let mut child = in_pipes(&mut command).spawn().context("failed to enter the distribution")?;
        let (Some(mut input), Some(output), Some(error)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("a child has pipes");
        };
        std::thread::spawn(move || {
            // By hand: std would have the kernel splice, which keeps the last of what has come until there is more.
            let mut piece = vec![0; PIECE];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                // A program that reads no more is as good.
                if input.write_all(piece.get(..length).unwrap_or_default()).is_err() {
                    break;
                }
            }
        });
        let out = Arc::new(Mutex::new(stream.try_clone()?));
        let carry = |kind: u8, mut from: Box<dyn Read + Send>| {
            let out = Arc::clone(&out);
            std::thread::spawn(move || {
                let mut piece = vec![0; PIECE];
                while let Ok(length @ 1..) = from.read(&mut piece) {
                    if send(&out, kind, piece.get(..length).unwrap_or_default()).is_err() {
                        break;
                    }
                }
            })
        };
        let carried = [carry(b'O', Box::new(output)), carry(b'E', Box::new(error))];
        for thread in carried {
            let _ = thread.join();
        }
        let code = child.wait()?.code().unwrap_or(255);
        send(&out, b'X', &code.to_le_bytes())?;
        Ok(stream.shutdown(Shutdown::Both)?)
    }
}

fn in_pipes(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

fn send(to: &Mutex<TcpStream>, kind: u8, bytes: &[u8]) -> Result<()> {
    let mut piece = vec![kind];
    piece.extend(u32::try_from(bytes.len())?.to_le_bytes());
    piece.extend(bytes);
    Ok(to.lock().unwrap_or_else(PoisonError::into_inner).write_all(&piece)?)
}
