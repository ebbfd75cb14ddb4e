//! What a machine has beside its processors: its channel, and folders of this computer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vm_manager::config::Config;
use vm_proto::message;

use crate::channel::Channel;

/// All of a machine's that we have to do with.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The channel to the guest.
    pub(crate) vsock: Arc<Channel>,
    /// What the guest is told of its shares.
    pub(crate) shares: Vec<message::Share>,
}

/// The folders that it is to have, and what is to be said of them.
pub(super) fn shares(config: &Config) -> (Vec<message::Share>, Vec<String>) {
    let (mut shares, mut warnings) = (Vec::new(), Vec::new());
    for (at, share) in config.shares.iter().enumerate() {
        let path = share.path.display().to_string();
        // A folder that was taken away keeps nothing else from working.
        if share.path.is_dir() {
            shares.push(message::Share { tag: format!("share{at}"), path, read_only: share.read_only });
        } else {
            warnings.push(format!("{path} is not shared: it is no folder"));
        }
    }
    if !shares.is_empty() {
        warnings.push(
            "programs in containers that watch shared folders do not hear of changes that this computer makes: macOS' own \
             sharing tells of none. They see them when they look"
                .to_owned(),
        );
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
    /// Nobody tells of any here, which the status says.
    #[expect(clippy::unused_self, reason = "elsewhere they are told")]
    pub(crate) fn tell_changes(&self, _: &CancellationToken) {}

    /// The same.
    #[expect(clippy::unused_self, reason = "elsewhere they are told")]
    pub(crate) fn stop_telling_changes(&self) {}
}
