//! The user's terminal: raw mode, its size, and questions.

use std::io::IsTerminal;

use crate::exit::{Failure, Outcome};
use crate::printer;
pub(crate) use crate::sys::{RawMode, terminal_size as size};

/// Whether the user can type here.
pub(crate) fn is_input() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks for a line.
pub(crate) fn ask(what: &str) -> Outcome<String> {
    printer::prompt(what);
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks for a line that is not shown.
pub(crate) fn ask_secret(what: &str) -> Outcome<String> {
    printer::prompt(what);
    // With raw mode it is here that an interrupt is noticed, so that the terminal never stays without echo.
    let raw =
        RawMode::enter().ok_or_else(|| Failure::new("the terminal can't be kept from showing a password"))?;
    let typed = read_secret(std::io::stdin().lock());
    drop(raw);
    printer::note("");
    typed
}

fn read_secret(mut from: impl std::io::Read) -> Outcome<String> {
    let mut typed = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        match byte[0] {
            b'\r' | b'\n' | 4 => break,
            // Ctrl-C: a shell's code for a program that an interrupt ended.
            3 => return Err(Failure::new("interrupted").with_code(130)),
            8 | 127 => {
                // A character may have several bytes, all but the first of this form.
                while typed.pop().is_some_and(|last: u8| last & 0xc0 == 0x80) {}
            }
            // Ctrl-U takes back all of it.
            21 => typed.clear(),
            other => typed.push(other),
        }
    }
    String::from_utf8(typed).map_err(|_| Failure::new("what was typed is no UTF-8"))
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

#[cfg(test)]
mod tests {
    use super::read_secret;

    #[test]
    fn what_is_typed_is_edited_as_on_a_line() {
        for (typed, expected) in
            [("secret\r", "secret"), ("a\u{e9}\u{7f}b\n", "ab"), ("wrong\u{15}ok\r", "ok"), ("\u{7f}a", "a")]
        {
            assert_eq!(read_secret(typed.as_bytes()).unwrap(), expected);
        }
        assert_eq!(read_secret("a\u{3}".as_bytes()).unwrap_err().code, 130);
    }
}
