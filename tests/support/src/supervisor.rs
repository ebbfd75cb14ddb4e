//! A supervisor that is made up: it speaks a machine's control protocol and does what a test says, so that every
//! stage and every failure can be looked at.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use vm_manager::backend::Acceleration;
use vm_manager::config::{Backend, Config};
use vm_manager::control::{Answer, LINE_MAX, Request};
use vm_manager::places::{Folders, Places, make_private};
use vm_manager::stage::Stage;
use vm_manager::status::{Failure, Phase, Status};
use vm_proto::message::{Mode, Report};

/// How often a thread looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A machine whose supervisor is made up. Dropping it ends the supervisor and leaves the machine's files.
#[derive(Debug)]
pub struct Supervisor {
    /// Where the machine's files are.
    pub places: Places,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    status: Mutex<(u64, Status)>,
    changed: Condvar,
    asked: Mutex<Vec<Request>>,
    is_hung: AtomicBool,
    is_over: AtomicBool,
}

/// The folders that `COVE_MACHINES=dir` means.
#[must_use]
pub fn folders(dir: &Path) -> Folders {
    Folders { data: dir.to_owned(), run: dir.join(".run") }
}

/// A small machine of User Mode Linux.
#[must_use]
pub fn config() -> Config {
    Config {
        backend: Backend::Uml,
        cpus: 2,
        memory: 1 << 30,
        disk: 8 << 30,
        shares: vec![],
        image: None,
        sleep_after: None,
        ssh_agent: false,
        rosetta: false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// A new machine with a supervisor that listens; it is off, which a real one's supervisor never is for long.
    ///
    /// # Errors
    /// It can't be made.
    pub fn start(folders: &Folders, name: &str, config: &Config) -> Result<Self> {
        let places = folders.machine(name)?;
        if !places.config().exists() {
            places.create(config)?;
        }
        make_private(&places.run)?;
        // One that was there before is over.
        drop(std::fs::remove_file(places.control()));
        let listener = UnixListener::bind(places.control()).context("failed to listen as a supervisor")?;
        listener.set_nonblocking(true)?;
        let status = Status::stopped(name, config.clone(), places.engine());
        let shared = Arc::new(Shared {
            status: Mutex::new((0, status)),
            changed: Condvar::new(),
            asked: Mutex::default(),
            is_hung: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || serving.serve(&listener));
        Ok(Self { places, shared })
    }

    /// From now on it accepts connections and says nothing.
    pub fn hang(&self) {
        self.shared.is_hung.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }

    /// Changes how the machine stands, and tells followers.
    pub fn tell(&self, change: impl FnOnce(&mut Status)) {
        self.shared.tell(change);
    }

    /// The start is at a stage, the ones before took as long as they do.
    pub fn reach(&self, stage: Stage) {
        self.shared.tell(|status| {
            status.phase = Phase::Starting;
            status.failure = None;
            status.stage = Some(stage);
            let before = Stage::ALL.into_iter().filter(|before| *before < stage);
            status.took = before.map(|stage| (stage, usual(stage))).collect();
            if stage > Stage::Hypervisor {
                Acceleration::Native.name().clone_into(&mut status.acceleration);
            }
        });
    }

    /// Every stage is done.
    pub fn run(&self) {
        self.shared.tell(|status| {
            status.phase = Phase::Running;
            status.stage = None;
            status.failure = None;
            status.took = Stage::ALL.map(|stage| (stage, usual(stage))).to_vec();
            status.kernel = "6.12.9".to_owned();
            Acceleration::Native.name().clone_into(&mut status.acceleration);
        });
    }

    /// What the guest uses: bytes of memory and disk in it, and of memory on this computer.
    pub fn report(&self, memory: u64, memory_here: u64, disk: u64) {
        self.shared.tell(|status| {
            let (clock_ns, cpu_ms) = status
                .report
                .as_ref()
                .map_or((now(), 0), |report| (report.clock_ns + 2_000_000_000, report.cpu_ms + 500));
            status.report = Some(Report {
                memory_used: memory,
                memory_available: status.config.memory - memory,
                memory_ballooned: 0,
                disk_total: status.config.disk,
                disk_used: disk,
                cpu_ms,
                clock_ns,
                engine_runs: true,
                containers_run: false,
            });
            status.memory_here = Some(memory_here);
            status.disk_here = disk + (200 << 20);
        });
    }

    /// A stage fails. As a real one would, it has left its last word when it is over ([`Self::end`]).
    pub fn fail(&self, stage: Stage, cause: &str, console: &str) {
        self.reach(stage);
        let has_previous = false;
        self.shared.tell(|status| {
            status.phase = Phase::Failed;
            let remedy = stage.remedy(&status.name, status.config.backend, has_previous);
            let (cause, console) = (cause.to_owned(), console.to_owned());
            status.failure = Some(Failure { stage: Some(stage), cause, console, remedy });
        });
    }

    /// What it was asked since, but to follow and for its status.
    #[must_use]
    pub fn asked(&self) -> Vec<Request> {
        lock(&self.shared.asked).clone()
    }

    /// It keeps how the machine stands, and is gone.
    ///
    /// # Errors
    /// The disk's.
    pub fn end(self) -> Result<()> {
        let text = serde_json::to_vec(&lock(&self.shared.status).1)?;
        stdx::fs::write_atomic(&self.places.last_status(), &text, stdx::fs::Durability::Process)?;
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // One without a socket is as gone as can be.
        drop(std::fs::remove_file(self.places.control()));
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }
}

fn usual(stage: Stage) -> u64 {
    match stage {
        Stage::Image => 38,
        Stage::Disk => 4,
        Stage::Hypervisor => 61,
        Stage::Kernel => 640,
        Stage::Agent => 48,
        Stage::Shares => 12,
        Stage::Network => 25,
        Stage::Engine => 410,
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Status)) {
        let mut status = lock(&self.status);
        change(&mut status.1);
        status.0 += 1;
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn is_hung(&self) -> bool {
        self.is_hung.load(Ordering::Relaxed)
    }

    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        while !self.is_over() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(self);
                    // Whoever asked may be gone.
                    std::thread::spawn(move || drop(shared.answer(&stream)));
                }
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    fn answer(&self, stream: &UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        let mut line = String::new();
        BufReader::new(stream.try_clone()?.take(LINE_MAX)).read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line)?;
        while self.is_hung() {
            if self.is_over() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        match request {
            Request::Follow => self.follow(stream),
            Request::Status => say(stream, &Answer::Status(Box::new(lock(&self.status).1.clone()))),
            request => {
                lock(&self.asked).push(request.clone());
                match request {
                    Request::Start { mode: Mode::Normal } => self.tell(|status| {
                        status.phase = Phase::Starting;
                        status.stage = Some(Stage::Image);
                        status.failure = None;
                        status.took.clear();
                    }),
                    Request::Stop => self.tell(|status| {
                        status.phase = Phase::Stopping;
                        status.stage = None;
                    }),
                    Request::Sleep => self.tell(|status| status.phase = Phase::FallingAsleep),
                    Request::Kill => self.tell(|status| {
                        status.phase = Phase::Stopped;
                        status.report = None;
                        status.took.clear();
                    }),
                    _ => {}
                }
                say(stream, &Answer::Done)
            }
        }
    }

    fn follow(&self, stream: &UnixStream) -> Result<()> {
        let mut told = None;
        loop {
            let status = lock(&self.status);
            let is_news = |status: &(u64, Status)| told != Some(status.0) && !self.is_hung();
            let waited = self
                .changed
                .wait_timeout_while(status, LOOK_EVERY * 5, |status| !is_news(status) && !self.is_over());
            let (status, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if self.is_over() {
                return Ok(());
            }
            if is_news(&status) {
                let now = status.clone();
                drop(status);
                told = Some(now.0);
                say(stream, &Answer::Status(Box::new(now.1)))?;
            }
        }
    }
}

fn say(mut to: &UnixStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}
