//! From what a machine is to be to the framework's configuration of it.
#![expect(unsafe_code, reason = "none of the framework's calls has a safe form")]

use std::path::Path;

use objc2::AnyThread;
use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSData, NSFileHandle, NSString, NSURL};
use objc2_virtualization::{
    VZDirectoryShare, VZDirectorySharingDeviceConfiguration, VZDiskImageCachingMode,
    VZDiskImageStorageDeviceAttachment, VZDiskImageSynchronizationMode, VZFileHandleSerialPortAttachment,
    VZGenericMachineIdentifier, VZGenericPlatformConfiguration, VZLinuxBootLoader,
    VZLinuxRosettaDirectoryShare, VZMACAddress, VZNATNetworkDeviceAttachment, VZSharedDirectory,
    VZSingleDirectoryShare, VZStorageDeviceConfiguration, VZVirtioBlockDeviceConfiguration,
    VZVirtioConsoleDeviceSerialPortConfiguration, VZVirtioEntropyDeviceConfiguration,
    VZVirtioFileSystemDeviceConfiguration, VZVirtioNetworkDeviceConfiguration,
    VZVirtioSocketDeviceConfiguration, VZVirtioTraditionalMemoryBalloonDeviceConfiguration,
    VZVirtualMachineConfiguration,
};

use super::failure::Failure;
use crate::spec::{Disk, Share, Spec};

const DOING: &str = "describe the machine";

/// A new machine's identity, to be kept with it.
#[must_use]
pub fn new_identity() -> Vec<u8> {
    // SAFETY: the call takes nothing.
    let identity = unsafe { VZGenericMachineIdentifier::new() };
    // SAFETY: the object was made this moment.
    let data = unsafe { identity.dataRepresentation() };
    data.to_vec()
}

/// The configuration, which the framework has found to be one.
pub(super) fn of(spec: &Spec) -> Result<Retained<VZVirtualMachineConfiguration>, Failure> {
    spec.check()?;
    // SAFETY: the call takes nothing.
    let configuration = unsafe { VZVirtualMachineConfiguration::new() };
    // SAFETY: a count that is too large is refused by the validation below.
    unsafe { configuration.setCPUCount(spec.cpus) };
    // SAFETY: the same of an amount.
    unsafe { configuration.setMemorySize(spec.memory) };
    set_platform(&configuration, spec)?;
    set_devices(&configuration, spec)?;
    // SAFETY: the configuration is complete.
    unsafe { configuration.validateWithError() }.map_err(|error| Failure::refused(DOING, &error))?;
    Ok(configuration)
}

/// Whether its state can be saved, with the devices it has.
pub(super) fn check_save(configuration: &VZVirtualMachineConfiguration) -> Result<(), Failure> {
    // SAFETY: the configuration is complete; the caller has seen that macOS knows the call.
    let can = unsafe { configuration.validateSaveRestoreSupportWithError() };
    can.map_err(|error| Failure::refused("save the machine's state", &error))
}

/// What it boots, and who it is.
fn set_platform(configuration: &VZVirtualMachineConfiguration, spec: &Spec) -> Result<(), Failure> {
    // SAFETY: what is no kernel is refused when it is booted.
    let loader =
        unsafe { VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &url(&spec.kernel)) };
    // SAFETY: the same.
    unsafe { loader.setInitialRamdiskURL(Some(&url(&spec.initrd))) };
    // SAFETY: the text is copied.
    unsafe { loader.setCommandLine(&NSString::from_str(&spec.options)) };
    // SAFETY: the loader is complete, and kept by the configuration.
    unsafe { configuration.setBootLoader(Some(&loader)) };
    // SAFETY: the call takes nothing.
    let platform = unsafe { VZGenericPlatformConfiguration::new() };
    let data = NSData::with_bytes(&spec.identity);
    // SAFETY: what is no identity gives none.
    let identity = unsafe {
        VZGenericMachineIdentifier::initWithDataRepresentation(VZGenericMachineIdentifier::alloc(), &data)
    };
    let identity = identity.ok_or(Failure::Lacking { doing: DOING, what: "identity that is one" })?;
    // SAFETY: the identity is one.
    unsafe { platform.setMachineIdentifier(&identity) };
    // SAFETY: the platform is complete.
    unsafe { configuration.setPlatform(&platform) };
    Ok(())
}

fn set_devices(configuration: &VZVirtualMachineConfiguration, spec: &Spec) -> Result<(), Failure> {
    let disks = spec.disks.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
    // SAFETY: each is complete; the array is copied, here and in all that follows.
    unsafe { configuration.setStorageDevices(&NSArray::from_retained_slice(&disks)) };
    let mut shares: Vec<_> =
        spec.shares.iter().map(|share| file_system(&share.tag, &folder(share))).collect();
    if let Some(tag) = &spec.rosetta {
        // SAFETY: where Rosetta can't be had, or is not installed, the call fails.
        let rosetta =
            unsafe { VZLinuxRosettaDirectoryShare::initWithError(VZLinuxRosettaDirectoryShare::alloc()) };
        let rosetta = rosetta.map_err(|error| Failure::refused("share Rosetta", &error))?;
        shares.push(file_system(tag, &rosetta));
    }
    // SAFETY: as above.
    unsafe { configuration.setDirectorySharingDevices(&NSArray::from_retained_slice(&shares)) };
    let card = network(spec)?.into_super();
    // SAFETY: as above.
    unsafe { configuration.setNetworkDevices(&NSArray::from_retained_slice(&[card])) };
    // SAFETY: the call takes nothing.
    let socket = unsafe { VZVirtioSocketDeviceConfiguration::new() }.into_super();
    // SAFETY: as above.
    unsafe { configuration.setSocketDevices(&NSArray::from_retained_slice(&[socket])) };
    // SAFETY: the call takes nothing.
    let balloon = unsafe { VZVirtioTraditionalMemoryBalloonDeviceConfiguration::new() }.into_super();
    // SAFETY: as above.
    unsafe { configuration.setMemoryBalloonDevices(&NSArray::from_retained_slice(&[balloon])) };
    // SAFETY: the call takes nothing.
    let entropy = unsafe { VZVirtioEntropyDeviceConfiguration::new() }.into_super();
    // SAFETY: as above.
    unsafe { configuration.setEntropyDevices(&NSArray::from_retained_slice(&[entropy])) };
    let console = console(spec)?.into_super();
    // SAFETY: as above.
    unsafe { configuration.setSerialPorts(&NSArray::from_retained_slice(&[console])) };
    Ok(())
}

/// A disk whose file sees each flush of the guest's, but not each write.
fn disk(disk: &Disk) -> Result<Retained<VZStorageDeviceConfiguration>, Failure> {
    // SAFETY: a file that can't be opened is an error.
    let attachment = unsafe {
        VZDiskImageStorageDeviceAttachment::initWithURL_readOnly_cachingMode_synchronizationMode_error(
            VZDiskImageStorageDeviceAttachment::alloc(),
            &url(&disk.path),
            disk.read_only,
            // What is chosen for one automatically has lost data of Linux guests.
            VZDiskImageCachingMode::Cached,
            VZDiskImageSynchronizationMode::Fsync,
        )
    };
    let attachment = attachment.map_err(|error| Failure::refused("attach a disk", &error))?;
    // SAFETY: the attachment was made this moment.
    let device = unsafe {
        VZVirtioBlockDeviceConfiguration::initWithAttachment(
            VZVirtioBlockDeviceConfiguration::alloc(),
            &attachment,
        )
    };
    Ok(device.into_super())
}

/// A folder, as a file system of virtio's has it.
pub(super) fn folder(share: &Share) -> Retained<VZSingleDirectoryShare> {
    // SAFETY: a folder that is not there is refused by the validation.
    let directory = unsafe {
        VZSharedDirectory::initWithURL_readOnly(
            VZSharedDirectory::alloc(),
            &url(&share.path),
            share.read_only,
        )
    };
    // SAFETY: the folder was made this moment.
    unsafe { VZSingleDirectoryShare::initWithDirectory(VZSingleDirectoryShare::alloc(), &directory) }
}

fn file_system(tag: &str, share: &VZDirectoryShare) -> Retained<VZDirectorySharingDeviceConfiguration> {
    let tag = NSString::from_str(tag);
    // SAFETY: the tag is one, for the machine's were checked.
    let device = unsafe {
        VZVirtioFileSystemDeviceConfiguration::initWithTag(
            VZVirtioFileSystemDeviceConfiguration::alloc(),
            &tag,
        )
    };
    // SAFETY: both are complete.
    unsafe { device.setShare(Some(share)) };
    device.into_super()
}

/// A card behind macOS' own translation of addresses.
fn network(spec: &Spec) -> Result<Retained<VZVirtioNetworkDeviceConfiguration>, Failure> {
    // SAFETY: the call takes nothing.
    let attachment = unsafe { VZNATNetworkDeviceAttachment::new() };
    // SAFETY: the call takes nothing.
    let card = unsafe { VZVirtioNetworkDeviceConfiguration::new() };
    // SAFETY: the attachment was made this moment.
    unsafe { card.setAttachment(Some(&attachment)) };
    let text = NSString::from_str(&spec.mac);
    // SAFETY: what is no address gives none.
    let address = unsafe { VZMACAddress::initWithString(VZMACAddress::alloc(), &text) };
    let address =
        address.ok_or(Failure::Lacking { doing: DOING, what: "address of a network card that is one" })?;
    // SAFETY: the address is one.
    unsafe { card.setMACAddress(&address) };
    Ok(card)
}

/// A console that is only heard.
fn console(spec: &Spec) -> Result<Retained<VZVirtioConsoleDeviceSerialPortConfiguration>, Failure> {
    use std::os::fd::IntoRawFd;

    let file = spec.console.try_clone();
    let file = file.map_err(|source| Failure::Descriptor { doing: "write the console", source })?;
    // It closes the descriptor when it is let go of itself.
    let handle =
        NSFileHandle::initWithFileDescriptor_closeOnDealloc(NSFileHandle::alloc(), file.into_raw_fd(), true);
    // SAFETY: the handle is open; none to read from is allowed.
    let attachment = unsafe {
        VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
            VZFileHandleSerialPortAttachment::alloc(),
            None,
            Some(&handle),
        )
    };
    // SAFETY: the call takes nothing.
    let port = unsafe { VZVirtioConsoleDeviceSerialPortConfiguration::new() };
    // SAFETY: the attachment was made this moment.
    unsafe { port.setAttachment(Some(&attachment)) };
    Ok(port)
}

pub(super) fn url(path: &Path) -> Retained<NSURL> {
    NSURL::fileURLWithPath(&NSString::from_str(&path.to_string_lossy()))
}
