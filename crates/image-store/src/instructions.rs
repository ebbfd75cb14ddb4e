//! Dockerfile instructions that change an image's configuration, for `commit --change`.

use crate::config::ImageConfig;
use crate::error::{Error, Result};

/// Applies one instruction (`CMD ["sh"]`, `ENV A=1 B=2`), as Docker's builder would.
///
/// # Errors
/// Where it is malformed, or none of those that change nothing but the configuration.
pub fn apply(config: &mut ImageConfig, instruction: &str) -> Result<()> {
    let instruction = instruction.trim();
    let (name, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
    let rest = rest.trim();
    let bad = |what: &str| Error::Invalid { what: format!("invalid change {instruction:?}: {what}") };
    if rest.is_empty() {
        return Err(bad("nothing is behind the instruction"));
    }
    match name.to_ascii_uppercase().as_str() {
        "CMD" => {
            config.args_escaped = false;
            config.cmd = Some(command(rest, config.shell.as_deref()));
        }
        "ENTRYPOINT" => config.entrypoint = Some(command(rest, config.shell.as_deref())),
        "ENV" => {
            for (key, value) in pairs(rest).ok_or_else(|| bad("expected NAME=value"))? {
                let prefix = format!("{key}=");
                config.env.retain(|known| !known.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).ok_or_else(|| bad("expected name=value"))?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let is_known = matches!(protocol, "tcp" | "udp" | "sctp");
                if !is_known || number.parse::<u16>().is_err() {
                    return Err(bad("expected PORT[/tcp|udp|sctp]"));
                }
                add(&mut config.exposed_ports, format!("{number}/{protocol}"));
            }
        }
        "VOLUME" => {
            for path in words(rest) {
                add(&mut config.volumes, path);
            }
        }
        "USER" => config.user = unquoted(rest),
        "WORKDIR" => {
            let path = unquoted(rest);
            let base = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
            config.working_dir = std::path::Path::new(base).join(path).to_string_lossy().into_owned();
        }
        "STOPSIGNAL" => config.stop_signal = Some(unquoted(rest)),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "SHELL" => config.shell = Some(json_list(rest).ok_or_else(|| bad("expected a JSON list"))?),
        "HEALTHCHECK" if rest.eq_ignore_ascii_case("none") => {
            let none = model::container::Healthcheck { test: vec!["NONE".into()], ..Default::default() };
            config.healthcheck = Some(none);
        }
        other => return Err(bad(&format!("{other} is not a valid change command"))),
    }
    Ok(())
}

fn add(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// The list form, or a line for the shell.
fn command(text: &str, shell: Option<&[String]>) -> Vec<String> {
    json_list(text).unwrap_or_else(|| {
        let default = ["/bin/sh".to_owned(), "-c".to_owned()];
        shell.unwrap_or(&default).iter().cloned().chain([text.to_owned()]).collect()
    })
}

/// The list form, or words.
fn words(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}

fn unquoted(text: &str) -> String {
    let inner = |quote| text.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

/// `A=1 B="x y"`, or the old form `A the rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let first = text.split_whitespace().next()?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let mut pairs = Vec::new();
    for word in split_quoted(text) {
        let (key, value) = word.split_once('=')?;
        if key.is_empty() {
            return None;
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Some(pairs)
}

/// Words, where quotes hold blanks and a backslash keeps what follows it.
fn split_quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_word = false;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                is_word = true;
            }
            (c, None) if c.is_whitespace() => {
                if is_word || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (c, _) => word.push(c),
        }
    }
    if is_word || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(instructions: &[&str]) -> ImageConfig {
        let mut config =
            ImageConfig { env: vec!["PATH=/bin".into(), "A=0".into()], ..ImageConfig::default() };
        for instruction in instructions {
            apply(&mut config, instruction).unwrap();
        }
        config
    }

    #[test]
    fn instructions_change_the_configuration_as_a_dockerfile_would() {
        let config = applied(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint echo hi",
            "ENV A=1 B=\"x y\" C=p\\ q",
            "ENV D the rest",
            "LABEL a.b=c 'd e'=f",
            "EXPOSE 80 53/udp 80/tcp",
            "VOLUME /data /more",
            "VOLUME [\"/third one\"]",
            "USER 1000:1000",
            "WORKDIR /a",
            "WORKDIR b",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK NONE",
        ]);
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["PATH=/bin", "A=1", "B=x y", "C=p q", "D=the rest"]);
        assert_eq!(config.labels.get("d e").unwrap(), "f");
        assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!(config.volumes, ["/data", "/more", "/third one"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1000:1000", "/a/b"));
        assert_eq!(config.stop_signal.unwrap(), "SIGINT");
        assert_eq!(config.healthcheck.unwrap().test, ["NONE"]);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for instruction in ["", "CMD", "RUN make", "ENV =x A=1", "EXPOSE many", "SHELL sh", "COPY a b"] {
            assert!(apply(&mut ImageConfig::default(), instruction).is_err(), "{instruction}");
        }
    }
}
