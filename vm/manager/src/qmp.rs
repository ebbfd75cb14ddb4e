//! QEMU's machine protocol, as much of it as we need: one request at a time, events passed over.
//!
//! Source: QEMU's docs/interop/qmp-spec.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// The longest line that is read.
const LINE_MAX: u64 = 1 << 20;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A conversation with a running QEMU.
#[derive(Debug)]
pub struct Qmp {
    from: BufReader<ipc::ReadHalf>,
    to: ipc::WriteHalf,
}

impl Qmp {
    /// Begins one.
    ///
    /// # Errors
    /// The socket, or something at its other end that is no QEMU.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let (from, to) = ipc::split(ipc::connect(socket).await?);
        let mut qmp = Self { from: BufReader::new(from), to };
        let greeting = tokio::time::timeout(DEADLINE, qmp.line()).await??;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no QEMU"));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Asks for something; what was returned.
    ///
    /// # Errors
    /// The connection, no answer in time, or QEMU's refusal in its words.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.to.write_all(line.as_bytes()).await?;
        let answer = async {
            loop {
                let mut answer = self.line().await?;
                if let Some(value) = answer.get_mut("return") {
                    return Ok(value.take());
                }
                if let Some(said) = answer.pointer("/error/desc") {
                    return Err(io::Error::other(format!(
                        "{command}: {}",
                        said.as_str().unwrap_or_default()
                    )));
                }
                // An event.
            }
        };
        tokio::time::timeout(DEADLINE, answer).await?
    }

    async fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.from).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says `lines`, whatever it is asked.
    async fn scripted(lines: &'static str) -> io::Result<Value> {
        let dir = tempfile::tempdir()?;
        let socket = ipc::address(dir.path(), "qmp");
        let mut listener = ipc::bind(&socket)?;
        let serve = async {
            let mut stream = ipc::accept(&mut listener).await?;
            stream.write_all(lines.as_bytes()).await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await
        };
        let ask = async {
            let mut qmp = Qmp::connect(&socket).await?;
            qmp.execute("query-status", json!({})).await
        };
        let (answer, _) = tokio::join!(ask, serve);
        answer
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_passed_over() {
        let answer = scripted(
            "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n{\"return\":{\"status\":\"running\"}}\n",
        );
        assert_eq!(answer.await.unwrap(), json!({ "status": "running" }));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_qemus_words() {
        let answer = scripted(
            "{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"class\":\"x\",\"desc\":\"no such thing\"}}\n",
        );
        assert!(answer.await.unwrap_err().to_string().contains("no such thing"));
    }

    #[tokio::test]
    async fn something_that_is_no_qemu_is_noticed() {
        assert!(scripted("hello\n").await.is_err());
        assert!(scripted("{\"a\":1}\n").await.is_err());
    }
}
