//! `machine check`: the hops between a machine and the world, one after the other.

use clap::Args;
use host::machine::Passed;

use super::{find, machine_error};
use crate::exit::Outcome;
use crate::printer;

/// Flags of `machine check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The machine
    #[arg(default_value = super::DEFAULT)]
    name: String,
    /// What to check
    #[arg(value_parser = ["network"], default_value = "network")]
    what: String,
    /// A name to look up and to reach at port 443
    #[arg(long, value_name = "HOST", default_value = host::machine::TARGET)]
    target: String,
}

pub(super) async fn check(args: CheckArgs) -> Outcome {
    let machine = find(&args.name)?;
    let mut code = 0;
    let walked = machine.check_network(&args.target, |hop| match hop.passed {
        Passed::Yes => printer::line(format_args!("ok      {}", hop.what)),
        Passed::No { remedy } => {
            printer::line(format_args!("FAILS   {}", hop.what));
            printer::note(format_args!("\nhint: {remedy}"));
            code = 1;
        }
    });
    walked.await.map_err(machine_error)?;
    Ok(code)
}
