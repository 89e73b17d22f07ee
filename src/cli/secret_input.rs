//! Links, invites and backups from standard input or a file: arguments are visible to all users of a machine.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::error::CliError;

/// Maximum length of the text, in bytes.
const MAX_LEN: u64 = 64 << 10;

/// Returns the argument, or the only line of standard input if it is `-`, or that of a file.
pub(super) async fn resolve(argument: Option<String>, file: Option<PathBuf>) -> Result<String, CliError> {
    if let Some(argument) = argument.filter(|argument| argument != "-") {
        return Ok(argument);
    }
    let (source, text) = read_text(file).await?;
    one_line(&text).map_err(|what| {
        CliError::bad_request(format!("{source} holds {what}")).hint("pass one link or invite, in one line")
    })
}

/// Returns the only line that is not empty. Errors: what there is instead.
fn one_line(text: &str) -> Result<String, &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line.into()),
        (Some(_), Some(_)) => Err("more than one line"),
        (None, _) => Err("no text"),
    }
}

/// Reads a file, or standard input. Returns its name for messages, and its text, which is empty if it is not UTF-8.
pub(super) async fn read_text(file: Option<PathBuf>) -> Result<(String, String), CliError> {
    let source = file.as_ref().map_or_else(|| "standard input".into(), |file| file.display().to_string());
    // On a blocking thread, so that Ctrl-C ends a read of stdin.
    let read = tokio::task::spawn_blocking(move || read(file.as_deref())).await;
    let read = read.map_err(|_| CliError::panicked("reading the input"))?;
    let bytes = read.map_err(|e| CliError::path("read", Path::new(&source), &e))?;
    Ok((source, String::from_utf8(bytes).unwrap_or_default()))
}

fn read(file: Option<&Path>) -> io::Result<Vec<u8>> {
    let input: Box<dyn Read> = match file {
        Some(file) => Box::new(fs::File::open(file)?),
        None => Box::new(io::stdin().lock()),
    };
    let mut bytes = Vec::new();
    input.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn only_one_line_is_taken() {
        assert_eq!(one_line("\n storgo1abc \n\n"), Ok("storgo1abc".into()));
        assert_eq!(one_line("first\nsecond\n"), Err("more than one line"));
        assert_eq!(one_line(" \n"), Err("no text"));
    }
}
