//! Texts about the command line itself: manual pages, completions, and usage mistakes in JSON.

use std::path::Path;

use clap::{CommandFactory, error::ErrorKind};

use super::{
    args::{Args, Common},
    output,
};
use crate::node::{ErrorCode, NodeError};

/// Prints completions for a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), NodeError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "storgo-node", &mut script);
    output::write_out(&script)
}

/// Every command with its own options and those that all have.
fn commands() -> clap::Command {
    let mut top = Args::command().disable_help_subcommand(true);
    top.build();
    top
}

/// Prints the page of the program or of the command that these words name; with `dir`, writes all pages there.
pub(super) fn man(common: &Common, words: &[String], dir: Option<&Path>) -> Result<(), NodeError> {
    let top = commands();
    let Some(dir) = dir else {
        let mut command = &top;
        for word in words {
            command = command.find_subcommand(word).ok_or_else(|| {
                NodeError::new(ErrorCode::BadRequest, format!("there is no command {:?}", words.join(" ")))
                    .hint("`storgo-node --help` lists the commands")
            })?;
        }
        return output::write_out(&page(command)?);
    };
    let fail = |e: &std::io::Error| NodeError::io(format_args!("write {}", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(|e| fail(&e))?;
    let mut open = vec![&top];
    let mut pages = Vec::new();
    while let Some(command) = open.pop() {
        let name = manual(command).get_filename();
        std::fs::write(dir.join(&name), page(command)?).map_err(|e| fail(&e))?;
        pages.push(name);
        open.extend(command.get_subcommands());
    }
    pages.sort();
    if common.json {
        output::print(&format!("{}\n", serde_json::json!({ "dir": dir, "pages": pages })))
    } else {
        let words = format!("{} pages are in {}", pages.len(), dir.display());
        if !common.quiet {
            output::note(&words);
        }
        Ok(())
    }
}

fn manual(command: &clap::Command) -> clap_mangen::Man {
    clap_mangen::Man::new(command.clone())
        .source(concat!("storgo-node ", env!("CARGO_PKG_VERSION")))
        .manual("storgo")
}

fn page(command: &clap::Command) -> Result<Vec<u8>, NodeError> {
    let mut page = Vec::new();
    manual(command)
        .render(&mut page)
        .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot make the manual page: {e}")))?;
    Ok(page)
}

/// Whether the command line, which cannot be read as a whole, asks for JSON.
pub(super) fn asks_for_json(mut words: impl Iterator<Item = std::ffi::OsString>) -> bool {
    words.any(|word| word == "--json")
}

/// A usage mistake as an error like any other: the sentence, and what was said behind it.
pub(super) fn mistake(error: &clap::Error) -> NodeError {
    let help = "`storgo-node --help` lists commands and flags";
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return NodeError::new(ErrorCode::BadRequest, "a command is missing").hint(help);
    }
    let text = error.to_string();
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = one_line(message.strip_prefix("error: ").unwrap_or(message));
    let rest: Vec<String> =
        rest.lines().map(one_line).filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let hint = if rest.is_empty() { help.into() } else { rest.join("; ") };
    NodeError::new(ErrorCode::BadRequest, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_its_own_options() {
        let top = commands();
        let mut open = vec![&top];
        let mut seen = 0;
        while let Some(command) = open.pop() {
            let text = String::from_utf8(page(command).expect("a page")).expect("UTF-8");
            let name = command.get_display_name().unwrap_or(command.get_name()).replace(' ', "-");
            assert!(text.contains(&format!(".TH {name} 1")), "{name}: {text}");
            assert!(text.contains("data\\-dir"), "{name}: what all commands take is there too");
            open.extend(command.get_subcommands());
            seen += 1;
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn a_usage_mistake_becomes_a_sentence_and_a_hint() {
        let mistake_in = |words: &[&str]| {
            let words = ["storgo-node"].iter().chain(words);
            mistake(&Args::try_parse_from(words).expect_err("a mistake"))
        };
        let unknown = mistake_in(&["ls", "--nonsense"]);
        assert_eq!(unknown.message, "unexpected argument '--nonsense' found");
        assert!(unknown.hint.contains("Usage: storgo-node ls"), "{}", unknown.hint);
        assert!(mistake_in(&["get"]).message.ends_with("were not provided: <REFERENCE>"));
        assert_eq!(mistake_in(&["key"]).message, "a command is missing");
    }
}
