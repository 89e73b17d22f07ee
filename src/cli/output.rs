//! Results and tables on stdout; messages, errors and progress bars on stderr.
//!
//! Progress bars are hidden without a terminal, and with `--quiet` or `--json`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use super::{
    Context, Stop,
    attributes::system_time,
    error::CliError,
    sanitize::{sanitize, sanitize_lines, shorten, width},
    shell,
};
use crate::node::{ErrorCode, Node};

/// Maximum number of paths in a message.
const LISTED_PATHS: usize = 5;

/// Prints the error that ends the command, and its hint, to stderr; or one JSON object.
pub(super) fn error(error: &CliError, json: bool) {
    if json {
        let mut error = error.clone();
        let inputs = error.errors.iter_mut().map(|input| &mut input.error.hint);
        for hint in inputs.chain([&mut error.hint]) {
            *hint = shell::complete(hint).into_owned();
        }
        drop(writeln!(io::stderr(), "{}", serde_json::json!({ "error": error })));
    } else {
        error_text(error);
    }
}

/// Prints the error of one of several inputs, while the command goes on. With `--json`, the error that ends it contains this one.
pub(super) fn input_error(context: &Context, error: &CliError) {
    if !context.json {
        error_text(error);
    }
}

fn error_text(error: &CliError) {
    stderr_line(&format!("error: {error}"));
    if !error.hint.is_empty() {
        stderr_line(&format!("  hint: {}", shell::complete(&error.hint)));
    }
}

pub(super) fn print(text: &str) -> Result<(), CliError> {
    write_stdout(text.as_bytes())
}

/// Writes a result to stdout. If the reader has closed it (`| head`), the command goes on: its work does not depend on it.
pub(super) fn write_stdout(bytes: &[u8]) -> Result<(), CliError> {
    match write(bytes) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|e| CliError::io("write to stdout", &e)),
    }
}

/// Writes a part of a long result to stdout. [`Stop::NoReader`]: the reader has closed it, and wants no more.
pub(super) fn stream(bytes: &[u8]) -> Result<(), Stop> {
    match write(bytes) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Stop::NoReader),
        written => Ok(written.map_err(|e| CliError::io("write to stdout", &e))?),
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Prints a result, as JSON with `--json` and otherwise as `text` formats it.
pub(super) fn result<T: Serialize>(
    context: &Context,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    if !context.json {
        return print(&text(value));
    }
    let json = serde_json::to_string(value)
        .map_err(|e| CliError::new(ErrorCode::Other, format!("cannot format the result as JSON: {e}")))?;
    print(&format!("{json}\n"))
}

/// Prints a message to stderr, except with `--quiet` or `--json`.
pub(super) fn message(context: &Context, text: &str) {
    if !context.quiet && !context.json {
        stderr_line(&shell::complete(text));
    }
}

/// Says what is wrong with the data directory of a node that was started for this command.
pub(super) fn warnings(context: &Context, node: &Node) {
    if !context.quiet {
        for warning in node.warnings() {
            stderr_line(&shell::complete(&CliError::from(warning).with_next_step()));
        }
    }
}

pub(super) fn stderr_line(text: &str) {
    drop(writeln!(io::stderr(), "{}", sanitize_lines(text)));
}

/// `1.50 MiB`
pub(super) fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// `1.50 MiB`, or `-` if it is not known.
pub(super) fn bytes_if_known(count: Option<u64>) -> String {
    count.map_or_else(|| "-".into(), bytes)
}

/// `1.50 MiB/s`
pub(super) fn bytes_per_s(count: u64, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", bytes(count.saturating_mul(1000) / millis))
}

/// `2026-01-31T12:00:00Z`, from seconds since 1970
pub(super) fn date(unix_s: i64) -> String {
    humantime::format_rfc3339_seconds(system_time(unix_s.max(0))).to_string()
}

/// `1 block`, `2 blocks`
pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `a, b`; at most five paths.
pub(super) fn list_paths(paths: &[PathBuf]) -> String {
    let listed = paths.iter().take(LISTED_PATHS).map(|path| sanitize(&path.display().to_string()));
    let more = (paths.len() > LISTED_PATHS).then(|| "and more".into());
    listed.chain(more).collect::<Vec<String>>().join(", ")
}

/// Columns of the terminal on stdout; `None` if stdout is no terminal.
pub(super) fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Formats rows below their headings, with aligned columns. Without rows, returns nothing.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let widths: Vec<usize> = (0..head.len()).map(|column| column_width(head, rows, column)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, column) in cells.zip(&widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', column.saturating_sub(width(cell)) + 2));
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// Shortens cells until each line fits into `columns`; `None` shortens nothing.
///
/// `shrink` lists columns of the table and their minimum widths, in the order in which they are shortened.
pub(super) fn fit(
    head: &[&str],
    rows: &mut [Vec<String>],
    columns: Option<usize>,
    shrink: &[(usize, usize)],
) {
    let Some(available) = columns else { return };
    for (column, minimum) in shrink {
        let line: usize =
            (0..head.len()).map(|column| column_width(head, rows, column) + 2).sum::<usize>() - 2;
        let present = column_width(head, rows, *column);
        let wanted = present.saturating_sub(line.saturating_sub(available)).max(*minimum);
        if wanted < present {
            for cell in rows.iter_mut().filter_map(|row| row.get_mut(*column)) {
                *cell = shorten(cell, wanted);
            }
        }
    }
}

fn column_width(head: &[&str], rows: &[Vec<String>], column: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
    cells.chain([head[column].len()]).max().unwrap_or(0)
}

/// How long to measure before the remaining time is shown.
const MEASURING: Duration = Duration::from_secs(1);

/// A bar that counts bytes, up to `total` if that is known.
pub(super) fn bar(context: &Context, label: &'static str, total: Option<u64>) -> ProgressBar {
    if context.quiet || context.json || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(bar_style(total.is_some()));
    bar.set_message(label);
    bar
}

fn bar_style(has_total: bool) -> ProgressStyle {
    let key = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&remaining(state.elapsed(), state.pos(), state.eta()));
    };
    template(if has_total {
        "{msg:>10} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}{remaining}"
    } else {
        "{msg:>10} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}"
    })
    .with_key("remaining", key)
}

fn remaining(elapsed: Duration, pos: u64, eta: Duration) -> String {
    if elapsed < MEASURING || pos == 0 {
        return String::new();
    }
    format!("  {:#} left", HumanDuration(eta))
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
}

pub(super) fn spinner(context: &Context, label: &'static str) -> ProgressBar {
    let bar = bar(context, label, None);
    bar.set_style(template("{msg:>10} {spinner} {elapsed}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_shortened_to_fit_the_terminal_and_complete_without_one() {
        let head = ["CID", "SIZE", "NAME"];
        let long = format!("{}.tar.gz", "n".repeat(100));
        let rows = vec![
            vec!["c".repeat(40), "1.00 KiB".into(), long.clone()],
            vec!["d".repeat(40), "10 B".into(), "日本語".into()],
        ];
        let fitted = |columns: Option<usize>| {
            let mut rows = rows.clone();
            fit(&head, &mut rows, columns, &[(2, 20), (0, 15), (2, 8)]);
            table(&head, &rows)
        };
        assert!(fitted(None).contains(&long));
        for columns in [300, 100, 80, 60, 40] {
            let text = fitted(Some(columns));
            assert!(text.lines().all(|line| width(line) <= columns), "{columns}:\n{text}");
            assert!(text.contains(".gz") && text.contains("日本語"), "{text}");
            // The CID is shortened last.
            assert_eq!(text.contains(&"c".repeat(40)), columns >= 74, "{columns}:\n{text}");
        }
    }

    #[test]
    fn the_remaining_time_is_shown_only_after_a_second() {
        let (second, minutes) = (Duration::from_secs(1), Duration::from_secs(600));
        assert_eq!(remaining(Duration::from_millis(900), 1, minutes), "");
        assert_eq!(remaining(second, 0, minutes), "");
        assert_eq!(remaining(second, 1, minutes), "  10m left");
    }
}
