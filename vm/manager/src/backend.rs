//! Who can be a machine: what each can do, and how it is started.
//!
//! A backend is asked for what it can, never which it is.

pub mod hyperv;
pub mod qemu;
pub mod uml;
pub mod vz;
mod wsl2;

use std::path::PathBuf;
use std::process::Command;

use crate::Error;
pub use crate::acceleration::Acceleration;
use crate::config::{Backend, Config};
use crate::image::Image;
use crate::places::Places;

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Unused memory of the guest goes back to the host.
    pub gives_memory_back: bool,
    /// Its state can be saved and gone on from.
    pub saves: bool,
    /// More than one processor.
    pub many_cpus: bool,
    /// It keeps hostile code in.
    pub is_wall: bool,
    /// It listens to QMP.
    pub has_qmp: bool,
    /// Its disk is a file of ours, of a size that is ours to say, as are its processors and memory.
    pub has_disk: bool,
    /// Its system translates programs for x86-64 on computers of arm64.
    pub has_rosetta: bool,
    /// The server of its shares is ours, and has watchers in the guest hear of what changes here. Where it is another's, a
    /// layer of ours in the guest stands in front.
    pub tells_changes: bool,
    /// How it is connected to its network.
    pub wire: Wire,
    /// Whose guest images it boots: they are named by the kind of machine they were made for.
    pub images: Backend,
}

/// What a machine is started with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is to be.
    pub config: Config,
    /// Where its files are.
    pub places: Places,
    /// The image, verified.
    pub image: Image,
    /// The socket of the vsock device.
    pub vsock: PathBuf,
    /// The socket of the network, if there is a way out: passt's own, or of a card of ours ([`Wire`]).
    pub network: Option<PathBuf>,
    /// Tags and sockets of the shares.
    pub shares: Vec<(String, PathBuf)>,
    /// What speeds it up.
    pub acceleration: Acceleration,
    /// The file that is the guest's memory, by its number in the program; `None` where it has its own.
    pub memory: Option<i32>,
    /// It goes on from a saved state: it waits for that, and devices that are not saved are plugged in afterwards.
    pub wakes: bool,
}

/// How a backend's network card reaches the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// It speaks passt's protocol itself.
    Direct,
    /// By a card that we serve over vhost-user.
    Card,
    /// It has a way out of its own, whose addresses the guest asks for.
    Own,
}

/// What `backend` can do.
#[must_use]
pub fn capabilities(backend: Backend) -> Capabilities {
    match backend {
        Backend::Qemu => qemu::CAPABILITIES,
        Backend::Uml => uml::CAPABILITIES,
        Backend::Vz => vz::CAPABILITIES,
        Backend::Wsl2 => wsl2::CAPABILITIES,
        Backend::HyperV => hyperv::CAPABILITIES,
    }
}

/// What a person is to know who says how large a machine is to be, where that is not ours to say.
#[must_use]
pub fn note_on_sizes(backend: Backend) -> Option<&'static str> {
    (!capabilities(backend).has_disk).then_some(wsl2::SIZES)
}

/// Whether `backend` runs what is for another architecture than this computer's.
pub(crate) fn emulates(backend: Backend, architecture: &str) -> bool {
    match backend {
        Backend::Qemu => qemu::runs(architecture),
        Backend::Uml | Backend::Vz | Backend::Wsl2 | Backend::HyperV => false,
    }
}

/// The command that is the machine: in the foreground, its console on standard output.
///
/// # Errors
/// A program or a capability that is missing, or it is no program.
pub fn command(plan: &Plan) -> Result<Command, Error> {
    match plan.config.backend {
        Backend::Qemu => qemu::command(plan),
        Backend::Uml => uml::command(plan),
        backend @ (Backend::Vz | Backend::Wsl2 | Backend::HyperV) => {
            Err(Error::Unsupported { what: "a program that is the machine", backend: backend.name() })
        }
    }
}

/// The devices the guest finds its disks at: the system image, the data.
pub(crate) fn kernel_options(system: &str, data: &str) -> String {
    format!("quiet loglevel=4 panic=-1 rcupdate.rcu_expedited=1 cove.system={system} cove.data={data}")
}

#[cfg(test)]
mod tests {
    use crate::image::Manifest;

    #[test]
    fn an_image_for_another_architecture_is_refused_where_nothing_emulates_it() {
        let dir = tempfile::tempdir().unwrap();
        let read = |machine: &str, architecture: &str| {
            let manifest = serde_json::json!({
                "format": 1, "machine": machine, "kernel": { "origin": "debian", "version": "7" },
                "architecture": architecture, "version": "0", "files": {}, "digest": format!("sha256:{:064}", 0),
            });
            std::fs::write(dir.path().join("image.json"), manifest.to_string()).unwrap();
            Manifest::read(dir.path()).map(drop).map_err(|error| error.to_string())
        };
        let here = std::env::consts::ARCH;
        let other = if here == "aarch64" { "x86_64" } else { "aarch64" };
        for (machine, architecture) in [("qemu", here), ("qemu", other), ("uml", here)] {
            read(machine, architecture).unwrap();
        }
        let error = read("uml", other).unwrap_err();
        assert!(error.contains(&format!("it is for {other}, and uml runs here")), "{error}");
        assert!(read("qemu", "riscv64").unwrap_err().contains("it is for riscv64"));
    }
}
