//! A tray that shows nothing: it owns the watcher's name and reads what is registered.

use std::collections::HashMap;

use anyhow::Context;
use tokio::sync::mpsc;
use zbus::message::Header;
use zbus::zvariant::{OwnedValue, Value};
use zbus::{Connection, connection, interface};

/// One line of a menu as it travels: id, properties, children.
type Node = (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>);

struct Watcher(mpsc::UnboundedSender<String>);

#[interface(name = "org.kde.StatusNotifierWatcher")]
#[expect(clippy::needless_pass_by_value, reason = "zbus hands the header over by value")]
impl Watcher {
    fn register_status_notifier_item(&self, service: &str, #[zbus(header)] header: Header<'_>) {
        // Either a name on the bus, or a path at whoever calls.
        let name = match header.sender() {
            Some(sender) if service.starts_with('/') => sender.to_string(),
            _ => service.to_owned(),
        };
        // A tray that is gone registers nobody.
        let _ = self.0.send(name);
    }

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A tray on a session bus. Dropping it is the desktop's panel crashing.
#[derive(Debug)]
pub struct Tray {
    connection: Connection,
    registered: mpsc::UnboundedReceiver<String>,
}

/// A program's icon in it.
#[derive(Debug)]
pub struct Icon {
    connection: Connection,
    service: String,
    menu: String,
}

/// A line of a menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// For [`Icon::choose`].
    pub id: i32,
    /// Its text, empty for a rule.
    pub text: String,
    /// What it opens.
    pub lines: Vec<Line>,
}

impl Tray {
    /// Takes the watcher's name on a bus.
    ///
    /// # Errors
    /// The bus is not there, or has a tray.
    pub async fn start(bus: &str) -> anyhow::Result<Self> {
        let (sender, registered) = mpsc::unbounded_channel();
        let connection = connection::Builder::address(bus)?
            .serve_at("/StatusNotifierWatcher", Watcher(sender))?
            .name("org.kde.StatusNotifierWatcher")?
            .build()
            .await?;
        Ok(Self { connection, registered })
    }

    /// The next icon that is registered.
    ///
    /// # Errors
    /// There is none within 20 s.
    pub async fn icon(&mut self) -> anyhow::Result<Icon> {
        let wait = std::time::Duration::from_secs(20);
        let service =
            tokio::time::timeout(wait, self.registered.recv()).await.context("no icon was registered")?;
        let service = service.context("the tray is gone")?;
        let icon = Icon { connection: self.connection.clone(), service, menu: String::new() };
        let menu = icon.property("Menu").await?;
        let menu: zbus::zvariant::OwnedObjectPath = menu.try_into()?;
        Ok(Icon { menu: menu.to_string(), ..icon })
    }
}

impl Icon {
    async fn property(&self, name: &str) -> anyhow::Result<OwnedValue> {
        let reply = self
            .connection
            .call_method(
                Some(self.service.as_str()),
                "/StatusNotifierItem",
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &("org.kde.StatusNotifierItem", name),
            )
            .await?;
        Ok(reply.body().deserialize()?)
    }

    /// Clicks it with the left button.
    ///
    /// # Errors
    /// The program does not answer.
    pub async fn click(&self) -> anyhow::Result<()> {
        let (service, interface) = (self.service.as_str(), "org.kde.StatusNotifierItem");
        self.connection
            .call_method(Some(service), "/StatusNotifierItem", Some(interface), "Activate", &(0_i32, 0_i32))
            .await?;
        Ok(())
    }

    /// Its menu.
    ///
    /// # Errors
    /// The program does not answer.
    pub async fn menu(&self) -> anyhow::Result<Vec<Line>> {
        let arguments = (0_i32, -1_i32, Vec::<String>::new());
        let reply = self.call_menu("GetLayout", &arguments).await?;
        let (_, root): (u32, Node) = reply.body().deserialize()?;
        Ok(line(root)?.lines)
    }

    /// Chooses a line of it.
    ///
    /// # Errors
    /// The program does not answer.
    pub async fn choose(&self, id: i32) -> anyhow::Result<()> {
        self.call_menu("Event", &(id, "clicked", Value::from(0_i32), 0_u32)).await?;
        Ok(())
    }

    async fn call_menu(
        &self,
        method: &str,
        arguments: &(impl serde::Serialize + zbus::zvariant::DynamicType + Sync),
    ) -> anyhow::Result<zbus::Message> {
        let (service, interface) = (self.service.as_str(), "com.canonical.dbusmenu");
        let call = self.connection.call_method(
            Some(service),
            self.menu.as_str(),
            Some(interface),
            method,
            arguments,
        );
        Ok(call.await?)
    }
}

fn line((id, properties, children): Node) -> anyhow::Result<Line> {
    let text = properties.get("label").map(|label| String::try_from(label.clone())).transpose()?;
    let lines = children
        .into_iter()
        .map(|child| line(Node::try_from(Value::from(child).downcast::<zbus::zvariant::Structure<'_>>()?)?))
        .collect::<Result<_, _>>()?;
    Ok(Line { id, text: text.unwrap_or_default(), lines })
}
