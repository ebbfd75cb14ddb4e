//! A machine as a distribution of WSL's: imported once, after which images are unpacked in it side by side.

use std::fs::File;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use vm_hyperv::wsl::Wsl;
use vm_manager::image::{Image, Record};
use vm_manager::places::{Places, make_private};

/// The file of an image that is the system.
const ARCHIVE: &str = "system.tar";
/// Where images are in the distribution, by the digits of their digests.
const IMAGES: &str = "/cove/images";
/// The agent's place in an image.
const AGENT: &str = "usr/bin/cove-agent";
/// Unpacks the archive that is its input as image `$1`, and removes all but those that are named.
const UNPACK: &str = "set -e; mkdir -p /cove/images; cd /cove/images; rm -rf \"$1.half\"; mkdir \"$1.half\"; \
                      tar -x -f - -C \"$1.half\"; sync; mv \"$1.half\" \"$1\"; sync; \
                      for image in *; do case \" $* \" in *\" $image \"*) ;; *) rm -rf \"$image\";; esac; done";

/// A distribution.
#[derive(Debug, Clone)]
pub(crate) struct Distribution {
    wsl: Wsl,
    name: String,
}

impl Distribution {
    /// A machine's.
    pub(super) fn of(wsl: Wsl, places: &Places) -> Self {
        Self { wsl, name: vm_hyperv::wsl::distribution(&places.name) }
    }

    /// Makes it where there is none, and unpacks the image where that is not done. Blocks.
    pub(super) fn prepare(&self, places: &Places, image: &Image) -> Result<()> {
        let archive = image.file(ARCHIVE);
        if !self.wsl.names()?.contains(&self.name) {
            let folder = places.disk_folder();
            make_private(&folder)?;
            tracing::info!(name = self.name, "making a distribution of WSL's");
            self.wsl.import(&self.name, &folder, &archive)?;
        }
        let image = digits(&image.manifest.digest);
        let agent = format!("{IMAGES}/{image}/{AGENT}");
        if self.run(&["/bin/busybox", "test", "-x", &agent], None)?.status.success() {
            return Ok(());
        }
        let record = Record::read(places)?;
        let kept = [record.current, record.previous].into_iter().flatten();
        let mut words = vec!["/bin/busybox".to_owned(), "sh".to_owned(), "-c".to_owned(), UNPACK.to_owned()];
        words.extend(["sh".to_owned(), image.to_owned()]);
        words.extend(kept.map(|kept| digits(&kept).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let file = File::open(&archive).with_context(|| format!("failed to open {}", archive.display()))?;
        let unpacked = self.run(&words, Some(file))?;
        ensure!(
            unpacked.status.success(),
            "failed to unpack the guest image in WSL: {}",
            String::from_utf8_lossy(&unpacked.stderr).trim()
        );
        Ok(())
    }

    /// The command that is the agent of an image.
    pub(super) fn agent(&self, digest: &str) -> Command {
        let root = format!("{IMAGES}/{}", digits(digest));
        self.wsl.command(&self.name, &[&format!("{root}/{AGENT}"), "inside", "--root", &root])
    }

    /// Ends all that runs in it, at once. Blocks.
    pub(super) fn terminate(&self) -> Result<()> {
        Ok(self.wsl.terminate(&self.name)?)
    }

    /// Runs a program in it to its end.
    fn run(&self, words: &[&str], input: Option<File>) -> Result<Output> {
        let mut command = self.wsl.command(&self.name, words);
        if let Some(input) = input {
            command.stdin(input);
        }
        let output = command.output().context("failed to start WSL's program")?;
        match Wsl::refusal("run a program in WSL", &output.stdout) {
            Some(refusal) if !output.status.success() => bail!(refusal),
            _ => Ok(output),
        }
    }
}

fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
