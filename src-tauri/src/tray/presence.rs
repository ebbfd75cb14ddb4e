//! Whether the desktop has a tray: this file picks how to find out.

#[cfg(target_os = "linux")]
mod linux {
    use std::time::Duration;

    use futures_util::StreamExt;
    use zbus::Connection;
    use zbus::fdo::DBusProxy;
    use zbus::names::WellKnownName;

    const WATCHER: &str = "org.kde.StatusNotifierWatcher";
    /// How often a session without a bus is looked at again.
    const RETRY: Duration = Duration::from_secs(30);

    async fn session() -> Connection {
        loop {
            match Connection::session().await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Waits until somebody owns the watcher's name, or nobody does.
    async fn until(owned: bool) -> zbus::Result<()> {
        let connection = session().await;
        let bus = DBusProxy::new(&connection).await?;
        let name = WellKnownName::from_static_str_unchecked(WATCHER);
        // Subscribed before the first look, so that no change falls in between.
        let mut changes = bus.receive_name_owner_changed_with_args(&[(0, WATCHER)]).await?;
        while bus.name_has_owner(name.clone().into()).await? != owned {
            if changes.next().await.is_none() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) async fn appear() -> bool {
        until(true).await.is_ok()
    }

    pub(crate) async fn disappear() {
        // A bus that is gone has taken the tray along.
        let _ = until(false).await;
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{appear, disappear};

/// Everywhere else the system itself has one.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn appear() -> bool {
    true
}

#[cfg(not(target_os = "linux"))]
pub(crate) async fn disappear() {
    std::future::pending::<()>().await;
}
