//! `machine check`: the hops between a machine and the world, one after the other.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use clap::Args;
use host::machine::{Machine, Phase};

use super::{find, machine_error, shell};
use crate::exit::Outcome;
use crate::printer;

/// The resolver as the guest sees it, and the way out, which is this computer.
const GATEWAY: &str = "10.0.2.2";
/// How long a hop may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Flags of `machine check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The machine
    #[arg(default_value = super::DEFAULT)]
    name: String,
    /// What to check
    #[arg(value_parser = ["network"], default_value = "network")]
    what: String,
    /// A name to look up and to reach at port 443
    #[arg(long, value_name = "HOST", default_value = "registry-1.docker.io")]
    target: String,
}

/// What a hop is, the program that tries it in the guest, and what to do when it fails.
struct Hop {
    what: String,
    command: Vec<String>,
    remedy: &'static str,
}

fn hop(what: impl Into<String>, script: &str, arguments: &[&str], remedy: &'static str) -> Hop {
    let words = [&["/bin/sh", "-c", script, "sh"], arguments].concat();
    Hop { what: what.into(), command: words.into_iter().map(str::to_owned).collect(), remedy }
}

pub(super) async fn check(args: CheckArgs) -> Outcome {
    let machine = find(&args.name)?;
    let status = machine.status().await.map_err(machine_error)?;
    if !matches!(status.phase, Phase::Running | Phase::Rescue) {
        return Err(machine_error(host::machine::Error::NotRunning { name: args.name }));
    }
    // Something of ours to be reached at.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port().to_string();
    // Whoever comes is let in and shown out; the thread ends with us.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let target = args.target.as_str();
    let hops = [
        hop(
            "the guest has an address",
            "ip -4 addr show scope global | grep -q inet",
            &[],
            "install the package passt on this computer, then start the machine again",
        ),
        hop("the guest has a way out", "ip route | grep -q ^default", &[], "cove machine stop and start"),
        hop(
            "this computer is reached from the guest",
            "nc -w 5 \"$1\" \"$2\" </dev/null",
            &[GATEWAY, &port],
            "passt does not carry to this computer's loopback; look at 'cove machine logs --supervisor'",
        ),
        hop(
            format!("{target} is looked up"),
            "nslookup \"$1\" >/dev/null",
            &[target],
            "this computer's resolver does not know the name, or a VPN answers only elsewhere: try it here with getent hosts",
        ),
        hop(
            format!("{target} is reached at port 443"),
            "nc -w 5 \"$1\" 443 </dev/null",
            &[target],
            "a firewall, a VPN or a missing proxy: try it here, and set HTTPS_PROXY before the machine is started",
        ),
    ];
    for hop in hops {
        if passes(&machine, hop.command).await? {
            printer::line(format_args!("ok      {}", hop.what));
            continue;
        }
        printer::line(format_args!("FAILS   {}", hop.what));
        printer::note(format_args!("\nhint: {}", hop.remedy));
        return Ok(1);
    }
    Ok(0)
}

async fn passes(machine: &Machine, command: Vec<String>) -> Outcome<bool> {
    match tokio::time::timeout(DEADLINE, shell::quietly(machine, command)).await {
        Ok(code) => Ok(code? == 0),
        Err(_) => Ok(false),
    }
}
