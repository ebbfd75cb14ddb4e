//! What a machine has beside its processors: its channel, and folders of this computer's drives.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vm_hyperv::hcs::document::Share;
use vm_manager::backend;
use vm_manager::config::Config;
use vm_proto::message;

use super::Channel;
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

/// The folders that it is to have, by the paths that a guest sees of drives, and what is to be said of them.
pub(super) fn shares(config: &Config) -> (Vec<message::Share>, Tellers, Vec<String>) {
    let (mut shares, mut told, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    let is_layered = !backend::capabilities(config.backend).tells_changes;
    for (at, share) in config.shares.iter().enumerate() {
        let here = share.path.display().to_string();
        match model::drive::in_guest(&here) {
            // A folder that was taken away keeps nothing else from working.
            Some(path) if share.path.is_dir() => {
                if is_layered {
                    told.push((share.path.clone(), path.clone()));
                }
                let (tag, read_only) = (format!("share{at}"), share.read_only);
                shares.push(message::Share { tag, path, read_only, is_layered });
            }
            Some(_) => warnings.push(format!("{here} is not shared: it is no folder")),
            None => warnings.push(format!("{here} is not shared: it is on no drive of this computer")),
        }
    }
    (shares, Tellers::new(told), warnings)
}

/// The same, as Windows takes them.
pub(super) fn folders(config: &Config, shares: &[message::Share]) -> Vec<Share> {
    let tagged = config.shares.iter().enumerate().map(|(at, share)| (format!("share{at}"), share));
    let is_shared = |tag: &String| shares.iter().any(|share| share.tag == *tag);
    let folder = |(tag, share): (String, &vm_manager::config::Share)| {
        is_shared(&tag).then(|| Share { tag, path: share.path.clone(), read_only: share.read_only })
    };
    tagged.filter_map(folder).collect()
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
