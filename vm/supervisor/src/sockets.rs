//! The channel to a guest each of whose connections is a socket of its own, which the event loop waits for as for any other.

use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::connecting::{AGAIN, Counts, Gate, until_deadline};

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
    /// Until when it is listened.
    listens: CancellationToken,
    gate: Gate,
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
        self.listens.cancel();
        self.gate.shut();
    }
}

/// A connection of either side, which ends by itself when all do.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: TcpStream,
    /// Each direction may be waited for by a task of its own.
    ends_reading: Pin<Box<WaitForCancellationFutureOwned>>,
    ends_writing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream {
    fn new(inner: TcpStream, until: CancellationToken) -> Self {
        let ends_reading = Box::pin(until.clone().cancelled_owned());
        Self { inner, ends_reading, ends_writing: Box::pin(until.cancelled_owned()) }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.ends_reading.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => Pin::new(&mut self.inner).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.ends_writing.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => Pin::new(&mut self.inner).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Channel {
    /// One whose connections are carried by `runtime`.
    pub(crate) fn new(guest: Arc<dyn Dial>, runtime: Handle) -> Self {
        Self {
            guest,
            runtime,
            listens: CancellationToken::new(),
            gate: Gate::default(),
            counts: Counts::default(),
            deaf: Mutex::default(),
        }
    }

    /// Connects to a port that something in the guest listens on. One that is still booting is waited for until the
    /// deadline.
    pub(crate) async fn open(&self, port: u32, deadline: Duration) -> io::Result<Stream> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let until = self.gate.open().ok_or_else(gone)?;
        let opened = until.clone().run_until_cancelled_owned(open(&self.guest, port, deadline)).await;
        Ok(Stream::new(opened.ok_or_else(gone)??, until))
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
        let Some(until) = self.gate.open() else { return done(Err(io::ErrorKind::NotConnected.into())) };
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
        self.runtime.spawn(until.run_until_cancelled_owned(carry));
    }

    /// How many connections to a port of the guest there are, those that it has not answered yet among them.
    pub(crate) fn connections(&self, port: u32) -> usize {
        self.counts.of(port)
    }

    /// Takes the guest's connections to the host's `port`. `accept` must not block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(Stream) + Send + Sync + 'static) {
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
        let (guest, gate) = (Arc::clone(&self.guest), self.gate.clone());
        let serve = async move {
            loop {
                let taken = listening.async_io(Interest::READABLE, || guest.accept(port, &listening)).await;
                match taken.and_then(in_loop) {
                    Ok(stream) => {
                        if let Some(until) = gate.open() {
                            accept(Stream::new(stream, until));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, port, "failed to accept a connection of the guest's");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        self.runtime.spawn(self.listens.clone().run_until_cancelled_owned(serve));
    }

    /// Ends all connections and has none be made from now on, as if the device were gone.
    pub(crate) fn hang_up(&self) {
        self.gate.shut();
    }

    /// Has connections be made again.
    pub(crate) fn hear_again(&self) {
        self.gate.open_again();
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
        // What is refused late is not heard of in time.
        assert!(
            matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut),
            "{error}"
        );
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
    async fn before_a_sleep_all_connections_end_and_none_is_taken() {
        let (guest, channel) = channel();
        let (sender, mut called) = mpsc::channel(4);
        channel.listen(1, move |stream| sender.try_send(stream).unwrap());
        let address = guest.host.local_addr().unwrap();
        let mut there = TcpStream::connect(address).await.unwrap();
        let mut here = called.recv().await.unwrap();
        let mut opened = channel.open(7, Duration::from_secs(10)).await.unwrap();
        let hang_up = async {
            tokio::task::yield_now().await;
            channel.hang_up();
        };
        // It is waited for when it happens.
        let (ended, ()) = tokio::join!(here.read_u8(), hang_up);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        drop(here);
        assert_eq!(opened.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(there.read_u8().await.is_err(), "the guest hears of it");
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(refused.read_u8().await.is_err());
        channel.hear_again();
        let _again = TcpStream::connect(address).await.unwrap();
        called.recv().await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_can_not_be_listened_at_is_told() {
        let (_, channel) = channel();
        assert!(channel.take_deafness().is_none());
        channel.listen(5, |_| {});
        assert_eq!(channel.take_deafness().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}
