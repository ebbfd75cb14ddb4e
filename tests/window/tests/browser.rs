//! The same UI in a plain browser, served on a loopback address.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use fantoccini::{Client, Locator};
use host::engine::{Origin, Target};
use host::ui::Session;
use host::web::{Assets, Web};
use window::desktop::{Desktop, PATIENCE};
use window::engine::Engine;
use window::{Missing, or_skip, wait_for};

async fn see(browser: &Client, xpath: &str) -> anyhow::Result<fantoccini::elements::Element> {
    let wait = browser.wait().at_most(PATIENCE).every(Duration::from_millis(50));
    wait.for_element(Locator::XPath(xpath)).await.with_context(|| format!("{xpath} is not there"))
}

fn built_ui() -> Result<Assets, Missing> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui/dist");
    Assets::folder(dist).map_err(|error| Missing(error.to_string()))
}

#[tokio::test]
async fn a_browser_gets_in_once_runs_a_container_and_stays_in() -> anyhow::Result<()> {
    let Some(assets) = or_skip(built_ui()) else { return Ok(()) };
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let target = Target { endpoint: engine.address.parse()?, origin: Origin::Named };
    let session = Session::new(target);
    let web = Web::bind("127.0.0.1:0".parse()?, assets, session.clone()).await?;
    let url = web.url();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(web.serve(async { drop(stopped.await) }));

    let driven = desktop.browse().await?;
    let browser = &driven.client;
    browser.goto(&url).await?;
    see(browser, "//button[@data-testid='welcome']").await?.click().await?;
    see(browser, "//*[@data-state='running']").await?;
    wait_for("its log", 20, async || {
        let log = browser.find(Locator::Css("[role=log]")).await?.text().await?;
        Ok((!log.trim().is_empty()).then_some(()))
    })
    .await?;
    assert!(!browser.current_url().await?.as_str().contains("token"), "the token stays in the address");

    // The cookie is enough from here on.
    browser.refresh().await?;
    see(browser, "//*[@data-state='running']").await?;
    let address = browser.current_url().await?.to_string();
    driven.client.close().await?;

    // Another browser with the same address comes too late.
    let other = desktop.browse().await?;
    other.client.goto(&url).await?;
    let refused = see(&other.client, "//*[@class='refused']").await?.text().await?;
    assert!(refused.contains("This address was used before"), "{refused}");
    other.client.goto(&address).await?;
    see(&other.client, "//*[@class='refused']").await?;
    other.client.close().await?;

    session.close().await;
    drop(stop);
    server.join_next().await.context("a server")???;
    Ok(())
}
