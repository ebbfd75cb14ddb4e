//! The channel to a guest whose hypervisor hands out connections one by one: each is copied to and from a stream of ours,
//! each direction to its own end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::connecting::{Counts, Gate, until_deadline};

/// Takes a connection of the guest's, or refuses it; must not block.
pub(crate) type Accept = Box<dyn Fn(OwnedFd) -> bool + Send + Sync>;

/// Is told how a connection to the guest went.
pub(crate) type Connected = Box<dyn FnOnce(io::Result<OwnedFd>) + Send>;

/// Who connects to the guest, and is connected to.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Connects to a port that something in the guest listens on. Returns at once.
    fn connect(&self, port: u32, done: Connected);

    /// Takes the guest's connections to a port of the host's.
    fn listen(&self, port: u32, accept: Accept) -> io::Result<()>;
}

/// A machine's channel. Cheap calls, from any thread; connections end with it.
pub(crate) struct Channel {
    guest: Arc<dyn Dial>,
    runtime: Handle,
    counts: Counts,
    gate: Gate,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.gate.shut();
    }
}

impl Channel {
    /// One whose connections are carried by `runtime`.
    pub(crate) fn new(guest: Arc<dyn Dial>, runtime: Handle) -> Self {
        Self { guest, runtime, counts: Counts::default(), gate: Gate::default() }
    }

    /// Connects a stream that is there already to a port of the guest. One that is still booting is waited for until the
    /// deadline. Returns at once; `done` hears how it went, unless the channel ends before.
    pub(crate) fn attach(
        &self,
        port: u32,
        stream: StdStream,
        deadline: Duration,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let Some(until) = self.gate.open() else { return done(Err(io::ErrorKind::NotConnected.into())) };
        let counted = self.counts.add(port);
        let guest = Arc::clone(&self.guest);
        let carry = async move {
            let _counted = counted;
            let joined = dial(guest, port, deadline).await.and_then(|inner| Ok((inner, in_loop(stream)?)));
            match joined {
                Ok((mut inner, mut stream)) => {
                    done(Ok(()));
                    ipc::relay(&mut stream, &mut inner).await;
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

    /// Takes the guest's connections to the host's `port`; a second call for a port replaces the first. `accept` must not
    /// block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(StdStream) + Send + Sync + 'static) {
        let (gate, runtime) = (self.gate.clone(), self.runtime.clone());
        let take = move |theirs: OwnedFd| {
            let Some(until) = gate.open() else { return false };
            match StdStream::pair() {
                Ok((ours, other)) => {
                    let carry = async move {
                        if let (Ok(mut other), Ok(mut theirs)) = (in_loop(other), in_loop(theirs.into())) {
                            ipc::relay(&mut other, &mut theirs).await;
                        }
                    };
                    runtime.spawn(until.run_until_cancelled_owned(carry));
                    accept(ours);
                    true
                }
                Err(error) => {
                    tracing::warn!(%error, port, "failed to accept a connection of the guest's");
                    false
                }
            }
        };
        if let Err(error) = self.guest.listen(port, Box::new(take)) {
            tracing::error!(%error, port, "failed to listen to the guest");
        }
    }

    /// Ends all connections and has none be made from now on, as if the device were gone.
    pub(crate) fn hang_up(&self) {
        self.gate.shut();
    }

    /// Has connections be made again.
    pub(crate) fn hear_again(&self) {
        self.gate.open_again();
    }
}

async fn dial(guest: Arc<dyn Dial>, port: u32, deadline: Duration) -> io::Result<UnixStream> {
    let connect = |_| {
        let (told, answer) = oneshot::channel();
        // Nobody may wait for it any more: then it is closed.
        guest.connect(port, Box::new(move |outcome| drop(told.send(outcome))));
        async { answer.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into())) }
    };
    in_loop(until_deadline(deadline, connect).await?.into())
}

fn in_loop(stream: StdStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Mutex;

    use super::*;

    /// A guest of two ports, each side of whose connections is ours: 7 answers with what it heard, 8 is not there yet.
    #[derive(Default)]
    struct Guest {
        tries: Mutex<usize>,
        accept: Mutex<Option<Accept>>,
    }

    impl Dial for Guest {
        fn connect(&self, port: u32, done: Connected) {
            let mut tries = self.tries.lock().unwrap();
            *tries += 1;
            if port == 8 && *tries < 3 {
                return done(Err(io::ErrorKind::ConnectionRefused.into()));
            }
            let (ours, mut theirs) = StdStream::pair().unwrap();
            std::thread::spawn(move || {
                let mut heard = Vec::new();
                theirs.read_to_end(&mut heard).unwrap();
                theirs.write_all(&heard).unwrap();
            });
            done(Ok(ours.into()));
        }

        fn listen(&self, _: u32, accept: Accept) -> io::Result<()> {
            *self.accept.lock().unwrap() = Some(accept);
            Ok(())
        }
    }

    fn channel() -> (Arc<Guest>, Channel) {
        let guest = Arc::new(Guest::default());
        let channel = Channel::new(Arc::clone(&guest) as Arc<dyn Dial>, Handle::current());
        (guest, channel)
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_a_guest_that_boots_is_waited_for() {
        for port in [7, 8] {
            let (_, channel) = channel();
            let (mut client, theirs) = StdStream::pair().unwrap();
            let (told, answer) = oneshot::channel();
            channel.attach(port, theirs, Duration::from_secs(10), |outcome| told.send(outcome).unwrap());
            assert_eq!(channel.connections(port), 1);
            answer.await.unwrap().unwrap();
            let heard = blocking(move || {
                client.write_all(&[b'x'; 300_000]).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).unwrap();
                heard.len()
            });
            assert_eq!(heard.await, 300_000);
            until(|| channel.connections(port) == 0).await;
        }
    }

    /// Nobody listens there, or nobody says so.
    #[derive(Default)]
    struct Nobody {
        kept: Option<Mutex<Vec<Connected>>>,
    }

    impl Dial for Nobody {
        fn connect(&self, _: u32, done: Connected) {
            match &self.kept {
                Some(kept) => kept.lock().unwrap().push(done),
                None => done(Err(io::ErrorKind::ConnectionRefused.into())),
            }
        }

        fn listen(&self, _: u32, _: Accept) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_guest_that_never_listens_is_given_up() {
        let silent = Nobody { kept: Some(Mutex::default()) };
        let refuses = io::ErrorKind::ConnectionRefused;
        for (guest, expected) in [(Nobody::default(), refuses), (silent, io::ErrorKind::TimedOut)] {
            let channel = Channel::new(Arc::new(guest), Handle::current());
            let (_client, theirs) = StdStream::pair().unwrap();
            let (told, answer) = oneshot::channel();
            channel.attach(7, theirs, Duration::from_millis(50), |outcome| told.send(outcome).unwrap());
            assert_eq!(answer.await.unwrap().unwrap_err().kind(), expected);
            until(|| channel.connections(7) == 0).await;
        }
    }

    #[tokio::test]
    async fn one_that_hung_up_is_deaf_until_it_hears_again() {
        let (guest, channel) = channel();
        let (accepted, taken) = std::sync::mpsc::channel();
        channel.listen(1, move |stream| accepted.send(stream).unwrap());
        let call = || {
            let (ours, theirs) = StdStream::pair().unwrap();
            (ours, guest.accept.lock().unwrap().as_ref().unwrap()(theirs.into()))
        };
        let (mut there, is_taken) = call();
        assert!(is_taken);
        let mut here = taken.recv().unwrap();
        let said = blocking(move || {
            there.write_all(b"hello").unwrap();
            let mut heard = [0; 5];
            here.read_exact(&mut heard).unwrap();
            (there, here, heard)
        });
        let (mut there, mut here, heard) = said.await;
        assert_eq!(&heard, b"hello");
        channel.hang_up();
        let ends = blocking(move || (there.read(&mut [0]).unwrap(), here.read(&mut [0]).unwrap()));
        assert_eq!(ends.await, (0, 0));
        assert!(!call().1, "it is refused");
        channel.hear_again();
        assert!(call().1);
    }
}
