//! Bytes between two streams, each direction for itself.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much of each direction is under way at most.
const BUFFER: usize = 64 << 10;

/// Carries bytes both ways until both are over. What one side has sent arrives although it takes nothing more:
/// a program that ends without having read its input still has an output and an exit code.
pub async fn relay(
    a: &mut (impl AsyncRead + AsyncWrite + Unpin),
    b: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let ((mut from_a, mut to_a), (mut from_b, mut to_b)) = (tokio::io::split(a), tokio::io::split(b));
    // An end that comes as an error is an end: the other direction tells the rest.
    let _ = tokio::join!(one_way(&mut from_a, &mut to_b), one_way(&mut from_b, &mut to_a));
}

async fn one_way(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(length) if length > 0 => length,
            ended => {
                to.shutdown().await?;
                return ended.map(drop);
            }
        };
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_words_of_one_that_does_not_listen_arrive() {
        for round in 0..20 {
            let (mut client, mut near) = tokio::io::duplex(1 << 20);
            let (mut inner, mut program) = tokio::io::duplex(1 << 20);
            // The program's words are there, and it is gone, before what the client says could reach it.
            program.write_all(&[7; 100_000]).await.unwrap();
            drop(program);
            client.write_all(b"never read").await.unwrap();
            let mut said = Vec::new();
            let carried = async {
                relay(&mut near, &mut inner).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                read = client.read_to_end(&mut said) => drop(read.unwrap()),
                () = carried => {}
                () = tokio::time::sleep(std::time::Duration::from_secs(5)) => panic!("round {round}: it hangs"),
            }
            assert_eq!(said.len(), 100_000, "round {round}");
        }
    }
}
