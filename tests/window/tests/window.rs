//! The window, driven by WebDriver, with a real engine and real containers behind it.

use std::time::{Duration, Instant};

use anyhow::Context;
use fantoccini::key::Key;
use fantoccini::{Client, Locator};
use window::desktop::Desktop;
use window::engine::{Engine, take_turn};
use window::sight::{click, gone, picture, see};
use window::{Missing, machines, or_skip, program, story, wait_for};

/// A row of the list, by its container's title.
fn row(title: &str, state: &str) -> String {
    format!("//*[@data-state='{state}'][.//*[contains(@class,'name')][text()='{title}']]")
}

/// A button in the open page's upper corner.
fn corner(container: &str, title: &str) -> String {
    format!("//section[@aria-label='{container}']//button[@title='{title}']")
}

async fn text_of(window: &Client, css: &str) -> anyhow::Result<String> {
    Ok(window.find(Locator::Css(css)).await?.text().await?)
}

/// Types where the focus is.
async fn type_keys(window: &Client, keys: &str) -> anyhow::Result<()> {
    window.active_element().await?.send_keys(keys).await?;
    Ok(())
}

#[tokio::test]
async fn a_click_runs_the_welcome_container_and_the_window_looks_after_it() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let driven = desktop.drive(&engine.address).await?;
    let window = &driven.client;

    see(window, "//h2[text()='Nothing is running yet']").await?;
    let clicked = Instant::now();
    click(window, "//button[@data-testid='welcome']").await?;
    see(window, "//*[contains(@class,'row')]").await?;
    // The click's own way through WebDriver takes most of this.
    assert!(clicked.elapsed() < Duration::from_secs(2), "the click showed after {:?}", clicked.elapsed());
    see(window, &row("welcome", "running")).await?;
    let running = engine.containers().await?;
    assert_eq!(running.len(), 1);
    assert_eq!((running[0].image.as_str(), running[0].state.as_str()), ("cove/welcome:latest", "running"));

    // Its page opens by itself, with its log.
    let log = wait_for("a line in the log", 20, async || {
        Ok(Some(text_of(window, "[role=log]").await?).filter(|text| !text.trim().is_empty()))
    })
    .await?;
    assert!(log.to_lowercase().contains("welcome") || log.contains("http"), "{log}");

    click(window, &corner("welcome", "Stop")).await?;
    see(window, &row("welcome", "exited")).await?;
    assert_eq!(engine.containers().await?[0].state, "exited");

    click(window, &corner("welcome", "Remove")).await?;
    see(window, "//button[text()='Undo']").await?;
    assert_eq!(engine.containers().await?.len(), 1, "it can still be undone");
    see(window, "//h2[text()='Nothing is running yet']").await?;
    assert!(engine.containers().await?.is_empty());
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_container_from_the_run_dialog_has_a_terminal() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let driven = desktop.drive(&engine.address).await?;
    let window = &driven.client;

    click(window, "//button[text()='Run…' and not(@disabled)]").await?;
    let field =
        |label: &str| format!("//*[@role='dialog']//input[@id='run-{label}' or @aria-label='{label}']");
    see(window, &field("image"))
        .await?
        .send_keys(&format!("{}{}", engine.image, char::from(Key::Tab)))
        .await?;
    see(window, &field("name")).await?.send_keys("shell").await?;
    see(window, &field("command")).await?.send_keys("sleep 1000").await?;
    see(window, &field("Name")).await?.send_keys("GREETING").await?;
    see(window, &field("Value")).await?.send_keys("hello there").await?;
    see(window, &field("Memory")).await?.send_keys("64 MB").await?;
    // A user's engine has no bridge, and the dialog no ports.
    let has_bridge = engine.has_bridge().await;
    if has_bridge {
        see(window, &field("Port in the container")).await?.send_keys("80").await?;
    }
    let wanted = format!(
        "cove run -d --name shell {} -e 'GREETING=hello there' -m 64m {} sleep 1000",
        if has_bridge { "-p 80" } else { "--network host" },
        engine.image
    );
    wait_for("the command line", 10, async || {
        let shown = text_of(window, "[data-testid=run-command]").await?;
        anyhow::ensure!(shown == wanted, "{shown}");
        Ok(Some(()))
    })
    .await?;
    click(window, "//button[@data-testid='run']").await?;
    see(window, &row("shell", "running")).await?;
    let made = engine.client.inspect_container("shell").await?;
    assert_eq!(made.host_config.resources.memory, 64 << 20);
    if has_bridge {
        let published = made.network_settings.ports.get("80/tcp").cloned().flatten().unwrap_or_default();
        let port = &published.first().ok_or_else(|| anyhow::anyhow!("no port was published"))?.host_port;
        see(
            window,
            &format!(
                "//*[contains(@class,'row')]//button[contains(@class,'port')][starts-with(., ':{port}')]"
            ),
        )
        .await?;
    }

    click(window, "//button[@role='tab'][text()='Terminal']").await?;
    see(window, "//textarea[contains(@class,'xterm-helper-textarea')]").await?;
    let type_line = async |line: &str| -> anyhow::Result<()> {
        let area = window.find(Locator::Css(".xterm-helper-textarea")).await?;
        area.send_keys(&format!("{line}{}", char::from(Key::Enter))).await?;
        Ok(())
    };
    // A prompt first: keys that come before the shell reads would be echoed twice.
    wait_for("a prompt", 20, async || {
        Ok(text_of(window, ".xterm-rows").await?.contains(['#', '$']).then_some(()))
    })
    .await?;
    type_line("echo $GREETING $((6*7))").await?;
    wait_for("the shell's answer", 20, async || {
        let screen = text_of(window, ".xterm-rows").await?;
        anyhow::ensure!(screen.contains("hello there 42"), "{screen}");
        Ok(Some(()))
    })
    .await?;
    type_line("exit").await?;
    see(window, "//*[text()='The shell has ended.']").await?;

    // The same by keyboard only: list, restart, remove, undo.
    type_keys(window, &char::from(Key::Escape).to_string()).await.ok();
    click(window, "//button[@title='Close (Esc)']").await?;
    let started = engine.client.inspect_container("shell").await?.state.started_at;
    type_keys(window, "r").await?;
    wait_for("the restart", 30, async || {
        let page = engine.client.inspect_container("shell").await?;
        Ok((page.state.running && page.state.started_at != started).then_some(()))
    })
    .await?;
    see(window, &row("shell", "running")).await?;
    type_keys(window, &char::from(Key::Delete).to_string()).await?;
    click(window, "//button[text()='Undo']").await?;
    see(window, &row("shell", "running")).await?;
    engine.empty().await;
    gone(window, &row("shell", "running")).await?;
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_so_and_found_when_it_comes() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("engine.sock");
    let driven = desktop.drive(&format!("unix://{}", socket.display())).await?;
    let window = &driven.client;
    let banner = see(window, "//*[@role='alert'][.//h2]").await?.text().await?;
    assert!(banner.contains("The engine isn’t running"), "{banner}");
    assert!(banner.contains(&format!("coved --listen unix://{}", socket.display())), "{banner}");

    // It comes: nobody has to press anything.
    let real = engine.address.strip_prefix("unix://").context("a socket")?;
    std::os::unix::fs::symlink(real, &socket)?;
    see(window, "//h2[text()='Nothing is running yet']").await?;
    gone(window, "//*[@role='alert'][.//h2]").await?;
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn networks_and_volumes_are_made_used_and_removed() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let bridged = engine.has_bridge().await.then_some(());
    if or_skip(bridged.ok_or_else(|| Missing("the engine has no bridge (root and nft)".into()))).is_none() {
        return Ok(());
    }
    let driven = desktop.drive(&engine.address).await?;
    story::networks_and_volumes(&driven.client, &engine).await?;
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_machine_is_made_started_stage_by_stage_and_removed() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let _turn = take_turn().await;
    let folders = desktop.machines();
    // Machines need no engine on this computer.
    let driven = desktop.drive(&format!("unix://{}/none.sock", folders.run.display())).await?;
    machines::machines(&driven.client, &folders).await?;
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_real_machine_starts_is_rescued_and_reset_from_the_window() -> anyhow::Result<()> {
    let image =
        support::machine::images("uml").ok_or_else(|| Missing("there is no guest image for uml".into()));
    let Some(_) = or_skip(image) else { return Ok(()) };
    let Some(_) = or_skip(program("cove-machine")) else { return Ok(()) };
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let _turn = take_turn().await;
    let folders = desktop.machines();
    folders.machine("real")?.create(&support::supervisor::config())?;
    let driven = desktop.drive(&format!("unix://{}/none.sock", folders.run.display())).await?;
    let window = &driven.client;
    let real = |phase: &str| format!("//section[@aria-label='Machine real'][@data-phase='{phase}']");
    // Emulated or not, a start and a stop take seconds.
    let comes_to = async |phase: &str| {
        wait_for(&format!("the machine to be {phase}"), 60, async || {
            Ok((!window.find_all(Locator::XPath(&real(phase))).await?.is_empty()).then_some(()))
        })
        .await
    };
    let choose = async |what: &str| {
        click(window, "//section[@aria-label='Machine real']//button[@title='More']").await?;
        click(window, &format!("//*[@role='menuitem'][contains(., '{what}')]")).await
    };
    click(window, "//button[@data-testid='machines']").await?;
    click(window, "//button[text()='Start']").await?;
    comes_to("running").await?;
    assert_eq!(window.find_all(Locator::Css("[data-state=done]")).await?.len(), 8);
    see(window, "//section[@aria-label='Processors'][contains(., 'of 2 in use')]").await?;
    wait_for("two reports", 20, async || {
        let figure = see(window, "//section[@aria-label='Processors']").await?.text().await?;
        Ok((!figure.contains('–')).then_some(()))
    })
    .await?;
    picture(window, "20-real-running").await?;
    // It is stopped for a rescue, and started again with its disk read-only.
    choose("Rescue").await?;
    click(window, "//button[@data-testid='act']").await?;
    comes_to("rescue").await?;
    picture(window, "21-real-rescue").await?;
    click(window, "//button[text()='Stop']").await?;
    comes_to("stopped").await?;
    picture(window, "22-real-stopped").await?;
    let disk = folders.machine("real")?.disk();
    assert!(disk.is_file(), "it has no disk to begin with");
    choose("Reset").await?;
    click(window, "//button[@role='switch'][@aria-label='Volumes too']").await?;
    click(window, "//button[@data-testid='act']").await?;
    wait_for("its disk to be gone", 60, async || Ok((!disk.exists()).then_some(()))).await?;
    comes_to("stopped").await?;
    // What is made anew is as good.
    click(window, "//button[text()='Start']").await?;
    comes_to("running").await?;
    click(window, "//button[text()='Stop']").await?;
    comes_to("stopped").await?;
    driven.client.close().await?;
    Ok(())
}

#[tokio::test]
async fn an_error_stays_on_its_row_with_a_way_out() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let driven = desktop.drive(&engine.address).await?;
    let window = &driven.client;
    click(window, "//button[text()='Run…' and not(@disabled)]").await?;
    let image = see(window, "//input[@id='run-image']").await?;
    image.send_keys(&format!("{}{}", engine.image, char::from(Key::Tab))).await?;
    see(window, "//input[@id='run-command']").await?.send_keys("/no/such/program").await?;
    click(window, "//button[@data-testid='run']").await?;
    let error = see(window, "//*[contains(@class,'inline-error')]").await?.text().await?;
    assert!(error.contains("/no/such/program"), "{error}");
    assert!(engine.containers().await?.is_empty(), "what did not start was left");
    click(window, "//button[text()='Change…']").await?;
    let command = see(window, "//input[@id='run-command']").await?.prop("value").await?;
    assert_eq!(command.as_deref(), Some("/no/such/program"));
    driven.client.close().await?;
    Ok(())
}
