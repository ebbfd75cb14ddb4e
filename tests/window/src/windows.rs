//! Windows as a window manager sees them.

use anyhow::Context;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt, EventMask, ImageFormat, MapState, Window,
};
use x11rb::rust_connection::RustConnection;

/// A display being looked at.
#[derive(Debug)]
pub struct Windows {
    connection: RustConnection,
    root: Window,
}

impl Windows {
    /// Connects to a display.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(display: &str) -> anyhow::Result<Self> {
        let (connection, screen) =
            x11rb::connect(Some(display)).context("failed to connect to the display")?;
        let root = connection.setup().roots[screen].root;
        Ok(Self { connection, root })
    }

    /// The window with a title that can be seen, if there is one.
    ///
    /// # Errors
    /// The display is gone.
    pub fn visible(&self, title: &str) -> anyhow::Result<Option<Window>> {
        for window in self.connection.query_tree(self.root)?.reply()?.children {
            // A window may go between the two questions.
            let Ok(attributes) = self.connection.get_window_attributes(window)?.reply() else { continue };
            if attributes.map_state == MapState::VIEWABLE && self.title(window)?.as_deref() == Some(title) {
                return Ok(Some(window));
            }
        }
        Ok(None)
    }

    /// Asks a window to close, as its frame's button does.
    ///
    /// # Errors
    /// The display is gone.
    pub fn close(&self, window: Window) -> anyhow::Result<()> {
        let atom = |name: &[u8]| -> anyhow::Result<u32> {
            Ok(self.connection.intern_atom(false, name)?.reply()?.atom)
        };
        let data = [atom(b"WM_DELETE_WINDOW")?, x11rb::CURRENT_TIME, 0, 0, 0];
        let event = ClientMessageEvent::new(32, window, atom(b"WM_PROTOCOLS")?, data);
        self.connection.send_event(false, window, EventMask::NO_EVENT, event)?;
        self.connection.flush()?;
        Ok(())
    }

    /// How many colours a window shows: one or two while nothing was drawn.
    ///
    /// # Errors
    /// The display or the window is gone.
    pub fn colours(&self, window: Window) -> anyhow::Result<usize> {
        let size = self.connection.get_geometry(window)?.reply()?;
        let image = self
            .connection
            .get_image(ImageFormat::Z_PIXMAP, window, 0, 0, size.width, size.height, u32::MAX)?
            .reply()?;
        let pixels: std::collections::HashSet<&[u8]> = image.data.chunks_exact(4).collect();
        Ok(pixels.len())
    }

    fn title(&self, window: Window) -> anyhow::Result<Option<String>> {
        let property =
            self.connection.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, 64)?;
        Ok(property.reply().ok().and_then(|reply| String::from_utf8(reply.value).ok()))
    }
}
