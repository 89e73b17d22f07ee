//! Commands that users paste into a shell.
//!
//! Hints and messages name commands of this node in backquotes: `` `storgo-node verify` ``. Before they are printed, the
//! options that chose the node are added. Commands for other machines leave out `storgo-node`.

use std::{borrow::Cow, ffi::OsStr, fmt::Write, os::unix::ffi::OsStrExt, sync::OnceLock};

use super::args::Common;

const COMMAND: &str = "`storgo-node ";

/// The options that chose the node, each with a space before it.
static NODE: OnceLock<String> = OnceLock::new();

/// Remembers the options of the command line that chose the node. Those of the environment need not be repeated.
pub(super) fn remember(common: &Common) {
    let given = [
        ("--data-dir", "STORGO_DATA_DIR", common.data_dir.as_ref().map(|dir| dir.as_os_str())),
        ("--config", "STORGO_CONFIG", common.config.as_ref().map(|file| file.as_os_str())),
        ("--profile", "STORGO_PROFILE", common.profile.as_ref().map(OsStr::new)),
    ];
    let mut options = String::new();
    for (flag, variable, value) in given {
        if let Some(value) = value.filter(|value| std::env::var_os(variable).as_deref() != Some(*value)) {
            write!(options, " {flag} {}", quote(value)).expect("writing to a string does not fail");
        }
    }
    drop(NODE.set(options));
}

/// Adds the options that chose the node to the commands in a text.
pub(super) fn complete(text: &str) -> Cow<'_, str> {
    match NODE.get() {
        Some(options) if !options.is_empty() => complete_with(text, options),
        _ => text.into(),
    }
}

fn complete_with<'a>(text: &'a str, options: &str) -> Cow<'a, str> {
    let mut parts = text.split(COMMAND);
    let first = parts.next().unwrap_or_default();
    parts
        .fold(first.to_owned(), |mut out, rest| {
            let has_options = rest.starts_with("--");
            out.push_str(COMMAND.trim_end());
            out.push_str(if has_options { "" } else { options });
            out.push(' ');
            out.push_str(rest);
            out
        })
        .into()
}

/// Quotes a word for a shell if it needs that.
pub(super) fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| is_plain(&byte)) => text.into(),
        Some(text) if !text.chars().any(super::sanitize::is_hidden) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            // Bash, zsh and POSIX since 2024 read these escapes.
            let escape = |byte: &u8| match byte {
                byte if is_plain(byte) || *byte == b' ' => char::from(*byte).to_string(),
                byte => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", word.as_bytes().iter().map(escape).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        let words: [&[u8]; 7] = [
            b"/plain/path-1.0",
            b"",
            b"my data",
            b"it's $HOME",
            b"a\nb",
            b"\xff\xfe'x",
            "ä\u{202e}".as_bytes(),
        ];
        for word in words {
            let quoted = quote(OsStr::from_bytes(word));
            let script = format!("printf %s {quoted}");
            let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash");
            assert_eq!(output.stdout, word, "{quoted}");
        }
        assert_eq!(quote("/plain/path-1.0"), "/plain/path-1.0");
    }

    #[test]
    fn commands_get_the_options_that_chose_the_node() {
        for (text, completed) in [
            ("`storgo-node ls` lists", "`storgo-node --data-dir 'a b' ls` lists"),
            ("x", "x"),
            (
                "`storgo-node --help` or `storgo-node gc`",
                "`storgo-node --help` or `storgo-node --data-dir 'a b' gc`",
            ),
        ] {
            assert_eq!(complete_with(text, " --data-dir 'a b'"), completed);
        }
    }
}
