//! Which engine to talk to, and starting it where none runs.

mod locate;
mod start;

use std::time::Duration;

use api::client::Client;

use crate::error::Error;
use crate::machine::Mode;
pub use locate::{Origin, Surroundings, Target};
pub use start::{Starter, find_program};

/// How long an engine may take to answer a ping before it counts as dead.
pub const PING_DEADLINE: Duration = Duration::from_secs(10);

/// A client of the engine that `host` (or `COVE_HOST`, or the default) names, which is started first
/// if it is the default one and does not run.
///
/// Where one runs, this costs no more than opening its socket.
///
/// # Errors
/// Any [`Error`].
pub async fn connect(host: Option<&str>) -> Result<Client, Error> {
    let target = Target::find(host, &Surroundings::of_this_process())?;
    ensure(&target).await
}

/// Whether the engine that `host` names, or the default one, answers now; none is started.
pub async fn is_running(host: Option<&str>) -> bool {
    match Target::find(host, &Surroundings::of_this_process()) {
        Ok(target) => Client::new(target.endpoint).probe().await.is_ok(),
        Err(_) => false,
    }
}

/// As [`connect`], for an engine already located.
///
/// # Errors
/// Any [`Error`].
pub async fn ensure(target: &Target) -> Result<Client, Error> {
    if let Origin::Machine(machine) = &target.origin
        && Client::new(target.endpoint.clone()).probe().await.is_err()
    {
        machine.start(Mode::Normal, |_| {}).await?;
    }
    let client = Client::new(target.endpoint.clone());
    let Err(source) = client.connect_ahead().await else {
        return Ok(client);
    };
    // An engine that is there but slow, or not ours to talk to, is not helped by a second one.
    if !matches!(source, api::client::Error::Connect { .. }) || source.kind() == model::ErrorKind::Permission
    {
        return Err(source.into());
    }
    match Starter::of(target) {
        Some(starter) => {
            starter.start(&client).await?;
            Ok(client)
        }
        None => Err(Error::NotRunning { endpoint: target.endpoint.clone(), source }),
    }
}
