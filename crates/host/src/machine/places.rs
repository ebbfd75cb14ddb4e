//! Where machines and their images are on this computer.

use std::path::{Path, PathBuf};

use vm_manager::places::Folders;

use super::Error;
use crate::sys;

/// A folder for all of both, instead of the usual two.
const OVERRIDE: &str = "COVE_MACHINES";
/// A folder of guest images, instead of the one that was installed.
const IMAGES: &str = "COVE_GUEST_IMAGES";

fn variable(name: &'static str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folders of this user's machines.
///
/// # Errors
/// Nothing says where they could be.
pub fn folders() -> Result<Folders, Error> {
    if let Some(folder) = variable(OVERRIDE) {
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        return Ok(Folders { run: folder.join(".run"), data: folder });
    }
    if sys::is_root() {
        return Ok(Folders {
            data: "/var/lib/cove/machines".into(),
            run: Path::new(sys::SYSTEM_RUNTIME_DIR).join("machines"),
        });
    }
    let data = sys::data_dir().ok_or(Error::NoPlace { name: sys::DATA_DIR })?;
    let run = sys::runtime_dir().ok_or(Error::NoPlace { name: sys::RUNTIME_DIR })?;
    Ok(Folders { data: data.join("cove/machines"), run: run.join("cove/machines") })
}

/// Where guest images are: installed with this program, or beside it in a checkout.
#[must_use]
pub fn images() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    let places = beside.into_iter().flat_map(|dir| [dir.join("share/cove/guest"), dir.join("guest")]);
    let mut places = variable(IMAGES).into_iter().chain(places).chain([PathBuf::from(sys::GUEST_IMAGES)]);
    places.find(|place| place.is_dir()).unwrap_or_else(|| sys::GUEST_IMAGES.into())
}
