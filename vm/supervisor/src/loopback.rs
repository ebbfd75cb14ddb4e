//! This computer's loopback, for a guest whose way out does not lead there: what it asks for by the channel is connected
//! to, as if it had been there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use vm_proto::loopback::{CONNECTED, REFUSED, port};

use crate::platform::{self, Channel};

/// How many connections there may be at once.
const AT_ONCE: usize = 1024;
/// How many may wait to be begun.
const WAITING: usize = 64;
/// How long the guest may take to say what it wants.
const DEADLINE: Duration = Duration::from_secs(10);
/// Where programs listen.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Serves it for as long as it is polled.
pub(crate) fn serve(vsock: &Channel) -> impl Future<Output = ()> + Send + 'static {
    let (sender, mut called) = mpsc::channel(WAITING);
    vsock.listen(vm_proto::port::LOOPBACK, move |stream| {
        // Beyond what waits already, the guest is hung up on.
        let _ = sender.try_send(stream);
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let tasks = tokio_util::task::TaskTracker::new();
    async move {
        while let (Some(stream), Ok(place)) = (called.recv().await, Arc::clone(&places).acquire_owned().await)
        {
            tasks.spawn(async move {
                let carried = match platform::accepted(stream) {
                    Ok(guest) => carry(guest).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = carried {
                    tracing::debug!(%error, "a program of the guest did not reach this computer's loopback");
                }
                drop(place);
            });
        }
    }
}

async fn carry(mut guest: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut head = [0; 2];
    tokio::time::timeout(DEADLINE, guest.read_exact(&mut head)).await??;
    match connect(port(head)).await {
        Ok(mut here) => {
            guest.write_all(&[CONNECTED]).await?;
            here.set_nodelay(true)?;
            ipc::relay(&mut guest, &mut here).await;
            Ok(())
        }
        Err(error) => {
            guest.write_all(&[REFUSED]).await?;
            guest.shutdown().await?;
            Err(error)
        }
    }
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let mut refused = io::ErrorKind::ConnectionRefused.into();
    for address in ADDRESSES {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use vm_proto::loopback::head;

    use super::*;

    /// What the guest hears back of a port to which it says `word`.
    async fn ask(port: u16, word: &[u8]) -> Vec<u8> {
        let (mut guest, host) = tokio::io::duplex(64);
        let serving = carry(host);
        let asking = async {
            guest.write_all(&head(port)).await.unwrap();
            guest.write_all(word).await.unwrap();
            guest.shutdown().await.unwrap();
            let mut heard = Vec::new();
            guest.read_to_end(&mut heard).await.unwrap();
            heard
        };
        tokio::join!(serving, asking).1
    }

    async fn echo(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut word = Vec::new();
        stream.read_to_end(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    }

    #[tokio::test]
    async fn what_listens_on_the_loopback_is_reached_whole() {
        for address in ADDRESSES {
            let Ok(listener) = TcpListener::bind((address, 0)).await else {
                println!("skipped, because there is no {address} here");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let word = b"as it is ".repeat(1000);
            let (heard, ()) = tokio::join!(ask(port, &word), echo(listener));
            assert_eq!(heard.split_first(), Some((&CONNECTED, word.as_slice())), "{address}");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_it_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(ask(port, b"").await, [REFUSED]);
    }
}
