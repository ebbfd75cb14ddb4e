//! The user's terminal: raw mode and its size.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::exit::{Failure, Outcome};
use crate::printer;

/// Raw mode, until dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// `None` where stdin is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let saved = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(saved))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that refuses.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether the user can type here.
pub(crate) fn is_input() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// Asks before something is removed; nobody there to be asked is an error.
pub(crate) fn agrees(what: &str) -> Outcome<bool> {
    printer::note(format_args!("This removes {what}."));
    if !is_input() {
        return Err(Failure::new("nobody can be asked here: use --force"));
    }
    printer::note("Go on? [y/N]");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
