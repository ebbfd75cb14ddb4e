//! Where there is no such service.

use std::convert::Infallible;
use std::path::Path;

use crate::choice::By;
use crate::hcs::{EndTold, Failure, Order, Service, System};

/// The service's library, which is on Windows alone: there is no value of this.
#[derive(Debug)]
pub struct Library(Infallible);

impl Library {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn load() -> Result<Self, Failure> {
        // ERROR_MOD_NOT_FOUND.
        Err(Failure::new("LoadLibrary", 0x8007_007E))
    }
}

/// Whom the service is to act for: nobody is anybody here.
#[derive(Debug)]
pub struct Identity(());

#[cfg(test)]
impl Identity {
    /// Somebody that tests make up.
    pub(crate) fn made_up() -> Self {
        Self(())
    }
}

/// Fails: machines of our own are Windows' alone.
///
/// # Errors
/// Always.
pub(crate) fn look() -> Result<By, Failure> {
    Library::load().map(|library| match library.0 {})
}

/// Not known.
#[must_use]
pub fn free_space(_: &Path) -> Option<u64> {
    None
}

impl Service for Library {
    type System = Self;

    fn create(&self, _: &str, _: &str) -> Result<Self, Failure> {
        match self.0 {}
    }

    fn grant(&self, _: &str, _: &Path) -> Result<(), Failure> {
        match self.0 {}
    }

    fn make_state(&self, _: &Path) -> Result<(), Failure> {
        match self.0 {}
    }

    fn enumerate(&self) -> Result<String, Failure> {
        match self.0 {}
    }
}

impl System for Library {
    fn order(&self, _: Order, _: Option<&str>) -> Result<(), Failure> {
        match self.0 {}
    }

    fn modify(&self, _: &str, _: Option<&Identity>) -> Result<(), Failure> {
        match self.0 {}
    }

    fn on_end(&self, _: EndTold) -> Result<(), Failure> {
        match self.0 {}
    }

    fn properties(&self, _: &str) -> Result<String, Failure> {
        match self.0 {}
    }
}
