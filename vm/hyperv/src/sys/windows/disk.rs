//! Disks that grow, by calls of `virtdisk.dll`, loaded when it is asked for.
//!
//! Source of their forms: `virtdisk.h` of the Windows SDK.

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Storage::Vhd::{
    COMPACT_VIRTUAL_DISK_PARAMETERS, COMPACT_VIRTUAL_DISK_PARAMETERS_0, COMPACT_VIRTUAL_DISK_PARAMETERS_0_0,
    COMPACT_VIRTUAL_DISK_VERSION_1, CREATE_VIRTUAL_DISK_FLAG_NONE, CREATE_VIRTUAL_DISK_PARAMETERS,
    CREATE_VIRTUAL_DISK_PARAMETERS_0, CREATE_VIRTUAL_DISK_PARAMETERS_0_1, CREATE_VIRTUAL_DISK_VERSION_2,
    EXPAND_VIRTUAL_DISK_PARAMETERS, EXPAND_VIRTUAL_DISK_PARAMETERS_0, EXPAND_VIRTUAL_DISK_PARAMETERS_0_0,
    EXPAND_VIRTUAL_DISK_VERSION_1, GET_VIRTUAL_DISK_INFO, GET_VIRTUAL_DISK_INFO_SIZE,
    OPEN_VIRTUAL_DISK_PARAMETERS, OPEN_VIRTUAL_DISK_PARAMETERS_0, OPEN_VIRTUAL_DISK_PARAMETERS_0_1,
    OPEN_VIRTUAL_DISK_VERSION_2, VIRTUAL_DISK_ACCESS_NONE, VIRTUAL_STORAGE_TYPE,
};
use windows_sys::core::{GUID, PCWSTR};

use super::module::{Address, Module, call, of_win32, wide};
use crate::hcs::Failure;

/// How much a file grows by at once: little, so that what is written here and there takes little.
const BLOCK: u32 = 1 << 20;
const SECTOR: u32 = 512;
/// `COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN`: only what the guest said that it has deleted is looked for. To read all of a disk
/// for zeroes takes minutes.
const NO_ZERO_SCAN: i32 = 1;
/// `VIRTUAL_STORAGE_TYPE_DEVICE_VHDX` of `VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT`.
static VHDX: VIRTUAL_STORAGE_TYPE = VIRTUAL_STORAGE_TYPE {
    DeviceId: 3,
    VendorId: GUID {
        data1: 0xec98_4aec,
        data2: 0xa0f9,
        data3: 0x47e9,
        data4: [0x90, 0x1f, 0x71, 0x41, 0x5a, 0x66, 0x34, 0x5b],
    },
};

type Create = unsafe extern "system" fn(
    *const VIRTUAL_STORAGE_TYPE,
    PCWSTR,
    i32,
    *const core::ffi::c_void,
    i32,
    u32,
    *const CREATE_VIRTUAL_DISK_PARAMETERS,
    *const core::ffi::c_void,
    *mut HANDLE,
) -> u32;
type OpenDisk = unsafe extern "system" fn(
    *const VIRTUAL_STORAGE_TYPE,
    PCWSTR,
    i32,
    i32,
    *const OPEN_VIRTUAL_DISK_PARAMETERS,
    *mut HANDLE,
) -> u32;
type Inform = unsafe extern "system" fn(HANDLE, *mut u32, *mut GET_VIRTUAL_DISK_INFO, *mut u32) -> u32;
type Expand = unsafe extern "system" fn(
    HANDLE,
    i32,
    *const EXPAND_VIRTUAL_DISK_PARAMETERS,
    *const core::ffi::c_void,
) -> u32;

type Compact = unsafe extern "system" fn(
    HANDLE,
    i32,
    *const COMPACT_VIRTUAL_DISK_PARAMETERS,
    *const core::ffi::c_void,
) -> u32;

/// The library.
#[derive(Debug)]
pub struct Disks {
    _module: Module,
    create: Create,
    open: OpenDisk,
    inform: Inform,
    expand: Expand,
    compact: Compact,
}

fn check(call: &'static str, code: u32) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::new(call, of_win32(code))) }
}

impl Disks {
    /// Loads the system's own.
    ///
    /// # Errors
    /// This Windows has none, or one that lacks a call.
    pub fn load() -> Result<Self, Failure> {
        Self::calls(Module::of_the_system("virtdisk.dll")?)
    }

    /// Loads one that stands in for it.
    ///
    /// # Errors
    /// There is none, or it lacks a call.
    pub fn load_from(path: &Path) -> Result<Self, Failure> {
        Self::calls(Module::at(path)?)
    }

    #[expect(unsafe_code, reason = "a library's calls have the form that its header says")]
    fn calls(module: Module) -> Result<Self, Failure> {
        Ok(Self {
            create: call!(&module, c"CreateVirtualDisk" as Create)?,
            open: call!(&module, c"OpenVirtualDisk" as OpenDisk)?,
            inform: call!(&module, c"GetVirtualDiskInformation" as Inform)?,
            expand: call!(&module, c"ExpandVirtualDisk" as Expand)?,
            compact: call!(&module, c"CompactVirtualDisk" as Compact)?,
            _module: module,
        })
    }

    /// Makes a disk of that size, whose file takes what is used of it.
    ///
    /// # Errors
    /// The library's; there is one already.
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    pub fn create(&self, path: &Path, size: u64) -> Result<(), Failure> {
        let parameters = CREATE_VIRTUAL_DISK_PARAMETERS {
            Version: CREATE_VIRTUAL_DISK_VERSION_2,
            Anonymous: CREATE_VIRTUAL_DISK_PARAMETERS_0 {
                Version2: CREATE_VIRTUAL_DISK_PARAMETERS_0_1 {
                    MaximumSize: size.next_multiple_of(u64::from(BLOCK)),
                    BlockSizeInBytes: BLOCK,
                    SectorSizeInBytes: SECTOR,
                    ..Default::default()
                },
            },
        };
        let (path, mut handle) = (wide(path), null_mut());
        // SAFETY: sort, path and parameters live until the call returns, the path ends with a zero, nobody else's rule is to
        // be kept to, it is waited for, and the handle may be written to.
        let code = unsafe {
            (self.create)(
                &raw const VHDX,
                path.as_ptr(),
                VIRTUAL_DISK_ACCESS_NONE,
                null(),
                CREATE_VIRTUAL_DISK_FLAG_NONE,
                0,
                &raw const parameters,
                null(),
                &raw mut handle,
            )
        };
        check("CreateVirtualDisk", code)?;
        // SAFETY: it was opened this moment, and nobody else closes it.
        drop(unsafe { OwnedHandle::from_raw_handle(handle) });
        Ok(())
    }

    /// Makes one larger, unless it is large enough. It must not be in use.
    ///
    /// # Errors
    /// The library's.
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    pub fn grow(&self, path: &Path, size: u64) -> Result<(), Failure> {
        let disk = self.opened(path)?;
        let size = size.next_multiple_of(u64::from(BLOCK));
        if self.size(&disk)? >= size {
            return Ok(());
        }
        let parameters = EXPAND_VIRTUAL_DISK_PARAMETERS {
            Version: EXPAND_VIRTUAL_DISK_VERSION_1,
            Anonymous: EXPAND_VIRTUAL_DISK_PARAMETERS_0 {
                Version1: EXPAND_VIRTUAL_DISK_PARAMETERS_0_0 { NewSize: size },
            },
        };
        // SAFETY: the disk is open, the parameters live until the call returns, and it is waited for.
        let code = unsafe { (self.expand)(disk.as_raw_handle(), 0, &raw const parameters, null()) };
        check("ExpandVirtualDisk", code)
    }

    /// Has its file take no more than is used: blocks of which the guest deleted all are given back. It must not be in use.
    ///
    /// # Errors
    /// The library's.
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    pub fn compact(&self, path: &Path) -> Result<(), Failure> {
        let disk = self.opened(path)?;
        let parameters = COMPACT_VIRTUAL_DISK_PARAMETERS {
            Version: COMPACT_VIRTUAL_DISK_VERSION_1,
            Anonymous: COMPACT_VIRTUAL_DISK_PARAMETERS_0 {
                Version1: COMPACT_VIRTUAL_DISK_PARAMETERS_0_0 { Reserved: 0 },
            },
        };
        // SAFETY: the disk is open, the parameters live until the call returns, and it is waited for.
        let code =
            unsafe { (self.compact)(disk.as_raw_handle(), NO_ZERO_SCAN, &raw const parameters, null()) };
        check("CompactVirtualDisk", code)
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn opened(&self, path: &Path) -> Result<OwnedHandle, Failure> {
        let parameters = OPEN_VIRTUAL_DISK_PARAMETERS {
            Version: OPEN_VIRTUAL_DISK_VERSION_2,
            Anonymous: OPEN_VIRTUAL_DISK_PARAMETERS_0 {
                Version2: OPEN_VIRTUAL_DISK_PARAMETERS_0_1::default(),
            },
        };
        let (path, mut handle) = (wide(path), null_mut());
        // SAFETY: sort, path and parameters live until the call returns, the path ends with a zero, and the handle may be
        // written to.
        let code = unsafe {
            (self.open)(
                &raw const VHDX,
                path.as_ptr(),
                VIRTUAL_DISK_ACCESS_NONE,
                0,
                &raw const parameters,
                &raw mut handle,
            )
        };
        check("OpenVirtualDisk", code)?;
        // SAFETY: it was opened this moment, and nobody else closes it.
        Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn size(&self, disk: &OwnedHandle) -> Result<u64, Failure> {
        let mut told = GET_VIRTUAL_DISK_INFO { Version: GET_VIRTUAL_DISK_INFO_SIZE, ..Default::default() };
        let mut length = u32::try_from(size_of::<GET_VIRTUAL_DISK_INFO>()).unwrap_or_default();
        // SAFETY: the disk is open, `told` may be written to for `length` bytes, and how many were is not asked for.
        let code = unsafe { (self.inform)(disk.as_raw_handle(), &raw mut length, &raw mut told, null_mut()) };
        check("GetVirtualDiskInformation", code)?;
        // SAFETY: sizes were asked for, and were told.
        Ok(unsafe { told.Anonymous.Size.VirtualSize })
    }
}
