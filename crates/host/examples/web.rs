//! Serves `ui/dist` of this clone to a browser: for working on the UI without the desktop shell.
//!
//! `cargo run -p host --example web -- [PORT]`, with `COVE_HOST` for another engine than the default.

use std::io::Write;

use host::engine::{Surroundings, Target};
use host::ui::Session;
use host::web::{Assets, Web};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    let target = Target::find(None, &Surroundings::of_this_process())?;
    let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ui/dist");
    let address = format!("127.0.0.1:{port}").parse()?;
    let web = Web::bind(address, Assets::folder(dist.into())?, Session::new(target)).await?;
    writeln!(std::io::stdout(), "{}", web.url())?;
    let stopped = async { drop(tokio::signal::ctrl_c().await) };
    web.serve(stopped).await?;
    Ok(())
}
