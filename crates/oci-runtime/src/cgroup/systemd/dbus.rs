//! The part of D-Bus that asking systemd takes: one connection, one call at a time.
//!
//! Everything is little-endian, as it is on all computers this runs on. What comes from the other end is checked and
//! bounded; a message of another byte order, or longer than systemd ever sends, ends the connection.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long one connection may take in all: what D-Bus libraries allow one call.
const PATIENCE: Duration = Duration::from_secs(25);

/// The longest message that is read.
const MAX_MESSAGE: usize = 1 << 20;

/// The longest answer to the login, all its lines.
const MAX_LOGIN: usize = 512;

/// How many jobs' ends are kept until they are asked for.
const MAX_ENDED: usize = 256;

/// Where somebody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// systemd's own socket, with nobody between.
    Private(PathBuf),
    /// A bus, by a path.
    Bus(PathBuf),
    /// A bus, by a name without a file (unix(7), "abstract").
    AbstractBus(String),
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    /// The other end's error: its name, and its words.
    Refused {
        name: String,
        text: String,
    },
}

impl Failure {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Refused { name, text } if text.is_empty() => io::Error::other(name),
            Self::Refused { text, .. } => io::Error::other(text),
        }
    }

    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the D-Bus message is malformed: {what}"))
}

/// Whom a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// A logged-in connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    is_bus: bool,
    /// Bodies of systemd's `JobRemoved` that came while another answer was waited for.
    ended: Vec<Vec<u8>>,
}

impl Connection {
    pub(super) fn open(address: &Address) -> Result<Self, Failure> {
        let (stream, is_bus) = match address {
            Address::Private(path) => (UnixStream::connect(path)?, false),
            Address::Bus(path) => (UnixStream::connect(path)?, true),
            Address::AbstractBus(name) => {
                (UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?, true)
            }
        };
        let deadline = Instant::now() + PATIENCE;
        let mut connection = Self { stream, serial: 0, deadline, is_bus, ended: Vec::new() };
        connection.log_in()?;
        if is_bus {
            connection.bus_call("Hello", &Body::default())?;
        }
        Ok(connection)
    }

    /// Whether a bus is between, which delivers only what was subscribed to.
    pub(super) fn is_bus(&self) -> bool {
        self.is_bus
    }

    /// A call to the bus itself.
    pub(super) fn bus_call(&mut self, member: &str, body: &Body) -> Result<Vec<u8>, Failure> {
        let name = "org.freedesktop.DBus";
        self.call(Method { destination: name, path: "/org/freedesktop/DBus", interface: name, member }, body)
    }

    /// Without a name: who we are is what the kernel says of the socket, which is right in a user namespace, too.
    fn log_in(&mut self) -> io::Result<()> {
        self.stream.set_write_timeout(Some(PATIENCE))?;
        self.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the second line belongs to the first message.
        while !is_login_answered(&answer) {
            if answer.len() == MAX_LOGIN {
                return Err(malformed("the login's answer is too long"));
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            answer.extend(byte);
        }
        let answer = String::from_utf8_lossy(&answer);
        if answer.lines().any(|line| line.starts_with("OK ")) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "D-Bus refused the login"))
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    /// Calls, and waits for the answer. Returns its body.
    pub(super) fn call(&mut self, method: Method<'_>, body: &Body) -> Result<Vec<u8>, Failure> {
        self.serial += 1;
        let message = encode(method, self.serial, body).ok_or_else(|| malformed("it is too long"))?;
        self.stream.write_all(&message)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                Kind::Return if message.answers == self.serial => return Ok(message.body),
                Kind::Error if message.answers == self.serial => {
                    let text = Reader::new(&message.body).string().unwrap_or_default().to_owned();
                    return Err(Failure::Refused { name: message.error, text });
                }
                Kind::Signal if message.is_job_removed() && self.ended.len() < MAX_ENDED => {
                    self.ended.push(message.body);
                }
                Kind::Return | Kind::Error | Kind::Signal | Kind::Other => {}
            }
        }
    }

    /// Waits for a job's end. Returns what became of it: `done`, `failed`, ….
    pub(super) fn wait_for_job(&mut self, job: &str) -> Result<String, Failure> {
        loop {
            for body in std::mem::take(&mut self.ended) {
                if let Some((path, result)) = job_removed(&body)
                    && path == job
                {
                    return Ok(result);
                }
            }
            let message = self.receive()?;
            if message.is_job_removed() {
                self.ended.push(message.body);
            }
        }
    }

    fn receive(&mut self) -> Result<Message, Failure> {
        let mut fixed = [0; 16];
        self.read(&mut fixed)?;
        let lengths = Lengths::of(&fixed)?;
        let mut rest = vec![0; lengths.fields.next_multiple_of(8) + lengths.body];
        self.read(&mut rest)?;
        let body = rest.split_off(lengths.fields.next_multiple_of(8));
        rest.truncate(lengths.fields);
        let mut message = Message { kind: Kind::of(fixed[1]), body, ..Message::default() };
        message.read_fields(&rest).ok_or_else(|| malformed("its header"))?;
        Ok(message)
    }
}

/// The server has said `DATA` and then `OK …`, or something else at once.
fn is_login_answered(answer: &[u8]) -> bool {
    let lines = answer.iter().filter(|byte| **byte == b'\n').count();
    lines >= 2 || (lines == 1 && !answer.starts_with(b"DATA"))
}

/// Path and result of `JobRemoved` (`uoss`: id, path, unit, result).
fn job_removed(body: &[u8]) -> Option<(String, String)> {
    let mut reader = Reader::new(body);
    reader.u32()?;
    let path = reader.string()?.to_owned();
    reader.string()?;
    Some((path, reader.string()?.to_owned()))
}

struct Lengths {
    fields: usize,
    body: usize,
}

impl Lengths {
    fn of(fixed: &[u8; 16]) -> io::Result<Self> {
        if fixed[0] != b'l' || fixed[3] != 1 {
            return Err(malformed("its byte order or version"));
        }
        let number = |at: usize| {
            let bytes: Option<[u8; 4]> = fixed.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.and_then(|bytes| usize::try_from(u32::from_le_bytes(bytes)).ok())
        };
        let (Some(body), Some(fields)) = (number(4), number(12)) else { return Err(malformed("its length")) };
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(malformed("it is too long"));
        }
        Ok(Self { fields, body })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    Return,
    Error,
    Signal,
    #[default]
    Other,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            2 => Self::Return,
            3 => Self::Error,
            4 => Self::Signal,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Default)]
struct Message {
    kind: Kind,
    interface: String,
    member: String,
    error: String,
    /// The serial number of the call that it answers.
    answers: u32,
    body: Vec<u8>,
}

impl Message {
    fn is_job_removed(&self) -> bool {
        self.kind == Kind::Signal
            && self.interface == "org.freedesktop.systemd1.Manager"
            && self.member == "JobRemoved"
    }

    fn read_fields(&mut self, fields: &[u8]) -> Option<()> {
        let mut reader = Reader::new(fields);
        while reader.pad(8).is_some() && !reader.is_at_end() {
            let code = reader.u8()?;
            match (code, reader.signature()?) {
                (2, "s") => self.interface = reader.string()?.to_owned(),
                (3, "s") => self.member = reader.string()?.to_owned(),
                (4, "s") => self.error = reader.string()?.to_owned(),
                (5, "u") => self.answers = reader.u32()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return None,
            }
        }
        Some(())
    }
}

fn encode(method: Method<'_>, serial: u32, body: &Body) -> Option<Vec<u8>> {
    let mut fields = Body::default();
    let texts = [
        (1, "o", method.path),
        (2, "s", method.interface),
        (3, "s", method.member),
        (6, "s", method.destination),
    ];
    for (code, kind, text) in texts {
        fields.pad(8);
        fields.bytes.push(code);
        fields.signature(kind);
        fields.string(text);
    }
    if !body.signature.is_empty() {
        fields.pad(8);
        fields.bytes.push(8);
        fields.signature("g");
        fields.signature(&body.signature);
    }
    let mut message = vec![b'l', 1, 0, 1];
    message.extend(u32::try_from(body.bytes.len()).ok()?.to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend(u32::try_from(fields.bytes.len()).ok()?.to_le_bytes());
    message.extend(&fields.bytes);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(&body.bytes);
    (message.len() <= MAX_MESSAGE).then_some(message)
}

/// What a property is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cgroup) enum Value {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<u32>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Numbers(_) => "au",
        }
    }
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Body {
    signature: String,
    bytes: Vec<u8>,
}

impl Body {
    pub(super) fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        self.string(text);
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        self.signature.push('b');
        self.number(u32::from(value));
        self
    }

    pub(super) fn numbers(mut self, numbers: &[u32]) -> Self {
        self.signature.push_str("au");
        self.array(4, |body| numbers.iter().for_each(|number| body.number(*number)));
        self
    }

    /// `a(sv)`.
    pub(super) fn properties(mut self, properties: &[(String, Value)]) -> Self {
        self.signature.push_str("a(sv)");
        self.array(8, |body| {
            for (name, value) in properties {
                body.pad(8);
                body.string(name);
                body.signature(value.signature());
                body.value(value);
            }
        });
        self
    }

    /// `a(sa(sv))` of nothing: no further units.
    pub(super) fn no_units(mut self) -> Self {
        self.signature.push_str("a(sa(sv))");
        self.array(8, |_| {});
        self
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => self.number(u32::from(*value)),
            Value::I32(value) => self.number(value.cast_unsigned()),
            Value::U32(value) => self.number(*value),
            Value::I64(value) => self.long(value.cast_unsigned()),
            Value::U64(value) => self.long(*value),
            Value::Text(text) => self.string(text),
            Value::Texts(texts) => self.array(4, |body| texts.iter().for_each(|text| body.string(text))),
            Value::Numbers(all) => self.array(4, |body| all.iter().for_each(|number| body.number(*number))),
        }
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.pad(4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn long(&mut self, number: u64) {
        self.pad(8);
        self.bytes.extend(number.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        // What is longer than a message may be is refused when it is sent.
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
    }

    /// Elements, behind their length in bytes, which leaves out the padding before the first one.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.bytes.len() - 4;
        self.pad(align);
        let start = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Reads what was marshalled; `None` where it ends early or is malformed.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn pad(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.pad(4)?;
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// A string or an object's path.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    pub(super) fn signature(&mut self) -> Option<&'a str> {
        let length = self.u8()?.into();
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.u8()? == 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_marshalled_as_the_specification_says() {
        let method = Method { destination: "a.b", path: "/c", interface: "d.e", member: "F" };
        let properties = [
            ("Yes".to_owned(), Value::Bool(true)),
            ("Max".to_owned(), Value::U64(7)),
            ("PIDs".to_owned(), Value::Numbers(vec![9])),
        ];
        let body = Body::default().text("x").properties(&properties).no_units();
        let message = encode(method, 5, &body).expect("short");
        #[rustfmt::skip]
        let fields = [
            &b"\x01\x01o\0\x02\0\0\0/c\0\0\0\0\0\0"[..],
            b"\x02\x01s\0\x03\0\0\0d.e\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0F\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
            b"\x08\x01g\0\x0fsa(sv)a(sa(sv))\0",
        ].concat();
        #[rustfmt::skip]
        let arguments = [
            &b"\x01\0\0\0x\0\0\0"[..],
            b"\x40\0\0\0\0\0\0\0",
            b"\x03\0\0\0Yes\0\x01b\0\0\x01\0\0\0",
            b"\x03\0\0\0Max\0\x01t\0\0\0\0\0\0\x07\0\0\0\0\0\0\0",
            b"\x04\0\0\0PIDs\0\x02au\0\0\0\0\x04\0\0\0\x09\0\0\0",
            b"\0\0\0\0\0\0\0\0",
        ].concat();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
        let start =
            [&b"l\x01\0\x01"[..], &length(&arguments), b"\x05\0\0\0", &length(&fields), &fields].concat();
        assert_eq!(message.get(..start.len()), Some(start.as_slice()));
        assert_eq!(message.get(start.len().next_multiple_of(8)..), Some(arguments.as_slice()));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::default().read_fields(&bytes);
            let _ = job_removed(&bytes);
            if let Ok(fixed) = <[u8; 16]>::try_from(bytes.get(..16).unwrap_or_default()) {
                let _ = Lengths::of(&fixed);
            }
        }
    }
}
