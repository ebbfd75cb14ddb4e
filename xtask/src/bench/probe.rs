//! `xtask probe`: one end of a connection, executed in whichever network namespace it is measured from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a rate is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// Bytes written at once where throughput is measured.
const CHUNK: usize = 128 << 10;
/// Round trips and questions of one measurement.
const TURNS: usize = 5000;

/// What a client wants of the server, said by its first byte.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
const CLOSE: u8 = b'c';

/// `probe serve PORT`, `probe rtt|connections|throughput ADDRESS`, `probe names NAME@SERVER`: prints one figure,
/// two of them for names.
pub(crate) fn probe(args: &[String]) -> Result<()> {
    let [what, at] = args else { bail!("probe needs a measurement and where") };
    match what.as_str() {
        "serve" => serve(at.parse().context("no port")?),
        "rtt" => print(&[round_trip(at)?]),
        "connections" => print(&[connections(at)?]),
        "throughput" => print(&[throughput(at)?]),
        "names" => names(at).and_then(|(rate, slow)| print(&[rate, slow])),
        other => bail!("probe has no measurement {other:?}"),
    }
}

fn print(figures: &[f64]) -> Result<()> {
    for figure in figures {
        println!("{figure}");
    }
    Ok(())
}

fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("failed to listen")?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut wanted = [0];
        if stream.read(&mut wanted)? == 0 || wanted[0] == CLOSE {
            continue;
        }
        // A client that goes away ends its connection, nothing else.
        std::thread::spawn(move || if wanted[0] == ECHO { echo(stream) } else { sink(stream) });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
}

/// Reads to the end, and answers how much there was.
fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0_u64;
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        total += read as u64;
    }
    let _ = stream.write_all(&total.to_le_bytes());
}

fn connect(at: &str, wanted: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).with_context(|| format!("failed to connect to {at}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wanted])?;
    Ok(stream)
}

/// The median of a message of 64 bytes and its echo, in seconds.
fn round_trip(at: &str) -> Result<f64> {
    let mut stream = connect(at, ECHO)?;
    let mut buffer = [7; 64];
    let mut times = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let began = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        times.push(began.elapsed());
    }
    Ok(super::median(times).as_secs_f64())
}

/// Connections made, used and ended, one after the other, in a second.
fn connections(at: &str) -> Result<f64> {
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < WINDOW {
        let mut stream = connect(at, CLOSE)?;
        // The server's end is the end; a reset too.
        let _ = stream.read(&mut [0]);
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// Bytes that arrived, in a second.
#[expect(clippy::cast_precision_loss, reason = "a rate, to three digits")]
fn throughput(at: &str) -> Result<f64> {
    let mut stream = connect(at, SINK)?;
    let chunk = vec![7; CHUNK];
    let began = Instant::now();
    while began.elapsed() < WINDOW {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(u64::from_le_bytes(total) as f64 / began.elapsed().as_secs_f64())
}

/// Questions for the address of a name, one after the other: answers in a second, and the slowest in a
/// hundred in seconds.
#[expect(clippy::cast_precision_loss, reason = "a rate, to three digits")]
fn names(at: &str) -> Result<(f64, f64)> {
    let (name, server) = at.split_once('@').context("whom to ask is missing")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    // RFC 1035, 4.1: id 7, recursion desired, one question of type A and class IN.
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len())?];
    question.extend(name.as_bytes());
    question.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    let mut times = Vec::with_capacity(TURNS);
    let began = Instant::now();
    for _ in 0..TURNS {
        let asked = Instant::now();
        socket.send(&question)?;
        let read = socket.recv(&mut answer).context("no answer")?;
        ensure!(read > question.len() && answer[3] & 15 == 0, "{name} was not found");
        times.push(asked.elapsed());
    }
    let rate = TURNS as f64 / began.elapsed().as_secs_f64();
    times.sort();
    Ok((rate, times[TURNS * 99 / 100].as_secs_f64()))
}

/// Answers to `GET path` in a second, over one connection.
pub(super) fn requests(socket: &Path, path: &str) -> Result<f64> {
    let mut stream = UnixStream::connect(socket)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < WINDOW {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        skip_answer(&mut reader)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn skip_answer(reader: &mut impl BufRead) -> Result<()> {
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the engine hung up");
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut skip = |count: usize| -> Result<()> { Ok(reader.read_exact(&mut vec![0; count])?) };
    match length {
        Some(length) => skip(length),
        None => loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16)?;
            reader.read_exact(&mut vec![0; size + 2])?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}
