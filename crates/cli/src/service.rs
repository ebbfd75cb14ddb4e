//! `service`: an engine or a machine that starts with the computer.

use clap::{Args, Subcommand};
use host::service::{Service, What};

use crate::exit::{Failure, Outcome};
use crate::printer;

/// What `service` is followed by.
#[derive(Subcommand, Debug)]
pub(crate) enum ServiceVerb {
    /// Start with the computer from now on, before anybody logs in
    #[command(after_help = "\
Examples:
  sudo cove service install              this computer's engine, by systemd
  cove service install                   your own engine; loginctl enable-linger has it start before you log in
  cove service install --machine dev     a machine")]
    Install(ServiceArgs),
    /// Start with the computer no more, and end what runs of it; containers go on
    Remove(ServiceArgs),
    /// Tell whether it starts with the computer
    Status(ServiceArgs),
}

/// Which service.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// A machine, instead of the engine of this computer
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
}

pub(crate) async fn dispatch(host: Option<&str>, verb: &ServiceVerb) -> Outcome {
    match verb {
        ServiceVerb::Install(args) => install(host, args).await,
        ServiceVerb::Remove(args) => {
            let service = service(args)?;
            if service.remove()? {
                printer::line(format_args!("{} no longer starts with the computer.", service.name()));
            } else {
                printer::line(format_args!("{} did not start with the computer.", service.name()));
            }
            Ok(0)
        }
        ServiceVerb::Status(args) => {
            let service = service(args)?;
            match service.installed()? {
                Some(place) => printer::line(format_args!(
                    "{} starts with the computer: {}",
                    service.name(),
                    place.display()
                )),
                None => {
                    printer::line(format_args!("{} does not start with the computer.", service.name()));
                    return Ok(1);
                }
            }
            Ok(0)
        }
    }
}

async fn install(host: Option<&str>, args: &ServiceArgs) -> Outcome {
    let service = service(args)?;
    // One that runs already has what a second one would need.
    let is_running = args.machine.is_none() && host::engine::is_running(host).await;
    let place = service.install(!is_running)?;
    printer::line(format_args!("{} starts with the computer: {}", service.name(), place.display()));
    if is_running {
        printer::note("An engine runs already and goes on; the service takes over with the next start.");
    }
    if let Some(note) = host::service::before_login() {
        printer::note(note);
    }
    Ok(0)
}

fn service(args: &ServiceArgs) -> Outcome<Service> {
    let here = std::env::current_exe()
        .map_err(|error| Failure::new(format!("failed to find this program: {error}")))?;
    let what = match &args.machine {
        Some(name) => {
            let machine = host::machine::Machine::named(name).map_err(host::Error::from)?;
            machine.config().map_err(host::Error::from)?;
            What::Machine { program: here, name: name.clone() }
        }
        None => What::Engine { program: host::engine::find_program()? },
    };
    Ok(host::service::of_this_user(what)?)
}
