//! QEMU: a minimal machine in a sandbox, its devices but disks and console served by us.

#[cfg(target_os = "linux")]
pub mod state;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Acceleration, Capabilities, Plan, Wire, kernel_options};
use crate::Error;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    gives_memory_back: true,
    saves: true,
    many_cpus: true,
    is_wall: true,
    has_qmp: true,
    wire: Wire::Direct,
};

const PROGRAM: &str = "qemu-system-x86_64";

/// Where the program is.
///
/// # Errors
/// It is not installed.
pub fn program() -> Result<PathBuf, Error> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join(PROGRAM)).find(|path| path.is_file());
    found.ok_or(Error::NoProgram { program: PROGRAM })
}

/// The socket QMP is spoken on.
#[must_use]
pub fn qmp_socket(plan: &Plan) -> PathBuf {
    plan.places.device("qmp")
}

pub(super) fn command(plan: &Plan) -> Result<Command, Error> {
    let mut command = stdx::process::command(program()?);
    let mut option = |name: &str, value: String| {
        command.arg(name).arg(value);
    };
    let accelerator = match plan.acceleration {
        Acceleration::Kvm => "kvm",
        Acceleration::Tcg | Acceleration::Native => "tcg,thread=multi",
    };
    option("-name", format!("cove-{}", plan.places.name));
    option("-accel", accelerator.to_owned());
    option("-machine", "q35,memory-backend=mem,usb=off,smbus=off,sata=off,hpet=off,vmport=off".to_owned());
    // Emulated, AVX and the saving of its registers are young in QEMU 7.2, and no faster than SSE.
    let cpu = if plan.acceleration == Acceleration::Kvm { "host" } else { "max,xsave=off" };
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
    option("-append", append(plan));
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

fn append(plan: &Plan) -> String {
    let mut words = format!("console=ttyS0 {}", kernel_options("/dev/vda", "/dev/vdb"));
    if plan.acceleration == Acceleration::Tcg {
        // Without it, pages of programs that a share writes into run what was translated of them before.
        words.push_str(" init_on_alloc=1");
    }
    words
}

/// A command that shows whether KVM runs an ordinary kernel: one without a root panics, and with that the machine ends.
///
/// # Errors
/// The program is missing.
pub fn probe(kernel: &Path) -> Result<Command, Error> {
    let mut command = stdx::process::command(program()?);
    command.args(["-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "128M", "-kernel"]).arg(kernel);
    command.args(["-append", "console=ttyS0 panic=-1", "-serial", "stdio"]);
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
