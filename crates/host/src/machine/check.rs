//! The hops between a machine and the world, one after the other.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use vm_manager::backend::{self, Wire};
use vm_proto::stream::Piece;

use super::{Error, Machine, Phase, Supervisor};

/// This computer, as the guest and its containers name it.
const HOST: &str = "host.docker.internal";
/// How long a hop may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// What is looked up and reached where nothing else is named.
pub const TARGET: &str = "registry-1.docker.io";

/// One hop, and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// What is to be so.
    pub what: String,
    /// Whether it is.
    pub passed: Passed,
}

/// Whether a hop is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// It is.
    Yes,
    /// It is not: the way ends here.
    No {
        /// What to do about it.
        remedy: &'static str,
    },
}

/// What a hop is, the program that tries it in the guest, and what to do when it fails.
struct Step {
    what: String,
    command: Vec<String>,
    remedy: &'static str,
}

fn step(what: impl Into<String>, script: &str, arguments: &[&str], remedy: &'static str) -> Step {
    let words = [&["/bin/sh", "-c", script, "sh"], arguments].concat();
    Step { what: what.into(), command: words.into_iter().map(str::to_owned).collect(), remedy }
}

fn steps(target: &str, port: &str, wire: Wire) -> [Step; 5] {
    let (no_address, no_way_here) = match wire {
        Wire::Direct | Wire::Card => (
            "install the package passt on this computer, then start the machine again",
            "passt does not carry to this computer's loopback; look at 'cove machine logs --supervisor'",
        ),
        Wire::Own => (
            "this computer's system gave none: look at 'cove machine logs', and for a firewall or a VPN here",
            "a firewall or a VPN of this computer keeps its machines away",
        ),
    };
    [
        step("the guest has an address", "ip -4 addr show scope global | grep -q inet", &[], no_address),
        step("the guest has a way out", "ip route | grep -q ^default", &[], "cove machine stop and start"),
        step(
            "this computer is reached from the guest",
            "nc -w 5 \"$1\" \"$2\" </dev/null",
            &[HOST, port],
            no_way_here,
        ),
        step(
            format!("{target} is looked up"),
            "nslookup \"$1\" >/dev/null",
            &[target],
            "this computer's resolver does not know the name, or a VPN answers only elsewhere: try it here with getent hosts",
        ),
        step(
            format!("{target} is reached at port 443"),
            "nc -w 5 \"$1\" 443 </dev/null",
            &[target],
            "a firewall, a VPN or a missing proxy: try it here, and set HTTPS_PROXY before the machine is started",
        ),
    ]
}

impl Machine {
    /// Walks the hops to `target` until one fails; `told` hears of each as it was tried.
    ///
    /// # Errors
    /// The machine does not run.
    pub async fn check_network(&self, target: &str, mut told: impl FnMut(&Hop)) -> Result<(), Error> {
        let status = self.status().await?;
        let name = &self.places().name;
        if !matches!(status.phase, Phase::Running | Phase::Rescue) {
            return Err(Error::NotRunning { name: name.clone() });
        }
        let failed =
            |source| Error::Supervisor { action: "check the network with", name: name.clone(), source };
        // Something of ours to be reached at.
        let wire = backend::capabilities(status.backend).wire;
        let address = match wire {
            Wire::Direct | Wire::Card => Ipv4Addr::LOCALHOST,
            // A way out that is the system's own leads to this computer, and not to its loopback.
            Wire::Own => Ipv4Addr::UNSPECIFIED,
        };
        let listener = TcpListener::bind((address, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port().to_string();
        // Whoever comes is let in and shown out; the thread ends with us.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        for step in steps(target, &port, wire) {
            let tried = tokio::time::timeout(DEADLINE, self.exit_code_of(step.command)).await;
            let passed = match tried.ok().transpose()? {
                Some(0) => Passed::Yes,
                _ => Passed::No { remedy: step.remedy },
            };
            told(&Hop { what: step.what, passed });
            if passed != Passed::Yes {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Runs a program in the guest whose output nobody needs.
    async fn exit_code_of(&self, command: Vec<String>) -> Result<i32, Error> {
        let name = self.places().name.clone();
        let mut stream = Supervisor::connect(self.places()).await?.execute(command, None).await?;
        let run = async {
            loop {
                let mut head = [0; Piece::HEAD];
                stream.read_exact(&mut head).await?;
                let (piece, length) = Piece::parse(head).ok_or(std::io::ErrorKind::InvalidData)?;
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).await?;
                if piece == Piece::Exit {
                    return Ok(bytes.first_chunk::<4>().map_or(255, |code| i32::from_le_bytes(*code)));
                }
            }
        };
        run.await.map_err(|source| Error::Supervisor { action: "understand", name, source })
    }
}
