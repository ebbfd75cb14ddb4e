//! The host's loopback, where the way out leads to the host but not there: who connects to the host by TCP is carried by
//! the channel, and nothing else changes for him.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vm_proto::loopback::{CONNECTED, head};
use vm_proto::port;

use crate::channel::Channel;
use crate::children::Children;
use crate::{network, nft, streams};

/// How long the host may take to connect.
const DEADLINE: Duration = Duration::from_secs(10);

/// Has the kernel hand over what is for `gateway` to who accepts here.
pub(crate) async fn listen(gateway: Ipv4Addr, children: &Children) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("failed to listen")?;
    let outside = network::first_interface().context("the machine has no network interface")?;
    nft::apply(&rules(gateway, &outside, listener.local_addr()?.port()), children).await?;
    Ok(listener)
}

/// Carries it for as long as the guest runs.
pub(crate) async fn serve(listener: TcpListener, gateway: Ipv4Addr, channel: Channel) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((client, _)) => streams::begin(carry(client, gateway, channel)),
            Err(error) => streams::refused(&error).await,
        }
    }
}

/// Of containers and of this guest's own programs; nobody who is outside goes by us. Who answers names there is no part
/// of the host's loopback.
fn rules(gateway: Ipv4Addr, outside: &str, port: u16) -> String {
    let chain = |hook: &str, from: &str| {
        format!(
            "add chain ip cove_host {hook} {{ type nat hook {hook} priority -110; }}\n\
             add rule ip cove_host {hook} {from}ip daddr {gateway} tcp dport != 53 redirect to :{port}\n"
        )
    };
    let containers = chain("prerouting", &format!("iifname != \"{outside}\" "));
    format!("add table ip cove_host\n{containers}{}", chain("output", ""))
}

async fn carry(mut client: TcpStream, gateway: Ipv4Addr, channel: Channel) -> io::Result<()> {
    // Who connects to the port itself is meant for nobody.
    let meant = sockopt::ip_original_dst(&client)?;
    if *meant.ip() != gateway {
        return Ok(());
    }
    let connected = tokio::time::timeout(DEADLINE, connect(channel, meant.port())).await;
    match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(mut host) => {
            client.set_nodelay(true)?;
            ipc::relay(&mut client, &mut host).await;
            Ok(())
        }
        Err(error) => {
            // It was accepted before anybody knew: the client sees it reset.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            Err(error)
        }
    }
}

async fn connect(channel: Channel, to: u16) -> io::Result<crate::channel::Stream> {
    let mut host = channel.connect(port::LOOPBACK).await?;
    host.write_all(&head(to)).await?;
    match host.read_u8().await? {
        CONNECTED => Ok(host),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_hands_over_tcp_to_the_host_and_nothing_else() {
        let rules = rules(Ipv4Addr::new(192, 168, 64, 1), "enp0s1", 40000);
        let expected = r#"add table ip cove_host
add chain ip cove_host prerouting { type nat hook prerouting priority -110; }
add rule ip cove_host prerouting iifname != "enp0s1" ip daddr 192.168.64.1 tcp dport != 53 redirect to :40000
add chain ip cove_host output { type nat hook output priority -110; }
add rule ip cove_host output ip daddr 192.168.64.1 tcp dport != 53 redirect to :40000
"#;
        assert_eq!(rules, expected);
    }
}
