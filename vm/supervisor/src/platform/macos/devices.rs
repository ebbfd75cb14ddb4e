//! What a machine has beside its processors: its channel, and folders of this computer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vm_manager::backend;
use vm_manager::config::Config;
use vm_proto::message;

use crate::channel::Channel;
use crate::told::Tellers;

/// All of a machine's that we have to do with.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The channel to the guest.
    pub(crate) vsock: Arc<Channel>,
    /// What the guest is told of its shares.
    pub(crate) shares: Vec<message::Share>,
    /// Those whose changes are told.
    pub(super) told: Tellers,
}

/// Whose changes are told: a guest has each under the same path.
pub(super) fn told(shares: &[message::Share]) -> Tellers {
    let layered = shares.iter().filter(|share| share.is_layered);
    Tellers::new(layered.map(|share| (share.path.clone().into(), share.path.clone())).collect())
}

/// The folders that it is to have, and what is to be said of them.
pub(super) fn shares(config: &Config) -> (Vec<message::Share>, Vec<String>) {
    let (mut shares, mut warnings) = (Vec::new(), Vec::new());
    let is_layered = !backend::capabilities(config.backend).tells_changes;
    for (at, share) in config.shares.iter().enumerate() {
        let path = share.path.display().to_string();
        // A folder that was taken away keeps nothing else from working.
        if share.path.is_dir() {
            shares.push(message::Share {
                tag: format!("share{at}"),
                path,
                read_only: share.read_only,
                is_layered,
            });
        } else {
            warnings.push(format!("{path} is not shared: it is no folder"));
        }
    }
    (shares, warnings)
}

/// The same, as the framework takes them.
pub(super) fn folders(shares: &[message::Share]) -> Vec<vm_vz::Share> {
    let folder = |share: &message::Share| vm_vz::Share {
        tag: share.tag.clone(),
        path: share.path.clone().into(),
        read_only: share.read_only,
    };
    shares.iter().map(folder).collect()
}

impl Devices {
    /// Lets the guest hear of changes in its shares, until that is cancelled.
    pub(crate) fn tell_changes(&self, cancelled: &CancellationToken) {
        self.told.begin(&self.vsock, cancelled);
    }

    /// Has it hear of them no more.
    pub(crate) fn stop_telling_changes(&self) {
        self.told.end();
    }
}
