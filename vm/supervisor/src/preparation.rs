//! The first stage, before there is a machine: its image.

use std::path::Path;

use anyhow::Result;
use vm_manager::backend;
use vm_manager::config::Config;
use vm_manager::image::{self, Image, Record};
use vm_manager::places::Places;

/// The image to boot, kept and verified.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) image: Image,
    /// It is another than the one whose engine answered last, which is there to go back to.
    pub(crate) has_previous: bool,
    /// Why it is not the newest, if it is not.
    pub(crate) warning: Option<String>,
}

/// Chooses, keeps and verifies an image.
pub(crate) fn choose_image(config: &Config, places: &Places, images: &Path) -> Result<Chosen> {
    let mut record = Record::read(places)?;
    let kind = backend::capabilities(config.backend).images;
    let installed = image::newest(images, kind).and_then(|image| image.keep(places));
    // Of another backend, as after a change of it, none of the recorded ones can be booted.
    let is_usable = |digest: &Option<String>| {
        digest.as_ref().is_some_and(|digest| {
            image::kept(places, digest).is_ok_and(|image| image.manifest.machine == kind)
        })
    };
    for place in [&mut record.current, &mut record.previous, &mut record.failed] {
        if !is_usable(place) {
            *place = None;
        }
    }
    let newest = installed.as_ref().ok().map(|image| image.manifest.digest.as_str());
    let chosen = match config.image.as_deref() {
        Some("previous") => record.previous.clone().or_else(|| record.current.clone()),
        other => other.map(str::to_owned),
    };
    let chosen = chosen.filter(|digest| is_usable(&Some(digest.clone())));
    let digest = record.choose(chosen.as_deref(), newest);
    let Some(digest) = digest else {
        return Err(installed.map(drop).expect_err("an installed image would have been chosen").into());
    };
    let image = image::kept(places, &digest)?;
    image.verify()?;
    let is_failed = newest.is_some() && record.failed.as_deref() == newest;
    let warning = is_failed.then(|| {
        "the newest guest image did not start this machine; it runs the one before. 'cove machine set NAME --image newest' \
         tries it again"
            .to_owned()
    });
    let has_previous = record.current.as_ref().is_some_and(|current| *current != digest);
    Ok(Chosen { image, has_previous, warning })
}

/// The image of a machine that is asleep: no other can go on from there.
pub(crate) fn image_of_saved(saved: &vm_manager::saved::Record, places: &Places) -> Result<Chosen> {
    let image = image::kept(places, &saved.image)?;
    image.verify()?;
    Ok(Chosen { image, has_previous: false, warning: None })
}
