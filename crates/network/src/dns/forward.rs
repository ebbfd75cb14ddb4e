//! Questions about names that are none of ours: the host's resolvers, or those the container was given.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::wire::{Query, has_failed};

/// How long the next server waits for the one before: one that hangs must not cost the client its patience.
const NEXT_AFTER: Duration = Duration::from_millis(600);
/// How long all of them have; clients ask again after five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How many are asked at most, as with resolv.conf(5).
const MOST: usize = 3;
/// How often the host's file is looked at.
const FRESH: Duration = Duration::from_secs(1);
const PORT: u16 = 53;

/// The host's resolvers, as its file has them now.
#[derive(Debug, Default)]
pub(crate) struct HostServers(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    looked_at: Instant,
    modified: Option<SystemTime>,
    servers: Vec<IpAddr>,
}

impl HostServers {
    const FILE: &str = "/etc/resolv.conf";

    pub(crate) fn get(&self) -> Vec<IpAddr> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.looked_at.elapsed() < FRESH) {
            return known.servers.clone();
        }
        let modified = std::fs::metadata(Self::FILE).and_then(|metadata| metadata.modified()).ok();
        let servers = match known.take() {
            Some(known) if known.modified == modified && modified.is_some() => known.servers,
            _ => servers_in(&std::fs::read_to_string(Self::FILE).unwrap_or_default()),
        };
        *known = Some(Known { looked_at: Instant::now(), modified, servers: servers.clone() });
        servers
    }
}

fn servers_in(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    // An address that holds in one interface only (`%eth0`) is not asked.
    lines.filter_map(|rest| rest.trim().parse().ok()).take(MOST).collect()
}

/// The first good answer of these servers, under the client's number. Each is asked when the one before has
/// failed, or has been silent for a while.
pub(crate) async fn forward(
    query: &Query,
    message: &[u8],
    servers: &[IpAddr],
    is_udp: bool,
) -> Option<Vec<u8>> {
    let mut waiting = servers.iter().take(MOST);
    let mut asked = FuturesUnordered::new();
    let ask_next = |asked: &mut FuturesUnordered<_>, waiting: &mut dyn Iterator<Item = &IpAddr>| {
        let next = waiting.next();
        asked.extend(next.map(|server| ask(query, message, SocketAddr::new(*server, PORT), is_udp)));
        next.is_some()
    };
    let mut failure = None;
    let race = async {
        ask_next(&mut asked, &mut waiting);
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(answer)) if !has_failed(&answer) => return Some(answer),
                    // A server that refuses says so to the client, unless another knows better.
                    Some(Ok(answer)) => { failure.get_or_insert(answer); ask_next(&mut asked, &mut waiting); }
                    Some(Err(_)) => { ask_next(&mut asked, &mut waiting); }
                    None => if !ask_next(&mut asked, &mut waiting) { return None },
                },
                () = tokio::time::sleep(NEXT_AFTER) => { ask_next(&mut asked, &mut waiting); }
            }
        }
    };
    let mut answer = tokio::time::timeout(PATIENCE, race).await.ok().flatten().or(failure)?;
    answer.get_mut(..2)?.copy_from_slice(&query.id.to_be_bytes());
    Some(answer)
}

async fn ask(query: &Query, message: &[u8], server: SocketAddr, is_udp: bool) -> io::Result<Vec<u8>> {
    // A number and a port nobody can guess: whoever sends a false answer must know both.
    let id: u16 = rand::random();
    let mut message = message.to_vec();
    message.get_mut(..2).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(&id.to_be_bytes());
    if is_udp {
        let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&message).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..length).unwrap_or_default();
            // What does not answer the question is somebody's lie, and the truth may still come.
            if query.is_answered_by(id, answer) {
                return Ok(answer.to_vec());
            }
        }
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if query.is_answered_by(id, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Code, Found, Kind, read_query, tests::asked};
    use super::*;

    /// Servers of one's own need addresses of their own, because all are asked at one port.
    async fn server(
        address: [u8; 4],
        reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Option<IpAddr> {
        let socket = UdpSocket::bind(SocketAddr::new(address.into(), PORT)).await.ok()?;
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                for answer in reply(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Some(address.into())
    }

    fn truth(message: &[u8]) -> Vec<u8> {
        read_query(message).unwrap().answer(&Found::Addresses(vec![[1, 2, 3, 4].into()]), true)
    }

    #[tokio::test]
    async fn a_server_that_hangs_lies_or_fails_does_not_keep_the_next_from_answering() {
        let hangs = server([127, 9, 0, 1], |_| vec![]).await;
        let lies = server([127, 9, 0, 2], |message| {
            let mut other = truth(message);
            other[0] ^= 0xff;
            vec![other, b"nonsense".to_vec()]
        });
        let fails = server([127, 9, 0, 3], |message| vec![read_query(message).unwrap().fail(Code::Failed)]);
        let knows = server([127, 9, 0, 4], |message| vec![truth(message)]);
        let (Some(hangs), Some(lies), Some(fails), Some(knows)) =
            (hangs, lies.await, fails.await, knows.await)
        else {
            eprintln!("skipped: port 53 can't be had here");
            return;
        };
        let message = asked("example.org", Kind::A, None);
        let query = read_query(&message).unwrap();
        for servers in [&[hangs, lies, knows][..], &[fails, knows], &[knows]] {
            let started = Instant::now();
            let answer = forward(&query, &message, servers, true).await.unwrap();
            assert!(
                query.is_answered_by(query.id, &answer) && answer.ends_with(&[1, 2, 3, 4]),
                "{servers:?}"
            );
            assert!(started.elapsed() < Duration::from_secs(2), "{servers:?}");
        }
        let failed = forward(&query, &message, &[fails], true).await.unwrap();
        assert!(has_failed(&failed) && query.is_answered_by(query.id, &failed));
        assert_eq!(forward(&query, &message, &[], true).await, None);
    }

    #[test]
    fn servers_are_read_from_the_hosts_file() {
        let text = "# note\nsearch a.b\nnameserver 10.0.0.1\nnameserver\tfd00::1\nnameserver fe80::1%eth0\nnameserver x\n";
        assert_eq!(servers_in(text), ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }
}
