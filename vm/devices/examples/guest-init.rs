//! The first process of a guest that the tests of the devices boot: services on vsock ports, and a shell.
//!
//! Linked statically (`-C target-feature=+crt-static`), put into an initramfs as `/init`, with busybox at
//! `/bin/busybox` and, one a line in `/modules.load`, the modules to load.
//!
//! | port | does |
//! |---|---|
//! | 7 | sends back what it gets; ends its half when the other's has ended |
//! | 9 | counts what it gets until the end, then answers the count in eight bytes |
//! | 19 | reads a count of eight bytes, sends as many |
//! | 23 | reads a shell command until the end, sends its output |
//! | 41 | reads a line with a share's root, one with its trigger's name, then acts out events |
//! | 43 | reads paths, a line each, until an empty one; then tells what inotify says of them, a line each |
//! | 37 | reads a port of four bytes, then joins the connection with one to that port of the host |
//!
//! When all is ready it connects to the host's port 9000.

#[cfg(target_os = "linux")]
fn main() {
    guest::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
#[path = "../../agent/src/trigger.rs"]
mod trigger;

#[cfg(target_os = "linux")]
mod guest {
    use super::trigger;
    use std::collections::HashMap;
    use std::ffi::CStr;
    use std::fs::File;
    use std::io::{self, BufRead, Read, Write};
    use std::mem::MaybeUninit;
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};
    use std::thread;

    use rustix::fs::inotify::{self, ReadFlags};
    use rustix::mount::{MountFlags, mount};
    use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

    type Service = fn(VsockStream) -> io::Result<()>;

    const BUFFER: usize = 256 * 1024;

    pub(crate) fn main() {
        for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
            let _ = std::fs::create_dir_all(place);
            if let Err(error) = mount(kind, place, kind, MountFlags::empty(), None::<&CStr>) {
                say(&format!("{place}: {error}"));
            }
        }
        for path in std::fs::read_to_string("/modules.load").unwrap_or_default().lines() {
            let loaded = File::open(path)
                .and_then(|file| rustix::system::finit_module(file, c"", 0).map_err(io::Error::from));
            if let Err(error) = loaded {
                say(&format!("{path}: {error}"));
            }
        }
        let services: [(u32, Service); 7] =
            [(7, echo), (9, sink), (19, source), (23, shell), (37, join), (41, act_out), (43, watch)];
        for (port, service) in services {
            let listener = match VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port) {
                Ok(listener) => listener,
                Err(error) => {
                    say(&format!("port {port}: {error}"));
                    continue;
                }
            };
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = thread::Builder::new().stack_size(64 * 1024).spawn(move || service(stream));
                }
            });
        }
        say("ready");
        match VsockStream::connect_with_cid_port(VMADDR_CID_HOST, 9000) {
            Ok(mut stream) => drop(stream.write_all(b"hello\n")),
            Err(error) => say(&format!("host: {error}")),
        }
        loop {
            thread::park();
        }
    }

    fn say(what: &str) {
        let _ = writeln!(io::stdout(), "guest-init: {what}");
    }

    fn echo(mut stream: VsockStream) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return stream.shutdown(Shutdown::Write);
            }
            stream.write_all(&buffer[..count])?;
        }
    }

    fn sink(mut stream: VsockStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut total: u64 = 0;
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return stream.write_all(&total.to_le_bytes());
            }
            total += count as u64;
        }
    }

    fn source(mut stream: VsockStream) -> io::Result<()> {
        let mut count = [0; 8];
        stream.read_exact(&mut count)?;
        let mut left = u64::from_le_bytes(count);
        let buffer = vec![b'x'; BUFFER];
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            stream.write_all(&buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "the guest has one environment, its own")]
    fn shell(mut stream: VsockStream) -> io::Result<()> {
        let mut command = String::new();
        stream.read_to_string(&mut command)?;
        let output = Command::new("/bin/busybox")
            .args(["sh", "-c", &format!("exec 2>&1; export PATH=/bin:/sbin; {command}")])
            .stdin(Stdio::null())
            .output()?;
        stream.write_all(&output.stdout)
    }

    fn act_out(stream: VsockStream) -> io::Result<()> {
        let mut events = io::BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            events.read_line(&mut line).map(|_| line.trim_end().to_owned())
        };
        let (root, trigger) = (line()?, line()?);
        trigger::act_out(events, File::open(root)?.as_fd(), &trigger)
    }

    fn watch(mut stream: VsockStream) -> io::Result<()> {
        let kinds = [
            (ReadFlags::CREATE, "create"),
            (ReadFlags::DELETE, "delete"),
            (ReadFlags::MODIFY, "modify"),
            (ReadFlags::ATTRIB, "attrib"),
            (ReadFlags::MOVED_FROM, "from"),
            (ReadFlags::MOVED_TO, "to"),
            (ReadFlags::DELETE_SELF, "gone"),
        ];
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let mut watched = HashMap::new();
        for path in io::BufReader::new(stream.try_clone()?).lines() {
            let path = path?;
            if path.is_empty() {
                break;
            }
            watched.insert(inotify::add_watch(&inotify, &path, inotify::WatchFlags::ALL_EVENTS)?, path);
        }
        stream.write_all(b"watching\n")?;
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut space);
        loop {
            let event = reader.next()?;
            let path = watched.get(&event.wd()).map_or("?", String::as_str);
            let name = event.file_name().unwrap_or_default().to_string_lossy();
            for (_, kind) in kinds.iter().filter(|(flag, _)| event.events().contains(*flag)) {
                stream.write_all(format!("{kind} {path} {name}\n").as_bytes())?;
            }
        }
    }

    fn join(mut stream: VsockStream) -> io::Result<()> {
        let mut port = [0; 4];
        stream.read_exact(&mut port)?;
        let mut host = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, u32::from_le_bytes(port))?;
        let (mut from_host, mut to_stream) = (host.try_clone()?, stream.try_clone()?);
        let back = thread::spawn(move || {
            let _ = io::copy(&mut from_host, &mut to_stream);
            let _ = to_stream.shutdown(Shutdown::Write);
        });
        io::copy(&mut stream, &mut host)?;
        host.shutdown(Shutdown::Write)?;
        let _ = back.join();
        Ok(())
    }
}
