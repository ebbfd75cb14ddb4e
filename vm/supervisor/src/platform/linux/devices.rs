//! The devices we serve ourselves, as long as a machine runs.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use vm_devices::{Access, Net, Share, ShareConfig, Vsock};
use vm_manager::backend::{self, Wire};
use vm_manager::config::Config;
use vm_manager::places::Places;
use vm_proto::message;

use super::changes::{self, Sink};
use super::network::Passt;
use super::tree;
use crate::told::Tellers;

/// The guest's vsock address; each machine has a device of its own, so all may have the same.
const CID: u64 = 3;

/// All of a machine's.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The channel to the guest.
    pub(crate) vsock: Arc<Vsock>,
    /// Where the program that is the machine finds it.
    pub(super) vsock_socket: PathBuf,
    /// The same of the network's.
    pub(super) network_socket: Option<PathBuf>,
    /// Tags and sockets of shares.
    pub(super) share_sockets: Vec<(String, PathBuf)>,
    /// What the guest is told of them.
    pub(crate) shares: Vec<message::Share>,
    /// Where their changes go, of those that can be watched.
    changes: Vec<Option<Arc<Sink>>>,
    /// The same of those that a layer in the guest stands in front of.
    told: Tellers,
    /// Shares that can't be had, and why.
    pub(super) warnings: Vec<String>,
    _network: Option<Net>,
    _passt: Option<Passt>,
    _served: Vec<Share>,
}

impl Devices {
    /// Serves them.
    pub(super) fn serve(config: &Config, places: &Places, passt: Option<(Passt, PathBuf)>) -> Result<Self> {
        let vsock_socket = places.device("vsock");
        let vsock = Vsock::serve(&vsock_socket, CID).context("failed to serve the machine's channel")?;
        let (passt, way_out) = passt.unzip();
        let (network, network_socket) = match (way_out, backend::capabilities(config.backend).wire) {
            (None, _) | (_, Wire::Own) => (None, None),
            (Some(way_out), Wire::Direct) => (None, Some(way_out)),
            (Some(way_out), Wire::Card) => {
                let socket = places.device("network");
                let wire = UnixStream::connect(way_out).context("failed to reach passt")?;
                let card = Net::serve(&socket, wire).context("failed to serve the machine's network card")?;
                (Some(card), Some(socket))
            }
        };
        let (mut served, mut sockets, mut shares, mut warnings) = (vec![], vec![], vec![], vec![]);
        let (mut changes, mut told) = (vec![], vec![]);
        let is_layered = !backend::capabilities(config.backend).tells_changes || tree::is_tried();
        for (at, share) in config.shares.iter().enumerate() {
            let tag = format!("share{at}");
            let socket = places.device(&tag);
            let access = if share.read_only { Access::ReadOnly } else { Access::ReadWrite };
            let wanted = ShareConfig { access, ..ShareConfig::new(share.path.clone()) };
            match Share::serve(&socket, &tag, wanted) {
                Ok(device) => {
                    let path = share.path.display().to_string();
                    if is_layered {
                        told.push((share.path.clone(), path.clone()));
                    } else {
                        let sink = changes::watch(&device).inspect_err(|error| {
                            warnings.push(format!(
                                "changes in {path} reach watchers in containers late or never: {error:#}"
                            ));
                        });
                        changes.push(sink.ok());
                    }
                    served.push(device);
                    sockets.push((tag.clone(), socket));
                    shares.push(message::Share { tag, path, read_only: share.read_only, is_layered });
                }
                // A folder that was taken away keeps nothing else from working.
                Err(error) => warnings.push(format!("{} is not shared: {error}", share.path.display())),
            }
        }
        Ok(Self {
            vsock: Arc::new(vsock),
            vsock_socket,
            network_socket,
            share_sockets: sockets,
            shares,
            changes,
            told: Tellers::new(told),
            warnings,
            _network: network,
            _passt: passt,
            _served: served,
        })
    }

    /// Lets the guest hear of changes in its shares, until that is cancelled.
    pub(crate) fn tell_changes(&self, cancelled: &CancellationToken) {
        self.told.begin(&self.vsock, cancelled);
        let runtime = tokio::runtime::Handle::current();
        for (share, sink) in self.shares.iter().zip(&self.changes) {
            let Some(sink) = sink else { continue };
            let tell = changes::connect(Arc::clone(sink), Arc::clone(&self.vsock), share.path.clone());
            runtime.spawn(cancelled.clone().run_until_cancelled_owned(tell));
        }
    }

    /// Has it hear of them no more.
    pub(crate) fn stop_telling_changes(&self) {
        self.told.end();
        self.changes.iter().flatten().for_each(|sink| sink.close());
    }
}
