//! The channel to a guest that is reached by one stream alone: many are carried over it (`ipc::mux`).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::mux::{self, Incoming, Opener};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::connecting::{Counts, until_deadline};

/// A stream to or from the guest.
pub(crate) type Stream = mux::Stream;

type Accept = Arc<dyn Fn(Stream) + Send + Sync>;

/// A machine's channel. Cheap calls, from any thread; connections end with it.
pub(crate) struct Channel {
    runtime: Handle,
    counts: Counts,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Once the guest is reached.
    opener: Option<Opener>,
    /// Who takes the guest's connections to ports of the host's.
    accepts: BTreeMap<u32, Accept>,
    open: CancellationToken,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        lock(&self.state).open.cancel();
    }
}

impl Channel {
    /// One whose connections are carried by `runtime`; nobody is reached by it yet.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, counts: Counts::default(), state: Arc::default() }
    }

    /// Reaches the guest by these from now on.
    pub(crate) fn reach(&self, opener: Opener, mut incoming: Incoming) {
        let open = {
            let mut state = lock(&self.state);
            state.opener = Some(opener);
            state.open.clone()
        };
        let (state, runtime, until) = (Arc::clone(&self.state), self.runtime.clone(), open.clone());
        let serve = async move {
            while let Some(stream) = incoming.next().await {
                let state = Arc::clone(&state);
                runtime.spawn(until.clone().run_until_cancelled_owned(async move {
                    // A guest that says nothing, or wants what is not there, sees its stream end.
                    let _ = take(stream, &state).await;
                }));
            }
        };
        self.runtime.spawn(open.run_until_cancelled_owned(serve));
    }

    /// Connects to a port that something in the guest listens on. One that is still booting is waited for until the
    /// deadline.
    pub(crate) async fn open(&self, port: u32, deadline: Duration) -> io::Result<Stream> {
        open(&self.state, port, deadline).await
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
        let state = Arc::clone(&self.state);
        let carry = async move {
            let _counted = counted;
            match open(&state, port, deadline).await {
                Ok(mut inner) => {
                    done(Ok(()));
                    ipc::relay(&mut client, &mut inner).await;
                }
                Err(error) => done(Err(error)),
            }
        };
        self.runtime.spawn(lock(&self.state).open.clone().run_until_cancelled_owned(carry));
    }

    /// How many connections to a port of the guest there are, those that it has not answered yet among them.
    pub(crate) fn connections(&self, port: u32) -> usize {
        self.counts.of(port)
    }

    /// Takes the guest's connections to the host's `port`; a second call for a port replaces the first. `accept` must not
    /// block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(Stream) + Send + Sync + 'static) {
        lock(&self.state).accepts.insert(port, Arc::new(accept));
    }
}

async fn take(mut stream: Stream, state: &Mutex<State>) -> io::Result<()> {
    let port = mux::port(&mut stream).await?;
    let accept = lock(state).accepts.get(&port).cloned();
    let accept = accept.ok_or(io::ErrorKind::ConnectionRefused)?;
    mux::take(&mut stream).await?;
    accept(stream);
    Ok(())
}

async fn open(state: &Mutex<State>, port: u32, deadline: Duration) -> io::Result<Stream> {
    let connect = |_| {
        let opener = lock(state).opener.clone();
        async move {
            match opener {
                Some(opener) => opener.connect(port).await,
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        }
    };
    until_deadline(deadline, connect).await
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ipc::mux::Side;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::*;

    /// A channel, and a guest that says hello at port 1, and answers what port 7 hears.
    fn pair() -> (Channel, JoinSet<()>) {
        let (here, there) = tokio::io::duplex(16 << 10);
        let (opener, incoming, carrier) = mux::over(here, Side::Caller);
        let (guest, mut called, theirs) = mux::over(there, Side::Called);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(carrier.carry().await) });
        tasks.spawn(async move { drop(theirs.carry().await) });
        tasks.spawn(async move {
            let mut hello = guest.connect(1).await.unwrap();
            hello.write_all(b"hello").await.unwrap();
            assert_eq!(guest.connect(9).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            let mut served = JoinSet::new();
            while let Some(mut stream) = called.next().await {
                served.spawn(async move {
                    if mux::port(&mut stream).await.unwrap() == 7 {
                        mux::take(&mut stream).await.unwrap();
                        let mut heard = Vec::new();
                        stream.read_to_end(&mut heard).await.unwrap();
                        stream.write_all(&heard).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                });
            }
        });
        let channel = Channel::new(Handle::current());
        let (greeted, mut greetings) = tokio::sync::mpsc::channel(1);
        channel.listen(1, move |stream| greeted.try_send(stream).unwrap());
        channel.reach(opener, incoming);
        tasks.spawn(async move {
            let mut word = [0; 5];
            greetings.recv().await.unwrap().read_exact(&mut word).await.unwrap();
            assert_eq!(&word, b"hello");
        });
        (channel, tasks)
    }

    #[tokio::test]
    async fn both_sides_connect_and_each_direction_ends_by_itself() {
        let (channel, _tasks) = pair();
        let (mut client, theirs) = tokio::io::duplex(1 << 10);
        channel.attach(7, theirs, Duration::from_secs(10), |outcome| outcome.unwrap());
        assert_eq!(channel.connections(7), 1);
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"abc");
        drop(client);
        let ended = async {
            while channel.connections(7) > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_than_the_deadline() {
        let (channel, _tasks) = pair();
        let refused = channel.open(8, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(refused.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut));
        let nobody = Channel::new(Handle::current());
        nobody.open(7, Duration::from_millis(50)).await.unwrap_err();
    }
}
