//! Who a machine is to its hypervisor and its network, where that is not the same for all: the same at each start.

use std::fmt::Write;
use std::fs;

use serde::{Deserialize, Serialize};
use stdx::fs::Durability;

use crate::Error;
use crate::places::Places;

/// Who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What its hypervisor made for it.
    pub machine: Vec<u8>,
    /// The address of its network card: `02:…`, one that is given by whoever administers.
    pub mac: String,
}

impl Identity {
    /// The machine's, which is made at first: of what its hypervisor says, and of bytes by chance.
    ///
    /// # Errors
    /// The disk's, or its file can't be understood.
    pub fn ensure(places: &Places, make: impl FnOnce() -> (Vec<u8>, [u8; 5])) -> Result<Self, Error> {
        let path = places.identity();
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => {
                let bytes = other.map_err(Error::file("read", &path))?;
                return serde_json::from_slice(&bytes).map_err(|source| Error::Content { path, source });
            }
        }
        let (machine, chance) = make();
        let mac = chance.iter().fold("02".to_owned(), |mut mac, byte| {
            let _ = write!(mac, ":{byte:02x}");
            mac
        });
        let identity = Self { machine, mac };
        let text =
            serde_json::to_vec(&identity).map_err(|source| Error::Content { path: path.clone(), source })?;
        stdx::fs::write_atomic(&path, &text, Durability::Power).map_err(Error::file("write", &path))?;
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::{Folders, make_private};

    #[test]
    fn it_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let places =
            Folders { data: dir.path().join("data"), run: dir.path().join("run") }.machine("m").unwrap();
        make_private(&places.data).unwrap();
        let made = Identity::ensure(&places, || (vec![1, 2, 3], [0, 1, 0xab, 4, 255])).unwrap();
        assert_eq!(made.mac, "02:00:01:ab:04:ff");
        let again = Identity::ensure(&places, || unreachable!("it is there")).unwrap();
        assert_eq!(again, made);
        fs::write(places.identity(), "{").unwrap();
        assert!(matches!(Identity::ensure(&places, || unreachable!()), Err(Error::Content { .. })));
    }
}
