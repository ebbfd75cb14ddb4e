//! Calls of `computenetwork.dll`, loaded when it is asked for.
//!
//! Source of their forms: `computenetwork.h` of the Windows SDK.

use std::ffi::c_void;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::core::{GUID, HRESULT, PCWSTR, PWSTR};

use super::module::{Address, Module, call, wide};
use super::read;
use crate::guid::Guid;
use crate::hcn::{self, DEFAULT_SWITCH, Endpoint, Networks, OWN_SWITCH};
use crate::hcs::{Failure, FailureKind};

type Handle = *mut c_void;
type OpenNetwork = unsafe extern "system" fn(*const GUID, *mut Handle, *mut PWSTR) -> HRESULT;
type CreateNetwork = unsafe extern "system" fn(*const GUID, PCWSTR, *mut Handle, *mut PWSTR) -> HRESULT;
type CreateEndpoint =
    unsafe extern "system" fn(Handle, *const GUID, PCWSTR, *mut Handle, *mut PWSTR) -> HRESULT;
type Query = unsafe extern "system" fn(Handle, PCWSTR, *mut PWSTR, *mut PWSTR) -> HRESULT;
type Delete = unsafe extern "system" fn(*const GUID, *mut PWSTR) -> HRESULT;
type Close = unsafe extern "system" fn(Handle) -> HRESULT;

/// The service's library.
#[derive(Debug, Clone)]
pub struct Network(Arc<Calls>);

#[derive(Debug)]
struct Calls {
    _module: Module,
    open_network: OpenNetwork,
    create_network: CreateNetwork,
    close_network: Close,
    create_endpoint: CreateEndpoint,
    query_endpoint: Query,
    delete_endpoint: Delete,
    close_endpoint: Close,
}

/// A network or an endpoint that is open.
struct Open(Handle, Close);

impl Drop for Open {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn drop(&mut self) {
        // SAFETY: the handle is open, the call is the one for its sort, and it is not used again.
        unsafe { (self.1)(self.0) };
    }
}

fn guid(of: Guid) -> GUID {
    let [a, b, c, d, e, f, g, h, rest @ ..] = of.bytes();
    GUID {
        data1: u32::from_le_bytes([a, b, c, d]),
        data2: u16::from_le_bytes([e, f]),
        data3: u16::from_le_bytes([g, h]),
        data4: rest,
    }
}

/// A text that the service gave, which is ours to free.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn take(said: PWSTR) -> String {
    let text = read(said);
    // SAFETY: the service allocates it for its caller to free (`HcnCreateEndpoint`), and nothing is as good.
    unsafe { CoTaskMemFree(said.cast_const().cast()) };
    text
}

/// Does a call that says more when it fails.
fn ask(call: &'static str, begin: impl FnOnce(*mut PWSTR) -> HRESULT) -> Result<(), Failure> {
    let mut said: PWSTR = null_mut();
    let code = begin(&raw mut said);
    let said = take(said);
    if code >= 0 {
        return Ok(());
    }
    // It names its words otherwise than the other service does.
    let words: Option<serde_json::Value> = serde_json::from_str(&said).ok();
    let document = match words.as_ref().and_then(|words| words.get("Error")?.as_str()) {
        Some(words) => serde_json::json!({ "ErrorMessage": words }).to_string(),
        None => said,
    };
    Err(Failure { call: call.into(), code: code.cast_unsigned(), document })
}

impl Network {
    /// Loads the system's own.
    ///
    /// # Errors
    /// This Windows has none, or one that lacks a call.
    pub fn load() -> Result<Self, Failure> {
        Self::calls(Module::of_the_system("computenetwork.dll")?)
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
        Ok(Self(Arc::new(Calls {
            open_network: call!(&module, c"HcnOpenNetwork" as OpenNetwork)?,
            create_network: call!(&module, c"HcnCreateNetwork" as CreateNetwork)?,
            close_network: call!(&module, c"HcnCloseNetwork" as Close)?,
            create_endpoint: call!(&module, c"HcnCreateEndpoint" as CreateEndpoint)?,
            query_endpoint: call!(&module, c"HcnQueryEndpointProperties" as Query)?,
            delete_endpoint: call!(&module, c"HcnDeleteEndpoint" as Delete)?,
            close_endpoint: call!(&module, c"HcnCloseEndpoint" as Close)?,
            _module: module,
        })))
    }

    /// Hyper-V's own switch; where it has none, one of ours, which stays.
    fn switch(&self) -> Result<(Open, Guid), Failure> {
        for id in [DEFAULT_SWITCH, OWN_SWITCH] {
            match self.open(id) {
                Err(failure) if failure.kind() == FailureKind::NotFound => {}
                other => return other.map(|open| (open, id)),
            }
        }
        self.create().map(|open| (open, OWN_SWITCH))
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn open(&self, id: Guid) -> Result<Open, Failure> {
        let (id, mut handle) = (guid(id), null_mut());
        ask("HcnOpenNetwork", |said| {
            // SAFETY: the id lives until the call returns, and both others may be written to.
            unsafe { (self.0.open_network)(&raw const id, &raw mut handle, said) }
        })?;
        Ok(Open(handle, self.0.close_network))
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn create(&self) -> Result<Open, Failure> {
        let (id, settings, mut handle) = (guid(OWN_SWITCH), wide(hcn::own_switch()), null_mut());
        ask("HcnCreateNetwork", |said| {
            // SAFETY: id and text live until the call returns, the text ends with a zero, and both others may be written to.
            unsafe { (self.0.create_network)(&raw const id, settings.as_ptr(), &raw mut handle, said) }
        })?;
        Ok(Open(handle, self.0.close_network))
    }
}

impl Networks for Network {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn connect(&self, id: Guid) -> Result<Endpoint, Failure> {
        let (switch, switch_id) = self.switch()?;
        // One of a program that was killed.
        self.disconnect(id)?;
        let (raw, settings, mut handle) = (guid(id), wide(hcn::endpoint(switch_id)), null_mut());
        ask("HcnCreateEndpoint", |said| {
            // SAFETY: the switch is open, id and text live until the call returns, the text ends with a zero, and both others
            // may be written to.
            unsafe {
                (self.0.create_endpoint)(switch.0, &raw const raw, settings.as_ptr(), &raw mut handle, said)
            }
        })?;
        let endpoint = Open(handle, self.0.close_endpoint);
        let mut properties: PWSTR = null_mut();
        let asked = ask("HcnQueryEndpointProperties", |said| {
            // SAFETY: the endpoint is open, nothing asks for all, and both others may be written to.
            unsafe { (self.0.query_endpoint)(endpoint.0, null(), &raw mut properties, said) }
        });
        let properties = take(properties);
        drop(endpoint);
        let none = || Failure::refused(0x8000_FFFF, "the endpoint has no address of an adapter's");
        let mac = asked.and_then(|()| hcn::mac(&properties).ok_or_else(none));
        match mac {
            Ok(mac) => Ok(Endpoint { id, mac }),
            Err(failure) => {
                // Why it is of no use says more.
                let _ = self.disconnect(id);
                Err(failure)
            }
        }
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn disconnect(&self, id: Guid) -> Result<(), Failure> {
        let id = guid(id);
        let gone = ask("HcnDeleteEndpoint", |said| {
            // SAFETY: the id lives until the call returns, and the other may be written to.
            unsafe { (self.0.delete_endpoint)(&raw const id, said) }
        });
        match gone {
            Err(failure) if failure.kind() != FailureKind::NotFound => Err(failure),
            _ => Ok(()),
        }
    }
}
