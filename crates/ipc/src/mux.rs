//! Many streams over one, for where there is no more than one: both sides connect to ports of the other.
//!
//! Underneath is yamux. A stream begins with the port it is for (four bytes, little endian), and is answered by one byte
//! once somebody there has taken it; what is refused ends without.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// Streams at once, both sides' together.
const STREAMS_MAX: usize = 4 << 10;
/// What may be under way of each that nobody reads (yamux' specification).
const WINDOW: usize = 256 << 10;
/// Streams on their way to whoever takes them; those beyond are refused.
const WAITING: usize = 256;
/// How long one may take to say what it is for.
const DEADLINE: Duration = Duration::from_secs(10);
/// Somebody has taken it.
const TAKEN: u8 = 1;

/// A stream among many. Each direction ends by itself.
pub type Stream = Compat<yamux::Stream>;

/// Which side this is: they have to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who began.
    Caller,
    /// Who was called.
    Called,
}

/// Opens streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Opener(mpsc::Sender<oneshot::Sender<io::Result<Stream>>>);

/// Streams that the other side opens.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Stream>);

/// Carries them all; to be polled for as long as they are wanted.
#[derive(Debug)]
pub struct Carrier<T> {
    under: yamux::Connection<Compat<T>>,
    asked: mpsc::Receiver<oneshot::Sender<io::Result<Stream>>>,
    incoming: mpsc::Sender<Stream>,
    /// Whoever wants one, in order.
    waiting: VecDeque<oneshot::Sender<io::Result<Stream>>>,
}

/// Many streams over `under`.
pub fn over<T>(under: T, side: Side) -> (Opener, Incoming, Carrier<T>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mode = match side {
        Side::Caller => yamux::Mode::Client,
        Side::Called => yamux::Mode::Server,
    };
    let mut config = yamux::Config::default();
    // Together as much as each begins with: none grows.
    config.set_max_connection_receive_window(Some(STREAMS_MAX * WINDOW)).set_max_num_streams(STREAMS_MAX);
    let (open, asked) = mpsc::channel(WAITING);
    let (sender, incoming) = mpsc::channel(WAITING);
    let under = yamux::Connection::new(under.compat(), config, mode);
    let carrier = Carrier { under, asked, incoming: sender, waiting: VecDeque::new() };
    (Opener(open), Incoming(incoming), carrier)
}

impl<T> Carrier<T>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Carries them until the other side is gone.
    ///
    /// # Errors
    /// It broke, or the other side does not keep to the rules.
    pub async fn carry(mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Poll::Ready(Some(asker)) = self.asked.poll_recv(cx) {
            self.waiting.push_back(asker);
        }
        while !self.waiting.is_empty() {
            let Poll::Ready(opened) = self.under.poll_new_outbound(cx) else { break };
            let Some(asker) = self.waiting.pop_front() else { break };
            // Nobody may wait for it any more: then it ends.
            let _ = asker.send(opened.map(FuturesAsyncReadCompatExt::compat).map_err(io::Error::other));
        }
        loop {
            match self.under.poll_next_inbound(cx) {
                // Too many at once, or nobody who takes any.
                Poll::Ready(Some(Ok(stream))) => drop(self.incoming.try_send(stream.compat())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Opener {
    /// Connects to a port of the other side.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] where nobody takes it, [`io::ErrorKind::NotConnected`] where the other side is
    /// gone.
    pub async fn connect(&self, port: u32) -> io::Result<Stream> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let (asker, opened) = oneshot::channel();
        self.0.send(asker).await.map_err(|_| gone())?;
        let mut stream = opened.await.map_err(|_| gone())??;
        stream.write_all(&port.to_le_bytes()).await?;
        stream.flush().await?;
        match stream.read_u8().await {
            Ok(TAKEN) => Ok(stream),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Incoming {
    /// The next that the other side opens; `None` when it is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

/// Which port a stream of the other side's is for. It waits for [`take`], or to be dropped.
///
/// # Errors
/// It does not say.
pub async fn port(stream: &mut Stream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut bytes)).await??;
    Ok(u32::from_le_bytes(bytes))
}

/// Tells the other side that somebody has its stream.
///
/// # Errors
/// It is gone.
pub async fn take(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(&[TAKEN]).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sides; the one that is called answers what port 7 hears, in reverse, and refuses all else.
    fn sides() -> (Opener, tokio::task::JoinSet<()>) {
        let (here, there) = tokio::io::duplex(4 << 10);
        let (opener, _, caller) = over(here, Side::Caller);
        let (_, mut incoming, called) = over(there, Side::Called);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { drop(caller.carry().await) });
        tasks.spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            let serve = async {
                while let Some(mut stream) = incoming.next().await {
                    served.spawn(async move {
                        if port(&mut stream).await.unwrap() != 7 {
                            return;
                        }
                        take(&mut stream).await.unwrap();
                        let mut heard = Vec::new();
                        stream.read_to_end(&mut heard).await.unwrap();
                        heard.reverse();
                        stream.write_all(&heard).await.unwrap();
                        stream.shutdown().await.unwrap();
                    });
                }
            };
            let _ = tokio::join!(called.carry(), serve);
        });
        (opener, tasks)
    }

    async fn ask(opener: &Opener, said: Vec<u8>) -> Vec<u8> {
        let (mut from, mut to) = tokio::io::split(opener.connect(7).await.unwrap());
        let write = async {
            to.write_all(&said).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(from.read_to_end(&mut heard), write);
        read.unwrap();
        heard
    }

    #[tokio::test]
    async fn each_direction_of_each_stream_ends_by_itself() {
        let (opener, _tasks) = sides();
        assert_eq!(ask(&opener, b"abc".to_vec()).await, b"cba");
        // More than fits into any window.
        let said: Vec<u8> = (0..2_000_003_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let heard = ask(&opener, said.clone()).await;
        assert!(heard.iter().eq(said.iter().rev()));
        let refused = opener.connect(8).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn much_is_said_at_once_on_one_that_the_other_side_opened() {
        let (here, there) = tokio::io::duplex(256 << 10);
        let (_opener, mut incoming, caller) = over(here, Side::Caller);
        let (opener, _, called) = over(there, Side::Called);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { drop(caller.carry().await) });
        tasks.spawn(async move { drop(called.carry().await) });
        tasks.spawn(async move {
            let mut stream = incoming.next().await.unwrap();
            assert_eq!(port(&mut stream).await.unwrap(), 1);
            take(&mut stream).await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            let mut word = [0; 5];
            from.read_exact(&mut word).await.unwrap();
            let listen = async {
                let mut more = [0; 5];
                drop(from.read_exact(&mut more).await);
            };
            let speak = async {
                to.write_all(&vec![7; 600_000]).await.unwrap();
                std::future::pending::<()>().await;
            };
            tokio::join!(listen, speak);
        });
        let mut stream = opener.connect(1).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut heard = vec![0; 600_000];
        let read = stream.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("no byte waits for another").unwrap();
    }

    #[tokio::test]
    async fn one_that_is_not_read_holds_up_no_other() {
        let (opener, _tasks) = sides();
        let mut stuck = opener.connect(7).await.unwrap();
        let fill = async {
            loop {
                stuck.write_all(&[0; 4096]).await.unwrap();
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(100), fill).await;
        let all = (0..64).map(|byte| ask(&opener, vec![byte; 1000]));
        for (byte, heard) in (0_u8..).zip(futures(all).await) {
            assert_eq!(heard, vec![byte; 1000]);
        }
    }

    /// All of them at once.
    async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut all: Vec<_> = all.map(|one| Box::pin(tokio::task::unconstrained(one))).collect();
        let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
        poll_fn(|cx| {
            for (future, place) in all.iter_mut().zip(&mut done) {
                if place.is_none()
                    && let Poll::Ready(value) = future.as_mut().poll(cx)
                {
                    *place = Some(value);
                }
            }
            if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        done.into_iter().flatten().collect()
    }

    #[tokio::test]
    async fn whoever_waits_for_one_that_is_gone_is_told() {
        let (here, there) = tokio::io::duplex(4 << 10);
        let (opener, _incoming, carrier) = over(here, Side::Caller);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { drop(carrier.carry().await) });
        let leave = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(there);
        };
        let (connected, ()) = tokio::join!(opener.connect(7), leave);
        connected.unwrap_err();
        tasks.join_next().await;
        assert_eq!(opener.connect(7).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}
