//! Paths of Windows as a Linux guest sees them: drive `C:` is at `/c`, as Docker's clients and Git's shell have it.

/// What verbatim paths begin with, which canonical ones are.
const VERBATIM: &str = r"\\?\";

/// Whether `path` begins with a drive's letter: `C:\Users`, `c:/`. What is relative to a drive's folder (`C:file`) does
/// not count.
#[must_use]
pub fn is_on_drive(path: &str) -> bool {
    let path = path.strip_prefix(VERBATIM).unwrap_or(path);
    matches!(path.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
}

/// An absolute path of Windows as the guest sees it: `C:\Users\me` is `/c/Users/me`. `None` for what no guest sees: a
/// path that is relative, or of another computer (`\\server\share`).
#[must_use]
pub fn in_guest(path: &str) -> Option<String> {
    if !is_on_drive(path) {
        return None;
    }
    let path = path.strip_prefix(VERBATIM).unwrap_or(path);
    let (letter, rest) = path.split_once(':')?;
    let rest = rest.replace('\\', "/");
    Some(
        format!("/{}/{}", letter.to_ascii_lowercase(), rest.trim_matches('/'))
            .trim_end_matches('/')
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_a_folder_of_the_guest() {
        for (path, expected) in [
            (r"C:\Users\me", Some("/c/Users/me")),
            ("C:/Users/me/", Some("/c/Users/me")),
            (r"d:\", Some("/d")),
            (r"\\?\C:\Users\me and you", Some("/c/Users/me and you")),
            (r"\\server\share", None),
            (r"\\?\UNC\server\share", None),
            ("C:file", None),
            ("C:", None),
            (r"\Users", None),
            ("/c/Users", None),
            ("name", None),
            ("\u{e9}:/x", None),
        ] {
            assert_eq!(in_guest(path).as_deref(), expected, "{path}");
        }
    }
}
