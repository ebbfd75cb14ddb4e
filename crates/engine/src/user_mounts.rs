//! A container's mounts: settled when it is created, handed to the runtime when it starts.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use image_store::Snapshot;
use model::ErrorKind;
use model::container::ContainerSpec;
use model::mount::{MountPoint, MountSource};
use oci_runtime::filesystem;
use oci_runtime::spec::Mount;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Doing, Error, Result};
use crate::mount_points::{self, Takeover, VolumeWish, Wanted};
use crate::volumes::fill::{self, Place};
use crate::volumes::local::Device;
use crate::volumes::{ANONYMOUS, Claims, VolumeInfo};

/// A volume that may be filled.
struct Empty {
    name: String,
    /// The path in the image.
    target: String,
    device: Option<Device>,
    /// Whether its files have to outlive a power cut.
    is_durable: bool,
}

impl Engine {
    /// Settles what a container mounts: its own mounts, those of the containers it takes them from, then
    /// the image's volumes. The volumes are held, and made where they are missing; images are pinned by
    /// snapshots that are the container's, which the caller removes if the creation fails.
    pub(crate) async fn settle_mounts(
        &self,
        id: &str,
        spec: &ContainerSpec,
        wanted: Vec<Wanted>,
    ) -> Result<(Vec<MountPoint>, Claims)> {
        let mut volumes: BTreeMap<String, Option<VolumeWish>> = BTreeMap::new();
        let mut points = Vec::new();
        for Wanted { mut point, volume } in wanted {
            name_volume(&mut point, volume, &mut volumes);
            points.push(point);
        }
        // A client takes "not found" for the image's absence, and pulls that.
        let as_invalid = |error: Error| match error.kind() {
            ErrorKind::NotFound => Error::invalid(error.chain()),
            _ => error,
        };
        for point in self.taken_over(spec).map_err(as_invalid)? {
            if points.iter().all(|own| own.target != point.target) {
                if let Some(name) = point.volume() {
                    volumes.entry(name.to_owned()).or_insert(None);
                }
                points.push(point);
            }
        }
        for mut point in mount_points::anonymous(spec, &points)? {
            let wish = VolumeWish { driver: spec.host.volume_driver.clone(), ..VolumeWish::default() };
            name_volume(&mut point, wish, &mut volumes);
            points.push(point);
        }
        for (at, point) in points.iter_mut().enumerate() {
            if let MountSource::Image { name, snapshot, .. } = &mut point.source {
                *snapshot = snapshot_key(id, at);
                let image = self.images.resolve(name).map_err(|error| {
                    Error::invalid(format!("invalid mount config for type \"image\": {error}"))
                })?;
                self.images.prepare_snapshot(snapshot, &image.id)?;
            }
        }
        let claims = self.claim(id, &volumes).await.map_err(as_invalid)?;
        Ok((points, claims))
    }

    /// The mounts of `--volumes-from`; of two at one place, the later one's.
    fn taken_over(&self, spec: &ContainerSpec) -> Result<Vec<MountPoint>> {
        let mut all: Vec<MountPoint> = Vec::new();
        for text in &spec.host.volumes_from {
            let (name, takeover) = mount_points::parse_volumes_from(text)?;
            let other = self.containers.find(name)?.spec();
            for point in other.mount_points.iter().flatten() {
                let mut point = point.clone();
                point.is_writable &= takeover == Takeover::AsThere;
                if let MountSource::Volume { copies_up, .. } = &mut point.source {
                    *copies_up = false;
                }
                all.retain(|earlier| earlier.target != point.target);
                all.push(point);
            }
        }
        Ok(all)
    }

    /// Gives empty volumes what the image has at their place.
    pub(crate) async fn copy_up(
        &self,
        id: &str,
        spec: &ContainerSpec,
        points: &[MountPoint],
        claims: &Claims,
    ) -> Result<()> {
        let mut empty = Vec::new();
        for point in points {
            let MountSource::Volume { name, copies_up: true, .. } = &point.source else { continue };
            let Some(record) = claims.record(name) else { continue };
            let device = Device::parse(&record.options)?;
            // Memory is new at each start, and filled then.
            if device.as_ref().is_some_and(Device::is_tmpfs) {
                continue;
            }
            let device = match device {
                Some(device) => Some(with_address(device).await?),
                None => None,
            };
            empty.push(Empty {
                name: name.clone(),
                target: point.target.clone(),
                device,
                is_durable: !(spec.host.auto_remove && record.is_anonymous()),
            });
        }
        if empty.is_empty() {
            return Ok(());
        }
        let (engine, id, rootfs) = (self.clone(), id.to_owned(), spec.rootfs.clone());
        tokio::task::spawn_blocking(move || engine.fill_all(&id, rootfs.as_deref(), &empty))
            .await
            .map_err(|_| Error::ShuttingDown)?
    }

    fn fill_all(&self, id: &str, rootfs: Option<&Path>, empty: &[Empty]) -> Result<()> {
        let mut root: Option<OwnedFd> = None;
        for volume in empty {
            let step = || format!("copy {} of the image to volume {}", volume.target, volume.name);
            let place = self.place_of(volume)?;
            place.recover().doing(step)?;
            if !place.is_empty().doing(step)? {
                continue;
            }
            let root = match &mut root {
                Some(root) => root,
                none => none.insert(self.open_layers_of(id, rootfs)?),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let from = match crate::archive::open_in(root, Path::new(&volume.target), flags) {
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR) => {
                    return Err(Error::invalid(format!(
                        "cannot mount volume over existing file, file exists {}",
                        volume.target
                    )));
                }
                other => other.doing(step)?,
            };
            place.fill(from.as_fd(), volume.is_durable).doing(step)?;
        }
        Ok(())
    }

    /// Where a volume's files are, as the engine reaches them.
    fn place_of(&self, volume: &Empty) -> Result<Place> {
        let step = || format!("mount volume {}", volume.name);
        let Some(device) = &volume.device else {
            return Place::beside(&self.volume_dir(&volume.name)).doing(step);
        };
        let root = if device.is_bind() {
            fill::open_dir(Path::new(&device.device)).doing(step)?
        } else {
            let mount = filesystem::detached(&device.kind, &device.device, &device.options)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(&mount, ".", flags, Mode::empty()).doing(step)?
        };
        Place::within(root).doing(step)
    }

    /// The mounts for the runtime, in the order they were asked for.
    pub(crate) async fn user_mounts(&self, id: &str, points: &[MountPoint]) -> Result<Vec<Mount>> {
        let mut all = Vec::with_capacity(points.len());
        for point in points {
            let mount = match &point.source {
                MountSource::Bind { path, creates, is_recursive } => {
                    prepare_source(path, *creates)?;
                    check_propagation(path, &point.propagation)?;
                    let kind = if *is_recursive { "rbind" } else { "bind" };
                    bind(path, &[kind, &point.propagation])
                }
                MountSource::Volume { name, subpath, copies_up, .. } => {
                    self.volume_mount(id, name, subpath, *copies_up).await?
                }
                MountSource::Tmpfs { options } => {
                    Mount { options: options.clone(), ..mount("tmpfs", "tmpfs", &[]) }
                }
                MountSource::Image { name, snapshot, subpath } => {
                    self.image_mount(name, snapshot, subpath)?
                }
            };
            all.push(finish(mount, point));
        }
        Ok(all)
    }

    async fn volume_mount(&self, id: &str, name: &str, subpath: &str, copies_up: bool) -> Result<Mount> {
        let info = self.volume(name)?;
        let stage = info.mountpoint.clone();
        let mut made = match Device::parse(&info.options)? {
            None => bind(&stage.to_string_lossy(), &["rbind", "rprivate"]),
            Some(device) if device.is_bind() => {
                let has_kind = device.options.iter().any(|option| option == "rbind" || option == "bind");
                let mut made = bind(&device.device, if has_kind { &[] } else { &["bind"] });
                made.options.extend(device.options);
                made
            }
            Some(device) => {
                if device.is_made_anew() {
                    self.check_alone(id, &info, &device)?;
                }
                let is_tmpfs = device.is_tmpfs();
                let device = with_address(device).await?;
                let mut made = Mount { options: device.options, ..mount(&device.kind, &device.device, &[]) };
                if is_tmpfs && copies_up {
                    made.options.push("tmpcopyup".into());
                }
                (made.is_detached, made.stage) = (true, stage);
                made
            }
        };
        if !subpath.is_empty() {
            made.subpath = PathBuf::from(subpath);
            if made.kind == "bind" {
                // The runtime asks the kernel again; this is for the words.
                let root = fill::open_dir(Path::new(&made.source)).doing(|| format!("open volume {name}"))?;
                filesystem::open_beneath(root.as_fd(), &made.subpath)
                    .map_err(|error| Error::invalid(format!("volume {name}: {}", error.chain())))?;
            }
        }
        Ok(made)
    }

    /// Two mounts of some file systems are two file systems, or are not to be: then one container has the
    /// volume at a time.
    fn check_alone(&self, id: &str, info: &VolumeInfo, device: &Device) -> Result<()> {
        let is_running = |user: &&String| {
            self.containers.find(user).is_ok_and(|container| container.state().run().is_some())
        };
        match info.users.iter().filter(|user| *user != id).find(is_running) {
            None => Ok(()),
            Some(user) => Err(Error::unsupported(format!(
                "volume {} of type {} is mounted in container {}, and can't be shared between running containers; a volume of type none with o=bind can",
                info.name,
                device.kind,
                user.get(..12).unwrap_or(user)
            ))),
        }
    }

    fn image_mount(&self, name: &str, snapshot: &str, subpath: &str) -> Result<Mount> {
        let found = self.images.snapshot(snapshot).ok_or_else(|| {
            Error::state(format!("the layers of image {name}, which is to be mounted, are missing"))
        })?;
        let mut made = match found {
            Snapshot::Copy { rootfs } => bind(&rootfs.to_string_lossy(), &["bind", "ro"]),
            Snapshot::Overlay { lowers, is_userxattr, .. } => match lowers.as_slice() {
                // Overlay without a writable layer takes two.
                [only] => bind(&only.to_string_lossy(), &["bind", "ro"]),
                _ => {
                    let stage = lowers.first().cloned().unwrap_or_default();
                    let overlay =
                        oci_runtime::Overlay { lowers, is_userxattr, ..oci_runtime::Overlay::default() };
                    Mount { stage, overlay: Some(overlay), ..mount("overlay", name, &["ro"]) }
                }
            },
        };
        made.subpath = PathBuf::from(subpath);
        Ok(made)
    }

    /// Removes the snapshots that hold the layers of mounted images.
    pub(crate) fn release_images(&self, id: &str, points: &[MountPoint]) {
        for (at, point) in points.iter().enumerate() {
            if !matches!(point.source, MountSource::Image { .. }) {
                continue;
            }
            if let Err(error) = self.images.remove_snapshot(&snapshot_key(id, at)) {
                tracing::warn!(id, %error, "failed to remove the snapshot of a mounted image");
            }
        }
    }

    /// Tells of a container's volumes that they are mounted, or not any more.
    pub(crate) fn volume_events(&self, container: &Container, action: &str) {
        let spec = container.spec();
        for point in spec.mount_points.iter().flatten() {
            let Some(name) = point.volume() else { continue };
            let access = if point.is_writable { "true" } else { "false" };
            let more = [
                ("container", container.id.as_str()),
                ("destination", &point.target),
                ("propagation", &point.propagation),
                ("read/write", access),
            ];
            let told = if action == "mount" { &more[..] } else { &more[..1] };
            self.volume_event(name, action, told);
        }
    }
}

/// The container's own, so that it goes with the container.
fn snapshot_key(id: &str, at: usize) -> String {
    format!("{id}.{at}")
}

/// Settles the name of a volume, and what it is to be.
fn name_volume(
    point: &mut MountPoint,
    mut wish: VolumeWish,
    volumes: &mut BTreeMap<String, Option<VolumeWish>>,
) {
    let MountSource::Volume { name, .. } = &mut point.source else { return };
    if name.is_empty() {
        *name = crate::create::new_id();
        wish.labels.insert(ANONYMOUS.into(), String::new());
    }
    volumes.entry(name.clone()).or_insert(Some(wish));
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    }
}

fn bind(source: &str, options: &[&str]) -> Mount {
    mount("bind", source, options)
}

/// What all kinds have in common.
fn finish(mut mount: Mount, point: &MountPoint) -> Mount {
    mount.destination = PathBuf::from(&point.target);
    if point.is_writable {
        return mount;
    }
    if mount.is_detached {
        // Of the mount alone: the file system may be written through others.
        mount.options.push("rro".into());
    } else if mount.kind == "bind" {
        mount.options.push("ro".into());
        if !point.is_readonly_shallow && mount.options.iter().any(|option| option == "rbind") {
            mount.options.push("rro".into());
        }
    }
    mount
}

fn prepare_source(path: &str, creates: bool) -> Result<()> {
    if Path::new(path).symlink_metadata().is_ok() {
        return Ok(());
    }
    if !creates {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {path}"
        )));
    }
    std::fs::create_dir_all(path).doing(|| format!("make the bind source {path:?}"))
}

/// Refuses a propagation that the host's mount can't have: nothing would come through.
fn check_propagation(path: &str, propagation: &str) -> Result<()> {
    let (tags, what): (&[&str], _) = match propagation {
        "shared" | "rshared" => (&["shared:"], "a shared mount"),
        "slave" | "rslave" => (&["shared:", "master:"], "a shared or slave mount"),
        _ => return Ok(()),
    };
    let table = stdx::fs::read_kernel_text("/proc/self/mountinfo").doing(|| "list the mounts")?;
    let source = std::fs::canonicalize(path).doing(|| format!("resolve the bind source {path:?}"))?;
    let (point, optional) = mount_of(&table, &source);
    if optional.iter().any(|field| tags.iter().any(|tag| field.starts_with(tag))) {
        return Ok(());
    }
    Err(Error::invalid(format!("path {path} is mounted on {point} but it is not {what}")))
}

/// The mount a path of the host is on, and the mount's optional fields (proc(5), mountinfo).
fn mount_of<'t>(table: &'t str, path: &Path) -> (String, Vec<&'t str>) {
    let mut best = (String::from("/"), Vec::new());
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(point) = fields.get(4) else { continue };
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        // A later mount at the same place lies on top.
        if path.starts_with(&point) && point.len() >= best.0.len() {
            let optional = fields.iter().skip(6).take_while(|field| **field != "-");
            best = (point, optional.copied().collect());
        }
    }
    best
}

/// The kernel takes only addresses of servers.
async fn with_address(device: Device) -> Result<Device> {
    let Some(server) = device.server().map(str::to_owned) else { return Ok(device) };
    if let Ok(address) = server.parse() {
        return Ok(device.with_address(address));
    }
    let mut found = tokio::net::lookup_host((server.as_str(), 0))
        .await
        .doing(|| format!("look up {server}, the server of a volume"))?;
    let address = found.next().ok_or_else(|| Error::invalid(format!("server {server} has no address")))?;
    Ok(device.with_address(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_the_deepest_and_the_uppermost() {
        let table = "1 0 0:1 / / rw shared:1 - ext4 /dev/a rw\n\
                     2 1 0:2 / /mnt rw - ext4 /dev/b rw\n\
                     3 2 0:3 / /mnt rw master:7 shared:2 - ext4 /dev/c rw\n\
                     4 1 0:4 / /with\\040blank rw shared:3 - ext4 /dev/d rw\n";
        assert_eq!(mount_of(table, Path::new("/srv")), ("/".into(), vec!["shared:1"]));
        assert_eq!(mount_of(table, Path::new("/mnt/x")), ("/mnt".into(), vec!["master:7", "shared:2"]));
        assert_eq!(mount_of(table, Path::new("/mntx")), ("/".into(), vec!["shared:1"]));
        assert_eq!(mount_of(table, Path::new("/with blank/x")).0, "/with blank");
    }

    #[test]
    fn read_only_reaches_what_lies_below_unless_it_is_not_to() {
        let point = |is_shallow| MountPoint {
            source: MountSource::Tmpfs { options: Vec::new() },
            target: "/t".into(),
            mode: String::new(),
            is_writable: false,
            is_readonly_shallow: is_shallow,
            propagation: String::new(),
        };
        assert_eq!(finish(bind("/a", &["rbind"]), &point(false)).options, ["rbind", "ro", "rro"]);
        assert_eq!(finish(bind("/a", &["rbind"]), &point(true)).options, ["rbind", "ro"]);
        assert_eq!(finish(bind("/a", &["bind"]), &point(false)).options, ["bind", "ro"]);
        let device = Mount { is_detached: true, ..mount("ext4", "/dev/a", &[]) };
        assert_eq!(finish(device, &point(false)).options, ["rro"]);
        assert!(finish(mount("tmpfs", "tmpfs", &[]), &point(false)).options.is_empty());
    }
}
