//! Streams between programs of this computer, each of which has an address that is a path: Unix sockets, and named pipes
//! on Windows, where the path is of the form `\\.\pipe\NAME`.
//!
//! Nothing is said over them in here. Start with [`connect`]; [`bind`] is the other side, and [`relay()`] joins two, and [`mux`] makes many of
//! one.

pub mod mux;
mod relay;
mod sys;

pub use relay::relay;
#[cfg(windows)]
pub use sys::user;
pub use sys::{
    Listener, ReadHalf, Stream, WriteHalf, accept, address, bind, clear, connect, has_hung_up, peer, split,
};

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = address(dir.path(), "engine");
        (dir, path)
    }

    #[tokio::test]
    async fn each_direction_ends_without_the_other() {
        let (_dir, path) = place();
        let mut listener = bind(&path).unwrap();
        let serve = async {
            let (mut from, mut to) = split(accept(&mut listener).await.unwrap());
            let mut heard = Vec::new();
            from.read_to_end(&mut heard).await.unwrap();
            to.write_all(&[b"heard ", heard.as_slice()].concat()).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let ask = async {
            let (mut from, mut to) = split(connect(&path).await.unwrap());
            to.write_all(b"a ").await.unwrap();
            to.write_all(&[b'b'; 100_000]).await.unwrap();
            to.shutdown().await.unwrap();
            let mut answer = Vec::new();
            from.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(serve, ask);
        assert_eq!(answer.len(), "heard a ".len() + 100_000);
        assert!(answer.starts_with(b"heard a bb"));
    }

    #[tokio::test]
    async fn many_may_come_at_once() {
        let (_dir, path) = place();
        let mut listener = bind(&path).unwrap();
        let serve = async {
            for _ in 0..8 {
                let mut stream = accept(&mut listener).await.unwrap();
                let byte = stream.read_u8().await.unwrap();
                stream.write_u8(byte + 1).await.unwrap();
            }
        };
        let ask = async |byte: u8| {
            let mut stream = connect(&path).await.unwrap();
            stream.write_u8(byte).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), byte + 1);
        };
        tokio::join!(serve, ask(1), ask(2), ask(3), ask(4), ask(5), ask(6), ask(7), ask(8));
    }

    #[tokio::test]
    async fn whoever_listens_is_known_and_where_nobody_does_is_too() {
        let (_dir, path) = place();
        assert_eq!(connect(&path).await.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let mut listener = bind(&path).unwrap();
        let (accepted, connected) = tokio::join!(accept(&mut listener), connect(&path));
        accepted.unwrap();
        assert_eq!(peer(&connected.unwrap()).unwrap(), std::process::id());
    }
    #[cfg(windows)]
    #[test]
    fn a_user_has_an_id() {
        assert!(user().unwrap().starts_with("S-1-5-"), "{:?}", user());
    }

    /// Wine 8 lets another begin a pipe that is there.
    #[cfg(unix)]
    #[tokio::test]
    async fn an_address_is_listened_at_by_one() {
        let (_dir, path) = place();
        let _listener = bind(&path).unwrap();
        assert!(bind(&path).is_err());
    }
}
