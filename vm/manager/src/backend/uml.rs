//! User Mode Linux: the guest's kernel as a program, without privilege.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Capabilities, Plan, Wire, kernel_options};
use crate::Error;
use crate::config::Backend;
use crate::places::Places;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    gives_memory_back: false,
    saves: false,
    many_cpus: false,
    is_wall: false,
    has_qmp: false,
    has_disk: true,
    has_rosetta: false,
    tells_changes: true,
    wire: Wire::Card,
    images: Backend::Uml,
};

/// Device numbers of the virtio specification, section 5.
const NETWORK: u32 = 1;
const VSOCK: u32 = 19;
const FILES: u32 = 26;

pub(super) fn command(plan: &Plan) -> Result<Command, Error> {
    let manifest = &plan.image.manifest;
    let (program, words) = manifest.command.split_first().ok_or_else(|| Error::WrongImage {
        file: "image.json".to_owned(),
        reason: "it does not say how its kernel is executed".to_owned(),
    })?;
    let program = if program.contains('/') { plan.image.file(program) } else { PathBuf::from(program) };
    let mut command = stdx::process::command(program);
    command.args(words).current_dir(&plan.image.folder);
    // The guest's memory is a file that loses its name at once; its code is executed from there.
    command.env("TMPDIR", memory_folder(&plan.places));
    command.arg(format!("mem={}M", plan.config.memory >> 20)).arg("seccomp=auto");
    if plan.config.cpus > 1 && manifest.kernel.origin == "own" {
        command.arg(format!("ncpus={}", plan.config.cpus));
    }
    // Its console is our pipe; it has no input, and no terminals of its own.
    command.args(["con=null", "con0=null,fd:1", "ssl=null"]);
    command.arg(format!("uml_dir={}/", plan.places.run.display()));
    command.arg(format!("initrd={}", plan.image.file("initrd").display()));
    command.arg(format!("ubd0r={}", plan.image.file("system.erofs").display()));
    command.arg(format!("ubd1={}", plan.places.disk().display()));
    let mut device = |socket: &Path, number| {
        command.arg(format!("virtio_uml.device={}:{number}", socket.display()));
    };
    device(&plan.vsock, VSOCK);
    if let Some(socket) = &plan.network {
        device(socket, NETWORK);
    }
    for (_, socket) in &plan.shares {
        device(socket, FILES);
    }
    command.args(kernel_options("/dev/ubda", "/dev/ubdb").split(' '));
    Ok(command)
}

/// A memory file system whose files may be executed, else one of the machine's own folders: that of its disk, if need be, where
/// memory that is not used for long is written away.
fn memory_folder(places: &Places) -> PathBuf {
    let folders = [Path::new("/dev/shm"), &places.run, &places.data];
    let found = folders.into_iter().find(|folder| crate::sys::may_execute_in(folder));
    found.unwrap_or(&places.run).to_owned()
}
