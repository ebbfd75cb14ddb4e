//! Windows' console, and what it has in place of signals.

use std::io;
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::time::Duration;

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Console::{
    CONSOLE_SCREEN_BUFFER_INFO, DISABLE_NEWLINE_AUTO_RETURN, ENABLE_ECHO_INPUT, ENABLE_LINE_INPUT,
    ENABLE_PROCESSED_INPUT, ENABLE_PROCESSED_OUTPUT, ENABLE_VIRTUAL_TERMINAL_INPUT,
    ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode, GetConsoleScreenBufferInfo, SetConsoleMode,
};

/// Whether paths begin with a drive's letter.
pub(crate) const HAS_DRIVES: bool = true;
/// How often the window's size is looked at: the console tells of changes only between keys. Docker's client looks as
/// often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Raw mode of the console, until dropped: keys come as terminals send them, and output is drawn as terminals draw it.
pub(crate) struct RawMode {
    input: u32,
    output: Option<u32>,
}

impl RawMode {
    /// `None` where stdin is no console.
    pub(crate) fn enter() -> Option<Self> {
        let (stdin, stdout) = (io::stdin().as_raw_handle(), io::stdout().as_raw_handle());
        let input = mode(stdin)?;
        let cooked = ENABLE_ECHO_INPUT | ENABLE_LINE_INPUT | ENABLE_PROCESSED_INPUT;
        if !set_mode_of(stdin, (input & !cooked) | ENABLE_VIRTUAL_TERMINAL_INPUT) {
            return None;
        }
        // Output may be a file all the same.
        let output = mode(stdout);
        if let Some(output) = output {
            let drawn =
                ENABLE_PROCESSED_OUTPUT | ENABLE_VIRTUAL_TERMINAL_PROCESSING | DISABLE_NEWLINE_AUTO_RETURN;
            set_mode_of(stdout, output | drawn);
        }
        Some(Self { input, output })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing more can be done for a console that refuses.
        set_mode_of(io::stdin().as_raw_handle(), self.input);
        if let Some(output) = self.output {
            set_mode_of(io::stdout().as_raw_handle(), output);
        }
    }
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn mode(handle: HANDLE) -> Option<u32> {
    let mut mode = 0;
    // SAFETY: the handle is this process's own of standard input or output, and `mode` may be written to.
    let told = unsafe { GetConsoleMode(handle, &raw mut mode) };
    (told != 0).then_some(mode)
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn set_mode_of(handle: HANDLE, mode: u32) -> bool {
    // SAFETY: the handle is this process's own of standard input or output; a mode that is none is refused.
    let set = unsafe { SetConsoleMode(handle, mode) };
    set != 0
}

/// Rows and columns of the console's window.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let mut info = CONSOLE_SCREEN_BUFFER_INFO::default();
    // SAFETY: the handle is this process's own of standard output, and `info` may be written to.
    let told = unsafe { GetConsoleScreenBufferInfo(io::stdout().as_raw_handle(), &raw mut info) };
    if told == 0 {
        return None;
    }
    let window = info.srWindow;
    let length = |from: i16, to: i16| u16::try_from(i32::from(to) - i32::from(from) + 1).ok();
    Some((length(window.Top, window.Bottom)?, length(window.Left, window.Right)?))
}

/// Hears of a console that changes its size.
pub(crate) struct Resizes(Option<(u16, u16)>);

impl Resizes {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(terminal_size()))
    }

    /// Waits for the next time.
    pub(crate) async fn next(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = terminal_size();
            if std::mem::replace(&mut self.0, now) != now {
                return;
            }
        }
    }
}

/// Hears what asks this program to end.
pub(crate) struct Endings {
    interrupt: CtrlC,
    stop: CtrlBreak,
    close: CtrlClose,
}

impl Endings {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: ctrl_c()?, stop: ctrl_break()?, close: ctrl_close()? })
    }

    /// Waits for the next one; what it is called where there are signals.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "INT",
            _ = self.stop.recv() => "TERM",
            _ = self.close.recv() => "HUP",
        }
    }
}

/// Modes are Unix's.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
pub(crate) fn set_mode(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// There are no sockets that are files here, so nobody does.
pub(crate) fn is_answered(_: &Path) -> bool {
    false
}

/// Refused: programs of this system look for a pipe, which can't lead to another.
pub(crate) fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "pipes can't be linked"))
}
