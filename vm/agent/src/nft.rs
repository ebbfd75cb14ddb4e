//! Rules of the guest's kernel for packets, by nft(8).

use std::fs::File;
use std::io::{Read, Seek};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::children::Children;

/// Has all of the rules hold, or none: they are one transaction.
pub(crate) async fn apply(rules: &str, children: &Children) -> Result<()> {
    // Nobody reads a pipe while it runs.
    let said = memfd_create("nft", MemfdFlags::CLOEXEC).context("failed to keep a program's words")?;
    let mut said = File::from(said);
    let mut nft = stdx::process::command("/usr/sbin/nft");
    nft.arg(rules).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let status = children.run(&mut nft).await?;
    if !status.success() {
        let mut text = String::new();
        said.rewind().and_then(|()| said.read_to_string(&mut text)).context("failed to read its words")?;
        bail!("nft ended with {status}: {}", text.trim());
    }
    Ok(())
}
