//! A network and a volume from their making to their removal, in whatever draws the window.

use anyhow::ensure;
use api::client::Filters;
use api::network::{CreateNetwork, Ipam, IpamConfig};
use api::volume::CreateVolume;
use fantoccini::Client;
use fantoccini::key::Key;

use crate::desktop::PATIENCE;
use crate::engine::Engine;
use crate::sight::{click, fill, gone, see};
use crate::wait_for;

/// Far from what engines choose by themselves.
const SUBNET: &str = "10.213.7.0/24";
/// Likewise, of a second network.
const OTHER: &str = "10.213.8.0/24";

/// A section of the sidebar.
fn section(title: &str) -> String {
    format!("//nav//button[@title='{title}']")
}

/// A row of a list of objects that shows a text.
fn row(name: &str, text: &str) -> String {
    format!("//*[@data-name='{name}'][contains(., '{text}')]")
}

/// A button in the corner of an open page.
fn corner(name: &str, title: &str) -> String {
    format!("//section[@aria-label='{name}']//button[@title='{title}']")
}

async fn error_of(window: &Client, name: &str) -> anyhow::Result<String> {
    let error = see(window, &format!("//*[@role='alert'][@aria-label='Error of {name}']")).await?;
    Ok(error.text().await?)
}

/// Makes both by the window's own dialogs, runs a container with them, and removes them after it.
///
/// # Errors
/// The window does not show what it should.
pub async fn networks_and_volumes(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    make_network(window, engine).await?;
    make_network_of_a_driver(window, engine).await?;
    make_volume(window, engine).await?;
    make_volume_in_memory(window, engine).await?;
    run_with_both(window, engine).await?;
    connect_and_disconnect(window, engine).await?;
    refuse_while_used(window, engine).await?;
    remove_after_use(window, engine).await?;
    prune(window, engine).await
}

async fn make_network(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, &section("Networks")).await?;
    see(window, &row("host", "always there")).await?;
    click(window, "//*[@class='empty']//button[text()='New network…']").await?;
    fill(window, "//input[@id='network-name']", "backend").await?;
    fill(window, "//input[@id='network-subnet']", SUBNET).await?;
    see(window, &format!("//code[.='cove network create --subnet {SUBNET} backend']")).await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, &row("backend", SUBNET)).await?;
    see(window, &row("backend", "Not used")).await?;
    gone(window, "//*[@role='dialog']").await?;
    let made = engine.client.inspect_network("backend").await?;
    ensure!(made.ipam.config[0].subnet == SUBNET, "{made:?}");

    // What the engine refuses is said where it was asked for.
    click(window, "//button[@title='Make a network']").await?;
    fill(window, "//input[@id='network-name']", "backend").await?;
    click(window, "//button[@data-testid='act']").await?;
    let refused = see(window, "//*[@role='dialog']//*[@role='alert']").await?.text().await?;
    ensure!(refused.contains("etwork with name backend already exists"), "{refused}");
    click(window, "//*[@role='dialog']//button[text()='Cancel']").await
}

/// All that a form has, with a mistake in it on the way.
async fn make_network_of_a_driver(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, "//button[@title='Make a network']").await?;
    fill(window, "//input[@id='network-name']", "outside").await?;
    click(window, "//button[@role='radio'][text()='Macvlan']").await?;
    see(window, "//input[@id='network-parent']").await?;
    click(window, "//button[@role='switch'][@aria-label='Internal']").await?;
    fill(window, "//input[@id='network-gateway']", "10.213.9.9").await?;
    fill(window, "//input[@aria-label='Option']", "macvlan_mode").await?;
    fill(window, "//input[@aria-label='Value of the option']", "private").await?;
    fill(window, "//input[@aria-label='Label']", "tier").await?;
    fill(window, "//input[@aria-label='Value of the label']", "back end").await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, "//*[@role='alert'][text()='Fill in the subnet that 10.213.9.9 is in.']").await?;
    ensure!(engine.client.inspect_network("outside").await.is_err(), "it was made all the same");
    fill(window, "//input[@id='network-subnet']", "10.213.9.0/24").await?;
    fill(window, "//input[@id='network-range']", "10.213.9.128/25").await?;
    let words = "cove network create --driver macvlan --internal --subnet 10.213.9.0/24 --gateway 10.213.9.9 \
                 --ip-range 10.213.9.128/25 --opt macvlan_mode=private --label 'tier=back end' outside";
    see(window, &format!("//code[.=\"{words}\"]")).await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, &row("outside", "macvlan")).await?;
    let made = engine.client.inspect_network("outside").await?;
    let range = &made.ipam.config[0];
    ensure!((&*range.gateway, &*range.ip_range) == ("10.213.9.9", "10.213.9.128/25"), "{made:?}");
    ensure!(made.internal && made.options["macvlan_mode"] == "private", "{made:?}");
    ensure!(made.labels["tier"] == "back end", "{made:?}");
    click(window, &row("outside", "macvlan")).await?;
    see(window, "//section[@aria-label='outside'][contains(., 'private')][contains(., 'back end')]").await?;
    engine.client.remove_network("outside").await?;
    gone(window, &row("outside", "macvlan")).await
}

async fn make_volume_in_memory(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, "//button[@title='Make a volume']").await?;
    fill(window, "//input[@id='volume-name']", "pgdata").await?;
    see(window, "//*[@role='alert'][text()='There is a volume of this name already.']").await?;
    fill(window, "//input[@id='volume-name']", "-scratch").await?;
    click(window, "//button[@role='radio'][text()='NFS']").await?;
    fill(window, "//input[@id='volume-place']", "files.example").await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, "//*[@role='alert'][contains(., 'files.example:/export')]").await?;
    click(window, "//button[@role='radio'][text()='Memory']").await?;
    fill(window, "//input[@id='volume-place']", "64 MB").await?;
    let words = "cove volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=64m pgdata-scratch";
    see(window, &format!("//code[.='{words}']")).await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, &row("pgdata-scratch", "memory")).await?;
    let made = engine.client.inspect_volume("pgdata-scratch").await?;
    ensure!(made.options.unwrap_or_default()["o"] == "size=64m");
    engine.client.remove_volume("pgdata-scratch", false).await?;
    gone(window, &row("pgdata-scratch", "memory")).await
}

async fn make_volume(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, &section("Volumes")).await?;
    see(window, "//h2[text()='No volumes yet']").await?;
    click(window, "//button[text()='New volume…']").await?;
    // By keyboard: the field has the focus, Enter makes it.
    window.active_element().await?.send_keys(&format!("pgdata{}", char::from(Key::Enter))).await?;
    see(window, &row("pgdata", "Not used")).await?;
    engine.client.inspect_volume("pgdata").await?;
    Ok(())
}

async fn run_with_both(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, &row("pgdata", "Not used")).await?;
    see(window, "//section[@aria-label='pgdata']").await?;
    click(window, &corner("pgdata", "Run a container with it")).await?;
    let image = format!("{}{}", engine.image, char::from(Key::Tab));
    fill(window, "//input[@id='run-image']", &image).await?;
    fill(window, "//input[@id='run-name']", "db").await?;
    let command = "sh -c 'head -c 3000000 /dev/zero > /data/file; sleep 1000'";
    fill(window, "//input[@id='run-command']", command).await?;
    fill(window, "//input[@aria-label='Folder in the container']", "/data").await?;
    click(window, "//button[@role='radio'][text()='One of yours']").await?;
    see(window, "//select[@aria-label='Which network']/option[text()='backend']").await?;
    let words = "cove run -d --name db --network backend -v pgdata:/data";
    see(window, &format!("//code[@data-testid='run-command'][starts-with(., '{words}')]")).await?;
    // A further mount offers the volumes that are there.
    fill(window, "//input[@id='run-mount-1']", "pgd").await?;
    let choice = "//*[@role='option'][contains(., 'pgdata')]";
    see(window, &format!("//*[@id='run-mount-1-choices']{choice}")).await?;
    let keys = format!("{0}{0}{0}", char::from(Key::Backspace));
    fill(window, "//input[@id='run-mount-1']", &keys).await?;
    click(window, "//button[@data-testid='run']").await?;
    see(window, "//*[@data-state='running'][.//*[text()='db']]").await?;
    Ok(())
}

/// From the network's page and from the container's, while it runs.
async fn connect_and_disconnect(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    let config = vec![IpamConfig { subnet: OTHER.to_owned(), ..IpamConfig::default() }];
    let ipam = Ipam { driver: "default".to_owned(), config, ..Ipam::default() };
    let side = CreateNetwork {
        name: "side".to_owned(),
        driver: "bridge".to_owned(),
        ipam,
        ..CreateNetwork::default()
    };
    engine.client.create_network(&side).await?;
    let place = async || -> anyhow::Result<Option<api::container::EndpointSettings>> {
        let page = engine.client.inspect_container("db").await?;
        Ok(page.network_settings.networks.get("side").cloned())
    };
    click(window, &section("Networks")).await?;
    click(window, &row("side", "Not used")).await?;
    click(window, "//section[@aria-label='side']//button[text()='Connect…']").await?;
    see(window, "//select[@id='connect-container']/option[text()='db']").await?;
    fill(window, "//input[@id='connect-aliases']", "store, main").await?;
    fill(window, "//input[@id='connect-ipv4']", "10.213.8.1").await?;
    // What the engine refuses is said where it was asked for: this is the gateway's address.
    click(window, "//button[@data-testid='act']").await?;
    let refused = see(window, "//*[@role='dialog']//*[@role='alert']").await?.text().await?;
    ensure!(refused.contains("ddress already in use"), "{refused}");
    fill(window, "//input[@id='connect-ipv4']", "7").await?;
    let words = "cove network connect --alias store --alias main --ip 10.213.8.17 side db";
    see(window, &format!("//code[.='{words}']")).await?;
    click(window, "//button[@data-testid='act']").await?;
    gone(window, "//*[@role='dialog']").await?;
    let member = "//section[@aria-label='side']//*[@data-container='db']";
    see(window, &format!("{member}[contains(., '10.213.8.17')][contains(., 'store, main')]")).await?;
    let made = place().await?.unwrap_or_default();
    ensure!(made.ip_address == "10.213.8.17", "{made:?}");
    ensure!(made.aliases.unwrap_or_default().iter().any(|alias| alias == "main"));

    // The same from the container's side.
    click(window, &format!("{member}//button[text()='db']")).await?;
    click(window, "//button[@role='tab'][text()='Network']").await?;
    see(window, "//*[@data-network='side'][contains(., '10.213.8.17')]").await?;
    click(window, "//button[@title='Disconnect from side']").await?;
    gone(window, "//*[@data-network='side']").await?;
    ensure!(place().await?.is_none(), "it is still on it");
    click(window, "//section[@aria-label='db']//button[text()='Connect…']").await?;
    click(window, "//select[@id='connect-network']/option[text()='side']").await?;
    click(window, "//button[@data-testid='act']").await?;
    see(window, "//*[@data-network='side'][contains(., '10.213.8.')]").await?;
    click(window, "//*[@data-network='side']//button[text()='side']").await?;
    click(window, &format!("{member}//button[@title='Disconnect db']")).await?;
    gone(window, member).await?;
    ensure!(place().await?.is_none(), "it is still on it");
    engine.client.remove_network("side").await?;
    gone(window, &row("side", "")).await
}

async fn refuse_while_used(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    let id = engine.client.inspect_container("db").await?.id;
    click(window, &section("Volumes")).await?;
    see(window, &row("pgdata", "1 container")).await?;
    see(window, &row("pgdata", "MB")).await?;
    see(window, "//*[@data-container='db'][contains(., '/data')]").await?;
    click(window, &corner("pgdata", "Remove")).await?;
    let refused = error_of(window, "pgdata").await?;
    ensure!(refused.contains("volume is in use - [db]"), "{refused}");
    ensure!(!refused.contains(&id), "an id of 64 digits is nothing to read: {refused}");
    click(window, "//*[@aria-label='Error of pgdata']//button[text()='Dismiss']").await?;

    click(window, &section("Networks")).await?;
    click(window, &row("backend", "1 container")).await?;
    see(window, "//*[@data-container='db'][contains(., '10.213.7.')]").await?;
    click(window, &corner("backend", "Remove")).await?;
    let refused = error_of(window, "backend").await?;
    ensure!(refused.contains("network backend has active endpoints (name:\"db\""), "{refused}");
    ensure!(engine.client.inspect_network("backend").await.is_ok(), "it was removed all the same");
    Ok(())
}

async fn remove_after_use(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    // Seen live: nobody touches the window meanwhile.
    engine.client.stop_container("db", None, Some(1)).await?;
    see(window, &row("backend", "1 not running")).await?;
    see(window, "//*[@data-container='db'][.//*[@aria-label='exited']]").await?;
    engine.remove_containers().await;
    see(window, &row("backend", "Not used")).await?;
    click(window, "//*[@aria-label='Error of backend']//button[text()='Try again']").await?;
    click(window, "//button[text()='Undo']").await?;
    see(window, &row("backend", "Not used")).await?;
    click(window, &row("backend", "Not used")).await?;
    click(window, &corner("backend", "Remove")).await?;
    wait_for("the network's removal", PATIENCE.as_secs(), async || {
        Ok(engine.client.inspect_network("backend").await.is_err().then_some(()))
    })
    .await?;
    see(window, "//h2[text()='No network of your own yet']").await?;
    Ok(())
}

/// To a filter, from there into the list, open, close, remove: no pointer is needed but to undo it.
async fn by_keyboard(window: &Client) -> anyhow::Result<()> {
    let keys = async |keys: &str| window.active_element().await?.send_keys(keys).await;
    let [down, enter, escape] = [Key::Down, Key::Enter, Key::Escape].map(char::from);
    keys("/").await?;
    keys("see").await?;
    gone(window, &row("pgdata", "")).await?;
    keys(&down.to_string()).await?;
    // A page is open: it goes along with the cursor.
    keys(&down.to_string()).await?;
    see(window, "//section[@aria-label='seed']").await?;
    keys(&escape.to_string()).await?;
    gone(window, "//section[@aria-label='seed']").await?;
    keys(&enter.to_string()).await?;
    see(window, "//section[@aria-label='seed']").await?;
    keys(&char::from(Key::Delete).to_string()).await?;
    see(window, "//*[contains(., 'seed removed with all that is in it')]").await?;
    click(window, "//button[text()='Undo']").await?;
    see(window, &row("seed", "Not used")).await?;
    keys("/").await?;
    keys(&escape.to_string()).await?;
    see(window, &row("pgdata", "Not used")).await?;
    Ok(())
}

async fn prune(window: &Client, engine: &Engine) -> anyhow::Result<()> {
    click(window, &section("Volumes")).await?;
    see(window, &row("pgdata", "Not used")).await?;
    let seed = CreateVolume { name: "seed".to_owned(), ..CreateVolume::default() };
    engine.client.create_volume(&seed).await?;
    see(window, &row("seed", "Not used")).await?;
    by_keyboard(window).await?;
    click(window, "//button[text()='Remove unused…']").await?;
    for name in ["pgdata", "seed"] {
        see(window, &format!("//*[@role='dialog']//li[contains(., '{name}')]")).await?;
    }
    click(window, "//*[@role='dialog']//button[text()='Remove 2 volumes']").await?;
    see(window, "//h2[text()='No volumes yet']").await?;
    let left = engine.client.list_volumes(&Filters::default()).await?.volumes;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
