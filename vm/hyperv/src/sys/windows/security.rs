//! Users and rules, as texts.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo,
    SDDL_REVISION_1, SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES,
    TOKEN_ACCESS_MASK, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows_sys::core::{BOOL, PWSTR};

use super::module::wide;
use super::read;

/// What the system allocated, and is to be given back.
struct Local(*mut c_void);

impl Drop for Local {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn drop(&mut self) {
        // SAFETY: it was allocated by a call that says so, and is not used again.
        unsafe { LocalFree(self.0) };
    }
}

/// What a call that tells of a failure by a zero comes to.
pub(super) fn check(done: BOOL) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A rule of who may.
pub(super) struct Descriptor(Local);

impl Descriptor {
    /// Of a text (SDDL).
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    pub(super) fn of(text: &str) -> io::Result<Self> {
        let text = wide(text);
        let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
        // SAFETY: the text ends with a zero, `descriptor` may be written to, and its size is not asked for.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        };
        check(made)?;
        Ok(Self(Local(descriptor)))
    }

    /// Hands it to `make` as the system's calls take it.
    pub(super) fn with<T>(&self, make: impl FnOnce(*const SECURITY_ATTRIBUTES) -> T) -> T {
        let length = u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default();
        let attributes =
            SECURITY_ATTRIBUTES { nLength: length, lpSecurityDescriptor: self.0.0, bInheritHandle: 0 };
        make(&raw const attributes)
    }
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn text(sid: PSID) -> io::Result<String> {
    let mut text: PWSTR = null_mut();
    // SAFETY: whoever calls has an id that lives, and `text` may be written to.
    check(unsafe { ConvertSidToStringSidW(sid, &raw mut text) })?;
    let text = Local(text.cast());
    Ok(read(text.0.cast_const().cast()))
}

/// This process's token.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub(super) fn own_token(rights: TOKEN_ACCESS_MASK) -> io::Result<OwnedHandle> {
    let mut token = null_mut();
    // SAFETY: the call takes nothing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is this process's own, and `token` may be written to.
    check(unsafe { OpenProcessToken(process, rights, &raw mut token) })?;
    // SAFETY: the token was opened this moment, and nobody else closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

/// The security id of a token's user.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(super) fn user(token: BorrowedHandle<'_>) -> io::Result<String> {
    // Of the alignment that what is written there needs, and larger than any.
    let mut space = [0_u64; 64];
    let size = u32::try_from(size_of_val(&space)).unwrap_or_default();
    let mut written = 0;
    // SAFETY: the token is open, and `space` may be written to for `size` bytes.
    check(unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            space.as_mut_ptr().cast(),
            size,
            &raw mut written,
        )
    })?;
    // SAFETY: the call wrote a TOKEN_USER there, for which the space is large and aligned enough; the id lies in it too.
    text(unsafe { space.as_ptr().cast::<TOKEN_USER>().read() }.User.Sid)
}

/// The security id of whoever owns what a handle is open for.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(super) fn owner(of: BorrowedHandle<'_>) -> io::Result<String> {
    let (mut owner, mut descriptor): (PSID, PSECURITY_DESCRIPTOR) = (null_mut(), null_mut());
    // SAFETY: the handle is open, what is asked for may be written to, and what is not may be null.
    let code = unsafe {
        GetSecurityInfo(
            of.as_raw_handle(),
            SE_KERNEL_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &raw mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code.cast_signed()));
    }
    // The id lies in it.
    let _descriptor = Local(descriptor);
    text(owner)
}
