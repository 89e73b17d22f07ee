//! Links and invites that come from standard input or a file: arguments are visible to all users of a machine.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::error::CliError;

/// Maximum length of a link or invite, in bytes.
const MAX_LEN: u64 = 64 << 10;

/// Returns the argument, or the first line of standard input if it is `-`, or that of a file.
pub(super) async fn resolve(argument: Option<String>, file: Option<PathBuf>) -> Result<String, CliError> {
    let (source, file) = match (argument, file) {
        (Some(argument), _) if argument != "-" => return Ok(argument),
        (_, Some(file)) => (file.display().to_string(), Some(file)),
        _ => ("standard input".into(), None),
    };
    // On a blocking thread, so that Ctrl-C ends a read of stdin.
    let read = tokio::task::spawn_blocking(move || read(file.as_deref())).await;
    let read = read.map_err(|_| CliError::panicked("reading the link"))?;
    let text = read.map_err(|e| CliError::path("read", Path::new(&source), &e))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(String::from).ok_or_else(|| {
        CliError::bad_request(format!("{source} holds no text"))
            .hint("it must hold the link or invite in one line")
    })
}

fn read(file: Option<&Path>) -> io::Result<String> {
    let input: Box<dyn Read> = match file {
        Some(file) => Box::new(fs::File::open(file)?),
        None => Box::new(io::stdin().lock()),
    };
    let mut text = String::new();
    input.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text)
}
