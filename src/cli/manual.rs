//! `man` and `completions`: manual pages and shell completions.

use std::path::Path;

use clap::CommandFactory;

use super::{
    args::{Args, Common},
    error::CliError,
    output,
};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "storgo-node", &mut script);
    output::write_stdout(&script)
}

/// The command tree, in which every command has the global flags too.
fn commands() -> clap::Command {
    let mut top = Args::command().disable_help_subcommand(true);
    top.build();
    top
}

/// Prints the page of the program, or of the command that `words` name. With `dir`, writes all pages there.
pub(super) fn man(common: &Common, words: &[String], dir: Option<&Path>) -> Result<(), CliError> {
    let top = commands();
    let Some(dir) = dir else {
        let mut command = &top;
        for word in words {
            command = command.find_subcommand(word).ok_or_else(|| {
                CliError::bad_request(format!("unknown command {:?}", words.join(" ")))
                    .hint("`storgo-node --help` lists the commands")
            })?;
        }
        return output::write_stdout(&page(command));
    };
    let fail = |e: &std::io::Error| CliError::io(format_args!("write {}", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(|e| fail(&e))?;
    let mut open = vec![&top];
    let mut pages = Vec::new();
    while let Some(command) = open.pop() {
        let name = manual(command).get_filename();
        std::fs::write(dir.join(&name), page(command)).map_err(|e| fail(&e))?;
        pages.push(name);
        open.extend(command.get_subcommands());
    }
    pages.sort();
    if common.json {
        output::print(&format!(
            "{}\n",
            serde_json::json!({ "dir": dir.display().to_string(), "pages": pages })
        ))
    } else {
        if !common.quiet {
            output::stderr_line(&format!("wrote {} pages to {}", pages.len(), dir.display()));
        }
        Ok(())
    }
}

fn manual(command: &clap::Command) -> clap_mangen::Man {
    clap_mangen::Man::new(command.clone())
        .source(concat!("storgo-node ", env!("CARGO_PKG_VERSION")))
        .manual("storgo")
}

fn page(command: &clap::Command) -> Vec<u8> {
    let mut page = Vec::new();
    manual(command).render(&mut page).expect("writing to memory");
    page
}
