//! QEMU: a minimal machine in a sandbox, its devices but disks and console served by us.

#[cfg(target_os = "linux")]
pub mod state;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Acceleration, Capabilities, Plan, Wire, kernel_options};
use crate::Error;
use crate::config::Backend;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    gives_memory_back: true,
    saves: true,
    many_cpus: true,
    is_wall: true,
    has_qmp: true,
    has_disk: true,
    has_rosetta: false,
    tells_changes: true,
    wire: Wire::Direct,
    images: Backend::Qemu,
};

/// What QEMU has for guests of one architecture.
struct Kind {
    architecture: &'static str,
    program: &'static str,
    /// With what of it can be left out.
    machine: &'static str,
    /// Where the processor is emulated.
    cpu: &'static str,
    console: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        architecture: "x86_64",
        program: "qemu-system-x86_64",
        machine: "q35,usb=off,smbus=off,sata=off,hpet=off,vmport=off",
        // Emulated, AVX and the saving of its registers are young in QEMU 7.2, and no faster than SSE.
        cpu: "max,xsave=off",
        console: "ttyS0",
    },
    Kind {
        architecture: "aarch64",
        program: "qemu-system-aarch64",
        machine: "virt,usb=off,gic-version=max",
        // Pointers are signed by what is quick to emulate.
        cpu: "max,pauth-impdef=on",
        console: "ttyAMA0",
    },
];

impl Kind {
    fn of(architecture: &str) -> Result<&'static Self, Error> {
        KINDS.iter().find(|kind| kind.architecture == architecture).ok_or_else(|| Error::WrongImage {
            file: "image.json".to_owned(),
            reason: format!("it is for {architecture}, which QEMU is not known to be started for"),
        })
    }

    fn find(&self) -> Result<PathBuf, Error> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&paths).map(|dir| dir.join(self.program));
        places.find(|path| path.is_file()).ok_or(Error::NoProgram { program: self.program })
    }
}

/// Whether there is a program for guests of an architecture, this computer's or another.
pub(crate) fn runs(architecture: &str) -> bool {
    Kind::of(architecture).is_ok()
}

/// Where the program for guests of an architecture is.
///
/// # Errors
/// It is not installed, or there is none.
pub fn program(architecture: &str) -> Result<PathBuf, Error> {
    Kind::of(architecture)?.find()
}

/// The socket QMP is spoken on.
#[must_use]
pub fn qmp_socket(plan: &Plan) -> PathBuf {
    plan.places.device("qmp")
}

pub(super) fn command(plan: &Plan) -> Result<Command, Error> {
    let kind = Kind::of(&plan.image.manifest.architecture)?;
    let mut command = stdx::process::command(kind.find()?);
    let mut option = |name: &str, value: String| {
        command.arg(name).arg(value);
    };
    let accelerator = match plan.acceleration {
        Acceleration::Kvm => "kvm",
        Acceleration::Tcg
        | Acceleration::Native
        | Acceleration::Framework
        | Acceleration::Wsl2
        | Acceleration::HyperV => "tcg,thread=multi",
    };
    option("-name", format!("cove-{}", plan.places.name));
    option("-accel", accelerator.to_owned());
    option("-machine", format!("{},memory-backend=mem", kind.machine));
    let cpu = if plan.acceleration == Acceleration::Kvm { "host" } else { kind.cpu };
    option("-cpu", cpu.to_owned());
    option("-smp", plan.config.cpus.to_string());
    option("-m", format!("{}M", plan.config.memory >> 20));
    // A file of ours, so that we can save it; QEMU opens what it has inherited once more.
    let memory = plan.memory.map_or_else(
        || "memory-backend-memfd,id=mem".to_owned(),
        |number| format!("memory-backend-file,id=mem,mem-path=/proc/self/fd/{number}"),
    );
    option("-object", format!("{memory},size={}M,share=on", plan.config.memory >> 20));
    option("-kernel", plan.image.file("kernel").display().to_string());
    option("-initrd", plan.image.file("initrd").display().to_string());
    option("-append", append(plan, kind));
    option("-chardev", "stdio,id=console,signal=off".to_owned());
    option("-serial", "chardev:console".to_owned());
    let system = escaped(&plan.image.file("system.erofs"));
    option("-drive", format!("file={system},if=none,id=system,format=raw,readonly=on"));
    option("-device", "virtio-blk-pci,drive=system".to_owned());
    let data = escaped(&plan.places.disk());
    option("-drive", format!("file={data},if=none,id=data,format=raw,discard=unmap,detect-zeroes=unmap"));
    option("-device", "virtio-blk-pci,drive=data".to_owned());
    // Each at a port of its own, where it can be unplugged and plugged in: QEMU can't save their states.
    for (at, device) in plugged(plan).iter().enumerate() {
        option("-device", format!("pcie-root-port,id={},chassis={at},slot={at}", device.port));
        if !plan.wakes {
            option("-chardev", format!("socket,id={},path={}", device.id, escaped(&device.socket)));
            let tag = device.tag.as_ref().map_or_else(String::new, |tag| format!(",tag={tag}"));
            let Plugged { id, port, driver, .. } = device;
            option("-device", format!("{driver},id={id},chardev={id},bus={port}{tag}"));
        }
    }
    if plan.wakes {
        option("-incoming", "defer".to_owned());
    }
    if let Some(socket) = &plan.network {
        let address = format!("addr.type=unix,addr.path={}", escaped(socket));
        option("-netdev", format!("stream,id=network,server=off,{address}"));
        option("-device", "virtio-net-pci,netdev=network,romfile=".to_owned());
    }
    option("-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on,deflate-on-oom=on".to_owned());
    option("-device", "virtio-rng-pci".to_owned());
    option("-qmp", format!("unix:{},server=on,wait=off", escaped(&qmp_socket(plan))));
    option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    Ok(command)
}

/// A device that we serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// Its name, and its socket's.
    pub id: String,
    /// The port that it is plugged into.
    pub port: String,
    /// What it is.
    pub driver: &'static str,
    /// Where it is served.
    pub socket: PathBuf,
    /// The share that it is.
    pub tag: Option<String>,
}

/// Those of a machine.
#[must_use]
pub fn plugged(plan: &Plan) -> Vec<Plugged> {
    let device = |id: &str, at: usize, driver, socket: &Path, tag| Plugged {
        id: id.to_owned(),
        port: format!("port{at}"),
        driver,
        socket: socket.to_owned(),
        tag,
    };
    let vsock = device("vsock", 0, "vhost-user-vsock-pci", &plan.vsock, None);
    let shares = plan
        .shares
        .iter()
        .enumerate()
        .map(|(at, (tag, socket))| device(tag, at + 1, "vhost-user-fs-pci", socket, Some(tag.clone())));
    std::iter::once(vsock).chain(shares).collect()
}

fn append(plan: &Plan, kind: &Kind) -> String {
    let mut words = format!("console={} {}", kind.console, kernel_options("/dev/vda", "/dev/vdb"));
    // Of our own kernel (vm/image/patches): the shares' server is ours, which tells of changes.
    words.push_str(" fuse.told=1");
    if plan.acceleration == Acceleration::Tcg {
        // Without it, pages of programs that a share writes into run what was translated of them before.
        words.push_str(" init_on_alloc=1");
    }
    words
}

/// A command that shows whether KVM runs an ordinary kernel of this computer's architecture: one without a root panics, and
/// with that the machine ends.
///
/// # Errors
/// The program is missing.
pub fn probe(kernel: &Path) -> Result<Command, Error> {
    let kind = Kind::of(std::env::consts::ARCH)?;
    let mut command = stdx::process::command(kind.find()?);
    command.args(["-accel", "kvm", "-machine", kind.machine, "-cpu", "host", "-m", "128M", "-kernel"]);
    command.arg(kernel).args(["-append", &format!("console={} panic=-1", kind.console), "-serial", "stdio"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    Ok(command)
}

/// QEMU ends a value at a comma; two are one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_starts_no_option() {
        assert_eq!(escaped(Path::new("/a,readonly=off")), "/a,,readonly=off");
    }
}
