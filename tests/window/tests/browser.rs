//! The same UI in a plain browser, served on a loopback address.

use std::path::Path;

use anyhow::Context;
use fantoccini::Locator;
use host::engine::{Origin, Target};
use host::machine::Folders;
use host::ui::Session;
use host::web::{Assets, Web};
use window::desktop::Desktop;
use window::engine::{Engine, take_turn};
use window::sight::see;
use window::{Missing, machines, or_skip, story, wait_for};

fn built_ui() -> Result<Assets, Missing> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui/dist");
    Assets::folder(dist).map_err(|error| Missing(error.to_string()))
}

/// The UI of an engine, served until told to end.
struct Served {
    url: String,
    session: Session,
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinSet<Result<(), host::web::Error>>,
}

impl Served {
    async fn start(engine: &Engine, assets: Assets) -> anyhow::Result<Self> {
        Self::of(&engine.address, None, assets).await
    }

    async fn of(address: &str, machines: Option<Folders>, assets: Assets) -> anyhow::Result<Self> {
        let target = Target { endpoint: address.parse()?, origin: Origin::Named };
        let session = Session::with_machines(target, machines);
        let web = Web::bind("127.0.0.1:0".parse()?, assets, session.clone()).await?;
        let url = web.url();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut server = tokio::task::JoinSet::new();
        server.spawn(web.serve(async { drop(stopped.await) }));
        Ok(Self { url, session, stop, server })
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.session.close().await;
        drop(self.stop);
        self.server.join_next().await.context("a server")???;
        Ok(())
    }
}

#[tokio::test]
async fn a_browser_gets_in_once_runs_a_container_and_stays_in() -> anyhow::Result<()> {
    let Some(assets) = or_skip(built_ui()) else { return Ok(()) };
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let served = Served::start(&engine, assets).await?;

    let driven = desktop.browse().await?;
    let browser = &driven.client;
    browser.goto(&served.url).await?;
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
    other.client.goto(&served.url).await?;
    let refused = see(&other.client, "//*[@class='refused']").await?.text().await?;
    assert!(refused.contains("This address was used before"), "{refused}");
    other.client.goto(&address).await?;
    see(&other.client, "//*[@class='refused']").await?;
    other.client.close().await?;

    served.end().await
}

#[tokio::test]
async fn networks_and_volumes_are_the_same_in_a_browser() -> anyhow::Result<()> {
    let Some(assets) = or_skip(built_ui()) else { return Ok(()) };
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let bridged = engine.has_bridge().await.then_some(());
    if or_skip(bridged.ok_or_else(|| Missing("the engine has no bridge (root and nft)".into()))).is_none() {
        return Ok(());
    }
    let served = Served::start(&engine, assets).await?;

    let driven = desktop.browse().await?;
    driven.client.goto(&served.url).await?;
    story::networks_and_volumes(&driven.client, &engine).await?;
    driven.client.close().await?;

    served.end().await
}

#[tokio::test]
async fn machines_are_the_same_in_a_browser() -> anyhow::Result<()> {
    let Some(assets) = or_skip(built_ui()) else { return Ok(()) };
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let _turn = take_turn().await;
    let folders = desktop.machines();
    let address = format!("unix://{}/none.sock", folders.run.display());
    let served = Served::of(&address, Some(folders.clone()), assets).await?;

    let driven = desktop.browse().await?;
    driven.client.goto(&served.url).await?;
    machines::machines(&driven.client, &folders).await?;
    driven.client.close().await?;

    served.end().await
}
