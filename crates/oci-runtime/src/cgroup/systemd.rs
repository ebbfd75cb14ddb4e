//! Cgroups that systemd makes: a scope of its own for each container, in a slice.
//!
//! systemd alone writes to its part of the hierarchies, and gives a unit with `Delegate=yes` away: what is below the
//! unit's directory is ours ([Control Group APIs and Delegation](https://systemd.io/CGROUP_DELEGATION)). A container
//! has one directory there, `container`, with all its limits; the unit's own limits are properties, which
//! systemd keeps.

mod dbus;
mod properties;
pub mod scope;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::spec::Resources;
use dbus::{Address, Body, Connection, Failure, Method, Reader, Value};

/// The name of the container's directory in its unit's, as crun has it.
const BELOW_UNIT: &str = "container";

const BUS_NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// Whose systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// The first process of the system.
    System,
    /// The one of this user's session.
    User,
}

impl Owner {
    /// The system's for root, the user's for everybody else, also as root in a user namespace.
    #[must_use]
    pub fn of_caller() -> Self {
        if crate::process::is_host_root() { Self::System } else { Self::User }
    }
}

/// Whether systemd is the first process (sd_booted(3)).
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The unit that a container's cgroups are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// `prefix-name.scope`, or a slice.
    pub name: String,
    /// The slice it is in.
    pub slice: String,
    /// Whom it is asked of.
    pub owner: Owner,
}

impl Unit {
    /// Reads `cgroupsPath` of the form `slice:prefix:name`. An empty one is that of the container `id`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other form, and for names that systemd does not take.
    pub fn parse(cgroups_path: &str, id: &str, owner: Owner) -> Result<Self> {
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "cove-runtime", id],
            given => given.split(':').collect(),
        };
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(Error::invalid(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {cgroups_path:?} instead"
            )));
        };
        let slice = match (slice, owner) {
            ("", Owner::System) => "system.slice",
            ("", Owner::User) => "user.slice",
            (given, _) => given,
        };
        let name = match prefix {
            _ if name.ends_with(".slice") => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        slice_path(slice)?;
        if !is_unit_name(&name) {
            return Err(Error::invalid(format!(
                "cgroupsPath {cgroups_path:?}: {name:?} is no name of a unit"
            )));
        }
        Ok(Self { name, slice: slice.to_owned(), owner })
    }

    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Where the container's own directory will be, below each hierarchy's root.
    ///
    /// # Errors
    /// Where systemd can't be asked where its part of the hierarchies is.
    pub(super) fn find_path(&self) -> Result<PathBuf> {
        let mut path = Systemd::connect(self.owner)?.control_group()?;
        path.push(if self.is_slice() {
            slice_path(&self.name)?
        } else {
            slice_path(&self.slice)?.join(&self.name)
        });
        path.push(BELOW_UNIT);
        Ok(path)
    }

    /// Asks for the unit with a process in it, and waits until it is there.
    pub(super) fn start(&self, pid: i32, limits: &[(String, Value)]) -> Result<()> {
        let mut properties = Vec::with_capacity(limits.len() + 10);
        if self.is_slice() {
            properties.push(property("Wants", Value::Texts(vec![self.slice.clone()])));
        } else {
            properties.push(property("Slice", Value::Text(self.slice.clone())));
            properties.push(property("Delegate", Value::Bool(true)));
            properties.push(property("PIDs", Value::Numbers(vec![pid.unsigned_abs()])));
            // One that failed is not kept to be looked at: its name is needed again.
            properties.push(property("CollectMode", Value::Text("inactive-or-failed".into())));
        }
        properties.push(property("DefaultDependencies", Value::Bool(false)));
        for accounting in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
            properties.push(property(accounting, Value::Bool(true)));
        }
        properties.extend_from_slice(limits);
        Systemd::connect(self.owner)?.start_unit(&self.name, &properties)
    }

    /// Tells systemd of changed limits, or it would put the old ones back.
    pub(super) fn update(&self, resources: &Resources, is_unified: bool) -> Result<()> {
        let limits = properties::of_resources(resources, is_unified);
        if limits.is_empty() {
            return Ok(());
        }
        let body = Body::default().text(&self.name).bool(true).properties(&limits);
        let step = || format!("change the limits of {}", self.name);
        Systemd::connect(self.owner)?.manage("SetUnitProperties", &body, step).map(drop)
    }

    /// Moves a process into the container's directory, as a part of the unit.
    pub(super) fn attach(&self, pid: i32) -> Result<()> {
        attach(self.owner, &self.name, Path::new("/").join(BELOW_UNIT).as_path(), pid)
    }

    /// Ends the unit. It may be gone: systemd takes away a scope whose last process has ended.
    pub(super) fn stop(&self) -> Result<()> {
        Systemd::connect(self.owner)?.stop_unit(&self.name)
    }
}

/// What a container's unit is started with: its description, limits, and properties that annotations name.
pub(super) fn properties(
    id: &str,
    resources: Option<&Resources>,
    annotations: &std::collections::BTreeMap<String, String>,
    is_unified: bool,
) -> Result<Vec<(String, Value)>> {
    let mut all = vec![property("Description", Value::Text(format!("cove-runtime container {id}")))];
    all.extend(
        resources.map(|resources| properties::of_resources(resources, is_unified)).unwrap_or_default(),
    );
    for (name, text) in properties::of_annotations(annotations)? {
        all.retain(|(known, _)| *known != name);
        all.push((name, text));
    }
    Ok(all)
}

fn attach(owner: Owner, unit: &str, directory: &Path, pid: i32) -> Result<()> {
    let directory = directory.to_string_lossy();
    let body = Body::default().text(unit).text(&directory).numbers(&[pid.unsigned_abs()]);
    let step = || format!("move process {pid} into {unit}");
    Systemd::connect(owner)?.manage("AttachProcessesToUnit", &body, step).map(drop)
}

/// A property of a unit that is about to be asked for.
pub(super) type Property = (String, Value);

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// A connection to systemd.
#[derive(Debug)]
struct Systemd(Connection);

impl Systemd {
    fn connect(owner: Owner) -> Result<Self> {
        if !is_running() {
            return Err(Error::Unsupported {
                what:
                    "systemd cgroups need systemd, which does not run here (there is no /run/systemd/system)"
                        .into(),
            });
        }
        let mut failure = None;
        for address in addresses(owner) {
            match Connection::open(&address) {
                Ok(connection) => return Self(connection).subscribed(),
                // The last one says most: it is the address that users set.
                Err(error) => failure = Some(error),
            }
        }
        match (failure, owner) {
            (Some(error), _) => Err(error.into_io()).doing(|| "connect to systemd over D-Bus"),
            (None, Owner::System) => Err(Error::Unsupported { what: "systemd has no socket".into() }),
            (None, Owner::User) => Err(Error::Unsupported {
                what: "the user's systemd is not to be found: XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are not set \
                       (log in, or have `loginctl enable-linger` start it)"
                    .into(),
            }),
        }
    }

    /// A bus tells of jobs only those that asked for it.
    fn subscribed(mut self) -> Result<Self> {
        if self.0.is_bus() {
            let rule = format!("type='signal',sender='{BUS_NAME}',interface='{MANAGER}',member='JobRemoved'");
            let step = || "subscribe to systemd's jobs";
            self.0
                .bus_call("AddMatch", &Body::default().text(&rule))
                .map_err(Failure::into_io)
                .doing(step)?;
            self.manage("Subscribe", &Body::default(), step)?;
        }
        Ok(self)
    }

    fn call(&mut self, member: &str, body: &Body) -> Result<Vec<u8>, Failure> {
        let method =
            Method { destination: BUS_NAME, path: "/org/freedesktop/systemd1", interface: MANAGER, member };
        self.0.call(method, body)
    }

    fn manage<S: Into<String>>(
        &mut self,
        member: &str,
        body: &Body,
        step: impl FnOnce() -> S,
    ) -> Result<Vec<u8>> {
        self.call(member, body).map_err(Failure::into_io).doing(step)
    }

    /// The part of the hierarchies that is this systemd's.
    fn control_group(&mut self) -> Result<PathBuf> {
        let method = Method {
            destination: BUS_NAME,
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let body = Body::default().text(MANAGER).text("ControlGroup");
        let step = || "ask systemd for its cgroup";
        let answer = self.0.call(method, &body).map_err(Failure::into_io).doing(step)?;
        let mut reader = Reader::new(&answer);
        let path = match reader.signature() {
            Some("s") => reader.string().filter(|path| !path.split('/').any(|part| part == "..")),
            _ => None,
        };
        path.map(|path| Path::new("/").join(path))
            .ok_or_else(|| Error::State { what: "systemd does not say what its cgroup is".into() })
    }

    fn start_unit(&mut self, name: &str, properties: &[Property]) -> Result<()> {
        self.try_start_unit(name, properties)
            .map_err(Failure::into_io)
            .doing(|| format!("have systemd start {name}"))
    }

    /// Asks for a unit that is not there yet, and waits until it is.
    fn try_start_unit(&mut self, name: &str, properties: &[Property]) -> Result<(), Failure> {
        let body = || Body::default().text(name).text("fail").properties(properties).no_units();
        let job = match self.call("StartTransientUnit", &body()) {
            // One that failed may have been kept, and is forgotten so; one that runs stays.
            Err(failure) if failure.is(UNIT_EXISTS) => {
                self.call("ResetFailedUnit", &Body::default().text(name))?;
                self.call("StartTransientUnit", &body())?
            }
            other => other?,
        };
        match self.finish(&job)?.as_str() {
            "done" => Ok(()),
            result => Err(Failure::Io(std::io::Error::other(format!("its job ended as {result}")))),
        }
    }

    fn stop_unit(&mut self, name: &str) -> Result<()> {
        let step = || format!("ask systemd to stop {name}");
        match self.call("StopUnit", &Body::default().text(name).text("replace")) {
            Ok(job) => drop(self.finish(&job).map_err(Failure::into_io).doing(step)?),
            Err(failure) if failure.is(NO_SUCH_UNIT) => return Ok(()),
            Err(failure) => return Err(failure.into_io()).doing(step),
        }
        match self.call("ResetFailedUnit", &Body::default().text(name)) {
            // It did not fail, and is not known any more.
            Err(failure) if !failure.is(NO_SUCH_UNIT) => Err(failure.into_io()).doing(step),
            _ => Ok(()),
        }
    }

    /// Waits for the end of the job that a call has answered with.
    fn finish(&mut self, job: &[u8]) -> Result<String, Failure> {
        let path = Reader::new(job).string().unwrap_or_default().to_owned();
        self.0.wait_for_job(&path)
    }
}

/// Where systemd may be reached, the quickest way first.
fn addresses(owner: Owner) -> Vec<Address> {
    if owner == Owner::System {
        let private = Address::Private("/run/systemd/private".into());
        return vec![private, Address::Bus("/run/dbus/system_bus_socket".into())];
    }
    let mut all = Vec::new();
    let uid = rustix::process::getuid();
    let usual = || (!uid.is_root()).then(|| PathBuf::from(format!("/run/user/{}", uid.as_raw())));
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let runtime_dir = runtime_dir.or_else(|| usual().filter(|dir| dir.is_dir()));
    if let Some(dir) = &runtime_dir {
        all.push(Address::Private(dir.join("systemd/private")));
        all.push(Address::Bus(dir.join("bus")));
    }
    let given = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    all.extend(given.split(';').filter_map(parse_address));
    all
}

/// An address as D-Bus writes it: `unix:path=/run/user/1000/bus,guid=…`, `unix:abstract=…`.
fn parse_address(text: &str) -> Option<Address> {
    text.strip_prefix("unix:")?.split(',').find_map(|part| match part.split_once('=')? {
        ("path", path) => Some(Address::Bus(unescape(path)?.into())),
        ("abstract", name) => Some(Address::AbstractBus(unescape(name)?)),
        _ => None,
    })
}

/// `%20` and the like.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.bytes());
    }
    String::from_utf8(bytes).ok()
}

/// `a-b.slice` is in `a.slice`: the directories that lead to it (systemd.slice(5)).
fn slice_path(slice: &str) -> Result<PathBuf> {
    let bad = || Error::invalid(format!("{slice:?} is no name of a slice"));
    let name = slice.strip_suffix(".slice").filter(|_| is_unit_name(slice)).ok_or_else(bad)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(bad());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

/// Whether systemd takes it (systemd.unit(5): up to 255 of these characters).
fn is_unit_name(name: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() < 256 && !name.starts_with('.') && name.bytes().all(is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cgroups_path: &str, owner: Owner, expected: Option<(&str, &str)>) {
        let unit = Unit::parse(cgroups_path, "id", owner).ok();
        let found = unit.as_ref().map(|unit| (unit.slice.as_str(), unit.name.as_str()));
        assert_eq!(found, expected, "{cgroups_path:?}");
    }

    #[test]
    fn a_path_of_slice_prefix_and_name_is_a_unit() {
        check("a.slice:docker:1", Owner::System, Some(("a.slice", "docker-1.scope")));
        check(":libpod:1", Owner::System, Some(("system.slice", "libpod-1.scope")));
        check(":libpod:1", Owner::User, Some(("user.slice", "libpod-1.scope")));
        check("a.slice::1", Owner::System, Some(("a.slice", "1.scope")));
        check("a.slice:x:a-b.slice", Owner::System, Some(("a.slice", "a-b.slice")));
        check("", Owner::System, Some(("system.slice", "cove-runtime-id.scope")));
        for path in ["/a/b", "a:b", "a:b:c:d", "a:b:c", "a/b.slice:c:d", "a.slice:b:../c", "-a.slice:b:c"] {
            check(path, Owner::System, None);
        }
    }

    #[test]
    fn slices_are_in_the_slices_that_their_names_begin_with() {
        let path = |slice: &str| slice_path(slice).map(|path| path.display().to_string()).ok();
        assert_eq!(path("a-b-c.slice").as_deref(), Some("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(path("-.slice").as_deref(), Some(""));
        for bad in ["a", "a--b.slice", "a-.slice", "-a.slice", ".slice", "a b.slice"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_read_as_d_bus_writes_them() {
        let path = |path: &str| Some(Address::Bus(path.into()));
        assert_eq!(parse_address("unix:path=/run/user/1/bus,guid=0"), path("/run/user/1/bus"));
        assert_eq!(parse_address("unix:path=/a%20b%"), None);
        assert_eq!(parse_address("unix:path=/a%20b"), path("/a b"));
        assert_eq!(parse_address("unix:abstract=/x"), Some(Address::AbstractBus("/x".into())));
        assert_eq!(parse_address("tcp:host=a"), None);
    }
}
