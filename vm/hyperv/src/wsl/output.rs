//! What `wsl.exe` prints: UTF-16 by itself, UTF-8 where it is asked for and new enough, and in the user's language.

use super::CODES;

/// A text of either form. One in UTF-8 has no zeros, and one in UTF-16 at least in the ends of its lines.
pub(super) fn text(bytes: &[u8]) -> String {
    if !bytes.contains(&0) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let (units, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    String::from_utf16_lossy(&units).trim_start_matches('\u{feff}').to_owned()
}

/// The code in what is said of a failure: the last part of `Wsl/Service/WSL_E_DISTRO_NOT_FOUND`.
pub(super) fn code(said: &str) -> Option<String> {
    let path = said.split_whitespace().find(|word| word.starts_with(CODES))?;
    let code = path.rsplit('/').next()?.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    (!code.is_empty()).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(said: &str) -> Vec<u8> {
        said.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn both_forms_are_read() {
        for said in ["cove\r\nUbuntu\r\n", "実行中\r\n", "\u{1f41a}\r\n", ""] {
            assert_eq!(text(&utf16(said)), said);
            assert_eq!(text(said.as_bytes()), said);
        }
        assert_eq!(text(&utf16("\u{feff}cove\r\n")), "cove\r\n");
        // Half of one, as a pipe may end.
        assert_eq!(text(&[b'a', 0, b'b']), "a");
    }

    #[test]
    fn a_code_is_found_in_any_language() {
        for (said, expected) in [
            (
                "There is no such thing.\r\nError code: Wsl/Service/WSL_E_DISTRO_NOT_FOUND\r\n",
                Some("WSL_E_DISTRO_NOT_FOUND"),
            ),
            ("Fehlercode: Wsl/Service/RegisterDistro/ERROR_ALREADY_EXISTS.", Some("ERROR_ALREADY_EXISTS")),
            ("错误代码: Wsl/E_ACCESSDENIED", Some("E_ACCESSDENIED")),
            ("something else", None),
            ("Wsl/", None),
        ] {
            assert_eq!(code(said).as_deref(), expected, "{said}");
        }
    }
}
