//! A network card whose frames go over a stream socket, as `passt` and QEMU's `-netdev stream` speak it.

mod device;
mod frames;

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::{Error, Result};
use crate::session::Session;
use device::{NetDevice, Wire};

/// A machine's network card.
///
/// It is for User Mode Linux. QEMU speaks to `passt` itself (`-netdev stream,server=off,addr.type=unix,addr.path=…`, from
/// 7.2 on), and enables a vhost-user card's queues before it has agreed on features, which the library refuses.
///
/// Dropping it takes the socket away; a monitor that is connected keeps its device until it goes.
#[derive(Debug)]
pub struct Net {
    _session: Session,
}

impl Net {
    /// Serves monitors that connect to `socket`, one after another, with the network behind `stream`: ethernet frames,
    /// each after its length in four bytes, most significant first.
    ///
    /// Frames of up to 65,535 bytes pass, so the guest may have an MTU of up to 65,520. What arrives while no guest
    /// listens is lost, as on any wire.
    ///
    /// # Errors
    ///
    /// If the socket can't be made; one that is left over from before is in the way.
    pub fn serve(socket: &Path, stream: UnixStream) -> Result<Net> {
        let wire =
            Wire::new(stream).map_err(|source| Error::Resource { action: "watch a network", source })?;
        let session = Session::serve("net", socket, move || Ok(NetDevice::new(&wire)))?;
        Ok(Net { _session: session })
    }
}
