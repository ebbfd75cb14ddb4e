//! A new image from a file system's archive, as `docker import` makes it: one layer and a configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use model::{Platform, Reference};

use crate::commit::{CommitOptions, config_file};
use crate::config::ImageConfig;
use crate::error::{Doing, Error, Result};
use crate::store::{ImageRecord, ImageStore};

/// What an imported image is to be.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What it says of its containers.
    pub config: ImageConfig,
    /// Its name.
    pub reference: Option<Reference>,
    /// Free text.
    pub comment: String,
    /// What its programs are for; this machine where unset.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Makes an image of an archive, compressed in any way layers are. Blocking.
    ///
    /// # Errors
    /// Where the archive is malformed or cut off, the platform is not Linux, or the disk refuses;
    /// nothing is left then.
    pub fn import(&self, from: impl Read, options: ImportOptions) -> Result<Arc<ImageRecord>> {
        if options.reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
            return Err(Error::invalid("cannot import digest reference"));
        }
        let platform = options.platform.unwrap_or_else(Platform::host);
        if platform.os != "linux" {
            return Err(Error::Unsupported {
                what: format!("the image would be for {}, not for Linux", platform.os),
            });
        }
        let file = self.ingest_path("import");
        let kept = spool(from, &file).and_then(|()| self.keep_layer(&file, None));
        let _ = std::fs::remove_file(&file);
        let layer = kept?;
        let made = CommitOptions { config: options.config, comment: options.comment, ..Default::default() };
        let mut config = config_file(None, layer.diff_id, &made);
        config.architecture = platform.architecture;
        config.variant = platform.variant;
        let names = options.reference.iter().map(ToString::to_string).collect();
        self.add_image(serde_json::to_vec(&config).unwrap_or_default(), vec![layer], names)
    }
}

/// Writes down what comes: it is read twice, to be unpacked and to be kept.
fn spool(mut from: impl Read, file: &Path) -> Result<()> {
    let mut into = File::create(file).doing(|| "keep the archive")?;
    io::copy(&mut from, &mut into).map(drop).doing(|| "receive the archive")
}
