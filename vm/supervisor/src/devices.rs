//! The devices we serve ourselves, as long as a machine runs.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use vm_devices::{Access, Net, Share, ShareConfig, Vsock};
use vm_manager::backend::{self, Wire};
use vm_manager::config::Config;
use vm_manager::places::Places;
use vm_proto::{message, port};

use crate::changes::{self, Sink};

/// The guest's vsock address; each machine has a device of its own, so all may have the same.
const CID: u64 = 3;

/// All of a machine's.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The channel to the guest.
    pub(crate) vsock: Arc<Vsock>,
    /// Where the program that is the machine finds it.
    pub(crate) vsock_socket: PathBuf,
    /// The same of the network's.
    pub(crate) network_socket: Option<PathBuf>,
    /// Tags and sockets of shares.
    pub(crate) share_sockets: Vec<(String, PathBuf)>,
    /// What the guest is told of them.
    pub(crate) shares: Vec<message::Share>,
    /// Where their changes go, of those that can be watched.
    pub(crate) changes: Vec<Option<Arc<Sink>>>,
    /// Shares that can't be had, and why.
    pub(crate) warnings: Vec<String>,
    _network: Option<Net>,
    _served: Vec<Share>,
}

impl Devices {
    /// Serves them. `greeted` gets the guest's control connections.
    pub(crate) fn serve(
        config: &Config,
        places: &Places,
        passt: Option<&Path>,
        greeted: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let vsock_socket = places.device("vsock");
        let vsock = Vsock::serve(&vsock_socket, CID).context("failed to serve the machine's channel")?;
        vsock.listen(port::CONTROL, greeted);
        let (network, network_socket) = match (passt, backend::capabilities(config.backend).wire) {
            (None, _) => (None, None),
            (Some(passt), Wire::Direct) => (None, Some(passt.to_owned())),
            (Some(passt), Wire::Card) => {
                let socket = places.device("network");
                let wire = UnixStream::connect(passt).context("failed to reach passt")?;
                let card = Net::serve(&socket, wire).context("failed to serve the machine's network card")?;
                (Some(card), Some(socket))
            }
        };
        let (mut served, mut sockets, mut shares, mut warnings) = (vec![], vec![], vec![], vec![]);
        let mut changes = vec![];
        for (at, share) in config.shares.iter().enumerate() {
            let tag = format!("share{at}");
            let socket = places.device(&tag);
            let access = if share.read_only { Access::ReadOnly } else { Access::ReadWrite };
            let wanted = ShareConfig { access, ..ShareConfig::new(share.path.clone()) };
            match Share::serve(&socket, &tag, wanted) {
                Ok(device) => {
                    let sink = changes::watch(&device).inspect_err(|error| {
                        let path = share.path.display();
                        warnings.push(format!(
                            "changes in {path} reach watchers in containers late or never: {error:#}"
                        ));
                    });
                    changes.push(sink.ok());
                    served.push(device);
                    sockets.push((tag.clone(), socket));
                    let path = share.path.display().to_string();
                    shares.push(message::Share { tag, path, read_only: share.read_only });
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
            warnings,
            _network: network,
            _served: served,
        })
    }
}
