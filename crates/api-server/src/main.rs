//! `coved`: the engine behind its API, in the foreground.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api_server::listen::{self, Address, Inherited, bind};
use api_server::{Server, rootless, tls};
use clap::Parser;
use engine::{Config, Engine};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_vsock::VsockListener;

/// Cove's container engine. It stays in the foreground; containers outlive it.
#[derive(Parser, Debug)]
#[command(
    name = "coved",
    version,
    about,
    after_help = "\
Examples:
  coved                                    as root: /var/lib/cove, /run/cove/cove.sock
  coved --listen unix:///tmp/c.sock --root /tmp/c --state /tmp/c-run
  coved --listen tcp://0.0.0.0:2376 --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem"
)]
struct Args {
    /// Where clients connect, unix://PATH, tcp://ADDRESS:PORT or fd://NUMBER of a socket that this is started with; may be
    /// given several times
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// The certificate for TCP; clients must have one too (--tls-ca)
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who signs the certificates of clients
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// TCP without TLS: whoever reaches the port can do anything on this computer that this user can
    #[arg(long, conflicts_with = "tls_cert")]
    tcp_open_to_everybody: bool,
    /// Where images, containers and logs are kept
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where sockets and other things are kept that a reboot may take
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// End after so many seconds without clients and containers
    #[arg(long, value_name = "SECONDS|off", default_value = "off", value_parser = idle)]
    idle_exit: Idle,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// The cove-runtime program; beside this one unless given
    #[arg(long, value_name = "FILE")]
    runtime: Option<PathBuf>,
    /// A registry without TLS, or with a certificate nobody signed
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
    /// Certificates of registries, laid out as in /etc/docker/certs.d, which is read too
    #[arg(long, value_name = "DIR")]
    registry_certs: Option<PathBuf>,
    /// A mirror of Docker Hub
    #[arg(long, value_name = "URL")]
    registry_mirror: Vec<String>,
    /// What --add-host …:host-gateway stands for, and host.docker.internal in every container: the computer around
    /// the virtual machine that this runs in; once for each version of IP
    #[arg(long, value_name = "IP")]
    host_gateway_ip: Vec<IpAddr>,
    /// Clients may name folders by Windows' drives, which are folders here: C:\src is /c/src
    #[arg(long)]
    drives: bool,
}

#[derive(Debug, Clone, Copy)]
struct Idle(Option<Duration>);

fn idle(text: &str) -> Result<Idle, String> {
    if text == "off" {
        return Ok(Idle(None));
    }
    text.parse()
        .map(|seconds| Idle(Some(Duration::from_secs(seconds))))
        .map_err(|_| "expected seconds or off".into())
}

fn main() -> std::process::ExitCode {
    match start(Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // The log may be set too low for this, and whoever waits for the socket reads it.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("coved: {error:#}\n"));
            // Of all that can be wrong before there are clients, this alone is a matter of time.
            match error.downcast_ref::<engine::Error>() {
                Some(engine::Error::Conflict { .. }) => std::process::ExitCode::from(api::EXIT_IN_USE),
                _ => std::process::ExitCode::FAILURE,
            }
        }
    }
}

fn start(args: Args) -> Result<()> {
    let level = tracing_subscriber::EnvFilter::try_new(format!(
        "warn,engine={0},network={0},image_store={0},api_server={0},coved={0}",
        args.log_level
    ))
    .context("invalid --log-level")?;
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    if !rootless::is_rootless()
        && let Err(error) = engine::enter_scope(&places(&args)?.root)
    {
        tracing::warn!(error = error.chain(), "systemd gives the containers no cgroup of their own");
    }
    if rootless::is_to_enter() {
        rootless::enter(&places(&args)?.state)?;
    }
    if let Err(error) = stdx::process::raise_open_files() {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = args.listen.iter().find(|address| !seen.insert(*address)) {
        bail!("--listen {twice} is given twice");
    }
    let inherited = args.listen.iter().filter_map(|address| match address {
        Address::Inherited(number) => Some(listen::inherit(*number)),
        Address::Unix(_) | Address::Tcp(_) => None,
    });
    let inherited = inherited.collect::<Result<Vec<_>>>()?;
    // Two threads serve; what blocks has its own, which go when idle.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("failed to start the event loop")?;
    runtime.block_on(run(args, inherited))
}

struct Places {
    root: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

/// The default places of this user.
fn places(args: &Args) -> Result<Places> {
    let (root, state) = if rootless::is_rootless() || rootless::is_to_enter() {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".local/share")));
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        (data.map(|dir| dir.join("cove")), run.map(|dir| dir.join("cove")))
    } else {
        (Some("/var/lib/cove".into()), Some("/run/cove".into()))
    };
    let root =
        args.root.clone().or(root).context("--root is missing, and neither XDG_DATA_HOME nor HOME is set")?;
    let state = args.state.clone().or(state).context("--state is missing, and XDG_RUNTIME_DIR is not set")?;
    let socket = state.join("cove.sock");
    Ok(Places { root, state, socket })
}

fn runtime_program(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given);
    }
    let beside =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("cove-runtime")));
    if let Some(beside) = beside.filter(|path| path.exists()) {
        return Ok(beside);
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("cove-runtime")).find(|path| path.exists());
    found.context("cove-runtime is neither beside coved nor in PATH; name it with --runtime")
}

async fn run(args: Args, inherited: Vec<OwnedFd>) -> Result<()> {
    let places = places(&args)?;
    let runtime = runtime_program(args.runtime)?;
    let addresses = if args.listen.is_empty() { vec![Address::Unix(places.socket)] } else { args.listen };
    let has_tcp = addresses.iter().any(|address| matches!(address, Address::Tcp(_)));
    let acceptor = match (args.tls_cert, args.tls_key, args.tls_ca) {
        (Some(certificate), Some(key), Some(authority)) => {
            Some(tls::acceptor(&tls::Files { certificate, key, authority })?)
        }
        _ if has_tcp && !args.tcp_open_to_everybody => bail!(
            "listening on TCP needs --tls-cert, --tls-key and --tls-ca; without them whoever reaches the port \
             can do anything on this computer that this user can (--tcp-open-to-everybody, if that is meant)"
        ),
        _ => None,
    };
    let engine = Engine::open(Config {
        root: places.root,
        state_dir: places.state,
        runtime,
        is_rootless: rootless::is_rootless(),
        insecure_registries: args.insecure_registry,
        registry_certs: args.registry_certs,
        mirrors: args.registry_mirror,
        host_gateways: args.host_gateway_ip,
        has_drives: args.drives,
    })
    .await
    .map_err(|error| match error {
        in_use @ engine::Error::Conflict { .. } => anyhow::Error::new(in_use),
        other => anyhow::anyhow!(other.chain()),
    })?;
    let server = Server::new(engine.clone());
    let mut inherited = inherited.into_iter();
    // Tasks of their own: what arrives is taken by the thread that sees it, and not handed to this one first.
    let mut tasks = tokio::task::JoinSet::new();
    for address in &addresses {
        match address {
            Address::Unix(path) => {
                tasks.spawn(accept(bind(path)?, server.clone()));
                tracing::info!(socket = %path.display(), "listening");
            }
            Address::Inherited(_) => {
                let Some(socket) = inherited.next() else { continue };
                match Inherited::new(socket)? {
                    Inherited::Unix(listener) => tasks.spawn(accept(listener, server.clone())),
                    Inherited::Vsock(listener) => tasks.spawn(accept_vsock(listener, server.clone())),
                };
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("failed to listen on tcp://{address}"))?;
                if acceptor.is_none() {
                    tracing::warn!(%address, "anybody who reaches this port can do anything here");
                }
                let address = listener.local_addr().unwrap_or(*address);
                tracing::info!(%address, has_tls = acceptor.is_some(), "listening");
                tasks.spawn(accept_tcp(listener, acceptor.clone(), server.clone()));
            }
        }
    }
    let ended = tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => bail!("no socket is left to listen on"),
        ended = until_signal() => ended,
        () = until_idle(&engine, &server, args.idle_exit.0) => Ok(()),
    };
    tasks.shutdown().await;
    for address in &addresses {
        let Address::Unix(path) = address else { continue };
        // A socket that is gone already needs no removal.
        let _ = std::fs::remove_file(path);
    }
    engine.close().await;
    ended
}

/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be at it.
const HANDSHAKES: usize = 64;

async fn accept_tcp(listener: TcpListener, acceptor: Option<TlsAcceptor>, server: Server) {
    let tracker = Arc::new(tokio_util::task::TaskTracker::new());
    let pending = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                not_accepted(&error).await;
                continue;
            }
        };
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        let Some(acceptor) = acceptor.clone() else {
            tracker.spawn(async move { server.serve(stream, None).await });
            continue;
        };
        let Ok(place) = Arc::clone(&pending).acquire_owned().await else { return };
        tracker.spawn(async move {
            let greeted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
            drop(place);
            match greeted {
                Ok(Ok(stream)) => server.serve(stream, None).await,
                Ok(Err(error)) => tracing::info!(%client, %error, "a client was not let in"),
                Err(_) => tracing::info!(%client, "a client did not say who it is"),
            }
        });
    }
}

/// Out of descriptors, most likely: clients that end give some back.
async fn not_accepted(error: &std::io::Error) {
    tracing::warn!(%error, "failed to accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Connections of the host of this virtual machine.
async fn accept_vsock(listener: VsockListener, server: Server) {
    let tracker = Arc::new(tokio_util::task::TaskTracker::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                tracker.spawn(async move { server.serve(stream, None).await });
            }
            Err(error) => not_accepted(&error).await,
        }
    }
}

async fn accept(listener: UnixListener, server: Server) {
    let tracker = Arc::new(tokio_util::task::TaskTracker::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                let socket = stream.as_fd().try_clone_to_owned().ok();
                tracker.spawn(async move { server.serve(stream, socket).await });
            }
            Err(error) => not_accepted(&error).await,
        }
    }
}

async fn until_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Ends when there was nobody and nothing for `limit`.
async fn until_idle(engine: &Engine, server: &Server, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(limit.min(Duration::from_secs(1))).await;
        if server.connections() > 0 || !engine.is_idle() {
            since = Instant::now();
        } else if since.elapsed() >= limit {
            return;
        }
    }
}
