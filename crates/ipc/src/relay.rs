//! Bytes between two streams, each direction for itself.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much of each direction is under way at most.
const BUFFER: usize = 64 << 10;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is no more to carry, or nobody who takes it.
    Over,
    /// Where it came from is gone: nobody is left there for the other direction either.
    Gone,
}

/// Carries bytes both ways until both are over, or one side is gone. What one side has sent arrives although it takes
/// nothing more: a program that ends without having read its input still has an output and an exit code.
pub async fn relay(
    a: &mut (impl AsyncRead + AsyncWrite + Unpin),
    b: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let ((mut from_a, mut to_a), (mut from_b, mut to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let mut there = std::pin::pin!(one_way(&mut from_a, &mut to_b));
    let mut back = std::pin::pin!(one_way(&mut from_b, &mut to_a));
    tokio::select! {
        end = &mut there => if end == End::Over { back.await; },
        end = &mut back => if end == End::Over { there.await; },
    }
}

async fn one_way(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await;
        let length = read.as_ref().copied().unwrap_or(0);
        if length == 0 {
            // Whoever is gone needs not be told.
            let _ = to.shutdown().await;
            return if read.is_ok() { End::Over } else { End::Gone };
        }
        if to.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            return End::Over;
        }
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
