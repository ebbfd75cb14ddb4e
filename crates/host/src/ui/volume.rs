//! Volumes as rows of a list, the form for a new one, and what they occupy.

use std::collections::BTreeMap;
use std::time::Duration;

use api::client::Client;
use api::volume::{CreateVolume, Volume};
use serde::{Deserialize, Serialize};

use super::error::UiError;
use super::form::{Preview, Variable, home, is_volume_name, lines, parse_bytes, shorten};
use super::hub::{Change, Hub};
use super::live::until;
use super::row::millis;
use super::topic::{Closed, Feed, Update};

/// How often volumes are measured while somebody looks: what is written into one is no event.
const EVERY: Duration = Duration::from_secs(30);

/// One row. Which containers have it, their own rows tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct VolumeRow {
    /// Its name, which is all the identity it has.
    pub name: String,
    /// Whether nobody chose the name: a container wanted some volume.
    pub anonymous: bool,
    /// The Compose project it belongs to.
    pub project: Option<String>,
    /// Who keeps it.
    pub driver: String,
    /// Where its files are on the engine's computer.
    pub mountpoint: String,
    /// Milliseconds since the epoch.
    pub created_at: u64,
    /// Where its files really are.
    pub kind: VolumeKind,
    /// What its driver was told.
    pub options: Vec<Variable>,
    /// Notes on it.
    pub labels: Vec<Variable>,
}

/// Where a volume's files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum VolumeKind {
    /// In a folder that the engine keeps.
    #[default]
    Own,
    /// In a folder of the engine's computer that is there already.
    Folder,
    /// In memory, new for each container.
    Memory,
    /// On a file server.
    Nfs,
    /// On something else that can be mounted.
    Other,
}

/// What a user fills in for a volume; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeForm {
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub kind: VolumeKind,
    /// A folder's path, how much memory at most (empty: half of it), or `server:/path`, as the kind is.
    pub place: String,
    /// What is on a file server is only read.
    pub read_only: bool,
    /// Lines that are empty are ignored.
    pub labels: Vec<Variable>,
}

/// What one volume occupies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct VolumeSize {
    /// The volume.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

impl VolumeRow {
    /// What the list tells.
    #[must_use]
    pub fn of(volume: Volume) -> Self {
        let labels = volume.labels.unwrap_or_default();
        let options = volume.options.unwrap_or_default();
        Self {
            kind: VolumeKind::of(&options),
            anonymous: labels.contains_key("com.docker.volume.anonymous"),
            project: labels.get("com.docker.compose.project").cloned(),
            driver: volume.driver,
            mountpoint: volume.mountpoint,
            created_at: millis(&volume.created_at).unwrap_or(0),
            name: volume.name,
            options: lines(options),
            labels: lines(labels),
        }
    }
}

impl VolumeKind {
    fn of(options: &BTreeMap<String, String>) -> Self {
        let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        let is_bind = option("o").split(',').any(|word| matches!(word, "bind" | "rbind"));
        match option("type") {
            "" if options.is_empty() => Self::Own,
            _ if is_bind => Self::Folder,
            "bind" => Self::Folder,
            "tmpfs" | "ramfs" => Self::Memory,
            "nfs" | "nfs4" => Self::Nfs,
            _ => Self::Other,
        }
    }
}

impl VolumeForm {
    /// Checks the form.
    #[must_use]
    pub fn preview(&self) -> Preview {
        self.read().0
    }

    /// What to make.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn request(&self) -> Result<CreateVolume, UiError> {
        let (preview, request) = self.read();
        preview.check(request)
    }

    fn read(&self) -> (Preview, CreateVolume) {
        let mut preview = Preview::of(&["volume", "create"]);
        let mut driver_opts = BTreeMap::new();
        for (name, value) in self.read_place(&mut preview) {
            preview.option("--opt", &format!("{name}={value}"));
            driver_opts.insert(name.to_owned(), value);
        }
        let labels = preview.pairs(&self.labels, "labels", "--label");
        let name = self.name.trim();
        preview.word_or(name, "NAME");
        if !is_volume_name(name) {
            preview.problem("name", "a volume's name has letters, digits, _, . and -, at least two");
        }
        (preview, CreateVolume { name: name.to_owned(), driver_opts, labels, ..CreateVolume::default() })
    }

    /// The driver's options, in the words of mount(8).
    fn read_place(&self, preview: &mut Preview) -> Vec<(&'static str, String)> {
        let place = self.place.trim();
        match self.kind {
            VolumeKind::Own => Vec::new(),
            VolumeKind::Folder => {
                let folder = home(place);
                if !folder.starts_with('/') {
                    preview.problem("place", "a folder begins with / or ~");
                }
                vec![("type", "none".to_owned()), ("o", "bind".to_owned()), ("device", folder)]
            }
            VolumeKind::Memory => {
                let mut options = vec![("type", "tmpfs".to_owned()), ("device", "tmpfs".to_owned())];
                match parse_bytes(place) {
                    _ if place.is_empty() => {}
                    Some(bytes) => options.push(("o", format!("size={}", shorten(bytes)))),
                    None => preview.problem("place", "write an amount, such as 512 MB or 2 GB"),
                }
                options
            }
            VolumeKind::Nfs => {
                let (server, path) = server_and_path(place).unwrap_or_else(|| {
                    preview.problem("place", "write a server and its folder, such as files.example:/export");
                    ("SERVER", "/PATH")
                });
                let access = if self.read_only { "ro" } else { "rw" };
                vec![
                    ("type", "nfs".to_owned()),
                    // An older version would need helpers beside the kernel for its locks.
                    ("o", format!("addr={server},{access},nfsvers=4")),
                    ("device", format!(":{path}")),
                ]
            }
            VolumeKind::Other => {
                preview.problem("kind", "what else can be mounted is said on the command line");
                Vec::new()
            }
        }
    }
}

/// `files.example:/export`, `[fd00::2]:/export`
fn server_and_path(text: &str) -> Option<(&str, &str)> {
    let (server, path) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => text.split_once(':')?,
    };
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-.:%_".contains(c);
    (!server.is_empty() && server.chars().all(is_fine) && path.starts_with('/')).then_some((server, path))
}

/// Measures at once, at each change of the list, and from time to time.
pub(crate) async fn sizes(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut told = None;
    loop {
        // Subscribed anew before each look: what changed until then is in it.
        let mut changes = hub.subscribe();
        // An engine that does not answer is told about elsewhere.
        let sizes = tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            sizes = measure(hub.client()) => sizes.ok(),
        };
        if let Some(sizes) = sizes.filter(|sizes| told.as_ref() != Some(sizes)) {
            told = Some(sizes.clone());
            feed.update(Update::VolumeSizes { sizes }).await?;
        }
        let changed = until(&mut changes, feed, |change| matches!(change, Change::Volumes | Change::Engine));
        if let Ok(Err(Closed)) = tokio::time::timeout(EVERY, changed).await {
            return Err(Closed);
        }
    }
}

async fn measure(client: &Client) -> Result<Vec<VolumeSize>, api::client::Error> {
    let usage = client.disk_usage(&["volume"]).await?;
    let size = |volume: Volume| {
        // Docker says −1 where it does not know.
        let bytes = u64::try_from(volume.usage_data?.size).ok()?;
        Some(VolumeSize { name: volume.name, bytes })
    };
    Ok(usage.volumes.into_iter().filter_map(size).collect())
}

/// Why a volume was not removed: containers by their names, and what to do about it.
pub(crate) fn not_removed(mut error: UiError, hub: &Hub) -> UiError {
    for row in hub.containers().0.unwrap_or_default() {
        error.message = error.message.replace(&row.id, &row.name);
    }
    match error.hint {
        None if error.message.contains("volume is in use") => {
            error.with_hint("remove the containers that have it first, also those that don’t run")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_nobody_named_is_told_apart() {
        let volume = |labels: &[&str]| Volume {
            name: "data".into(),
            created_at: "2026-11-24T11:00:00Z".into(),
            labels: Some(labels.iter().map(|label| ((*label).to_owned(), "storefront".to_owned())).collect()),
            ..Volume::default()
        };
        let row = VolumeRow::of(volume(&["com.docker.volume.anonymous"]));
        assert_eq!((row.anonymous, row.created_at), (true, 1_795_518_000_000));
        let row = VolumeRow::of(volume(&["com.docker.compose.project"]));
        assert_eq!((row.anonymous, row.project.as_deref()), (false, Some("storefront")));
    }

    #[test]
    fn what_a_volume_stands_for_is_told_to_its_driver_and_read_from_it() {
        let check = |kind, place: &str, wanted: &str| {
            let form = VolumeForm { name: "data".into(), kind, place: place.into(), ..VolumeForm::default() };
            let words = form.preview().words.join(" ");
            assert_eq!(words, format!("volume create {wanted}data"));
            let request = form.request().unwrap();
            assert_eq!(VolumeKind::of(&request.driver_opts), kind, "{request:?}");
        };
        check(VolumeKind::Own, "", "");
        check(
            VolumeKind::Folder,
            "/srv/my data",
            "--opt type=none --opt o=bind --opt 'device=/srv/my data' ",
        );
        check(VolumeKind::Memory, "", "--opt type=tmpfs --opt device=tmpfs ");
        check(VolumeKind::Memory, "64 MB", "--opt type=tmpfs --opt device=tmpfs --opt o=size=64m ");
        let nfs = "--opt type=nfs --opt o=addr=files.example,rw,nfsvers=4 --opt device=:/export ";
        check(VolumeKind::Nfs, "files.example:/export", nfs);
    }

    #[test]
    fn a_place_that_is_none_is_a_problem_of_its_field() {
        let check = |kind, place: &str| {
            let form = VolumeForm { name: "data".into(), kind, place: place.into(), ..VolumeForm::default() };
            assert_eq!(form.preview().problems[0].field, "place", "{place}");
            assert!(form.request().is_err());
        };
        check(VolumeKind::Folder, "srv");
        check(VolumeKind::Memory, "much");
        check(VolumeKind::Nfs, "files.example");
        check(VolumeKind::Nfs, "files.example:export");
        check(VolumeKind::Nfs, "a,b:/export");
        assert_eq!(server_and_path("[fd00::2]:/export"), Some(("fd00::2", "/export")));
        assert_eq!(
            VolumeForm { name: "x".into(), ..VolumeForm::default() }.preview().problems[0].field,
            "name"
        );
    }
}
