//! Mounts of a creation request, there and back.

use api::container::{BindOptions, Mount, TmpfsOptions};
use api::volume::{DriverConfig, ImageOptions, VolumeOptions};
use model::container::MountSpec;

use crate::error::{ApiError, ApiResult};
use crate::versions;

/// Converts, and refuses options that are another type's.
pub(super) fn mount_specs(mounts: Vec<Mount>, minor: u32) -> ApiResult<Vec<MountSpec>> {
    mounts.into_iter().map(|mount| mount_spec(mount, minor)).collect()
}

fn mount_spec(mount: Mount, minor: u32) -> ApiResult<MountSpec> {
    let kind = mount.r#type;
    let others = [
        ("bind", "BindOptions", mount.bind_options.is_some()),
        ("volume", "VolumeOptions", mount.volume_options.is_some()),
        ("image", "ImageOptions", mount.image_options.is_some()),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
        ("cluster", "ClusterOptions", mount.cluster_options.is_some()),
    ];
    if let Some((_, field, _)) = others.iter().find(|(of, _, is_there)| *is_there && *of != kind) {
        return Err(ApiError::bad(format!("{field} must not be specified on mount type \"{kind}\"")));
    }
    let bind = mount.bind_options.unwrap_or_default();
    let volume = mount.volume_options.unwrap_or_default();
    let tmpfs = mount.tmpfs_options.unwrap_or_default();
    let image = mount.image_options.unwrap_or_default();
    let driver = volume.driver_config.unwrap_or_default();
    let is_shallow = versions::is_readonly_shallow(minor) && mount.read_only && kind == "bind";
    Ok(MountSpec {
        source: mount.source,
        target: mount.target,
        is_readonly: mount.read_only,
        propagation: bind.propagation,
        is_non_recursive: bind.non_recursive,
        creates_source: bind.create_mountpoint,
        is_readonly_non_recursive: bind.read_only_non_recursive || is_shallow,
        is_readonly_force_recursive: bind.read_only_force_recursive,
        tmpfs_size: tmpfs.size_bytes,
        tmpfs_mode: tmpfs.mode,
        tmpfs_options: tmpfs.options.unwrap_or_default(),
        subpath: if kind == "image" { image.subpath } else { volume.subpath },
        is_nocopy: volume.no_copy,
        volume_labels: volume.labels,
        volume_driver: driver.name,
        volume_options: driver.options,
        kind,
    })
}

/// As it was asked for.
pub(super) fn mount(spec: &MountSpec) -> Mount {
    let is = |kind: &str| spec.kind == kind;
    let bind = BindOptions {
        propagation: spec.propagation.clone(),
        non_recursive: spec.is_non_recursive,
        create_mountpoint: spec.creates_source,
        read_only_non_recursive: spec.is_readonly_non_recursive,
        read_only_force_recursive: spec.is_readonly_force_recursive,
    };
    let has_driver = !spec.volume_driver.is_empty() || !spec.volume_options.is_empty();
    let volume = VolumeOptions {
        no_copy: spec.is_nocopy,
        labels: spec.volume_labels.clone(),
        subpath: spec.subpath.clone(),
        driver_config: has_driver
            .then(|| DriverConfig { name: spec.volume_driver.clone(), options: spec.volume_options.clone() }),
    };
    let tmpfs = TmpfsOptions {
        size_bytes: spec.tmpfs_size,
        mode: spec.tmpfs_mode,
        options: (!spec.tmpfs_options.is_empty()).then(|| spec.tmpfs_options.clone()),
    };
    let image = ImageOptions { subpath: spec.subpath.clone() };
    Mount {
        r#type: spec.kind.clone(),
        source: spec.source.clone(),
        target: spec.target.clone(),
        read_only: spec.is_readonly,
        bind_options: is("bind").then_some(bind),
        volume_options: (is("volume") && volume != VolumeOptions::default()).then_some(volume),
        tmpfs_options: is("tmpfs").then_some(tmpfs),
        image_options: (is("image") && !spec.subpath.is_empty()).then_some(image),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_another_type_are_refused_and_the_others_come_back() {
        let volume = Mount {
            r#type: "volume".into(),
            source: "v".into(),
            target: "/t".into(),
            volume_options: Some(VolumeOptions { no_copy: true, subpath: "a".into(), ..Default::default() }),
            ..Mount::default()
        };
        let spec = mount_spec(volume.clone(), 51).unwrap();
        assert!(spec.is_nocopy && spec.subpath == "a");
        assert_eq!(mount(&spec), volume);
        let wrong = Mount { r#type: "bind".into(), ..volume };
        let refused = mount_spec(wrong, 51).unwrap_err().message;
        assert_eq!(refused, "VolumeOptions must not be specified on mount type \"bind\"");
        let old = Mount { r#type: "bind".into(), read_only: true, ..Mount::default() };
        assert!(mount_spec(old.clone(), 43).unwrap().is_readonly_non_recursive);
        assert!(!mount_spec(old, 44).unwrap().is_readonly_non_recursive);
    }
}
