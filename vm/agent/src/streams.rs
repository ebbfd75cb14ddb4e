//! Streams that the host opens: the engine's API, connections to ports, programs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UdpSocket, UnixStream};
use vm_proto::stream::{Open, Opened};
use vm_proto::{frame, port};

use crate::channel::{self, Channel, Listener, Stream};
use crate::children::Children;
use crate::clients::{Clients, reached};
use crate::shares::Stage;
use crate::{channel as sockets, engine, execute, layer, listeners, sys, tell, trigger};

/// How long a stream's first words may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Accepts the host's own connections to the engine, for as long as the guest runs. Its clients' go to the engine
/// itself ([`for_clients`]).
pub(crate) async fn serve_host(listener: Listener) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok(stream) => begin(carry_to_engine(stream)),
            Err(error) => refused(&error).await,
        }
    }
}

/// What the engine's clients connect to. It is kept here and handed to each engine, so that a client that comes while
/// there is none waits for the next.
pub(crate) fn for_clients(channel: Channel) -> Result<OwnedFd> {
    channel.listen(port::ENGINE)?.into_fd()
}

/// Where the host's SSH agent is found, as with Docker Desktop: its folder and its name.
const SSH_AGENT: (&str, &str) = ("/run/host-services", "ssh-auth.sock");

/// Accepts the host's other streams, for as long as the guest runs.
pub(crate) async fn serve_streams(listener: Listener, children: Children, clients: Clients) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok(stream) => begin(carry_until_gone(stream, children.clone(), clients.clone())),
            Err(error) => refused(&error).await,
        }
    }
}

/// Accepts programs of this guest that want the host's SSH agent, for as long as it runs.
pub(crate) async fn serve_ssh_agent(channel: Channel) -> Result<()> {
    fs::create_dir_all(SSH_AGENT.0)?;
    let path = format!("{}/{}", SSH_AGENT.0, SSH_AGENT.1);
    let listener = sockets::bind(&path)?;
    // Whoever was given the socket may use it, whatever user that is.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    loop {
        match listener.accept().await {
            Ok((mut program, _)) => begin(async move {
                let mut host = channel.connect(port::SSH_AGENT).await?;
                ipc::relay(&mut program, &mut host).await;
                Ok(())
            }),
            Err(error) => refused(&error).await,
        }
    }
}

/// Runs a connection beside the others.
pub(crate) fn begin(work: impl Future<Output = io::Result<()>> + Send + 'static) {
    #[expect(
        clippy::disallowed_methods,
        reason = "connections end with their sockets, and the guest with us"
    )]
    tokio::spawn(async move {
        // Whoever sees the connection break knows best why it matters.
        let _ = work.await;
    });
}

/// Too many open files, perhaps: others may close theirs meanwhile.
pub(crate) async fn refused(error: &io::Error) {
    tell(format_args!("cove-agent: failed to accept a connection: {error}"));
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn carry_to_engine(mut from: Stream) -> io::Result<()> {
    let mut to = UnixStream::connect(engine::SOCKET).await?;
    ipc::relay(&mut from, &mut to).await;
    Ok(())
}

/// Of a stream whose device is taken away, as before a sleep, the kernel tells of an error and not of an end, which wakes
/// nobody who waits for something to read.
async fn carry_until_gone(stream: Stream, children: Children, clients: Clients) -> io::Result<()> {
    let gone = sys::errors_of(channel::descriptor(&stream).try_clone_to_owned()?)?;
    tokio::select! {
        ended = carry(stream, children, clients) => ended,
        error = gone.ready(Interest::ERROR) => error.map(drop),
    }
}

async fn carry(mut stream: Stream, children: Children, clients: Clients) -> io::Result<()> {
    let open = tokio::time::timeout(DEADLINE, read_open(&mut stream)).await??;
    match open {
        Open::Tcp { address, port, .. } if !is_here(address, port, ["/proc/net/tcp", "/proc/net/tcp6"]) => {
            let refused: io::Result<()> = Err(io::ErrorKind::ConnectionRefused.into());
            answer(&mut stream, refused).await.map(drop)
        }
        Open::Udp { address, port, .. } if !is_here(address, port, ["/proc/net/udp", "/proc/net/udp6"]) => {
            let refused: io::Result<()> = Err(io::ErrorKind::ConnectionRefused.into());
            answer(&mut stream, refused).await.map(drop)
        }
        Open::Tcp { address, port, client } => {
            let connected = clients.connect(address, port, client).await;
            let Some(mut inner) = answer(&mut stream, connected).await? else { return Ok(()) };
            inner.set_nodelay(true)?;
            ipc::relay(&mut stream, &mut inner).await;
            Ok(())
        }
        Open::Udp { address, port, client } => {
            let connected = clients.connect_udp(address, port, client).await;
            let Some(socket) = answer(&mut stream, connected).await? else { return Ok(()) };
            carry_packets(stream, socket).await
        }
        Open::Changes { path, trigger } => {
            let Some(()) = answer(&mut stream, Ok(())).await? else { return Ok(()) };
            act_out(stream, path, trigger).await
        }
        Open::Told { path, is_complete } => {
            let Some(()) = answer(&mut stream, Ok(())).await? else { return Ok(()) };
            by_thread(stream, move |told| layer::hear(&path, is_complete, told)).await
        }
        Open::Execute { command, terminal } => {
            let started = execute::start(&children, &command, terminal).map_err(io::Error::other);
            let Some(program) = answer(&mut stream, started).await? else { return Ok(()) };
            program.carry(stream).await
        }
    }
}

/// Acts out changes of a share on a thread of its own, which is how the share's server knows it.
async fn act_out(stream: Stream, path: String, trigger: String) -> io::Result<()> {
    let work = move |events: io::BufReader<std::os::unix::net::UnixStream>| {
        let stage = Stage::of(Path::new(&path))?;
        trigger::act_out(events, stage.root.as_fd(), &trigger)
    };
    by_thread(stream, work).await
}

/// Has what comes by a stream read on a thread.
async fn by_thread(
    mut stream: Stream,
    work: impl FnOnce(io::BufReader<std::os::unix::net::UnixStream>) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let working = tokio::task::spawn_blocking(move || work(io::BufReader::new(theirs)));
    ours.set_nonblocking(true)?;
    let mut ours = UnixStream::from_std(ours)?;
    tokio::io::copy_buf(&mut tokio::io::BufReader::new(&mut stream), &mut ours).await?;
    drop(ours);
    working.await.map_err(io::Error::other)?
}

/// Whether something of this guest's is at an address: what listens everywhere or on loopback can't lead out of it.
fn is_here(address: IpAddr, port: u16, tables: [&str; 2]) -> bool {
    let stays = reached(address).is_loopback();
    stays || listeners::is_held(address, port, tables)
}

async fn read_open(stream: &mut Stream) -> io::Result<Open> {
    let mut head = [0; frame::HEAD];
    stream.read_exact(&mut head).await?;
    let mut body = vec![0; frame::length(head, frame::GUEST_MAX).map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    frame::decode(&body).map_err(io::Error::other)
}

/// Tells the host whether it has what it asked for; `None` after a refusal.
async fn answer<T>(stream: &mut Stream, outcome: io::Result<T>) -> io::Result<Option<T>> {
    let said = match &outcome {
        Ok(_) => Opened::Ready,
        Err(error) => Opened::Refused { cause: error.to_string() },
    };
    stream.write_all(&frame::encode(&said).map_err(io::Error::other)?).await?;
    Ok(outcome.ok())
}

/// Packets of one flow, each behind its length, until the host ends the stream.
async fn carry_packets(stream: Stream, socket: UdpSocket) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let inward = async {
        let mut packet = vec![0; usize::from(u16::MAX)];
        loop {
            let length = usize::from(from.read_u16_le().await?);
            let Some(place) = packet.get_mut(..length) else { continue };
            from.read_exact(place).await?;
            // A packet that nobody takes is lost, as packets are.
            let _ = socket.send(place).await;
        }
    };
    let outward = async {
        let mut packet = vec![0; usize::from(u16::MAX)];
        loop {
            let Ok(length) = socket.recv(&mut packet).await else { continue };
            to.write_u16_le(u16::try_from(length).unwrap_or(u16::MAX)).await?;
            to.write_all(packet.get(..length).unwrap_or_default()).await?;
        }
    };
    tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
    }
}
