//! Who asks for a machine, and what comes of it: the rules of the small service, and the same without it, where whoever asks
//! may make machines himself.
//!
//! A session is one connection's, and has one machine at most, which ends with it. It makes machines of its caller's
//! alone, of files that its caller may open, named after its caller; it opens none that is there already.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::guid::Guid;
use crate::hcn::Networks;
use crate::hcs::document::{Disk, Share, Spec};
use crate::hcs::{Failure, Identity, Machine, Service};
use crate::request::{Answer, Outcome, Request, VERSION, Wanted};

/// How many machines there may be at once, of one user and in all.
const OF_ONE_USER: usize = 8;
const OF_ALL: usize = 32;
/// What is asked for at most.
const NAME_MAX: usize = 32;
const CPUS_MAX: u32 = 64;
const MEMORY_MAX: u64 = 1 << 40;
const OPTIONS_MAX: usize = 1024;
const TAG_MAX: usize = 32;
/// Where consoles may be: in a pipe, and not in a file.
const CONSOLES: &str = r"\\.\pipe\cove-";

/// `E_ACCESSDENIED`, `E_INVALIDARG`, `HCS_E_SYSTEM_ALREADY_EXISTS`, `HCS_E_SYSTEM_NOT_FOUND`.
const DENIED: u32 = 0x8007_0005;
const INVALID: u32 = 0x8007_0057;
const EXISTS: u32 = 0x8037_010F;
const NOT_FOUND: u32 = 0x8037_010E;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be read by a machine; nobody may change it or put another in its place while it is kept.
    Read,
    /// To be written by a machine, which has it for itself: it is only looked whether the caller might.
    Write,
    /// A folder, to be listed.
    List,
    /// A folder, in which a file is to be made; nobody may put another in its place while it is kept.
    Into,
}

/// Whoever asks.
pub trait Caller {
    /// What keeps a file as it was found, for as long as this is kept.
    type Kept;

    /// The security id, `S-1-5-21-…`.
    fn user(&self) -> &str;

    /// Opens a file as the caller. Its path without links and junctions.
    ///
    /// # Errors
    /// The caller may not, or it is not there.
    fn open(&self, file: &Path, access: Access) -> io::Result<(PathBuf, Self::Kept)>;

    /// Does something that only its owner may.
    ///
    /// # Errors
    /// The system does not let us be the caller.
    fn act<T>(&self, work: impl FnOnce() -> T) -> io::Result<T>;

    /// For whom a machine opens files of a folder.
    ///
    /// # Errors
    /// The system does not tell.
    fn identity(&self) -> io::Result<Identity>;
}

/// The machines that there are, of all sessions.
#[derive(Debug, Default)]
pub struct Machines(Mutex<BTreeMap<String, Arc<End>>>);

/// The end of one, that others wait for.
#[derive(Debug, Default)]
struct End {
    how: Mutex<Option<String>>,
    told: Condvar,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl End {
    fn tell(&self, how: String) {
        lock(&self.how).get_or_insert(how);
        self.told.notify_all();
    }

    fn wait(&self) -> String {
        let mut how = lock(&self.how);
        loop {
            match &*how {
                Some(how) => return how.clone(),
                None => how = self.told.wait(how).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// What a machine is called among all of this computer's.
fn id(name: &str, user: &str) -> String {
    format!("cove-{name}-{user}")
}

impl Machines {
    /// Waits until a machine of a user's has ended; how, in words.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn wait(&self, name: &str, user: &str) -> Outcome {
        let end = lock(&self.0).get(&id(name, user)).map(Arc::clone);
        let end = end.ok_or_else(|| Failure::refused(NOT_FOUND, "there is no such machine"))?;
        Ok(Answer::Ended { how: end.wait() })
    }

    fn begin(&self, id: &str, user: &str) -> Result<Arc<End>, Failure> {
        let mut all = lock(&self.0);
        let of_user = all.keys().filter(|id| id.ends_with(&format!("-{user}"))).count();
        if all.contains_key(id) {
            return Err(Failure::refused(EXISTS, "there is a machine of that name"));
        }
        if of_user >= OF_ONE_USER || all.len() >= OF_ALL {
            return Err(Failure::refused(DENIED, "there are too many machines"));
        }
        Ok(Arc::clone(all.entry(id.to_owned()).or_default()))
    }

    fn forget(&self, id: &str) {
        let end = lock(&self.0).remove(id);
        if let Some(end) = end {
            end.tell("it was ended".to_owned());
        }
    }
}

/// One connection's.
pub struct Session<S: Service, N: Networks, C: Caller> {
    service: S,
    networks: Result<N, Failure>,
    caller: C,
    machines: Arc<Machines>,
    made: Option<Made<S, C>>,
}

struct Made<S: Service, C: Caller> {
    id: String,
    machine: Machine<S::System>,
    /// Its adapter's place.
    endpoint: Option<Guid>,
    /// As they were when it was made, until it has opened them.
    kept: Vec<C::Kept>,
}

impl<S: Service, N: Networks, C: Caller> fmt::Debug for Session<S, N, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.caller.user()).finish_non_exhaustive()
    }
}

impl<S: Service, N: Networks, C: Caller> Session<S, N, C> {
    /// A caller's.
    pub fn new(service: S, networks: Result<N, Failure>, caller: C, machines: Arc<Machines>) -> Self {
        Self { service, networks, caller, machines, made: None }
    }

    /// Does what is asked. Waiting takes as long as the machine lives.
    ///
    /// # Errors
    /// It is refused, or the service's.
    pub fn answer(&mut self, request: Request) -> Outcome {
        match request {
            Request::Look { version: VERSION } => drop(self.service.enumerate()?),
            Request::Look { version } => {
                let cause = format!("version {version} of the small service's words is not {VERSION}");
                return Err(Failure::refused(INVALID, &cause));
            }
            Request::Make(wanted) => return self.make(wanted),
            Request::Wait { name } => return self.machines.wait(&name, self.caller.user()),
            other => return self.change(other),
        };
        Ok(Answer::Done)
    }

    /// Changes the machine that was made.
    fn change(&mut self, request: Request) -> Outcome {
        let none = || Failure::refused(NOT_FOUND, "no machine was made");
        let made = self.made.as_mut().ok_or_else(none)?;
        match request {
            Request::Start => {
                made.machine.start()?;
                made.kept.clear();
            }
            Request::AddShare(share) => {
                let share = allowed_share(&self.caller, share)?;
                let identity = self.caller.identity().map_err(|error| told("the user's token", &error))?;
                made.machine.add_share(&share, &identity)?;
            }
            Request::RemoveShare { tag } => {
                check_tag(&tag)?;
                made.machine.remove_share(&tag)?;
            }
            Request::SetMemory { bytes } => {
                check(bytes > 0 && bytes <= MEMORY_MAX, "that is no size of memory")?;
                made.machine.set_memory(bytes)?;
            }
            Request::Pause => made.machine.pause()?,
            Request::Resume => made.machine.resume()?,
            Request::Save { file } => {
                let (file, _kept) = make_state(&self.service, &self.caller, &made.id, &file)?;
                made.machine.save(&file)?;
            }
            Request::End => made.machine.end()?,
            // Answered before.
            Request::Look { .. } | Request::Make(_) | Request::Wait { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn make(&mut self, wanted: Wanted) -> Outcome {
        check(self.made.is_none(), "a connection has one machine")?;
        check_wanted(&wanted)?;
        let id = id(&wanted.name, self.caller.user());
        let end = self.machines.begin(&id, self.caller.user())?;
        let outcome = self.make_now(&id, &end, wanted);
        if outcome.is_err() {
            self.machines.forget(&id);
        }
        outcome
    }

    fn make_now(&mut self, id: &str, end: &Arc<End>, wanted: Wanted) -> Outcome {
        let mut kept = Vec::new();
        let mut open = |path: &Path, access| -> Result<PathBuf, Failure> {
            let (path, keeps) = allowed(&self.caller, path, access)?;
            kept.push(keeps);
            Ok(path)
        };
        let kernel = open(&wanted.kernel, Access::Read)?;
        let initrd = open(&wanted.initrd, Access::Read)?;
        let system = open(&wanted.system, Access::Read)?;
        let data = open(&wanted.data, Access::Write)?;
        let saved = wanted.saved.as_deref().map(|file| open(file, Access::Write)).transpose()?;
        let (endpoint, no_network) = match self.connect(id) {
            Ok(endpoint) => (Some(endpoint), None),
            Err(failure) => (None, Some(failure)),
        };
        let place = endpoint.as_ref().map(|endpoint| endpoint.id);
        let spec = Spec {
            cpus: wanted.cpus,
            memory: wanted.memory,
            kernel,
            initrd,
            options: wanted.options,
            disks: vec![Disk { path: system, read_only: true }, Disk { path: data, read_only: false }],
            network: endpoint,
            user: self.caller.user().to_owned(),
            console: Some(wanted.console.into()),
            saved,
        };
        let machine = self.make_of(id, &spec, end);
        match machine {
            Ok((machine, runtime_id)) => {
                self.made = Some(Made { id: id.to_owned(), machine, endpoint: place, kept });
                Ok(Answer::made(runtime_id, no_network))
            }
            Err(failure) => {
                if let (Some(place), Ok(networks)) = (place, &self.networks) {
                    // Why there is no machine says more.
                    let _ = networks.disconnect(place);
                }
                Err(failure)
            }
        }
    }

    /// Its place at a switch. Without one it runs, and has no way out.
    fn connect(&self, id: &str) -> Result<crate::hcn::Endpoint, Failure> {
        let networks = self.networks.as_ref().map_err(Clone::clone)?;
        networks.connect(Guid::of_name(id))
    }

    fn make_of(&self, id: &str, spec: &Spec, end: &Arc<End>) -> Result<(Machine<S::System>, Guid), Failure> {
        // Only its owner may let others open a file.
        let grant = || spec.files().try_for_each(|file| self.service.grant(id, file));
        self.caller.act(grant).map_err(|error| told("the user's rights", &error))??;
        let machine = Machine::make(&self.service, id, spec)?;
        let runtime_id = machine.runtime_id()?;
        let end = Arc::clone(end);
        machine.on_end(move |how| end.tell(how))?;
        Ok((machine, runtime_id))
    }
}

impl<S: Service, N: Networks, C: Caller> Drop for Session<S, N, C> {
    fn drop(&mut self) {
        let Some(Made { id, machine, endpoint, kept }) = self.made.take() else { return };
        // Whatever fails here, the machine's last handle is closed, upon which the service ends it.
        let _ = machine.end();
        drop(machine);
        drop(kept);
        if let (Some(endpoint), Ok(networks)) = (endpoint, &self.networks) {
            let _ = networks.disconnect(endpoint);
        }
        self.machines.forget(&id);
    }
}

fn check(is_so: bool, cause: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Failure::refused(INVALID, cause)) }
}

fn told(what: &str, error: &io::Error) -> Failure {
    Failure::refused(DENIED, &format!("{what}: {error}"))
}

fn check_wanted(wanted: &Wanted) -> Result<(), Failure> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = wanted.name.as_bytes();
    check(
        !name.is_empty() && name.len() <= NAME_MAX && name.iter().all(|byte| is_plain(*byte)),
        "that is no machine's name",
    )?;
    check((1..=CPUS_MAX).contains(&wanted.cpus), "1 to 64 processors can be had")?;
    check(wanted.memory > 0 && wanted.memory <= MEMORY_MAX, "that is no size of memory")?;
    let options = wanted.options.as_bytes();
    check(
        options.len() <= OPTIONS_MAX && options.iter().all(|byte| matches!(byte, b' '..=b'~')),
        "those are no options of a kernel's",
    )?;
    let console = wanted.console.strip_prefix(CONSOLES).unwrap_or_default();
    check(
        !console.is_empty() && console.len() <= 128 && console.bytes().all(is_plain),
        "a console is a pipe whose name begins with cove-",
    )
}

/// A path of a drive's, `C:\…`: of no device, and on no other computer, to which we would say who we are.
fn of_drive(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    let text = text.strip_prefix(r"\\?\").unwrap_or(text);
    let mut parts = text.splitn(2, ":\\");
    let (drive, rest) = (parts.next()?, parts.next()?);
    let is_drive = matches!(drive.as_bytes(), [letter] if letter.is_ascii_alphabetic());
    // A stream of a file is none of its own.
    let is_plain =
        !rest.contains([':', '/', '\0']) && !rest.split('\\').any(|part| matches!(part, "." | ".."));
    (is_drive && is_plain).then(|| text.into())
}

/// A file that a machine of the caller's may have: as it is called without links, and what keeps it so.
fn allowed<C: Caller>(caller: &C, path: &Path, access: Access) -> Result<(PathBuf, C::Kept), Failure> {
    let shown = path.display();
    let refused = |cause: String| Failure::refused(DENIED, &cause);
    let path = of_drive(path).ok_or_else(|| refused(format!("{shown} is on no drive of this computer")))?;
    let opened = caller.open(&path, access).map_err(|error| refused(format!("{shown}: {error}")))?;
    let (found, kept) = opened;
    let found =
        of_drive(&found).ok_or_else(|| refused(format!("{shown} leads to no drive of this computer")))?;
    Ok((found, kept))
}

/// Makes the file that a machine of the caller's is to be saved to, in a folder of his, as he would; its path without links, and
/// what keeps it in that folder.
fn make_state<S: Service, C: Caller>(
    service: &S,
    caller: &C,
    id: &str,
    file: &Path,
) -> Result<(PathBuf, C::Kept), Failure> {
    let refused = || Failure::refused(DENIED, &format!("{} is no file of a folder", file.display()));
    let text = of_drive(file).ok_or_else(refused)?;
    let text = text.to_str().unwrap_or_default();
    let (folder, name) = text.rsplit_once('\\').filter(|(_, name)| !name.is_empty()).ok_or_else(refused)?;
    let (folder, kept) = allowed(caller, Path::new(folder), Access::Into)?;
    let file: PathBuf = format!(r"{}\{name}", folder.display()).into();
    // Only its owner may let others write to it.
    let make = || service.make_state(&file).and_then(|()| service.grant(id, &file));
    caller.act(make).map_err(|error| told("the user's rights", &error))??;
    // What was made may be a link to elsewhere by now, which whoever writes would follow.
    let (found, _) = allowed(caller, &file, Access::Write)?;
    check(found == file, "the file to save to was exchanged")?;
    Ok((file, kept))
}

fn check_tag(tag: &str) -> Result<(), Failure> {
    check(
        !tag.is_empty() && tag.len() <= TAG_MAX && tag.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "that is no share's name",
    )
}

fn allowed_share<C: Caller>(caller: &C, share: Share) -> Result<Share, Failure> {
    check_tag(&share.tag)?;
    // What is opened below is opened as the caller, each time.
    let (path, _) = allowed(caller, &share.path, Access::List)?;
    Ok(Share { path, ..share })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
