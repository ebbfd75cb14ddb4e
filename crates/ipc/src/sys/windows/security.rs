//! Who may use a pipe: its user, administrators and the system. By the system's own rule everybody could look at it.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows_sys::core::{BOOL, PWSTR};

/// What the system allocated, and is to be given back.
struct Local(*mut c_void);

impl Drop for Local {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn drop(&mut self) {
        // SAFETY: it was allocated by a call that says so, and is not used again.
        unsafe { LocalFree(self.0) };
    }
}

/// A rule of who may.
pub(super) struct Descriptor(Local);

impl Descriptor {
    /// For this process's user, administrators and the system.
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    pub(super) fn of_this_user() -> io::Result<Self> {
        let text = format!("D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;{})", user()?);
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
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
    pub(super) fn with<T>(&self, make: impl FnOnce(*mut c_void) -> T) -> T {
        let length = u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default();
        let mut attributes =
            SECURITY_ATTRIBUTES { nLength: length, lpSecurityDescriptor: self.0.0, bInheritHandle: 0 };
        make((&raw mut attributes).cast())
    }
}

fn check(done: BOOL) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The security id of this process's user: `S-1-5-21-…`.
///
/// # Errors
/// The system's.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub fn user() -> io::Result<String> {
    let mut token = null_mut();
    // SAFETY: the call takes nothing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is this process's own, and `token` may be written to.
    check(unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) })?;
    // SAFETY: the token was opened this moment, and nobody else closes it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
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
    // SAFETY: the call wrote a TOKEN_USER there, for which the space is large and aligned enough.
    let of = unsafe { space.as_ptr().cast::<TOKEN_USER>().read() };
    let mut text: PWSTR = null_mut();
    // SAFETY: the id lies in `space`, which lives, and `text` may be written to.
    check(unsafe { ConvertSidToStringSidW(of.User.Sid, &raw mut text) })?;
    let text = Local(text.cast());
    let start: *const u16 = text.0.cast_const().cast();
    let mut units = Vec::new();
    loop {
        // SAFETY: the text ends with a zero, and the loop there.
        match unsafe { start.wrapping_add(units.len()).read() } {
            0 => return String::from_utf16(&units).map_err(io::Error::other),
            unit => units.push(unit),
        }
    }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::Security::Authorization::{
        ConvertSecurityDescriptorToStringSecurityDescriptorW, GetSecurityInfo, SE_KERNEL_OBJECT,
    };
    use windows_sys::Win32::Security::DACL_SECURITY_INFORMATION;

    use super::*;
    use crate::{address, bind};

    /// The rule of an object, as a text.
    #[expect(unsafe_code, reason = "the system's calls have no safe form")]
    fn rule(of: &impl AsRawHandle) -> String {
        let mut descriptor = null_mut();
        // SAFETY: the handle is open; what is not asked for may be null.
        let code = unsafe {
            GetSecurityInfo(
                of.as_raw_handle(),
                SE_KERNEL_OBJECT,
                DACL_SECURITY_INFORMATION,
                null_mut(),
                null_mut(),
                null_mut(),
                null_mut(),
                &raw mut descriptor,
            )
        };
        assert_eq!(code, 0);
        let descriptor = Local(descriptor);
        let (mut text, mut length): (PWSTR, u32) = (null_mut(), 0);
        // SAFETY: the descriptor is one, and both may be written to.
        let told = unsafe {
            ConvertSecurityDescriptorToStringSecurityDescriptorW(
                descriptor.0,
                SDDL_REVISION_1,
                DACL_SECURITY_INFORMATION,
                &raw mut text,
                &raw mut length,
            )
        };
        check(told).unwrap();
        let text = Local(text.cast());
        // SAFETY: the text has that many units.
        let units = unsafe { std::slice::from_raw_parts(text.0.cast_const().cast::<u16>(), length as usize) };
        String::from_utf16_lossy(units).trim_end_matches('\0').to_owned()
    }

    #[tokio::test]
    async fn a_pipe_is_for_its_user_administrators_and_the_system_alone() {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(&address(dir.path(), "alone")).unwrap();
        let rule = rule(&listener.next);
        assert_eq!(rule.matches("(A;").count(), 3, "{rule}");
        for who in [";SY)", ";BA)", &format!(";{})", user().unwrap())] {
            assert!(rule.contains(who), "{rule}");
        }
        assert!(!rule.contains("WD") && !rule.contains(";AN)"), "{rule}");
    }
}
