//! The channel to a guest each of whose connections is a socket of its own, which the event loop waits for as for any other.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::connecting::{AGAIN, Counts, until_deadline};

/// How long one try may take, of a guest that says nothing at all.
const TRY: Duration = Duration::from_secs(2);

/// Who connects to the guest, and is connected to. What it gives are sockets, of whatever family.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Connects to a port that something in the guest listens on. Blocks, for `patience` at most.
    fn connect(&self, port: u32, patience: Duration) -> io::Result<StdStream>;

    /// Listens at a port of the host's for the guest.
    fn listen(&self, port: u32) -> io::Result<StdStream>;

    /// Takes who has connected there; does not block.
    fn accept(&self, port: u32, listening: &TcpStream) -> io::Result<StdStream>;
}

/// A machine's channel. Cheap calls, from any thread; connections end with it.
pub(crate) struct Channel {
    guest: Arc<dyn Dial>,
    runtime: Handle,
    open: CancellationToken,
    counts: Counts,
    /// Why the guest can't reach the host, if it can't.
    deaf: Mutex<Option<io::Error>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.open.cancel();
    }
}

impl Channel {
    /// One whose connections are carried by `runtime`.
    pub(crate) fn new(guest: Arc<dyn Dial>, runtime: Handle) -> Self {
        Self {
            guest,
            runtime,
            open: CancellationToken::new(),
            counts: Counts::default(),
            deaf: Mutex::default(),
        }
    }

    /// Connects to a port that something in the guest listens on. One that is still booting is waited for until the
    /// deadline.
    pub(crate) async fn open(&self, port: u32, deadline: Duration) -> io::Result<TcpStream> {
        open(&self.guest, port, deadline).await
    }

    /// Has a client speak to a port of the guest, which is waited for as by [`Self::open`]. Returns at once; `done` hears
    /// how it went, unless the channel ends before.
    pub(crate) fn attach(
        &self,
        port: u32,
        mut client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        deadline: Duration,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let counted = self.counts.add(port);
        let guest = Arc::clone(&self.guest);
        let carry = async move {
            let _counted = counted;
            match open(&guest, port, deadline).await {
                Ok(mut inner) => {
                    done(Ok(()));
                    ipc::relay(&mut client, &mut inner).await;
                }
                Err(error) => done(Err(error)),
            }
        };
        self.runtime.spawn(self.open.clone().run_until_cancelled_owned(carry));
    }

    /// How many connections to a port of the guest there are, those that it has not answered yet among them.
    pub(crate) fn connections(&self, port: u32) -> usize {
        self.counts.of(port)
    }

    /// Takes the guest's connections to the host's `port`. `accept` must not block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(TcpStream) + Send + Sync + 'static) {
        let listening = self.guest.listen(port).and_then(|listening| {
            let _entered = self.runtime.enter();
            in_loop(listening)
        });
        let listening = match listening {
            Ok(listening) => listening,
            Err(error) => {
                tracing::error!(%error, port, "failed to listen to the guest");
                self.lock_deaf().get_or_insert(error);
                return;
            }
        };
        let guest = Arc::clone(&self.guest);
        let serve = async move {
            loop {
                let taken = listening.async_io(Interest::READABLE, || guest.accept(port, &listening)).await;
                match taken.and_then(in_loop) {
                    Ok(stream) => accept(stream),
                    Err(error) => {
                        tracing::warn!(%error, port, "failed to accept a connection of the guest's");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        self.runtime.spawn(self.open.clone().run_until_cancelled_owned(serve));
    }

    fn lock_deaf(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the guest would not reach us, if it would not.
    pub(crate) fn take_deafness(&self) -> Option<io::Error> {
        self.lock_deaf().take()
    }
}

async fn open(guest: &Arc<dyn Dial>, port: u32, deadline: Duration) -> io::Result<TcpStream> {
    let connect = |left: Duration| {
        let dials = Arc::clone(guest);
        // A try whose answer nobody hears ends by itself.
        let connect = tokio::task::spawn_blocking(move || dials.connect(port, left.min(TRY)));
        async { connect.await.unwrap_or_else(|error| Err(io::Error::other(error))) }
    };
    in_loop(until_deadline(deadline, connect).await?)
}

fn in_loop(stream: StdStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A guest on the loopback: port 7 answers with what it heard, 8 is not there at first, nobody listens at 9, and 5 of
    /// the host's is somebody else's.
    struct Guest {
        tries: Mutex<usize>,
        echo: u16,
        host: TcpListener,
    }

    impl Guest {
        fn new() -> Arc<Self> {
            let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = echo.local_addr().unwrap().port();
            std::thread::spawn(move || {
                for mut stream in echo.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut heard = Vec::new();
                        io::Read::read_to_end(&mut stream, &mut heard).unwrap();
                        io::Write::write_all(&mut stream, &heard).unwrap();
                    });
                }
            });
            let host = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            host.set_nonblocking(true).unwrap();
            Arc::new(Self { tries: Mutex::default(), echo: port, host })
        }
    }

    impl Dial for Guest {
        fn connect(&self, port: u32, _: Duration) -> io::Result<StdStream> {
            let mut tries = self.tries.lock().unwrap();
            *tries += 1;
            if port == 9 || (port == 8 && *tries < 3) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            StdStream::connect((Ipv4Addr::LOCALHOST, self.echo))
        }

        fn listen(&self, port: u32) -> io::Result<StdStream> {
            if port == 5 {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            // A socket is a socket.
            #[cfg(unix)]
            let same = std::os::fd::OwnedFd::from(self.host.try_clone()?);
            #[cfg(windows)]
            let same = std::os::windows::io::OwnedSocket::from(self.host.try_clone()?);
            Ok(same.into())
        }

        fn accept(&self, _: u32, _: &TcpStream) -> io::Result<StdStream> {
            self.host.accept().map(|(stream, _)| stream)
        }
    }

    fn channel() -> (Arc<Guest>, Channel) {
        let guest = Guest::new();
        let channel = Channel::new(Arc::clone(&guest) as Arc<dyn Dial>, Handle::current());
        (guest, channel)
    }

    #[tokio::test]
    async fn a_client_speaks_to_a_guest_that_is_waited_for() {
        for port in [7, 8] {
            let (_, channel) = channel();
            let (mut client, theirs) = tokio::io::duplex(1 << 10);
            let (told, answer) = oneshot::channel();
            channel.attach(port, theirs, Duration::from_secs(10), |outcome| told.send(outcome).unwrap());
            assert_eq!(channel.connections(port), 1);
            answer.await.unwrap().unwrap();
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"hello");
            let gone = async {
                while channel.connections(port) > 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_never_listens_is_given_up() {
        let (_, channel) = channel();
        let error = channel.open(9, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn the_guest_calls_and_the_loop_waits_for_it() {
        let (guest, channel) = channel();
        let (sender, mut called) = mpsc::channel(4);
        channel.listen(1, move |stream| sender.try_send(stream).unwrap());
        for word in [b"first", b"other"] {
            let mut there = TcpStream::connect(guest.host.local_addr().unwrap()).await.unwrap();
            let mut here =
                tokio::time::timeout(Duration::from_secs(10), called.recv()).await.unwrap().unwrap();
            there.write_all(word).await.unwrap();
            let mut heard = [0; 5];
            here.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, word);
        }
        drop(channel);
        assert!(called.recv().await.is_none(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_port_that_can_not_be_listened_at_is_told() {
        let (_, channel) = channel();
        assert!(channel.take_deafness().is_none());
        channel.listen(5, |_| {});
        assert_eq!(channel.take_deafness().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}
