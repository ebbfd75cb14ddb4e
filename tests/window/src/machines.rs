//! A machine from its making to its removal, in whatever draws the window; its supervisor is made up.

use anyhow::ensure;
use fantoccini::Client;
use fantoccini::key::Key;
use support::supervisor::{Supervisor, config};
use vm_manager::config::{Backend, Config};
use vm_manager::control::Request;
use vm_manager::places::Folders;
use vm_manager::stage::Stage;
use vm_manager::status::Phase;

use crate::sight::{click, fill, gone, picture, see};
use crate::wait_for;

const PAGE: &str = "//section[@aria-label='Machine dev']";

fn page(phase: &str) -> String {
    format!("{PAGE}[@data-phase='{phase}']")
}

fn button(text: &str) -> String {
    format!("//button[normalize-space()='{text}' and not(@disabled)]")
}

fn stage(stage: Stage, state: &str) -> String {
    format!("//*[@data-stage='{}'][@data-state='{state}']", stage.name())
}

/// Makes a machine by the window's dialog, has it started with each stage looked at, has it fail, run, hang, and
/// removed.
///
/// # Errors
/// The window does not show what it should.
pub async fn machines(window: &Client, folders: &Folders) -> anyhow::Result<()> {
    make(window, folders).await?;
    let machine = Supervisor::start(folders, "dev", &folders_config(folders)?)?;
    start(window, &machine).await?;
    fail_everywhere(window, &machine).await?;
    help(window, &machine, folders).await?;
    look_at_figures(window, &machine).await?;
    sleep(window, &machine).await?;
    change(window, folders).await?;
    reset_says_what_goes(window).await?;
    fall_silent(window, machine).await?;
    several(window, folders).await?;
    remove(window, folders).await
}

fn folders_config(folders: &Folders) -> anyhow::Result<Config> {
    Ok(Config::read(&folders.machine("dev")?)?)
}

async fn make(window: &Client, folders: &Folders) -> anyhow::Result<()> {
    click(window, "//button[@data-testid='machines']").await?;
    see(window, "//h2[text()='No machine yet']").await?;
    picture(window, "1-empty").await?;
    click(window, &button("New machine…")).await?;
    // The form is filled in with what a machine is by default.
    see(window, "//input[@id='machine-name']").await?;
    wait_for("the defaults", 10, async || {
        let memory = see(window, "//input[@id='machine-memory']").await?.prop("value").await?;
        Ok((memory.as_deref() == Some("2 GB")).then_some(()))
    })
    .await?;
    let erase = char::from(Key::Backspace).to_string().repeat(8);
    fill(window, "//input[@id='machine-name']", &format!("{erase}Dev")).await?;
    fill(window, "//input[@id='machine-cpus']", &format!("{erase}2")).await?;
    fill(window, "//input[@id='machine-memory']", &format!("{erase}1 GB")).await?;
    click(window, "//button[@role='radio'][text()='User Mode Linux']").await?;
    see(window, "//*[@role='alert'][contains(., 'small letters')]").await?;
    fill(window, "//input[@id='machine-name']", &format!("{erase}dev")).await?;
    let words = "cove machine init dev --backend uml --cpus 2 --memory 1g --disk 64g";
    see(window, &format!("//*[@role='dialog']//code[starts-with(., '{words}')]")).await?;
    picture(window, "2-new").await?;
    click(window, "//button[@role='switch'][@aria-label='Start it']").await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, &page("stopped")).await?;
    gone(window, "//*[@role='dialog']").await?;
    let made = folders_config(folders)?;
    ensure!((made.backend, made.cpus, made.memory) == (Backend::Uml, 2, 1 << 30), "{made:?}");
    picture(window, "3-stopped").await
}

async fn start(window: &Client, machine: &Supervisor) -> anyhow::Result<()> {
    click(window, &button("Start")).await?;
    see(window, &page("starting")).await?;
    ensure!(matches!(machine.asked()[..], [Request::Start { .. }]), "{:?}", machine.asked());
    for at in Stage::ALL {
        machine.reach(at);
        see(window, &stage(at, "now")).await?;
        if let Some(next) = at.next() {
            see(window, &stage(next, "waiting")).await?;
        }
    }
    machine.reach(Stage::Kernel);
    picture(window, "4-starting").await?;
    // Past two seconds it says how long, past ten there is a way out.
    see(window, &format!("{}[contains(., 'of 20 s')]", stage(Stage::Kernel, "now"))).await?;
    see(window, &button("Stop it")).await?;
    picture(window, "4-slow").await?;
    click(window, &button("Stop it")).await?;
    see(window, &page("stopping")).await?;
    ensure!(machine.asked().contains(&Request::Stop), "{:?}", machine.asked());
    Ok(())
}

/// Each stage fails once: its cause, its console and what helps are there.
async fn fail_everywhere(window: &Client, machine: &Supervisor) -> anyhow::Result<()> {
    for at in Stage::ALL {
        let cause = format!("Nothing was heard for {} s", at.deadline(false).as_secs());
        let console =
            "EXT4-fs (vdb): mounted filesystem\nKernel panic - not syncing: Attempted to kill init!";
        machine.fail(at, &cause, console);
        let failed = format!("{}[contains(., '{cause}')]", stage(at, "failed"));
        see(window, &failed).await?;
        see(window, &format!("{failed}//button[@data-testid='remedy']")).await?;
        see(window, &format!("{failed}//*[@data-testid='console'][contains(., 'Kernel panic')]")).await?;
        let command = at.remedy("dev", Backend::Uml, false).command;
        see(window, &format!("{failed}//code[text()='{command}']")).await?;
        if at == Stage::Kernel || at == Stage::Network {
            picture(window, &format!("5-failed-{}", at.name())).await?;
        }
    }
    Ok(())
}

async fn help(window: &Client, machine: &Supervisor, folders: &Folders) -> anyhow::Result<()> {
    // What an engine said is read.
    std::fs::write(
        machine.places.console(),
        "[    0.100000] Linux version 6.12.9\n[    1.2] no room left\n",
    )?;
    click(window, "//button[@data-testid='remedy']").await?;
    see(window, "//*[@role='log'][contains(., 'no room left')]").await?;
    picture(window, "6-console").await?;
    window.active_element().await?.send_keys(&char::from(Key::Escape).to_string()).await?;
    gone(window, "//*[@role='dialog']").await?;
    // The other kind of machine is tried.
    machine.fail(Stage::Hypervisor, "the program linux is missing", "");
    see(window, &stage(Stage::Hypervisor, "failed")).await?;
    click(window, "//button[@data-testid='remedy']").await?;
    see(window, &page("starting")).await?;
    ensure!(folders_config(folders)?.backend == Backend::Qemu);
    // Folders are looked at.
    machine.fail(Stage::Shares, "open /home/ana/Documents: permission denied", "");
    see(window, &stage(Stage::Shares, "failed")).await?;
    click(window, "//button[@data-testid='remedy']").await?;
    see(window, "//*[@role='dialog'][@aria-label='Settings of dev']").await?;
    click(window, "//*[@role='dialog']//button[text()='Cancel']").await
}

async fn look_at_figures(window: &Client, machine: &Supervisor) -> anyhow::Result<()> {
    machine.run();
    for step in 0..40_u64 {
        let used = (300 + if (10..20).contains(&step) { 320 } else { step }) << 20;
        let taken = (420 + if (10..24).contains(&step) { 330 } else { 10 }) << 20;
        machine.report(used, taken, 6 << 30);
        // One report each: only what was seen is drawn.
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
    }
    machine.tell(|status| status.ports = vec!["127.0.0.1:8080/tcp".to_owned()]);
    see(window, &page("running")).await?;
    see(window, "//section[@aria-label='Memory'][contains(., 'given back since')]").await?;
    see(window, "//section[@aria-label='Settings'][contains(., '127.0.0.1:8080/tcp')]").await?;
    picture(window, "7-running").await?;
    machine.tell(|status| {
        status.warnings =
            vec!["port 5432 of the guest can't be had on this computer: it is taken".to_owned()];
    });
    see(window, "//*[@aria-label='Problems'][contains(., 'port 5432')]").await?;
    see(window, "//button[@data-testid='machines'][contains(., 'with 1 problem')]").await?;
    click(window, &button("Give back")).await?;
    wait_for("it to be asked", 10, async || Ok(machine.asked().contains(&Request::GiveBack).then_some(())))
        .await
}

async fn sleep(window: &Client, machine: &Supervisor) -> anyhow::Result<()> {
    click(window, &format!("{PAGE}//button[@title='More']")).await?;
    click(window, "//*[@role='menuitem'][contains(., 'Sleep')]").await?;
    see(window, &page("fallingAsleep")).await?;
    ensure!(machine.asked().contains(&Request::Sleep), "{:?}", machine.asked());
    machine.tell(|status| {
        status.phase = Phase::Asleep;
        status.report = None;
        status.memory_here = None;
    });
    see(window, &format!("{}[contains(., 'the first call wakes it')]", page("asleep"))).await?;
    picture(window, "10-asleep").await?;
    let asked = machine.asked().len();
    click(window, &button("Wake")).await?;
    see(window, &page("starting")).await?;
    ensure!(matches!(machine.asked()[asked..], [Request::Start { .. }]), "{:?}", machine.asked());
    machine.run();
    see(window, &page("running")).await?;
    Ok(())
}

async fn change(window: &Client, folders: &Folders) -> anyhow::Result<()> {
    click(window, "//section[@aria-label='Settings']//button[text()='Change…']").await?;
    let erase = char::from(Key::Backspace).to_string().repeat(8);
    fill(window, "//input[@id='machine-disk']", &format!("{erase}4 GB")).await?;
    fill(window, "//input[@id='machine-memory']", &format!("{erase}1.5 GB{}", char::from(Key::Tab))).await?;
    see(window, "//*[@role='alert'][contains(., 'only grows')]").await?;
    fill(window, "//input[@id='machine-disk']", &format!("{erase}80 GB")).await?;
    see(window, "//*[@role='dialog']//code[.='cove machine set dev --memory 1536m --disk 80g']").await?;
    picture(window, "8-settings").await?;
    click(window, "//button[@data-testid='act']").await?;
    gone(window, "//*[@role='dialog']").await?;
    see(window, "//section[@aria-label='Settings'][contains(., 'At the next start')]").await?;
    ensure!(folders_config(folders)?.memory == 3 << 29);
    picture(window, "9-next-start").await
}

async fn reset_says_what_goes(window: &Client) -> anyhow::Result<()> {
    click(window, &format!("{PAGE}//button[@title='More']")).await?;
    click(window, "//*[@role='menuitem'][contains(., 'Reset…')]").await?;
    see(window, "//*[@role='dialog'][contains(., 'Its volumes, its settings')]").await?;
    see(window, "//*[@role='dialog']//code[.='cove machine reset dev']").await?;
    click(window, "//button[@role='switch'][@aria-label='Volumes too']").await?;
    see(window, "//*[@role='dialog'][contains(., 'and all its volumes')]").await?;
    see(window, "//*[@role='dialog']//code[.='cove machine reset dev --volumes']").await?;
    picture(window, "11-reset").await?;
    click(window, "//*[@role='dialog']//button[text()='Cancel']").await
}

async fn fall_silent(window: &Client, machine: Supervisor) -> anyhow::Result<()> {
    machine.hang();
    // It is asked whether it lives only after it has been quiet for long.
    wait_for("the silence to be told", 40, async || {
        Ok((!window.find_all(fantoccini::Locator::XPath(&page("silent"))).await?.is_empty()).then_some(()))
    })
    .await?;
    see(window, "//*[@role='alert'][contains(., 'does not answer')]").await?;
    picture(window, "12-silent").await?;
    // The rest of the window goes on.
    click(window, "//nav//button[@title='Images']").await?;
    see(window, "//section[@aria-label='Images']").await?;
    click(window, "//button[@data-testid='machines']").await?;
    drop(machine);
    see(window, &page("stopped")).await?;
    Ok(())
}

async fn several(window: &Client, folders: &Folders) -> anyhow::Result<()> {
    let long = Supervisor::start(folders, "a-machine-with-quite-a-long-name", &config())?;
    long.run();
    long.report(500 << 20, 700 << 20, 1 << 30);
    let failed = Supervisor::start(folders, "ci", &config())?;
    failed.fail(Stage::Engine, "the engine ended with code 1", "coved: no space left on device");
    see(window, "//*[@role='option'][@data-name='ci'][contains(., 'Could not start')]").await?;
    click(window, "//*[@role='option'][@data-name='ci']").await?;
    see(window, "//section[@aria-label='Machine ci']").await?;
    picture(window, "13-several").await?;
    // By keyboard.
    window.active_element().await?.send_keys(&char::from(Key::Down).to_string()).await?;
    see(window, PAGE).await?;
    drop(long);
    failed.end()?;
    for name in ["ci", "a-machine-with-quite-a-long-name"] {
        folders.machine(name)?.remove()?;
    }
    gone(window, "//*[@role='option'][@data-name='ci']").await
}

async fn remove(window: &Client, folders: &Folders) -> anyhow::Result<()> {
    click(window, &format!("{PAGE}//button[@title='More']")).await?;
    click(window, "//*[@role='menuitem'][contains(., 'Remove…')]").await?;
    see(window, "//*[@role='dialog'][contains(., 'with everything in it')]").await?;
    picture(window, "14-remove").await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, "//h2[text()='No machine yet']").await?;
    ensure!(folders.names()?.is_empty());
    Ok(())
}
