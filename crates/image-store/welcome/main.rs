//! The welcome image's program: a page that shows a container from inside.
//!
//! It stands alone (compiled by the build script, linked statically) and reads nothing but /proc.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const PAGE: &str = include_str!("page.html");
const DEFAULT: &str = "127.0.0.1:8480";

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

/// As the first process, nothing ends this program unless it does so itself.
extern "C" fn end(_signal: i32) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { _exit(0) }
}

fn main() {
    for number in [2, 15] {
        // SAFETY: `end` is an async-signal-safe handler that lives for ever.
        unsafe { signal(number, end) };
    }
    let wanted = std::env::var("COVE_WELCOME_LISTEN").unwrap_or_else(|_| DEFAULT.into());
    let listener = TcpListener::bind(&wanted).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            println!("Welcome to Cove. This container has no network to show its page on: {error}");
            print!("{}", facts().iter().fold(String::new(), |text, (name, value)| text + &format!("{name}: {value}\n")));
            return;
        }
    };
    if let Ok(address) = listener.local_addr() {
        println!("Welcome to Cove: open http://{address}/");
    }
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let _ = answer(stream);
        });
    }
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.take(16 * 1024));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut wants_json = false;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let lower = header.to_ascii_lowercase();
        wants_json |= lower.starts_with("accept:") && lower.contains("application/json");
    }
    let mut stream = reader.into_inner().into_inner();
    println!("{}", line.trim());
    let (status, kind, body) = match path.as_str() {
        "/" if wants_json => ("200 OK", "application/json", json()),
        "/" => ("200 OK", "text/html; charset=utf-8", page()),
        _ => ("404 Not Found", "text/plain", "There is only one page: /\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn status(name: &str) -> String {
    let text = read("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// What there is to see, in words.
fn facts() -> Vec<(&'static str, String)> {
    let hostname = read("/proc/sys/kernel/hostname").trim().to_owned();
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let uid = status("Uid").split_whitespace().next().unwrap_or("?").to_owned();
    let seccomp = match status("Seccomp").as_str() {
        "2" => "a filter decides each call".to_owned(),
        "0" => "no filter".to_owned(),
        other => other.to_owned(),
    };
    let network = match TcpListener::bind("127.0.0.1:0") {
        Ok(_) => {
            let interfaces = read("/proc/net/dev");
            let names: Vec<&str> =
                interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
            names.join(", ")
        }
        Err(_) => "none".to_owned(),
    };
    vec![
        ("Host name", hostname),
        ("Process id", std::process::id().to_string()),
        ("User id", uid),
        ("Kernel", kernel),
        ("Memory", memory()),
        ("Processors", std::thread::available_parallelism().map_or_else(|_| "?".into(), |n| n.to_string())),
        ("Network interfaces", network),
        ("Capabilities", capabilities()),
        ("System calls", seccomp),
        ("New privileges", if status("NoNewPrivs") == "1" { "never".into() } else { "by set-id programs".into() }),
    ]
}

fn memory() -> String {
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| read(path).trim().parse::<u64>().ok())
        .filter(|bytes| *bytes < 1 << 60);
    match limit {
        Some(bytes) => format!("{} MB at most", bytes >> 20),
        None => {
            let total = read("/proc/meminfo");
            let kilobytes = total.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kilobytes.map_or_else(|| "?".into(), |k| format!("all of the machine's {} MB", k >> 10))
        }
    }
}

fn capabilities() -> String {
    const NAMES: [&str; 41] = [
        "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
        "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
        "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
        "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
        "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
        "checkpoint_restore",
    ];
    let mask = u64::from_str_radix(&status("CapEff"), 16).unwrap_or(0);
    let held: Vec<&str> = NAMES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, name)| *name).collect();
    if held.is_empty() { "none".into() } else { format!("{} of 41: {}", held.len(), held.join(", ")) }
}

fn namespaces() -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let mut all: Vec<(String, String)> = entries
        .map(|entry| {
            let link = std::fs::read_link(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), link.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| !name.ends_with("_for_children"))
        .collect();
    all.sort();
    all
}

fn mounts() -> Vec<(String, String)> {
    read("/proc/self/mounts")
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, target, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let access = if options.split(',').any(|option| option == "ro") { "read-only" } else { "writable" };
            Some((target.to_owned(), format!("{kind}, {access}")))
        })
        .collect()
}

/// Names only: values may be secrets.
fn environment() -> Vec<(String, String)> {
    let mut names: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names.into_iter().map(|name| (name, String::new())).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page() -> String {
    let rows = |list: &[(String, String)]| {
        list.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = write!(text, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
            text
        })
    };
    let facts: Vec<(String, String)> = facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    PAGE.replace("{{facts}}", &rows(&facts))
        .replace("{{namespaces}}", &rows(&namespaces()))
        .replace("{{mounts}}", &rows(&mounts()))
        .replace("{{environment}}", &rows(&environment()))
}

fn json() -> String {
    let quote = |text: &str| {
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                c if c.is_control() => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
        out
    };
    let object = |list: &[(String, String)]| {
        let fields: Vec<String> = list.iter().map(|(name, value)| format!("{}:{}", quote(name), quote(value))).collect();
        format!("{{{}}}", fields.join(","))
    };
    let facts: Vec<(String, String)> = facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    format!(
        "{{\"facts\":{},\"namespaces\":{},\"mounts\":{}}}\n",
        object(&facts),
        object(&namespaces()),
        object(&mounts())
    )
}
