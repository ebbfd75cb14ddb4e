//! Hearing of what appears in folders and goes from them: this file picks what the platform offers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders that are watched.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    folders: BTreeSet<PathBuf>,
    events: Option<events::Events>,
}

impl Watch {
    /// Watches these folders and no others; whether that is news, so that what changed until now has to be looked at.
    /// In the place of one that is not there, the nearest above it is watched.
    pub(crate) fn set(&mut self, folders: impl IntoIterator<Item = PathBuf>) -> bool {
        let folders: BTreeSet<_> = folders.into_iter().filter_map(|folder| there(&folder)).collect();
        if self.events.is_some() && folders == self.folders {
            return false;
        }
        // Begun anew: a folder that was removed and made again has another identity under the same name.
        self.events =
            events::Events::of(&folders).inspect_err(|error| tracing::warn!(%error, "failed to watch")).ok();
        self.folders = folders;
        self.events.is_some()
    }

    /// Waits until something appeared or went.
    pub(crate) async fn changed(&mut self) {
        match &mut self.events {
            Some(events) => events.next().await,
            None => tokio::time::sleep(events::LOOK_EVERY).await,
        }
    }
}

fn there(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

#[cfg(target_os = "linux")]
mod events {
    //! By inotify.

    use std::collections::BTreeSet;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::time::Duration;

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use tokio::io::unix::AsyncFd;

    /// Where folders can't be watched: the system has no watches left.
    pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

    #[derive(Debug)]
    pub(super) struct Events(AsyncFd<OwnedFd>);

    impl Events {
        pub(super) fn of(folders: &BTreeSet<PathBuf>) -> io::Result<Self> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let wanted = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE_SELF
                | WatchFlags::ONLYDIR;
            for folder in folders {
                match inotify::add_watch(&fd, folder, wanted) {
                    // It went this moment, which the folder above it tells.
                    Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Self(crate::sys::in_event_loop(fd)?))
        }

        pub(super) async fn next(&mut self) {
            let Ok(mut ready) = self.0.readable().await else {
                return tokio::time::sleep(LOOK_EVERY).await;
            };
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            // Which they are does not matter: everything is looked at.
            while reader.next().is_ok() {}
            ready.clear_ready();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod events {
    //! By looking again.

    use std::collections::BTreeSet;
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

    #[derive(Debug)]
    pub(super) struct Events;

    impl Events {
        #[expect(clippy::unnecessary_wraps, reason = "where it is more than looking, it may fail")]
        pub(super) fn of(_: &BTreeSet<PathBuf>) -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_folder_that_is_not_there_yet_is_heard_of_when_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let mut watch = Watch::default();
        assert!(watch.set([folder.clone()]));
        assert!(!watch.set([folder.clone()]), "nothing is new");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
        assert!(watch.set([folder.clone()]), "it is watched nearer now");
        std::fs::create_dir(&folder).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
    }
}
