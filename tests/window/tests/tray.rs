//! The tray over D-Bus, and how the window and it depend on each other.

use api::container::{ContainerConfig, CreateContainer, HostConfig};
use support::supervisor::{Supervisor, config};
use vm_manager::control::Request;
use vm_manager::stage::Stage;
use window::desktop::Desktop;
use window::engine::{Engine, take_turn};
use window::tray::{Line, Tray};
use window::windows::Windows;
use window::{or_skip, wait_for};

const TITLE: &str = "Cove";

async fn run_container(engine: &Engine, name: &str) -> anyhow::Result<String> {
    let spec = CreateContainer {
        config: ContainerConfig {
            image: engine.image.clone(),
            cmd: Some(["sleep", "1000"].map(str::to_owned).to_vec()),
            ..ContainerConfig::default()
        },
        host_config: HostConfig { network_mode: "host".to_owned(), ..HostConfig::default() },
        ..CreateContainer::default()
    };
    let id = engine.client.create_container(Some(name), None, &spec).await?.id;
    engine.client.start_container(&id).await?;
    Ok(id)
}

/// A line whose text holds `text`, also inside others.
fn find(lines: &[Line], text: &str) -> Option<Line> {
    lines.iter().find_map(
        |line| {
            if line.text.contains(text) { Some(line.clone()) } else { find(&line.lines, text) }
        },
    )
}

#[tokio::test]
async fn the_tray_shows_what_runs_stops_it_and_brings_the_window_back() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let mut tray = Tray::start(&desktop.bus).await?;
    let windows = Windows::of(&desktop.display)?;
    let mut program = desktop.open(&engine.address, "desktop.log")?;
    let icon = tray.icon().await?;
    let id = run_container(&engine, "traytest").await?;

    let entry = wait_for("the container in the menu", 20, async || {
        let menu = icon.menu().await?;
        anyhow::ensure!(find(&menu, "Engine is running, 1 container").is_some(), "{menu:?}");
        Ok(find(&menu, "● traytest"))
    })
    .await?;
    let stop = find(&entry.lines, "Stop").expect("a running container can be stopped");
    icon.choose(stop.id).await?;
    wait_for("its end", 30, async || {
        Ok((!engine.client.inspect_container(&id).await?.state.running).then_some(()))
    })
    .await?;
    let entry = wait_for("the menu to say so", 20, async || {
        Ok(find(&icon.menu().await?, "traytest").filter(|line| find(&line.lines, "Start").is_some()))
    })
    .await?;
    let start = find(&entry.lines, "Start").expect("a stopped container can be started");
    icon.choose(start.id).await?;
    wait_for("its start", 30, async || {
        Ok(engine.client.inspect_container(&id).await?.state.running.then_some(()))
    })
    .await?;

    // Closing hides, a click on the icon brings back: only the ksni backend ever gets that click.
    let visible = async || windows.visible(TITLE);
    let shown = wait_for("the window", 20, visible).await?;
    windows.close(shown)?;
    let hidden = async || Ok(windows.visible(TITLE)?.is_none().then_some(()));
    wait_for("the window to hide", 20, hidden).await?;
    assert!(program.ended()?.is_none(), "closing ended the program: {}", desktop.log("desktop.log"));
    icon.click().await?;
    wait_for("the window to come back", 20, visible).await?;

    // A second start shows the first one's window and ends.
    windows.close(wait_for("the window", 20, visible).await?)?;
    wait_for("the window to hide", 20, hidden).await?;
    let mut second = desktop.open(&engine.address, "second.log")?;
    let status = wait_for("the second program's end", 20, async || second.ended()).await?;
    assert!(status.success(), "{status}");
    wait_for("the first one's window", 20, visible).await?;

    let quit = find(&icon.menu().await?, "Quit Cove").expect("a way to quit");
    // The program may be gone before it has answered.
    let _ = icon.choose(quit.id).await;
    wait_for("the program's end", 20, async || program.ended()).await?;
    assert!(engine.client.inspect_container(&id).await?.state.running, "quitting stopped a container");
    engine.empty().await;
    Ok(())
}

#[tokio::test]
async fn without_a_tray_closing_ends_the_program_and_a_lost_tray_gives_the_window_back() -> anyhow::Result<()>
{
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let Some(engine) = or_skip(Engine::start().await) else { return Ok(()) };
    let windows = Windows::of(&desktop.display)?;
    let visible = async || windows.visible(TITLE);

    let mut program = desktop.open(&engine.address, "first.log")?;
    let shown = wait_for("the window", 20, visible).await?;
    // Letters have soft edges: dozens of colours, where an undrawn window has one.
    wait_for("something drawn", 20, async || Ok((windows.colours(shown)? > 40).then_some(()))).await?;
    windows.close(shown)?;
    wait_for("the program's end", 20, async || program.ended()).await?;

    let mut tray = Tray::start(&desktop.bus).await?;
    let mut program = desktop.open(&engine.address, "second.log")?;
    tray.icon().await?;
    let shown = wait_for("the window", 20, visible).await?;
    windows.close(shown)?;
    wait_for("the window to hide", 20, async || Ok(windows.visible(TITLE)?.is_none().then_some(()))).await?;
    drop(tray);
    wait_for("the window to come back", 20, visible).await?;
    assert!(program.ended()?.is_none());

    // The desktop's panel comes back, and the icon with it.
    let mut tray = Tray::start(&desktop.bus).await?;
    tray.icon().await?;
    Ok(())
}

#[tokio::test]
async fn the_tray_shows_machines_with_their_state_and_stops_them() -> anyhow::Result<()> {
    let Some(desktop) = or_skip(Desktop::start().await) else { return Ok(()) };
    let _turn = take_turn().await;
    let folders = desktop.machines();
    let machine = Supervisor::start(&folders, "dev", &config())?;
    let mut tray = Tray::start(&desktop.bus).await?;
    let _program = desktop.open(&format!("unix://{}/none.sock", folders.run.display()), "desktop.log")?;
    let icon = tray.icon().await?;
    let says = async |text: &str| {
        wait_for(text, 20, async || {
            let menu = icon.menu().await?;
            find(&menu, text).map(Some).ok_or_else(|| anyhow::anyhow!("{menu:?}"))
        })
        .await
    };
    // A menu that has changed meanwhile does not take what was chosen from the one before.
    let choose = async |entry: &str, item: &str, asks: &dyn Fn(&Request) -> bool| {
        for _ in 0..10 {
            let entry = says(entry).await?;
            let item = find(&entry.lines, item).ok_or_else(|| anyhow::anyhow!("no {item}: {entry:?}"))?;
            icon.choose(item.id).await?;
            let asked = async || Ok(machine.asked().iter().any(asks).then_some(()));
            if wait_for("the machine to be asked", 2, asked).await.is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("{item} of {entry} does nothing")
    };
    choose("○ Machine dev  stopped", "Start", &|asked| matches!(asked, Request::Start { .. })).await?;
    says("◔ Machine dev  checking its image").await?;
    machine.reach(Stage::Kernel);
    says("◔ Machine dev  booting").await?;
    machine.fail(Stage::Kernel, "nothing was heard for 90 s", "");
    let entry = says("✕ Machine dev  failed").await?;
    assert!(find(&entry.lines, "nothing was heard for 90 s").is_some(), "{entry:?}");
    machine.run();
    choose("● Machine dev  running", "Stop", &|asked| *asked == Request::Stop).await?;
    says("◔ Machine dev  stopping").await?;
    Ok(())
}
