//! The way to a machine of our own: this process's own session, or the small service's.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::choice::By;
use crate::guid::Guid;
use crate::hcs::{Failure, Library};
use crate::pipe;
use crate::request::{self, Answer, Outcome, Request, VERSION, Wanted};
use crate::session::{Machines, Session};
use crate::sys::{Myself, Network};

/// One connection, and its machine.
#[derive(Debug)]
pub struct Connection(To);

#[derive(Debug)]
enum To {
    /// The user may make machines.
    Ourselves { session: Mutex<Session<Library, Network, Myself>>, machines: Arc<Machines>, user: String },
    /// The service may.
    Service { pipe: Mutex<File>, name: String },
}

/// A machine that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The id by which it is connected to.
    pub runtime_id: Guid,
    /// Why it has no way out, if it has none.
    pub no_network: Option<String>,
}

fn of_pipe(error: &io::Error) -> Failure {
    let code = error.raw_os_error().map_or(0x8000_FFFF, |code| 0x8007_0000 | (code.cast_unsigned() & 0xffff));
    let mut failure = Failure::refused(code, &format!("Cove's service: {error}"));
    failure.call = "the conversation with Cove's service".into();
    failure
}

impl Connection {
    /// The user's own, where he may; else the service's.
    ///
    /// # Errors
    /// Neither; what is said is why the user may not.
    pub fn open() -> Result<Self, Failure> {
        if cfg!(target_arch = "aarch64") {
            // ERROR_NOT_SUPPORTED.
            let cause = "Windows boots no Linux kernel without firmware on computers of arm64";
            return Err(Failure::refused(0x8007_0032, cause));
        }
        let ourselves = Library::load().and_then(|library| Self::ourselves(library, Network::load()));
        ourselves.or_else(|failure| Self::service(pipe::SERVICE).map_err(|_| failure))
    }

    /// The user's own, by these libraries.
    ///
    /// # Errors
    /// He may not.
    pub fn ourselves(library: Library, network: Result<Network, Failure>) -> Result<Self, Failure> {
        let caller = Myself::new().map_err(|error| Failure::refused(0x8007_0005, &error.to_string()))?;
        let (machines, user) = (Arc::<Machines>::default(), crate::session::Caller::user(&caller).to_owned());
        let session = Mutex::new(Session::new(library, network, caller, Arc::clone(&machines)));
        let this = Self(To::Ourselves { session, machines, user });
        this.ask(Request::Look { version: VERSION })?;
        Ok(this)
    }

    /// The service's that listens at a pipe.
    ///
    /// # Errors
    /// It does not, or is another's; or it may make none either.
    pub fn service(name: &str) -> Result<Self, Failure> {
        let pipe = pipe::connect(name).map_err(|error| of_pipe(&error))?;
        let this = Self(To::Service { pipe: Mutex::new(pipe), name: name.to_owned() });
        this.ask(Request::Look { version: VERSION })?;
        Ok(this)
    }

    /// Who makes the machine.
    #[must_use]
    pub fn by(&self) -> By {
        match self.0 {
            To::Ourselves { .. } => By::User,
            To::Service { .. } => By::Service,
        }
    }

    /// Asks for something that takes no longer than Windows takes for it. Blocks.
    ///
    /// # Errors
    /// It is refused, or the service's.
    pub fn ask(&self, request: Request) -> Outcome {
        match &self.0 {
            To::Ourselves { session, .. } => {
                session.lock().unwrap_or_else(PoisonError::into_inner).answer(request)
            }
            To::Service { pipe, .. } => {
                let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
                say(&mut pipe, &request)
            }
        }
    }

    /// Makes a machine, which does not run yet. Blocks.
    ///
    /// # Errors
    /// It is refused, or the service's.
    pub fn make(&self, wanted: Wanted) -> Result<Made, Failure> {
        let unexpected = || Failure::refused(0x8000_FFFF, "something else was answered");
        match self.ask(Request::Make(wanted))? {
            Answer::Made { runtime_id, no_network } => {
                Ok(Made { runtime_id: runtime_id.parse().map_err(|_| unexpected())?, no_network })
            }
            Answer::Done | Answer::Ended { .. } => Err(unexpected()),
        }
    }

    /// Waits until this user's machine of that name has ended; how, in words. Blocks as long, and nobody else.
    ///
    /// # Errors
    /// There is none, or who makes it is gone.
    pub fn wait(&self, name: &str) -> Result<String, Failure> {
        let outcome = match &self.0 {
            To::Ourselves { machines, user, .. } => machines.wait(name, user),
            // By another pipe: this one is for what is asked meanwhile.
            To::Service { name: service, .. } => {
                let mut pipe = pipe::connect(service).map_err(|error| of_pipe(&error))?;
                say(&mut pipe, &Request::Wait { name: name.to_owned() })
            }
        };
        match outcome? {
            Answer::Ended { how } => Ok(how),
            Answer::Done | Answer::Made { .. } => Ok("Windows tells no more of it".to_owned()),
        }
    }
}

fn say(pipe: &mut File, request: &Request) -> Outcome {
    let told = request::write(pipe, request).and_then(|()| request::read::<Outcome>(pipe));
    match told {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Err(of_pipe(&io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(of_pipe(&error)),
    }
}
