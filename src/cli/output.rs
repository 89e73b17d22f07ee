//! What users see: results on stdout, words and progress on stderr.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

pub(super) use super::names::clean;
use super::{
    Context,
    names::{clean_lines, columns, shorten},
};
use crate::node::{ErrorCode, NodeError};

/// After this long, the rate so far says how long the rest takes.
const SETTLED: Duration = Duration::from_secs(1);

/// Prints an error: a sentence and the next step, or one JSON object. On stderr.
pub(super) fn error(error: &NodeError, json: bool) {
    let mut err = std::io::stderr().lock();
    let written = if json {
        writeln!(err, "{}", serde_json::json!({ "error": error }))
    } else {
        let hint = if error.hint.is_empty() { String::new() } else { format!("\n  hint: {}", error.hint) };
        writeln!(err, "{}", clean_lines(&format!("error: {error}{hint}")))
    };
    drop(written);
}

/// Writes to stdout. A reader that has gone away (`| head`) ends the program quietly.
pub(super) fn print(text: &str) -> Result<(), NodeError> {
    write_out(text.as_bytes())
}

pub(super) fn write_out(bytes: &[u8]) -> Result<(), NodeError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| NodeError::io("write to stdout", &e)),
    }
}

/// Prints a result: as JSON where that was asked for, else as `human` puts it.
pub(super) fn result<T: Serialize>(
    context: &Context,
    value: &T,
    human: impl FnOnce(&T) -> String,
) -> Result<(), NodeError> {
    if context.json {
        let text = serde_json::to_string(value)
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot be put as JSON: {e}")))?;
        print(&format!("{text}\n"))
    } else {
        print(&human(value))
    }
}

/// Says something on stderr, unless silence was asked for.
pub(super) fn say(context: &Context, text: &str) {
    if !context.quiet && !context.json {
        note(text);
    }
}

/// Says something on stderr.
pub(super) fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{}", clean_lines(text)));
}

/// Columns of the terminal that results go to; none where they go elsewhere.
pub(super) fn stdout_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// A progress bar, where there is a terminal to show it on.
pub(super) fn progress(context: &Context, what: &'static str, total: Option<u64>) -> ProgressBar {
    if context.quiet || context.json || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(style(total.is_some()));
    bar.set_message(what);
    bar
}

/// How progress looks: as wide as the terminal, where its end is known.
fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{msg:>10} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}{left}"
    } else {
        "{msg:>10} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}"
    };
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // The first moments say nothing of the rest.
        if state.elapsed() >= SETTLED && state.pos() > 0 {
            let _ = write!(out, "  {:#} left", HumanDuration(state.eta()));
        }
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("left", left)
}

/// A spinner for a wait of unknown length.
pub(super) fn spinner(context: &Context, what: &'static str) -> ProgressBar {
    let bar = progress(context, what, None);
    bar.set_style(
        ProgressStyle::with_template("{msg:>10} {spinner} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Rows as columns of equal width; the last one is left as it is.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let count = head.len();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| columns(cell));
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (column, cell) in cells.iter().enumerate() {
            if column + 1 == count {
                out.push_str(cell);
            } else {
                out.push_str(cell);
                let pad = widths[column].saturating_sub(columns(cell)) + 2;
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(head.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// Shortens the cells of a table until its lines fit into `room` columns: of each column in turn, down to its least
/// width. Without a terminal, nothing is shortened.
pub(super) fn fit(head: &[&str], rows: &mut [Vec<String>], room: Option<usize>, shrink: &[(usize, usize)]) {
    let Some(room) = room else { return };
    for (column, least) in shrink {
        let width = |column: usize, rows: &[Vec<String>]| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| columns(cell));
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let line: usize = (0..head.len()).map(|column| width(column, rows) + 2).sum::<usize>() - 2;
        let now = width(*column, rows);
        let wanted = now.saturating_sub(line.saturating_sub(room)).max(*least);
        if wanted < now {
            for cell in rows.iter_mut().filter_map(|row| row.get_mut(*column)) {
                *cell = shorten(cell, wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal of 80 columns that remembers what was drawn.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl Terminal {
        fn last_line(&self) -> String {
            let drawn = self.0.lock().expect("held by nobody");
            drawn.rsplit('\r').map(str::trim_end).find(|line| !line.is_empty()).expect("a line").to_owned()
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.0.lock().expect("held by nobody").push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            self.write_str("\r")
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_table_fits_its_terminal_and_is_whole_without_one() {
        let head = ["CID", "SIZE", "NAME"];
        let long = format!("{}.tar.gz", "n".repeat(100));
        let rows = vec![
            vec!["c".repeat(40), "1.00 KiB".into(), long.clone()],
            vec!["d".repeat(40), "10 B".into(), "日本語".into()],
        ];
        let in_room = |room: Option<usize>| {
            let mut rows = rows.clone();
            fit(&head, &mut rows, room, &[(2, 20), (0, 15), (2, 8)]);
            table(&head, &rows)
        };
        assert!(in_room(None).contains(&long));
        for room in [300, 100, 80, 60, 40] {
            let text = in_room(Some(room));
            assert!(text.lines().all(|line| columns(line) <= room), "{room}:\n{text}");
            assert!(text.contains(".gz") && text.contains("日本語"), "{text}");
            // The CID is given up last.
            assert_eq!(text.contains(&"c".repeat(40)), room >= 74, "{room}:\n{text}");
        }
    }

    fn drawn(after: Duration) -> String {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let bar = ProgressBar::with_draw_target(Some(1023 << 30), target).with_elapsed(after);
        bar.set_style(style(true));
        bar.set_message("fetching");
        bar.set_position(1001 << 20);
        bar.force_draw();
        terminal.last_line()
    }

    #[test]
    fn a_progress_bar_fits_its_terminal_and_guesses_nothing_in_the_first_moments() {
        let (early, late) = (drawn(Duration::from_millis(100)), drawn(Duration::from_secs(100)));
        for line in [&early, &late] {
            assert!(line.chars().count() <= 80 && line.contains("1001.00 MiB/1023.00 GiB"), "{line:?}");
        }
        assert!(!early.contains("left") && late.ends_with("left"), "{early:?} {late:?}");
    }
}
