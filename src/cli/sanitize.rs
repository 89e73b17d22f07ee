//! Text from strangers on a terminal, such as file names: it must not move the cursor, reorder the text beside it, or
//! push it out of sight.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Stands for what was cut out.
const ELLIPSIS: char = '…';

/// Whether a character is invisible and changes how others are shown: controls, bidirectional overrides (UAX 9), line
/// separators, zero-width characters. Joiners are part of some scripts and are not hidden.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes hidden characters. The result is one line.
pub(super) fn sanitize(text: &str) -> String {
    escape(text, is_hidden)
}

/// Escapes hidden characters but keeps line breaks.
pub(super) fn sanitize_lines(text: &str) -> String {
    escape(text, |c| c != '\n' && is_hidden(c))
}

fn escape(text: &str, hidden: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns that a text takes on a terminal.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// Cuts out the middle of a text that is wider than `max` columns, so that its end (`.tar.gz`, ` (2).jpg`) stays.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.into();
    }
    let kept = max.saturating_sub(1);
    let head = take_columns(text.chars(), kept.div_ceil(2));
    let mut tail = take_columns(text.chars().rev(), kept / 2);
    tail.reverse();
    head.into_iter().chain([ELLIPSIS]).chain(tail).collect()
}

/// Takes characters as long as they fit into `max` columns.
fn take_columns(chars: impl Iterator<Item = char>, max: usize) -> Vec<char> {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= max
    };
    chars.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_escaped() {
        for (name, shown) in [
            ("plain ünïcödé 日本語 👩‍👧 می‌خواهم", "plain ünïcödé 日本語 👩‍👧 می‌خواهم"),
            ("a\nb\tc\u{1b}[31m", "a\\nb\\tc\\u{1b}[31m"),
            ("photo\u{202e}gpj.exe", "photo\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{2069}\u{200b}\u{feff}\u{2028}", "a\\u{2066}b\\u{2069}\\u{200b}\\u{feff}\\u{2028}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
        ] {
            assert_eq!(sanitize(name), shown);
        }
        assert_eq!(sanitize_lines("first\nsecond\u{202e}\r"), "first\nsecond\\u{202e}\\r");
    }

    #[test]
    fn a_long_name_is_cut_in_the_middle() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("holiday pictures 2024.tar.gz", 15), "holiday….tar.gz");
        // Characters that take two columns are not cut in half.
        assert_eq!(shorten("日本語日本語", 7), "日…語");
        for max in 1..30 {
            for name in ["holiday pictures 2024.tar.gz", "日本語日本語日本語日本語", "éééééééééééééééééééééé"]
            {
                assert!(width(&shorten(name, max)) <= max.max(1), "{name} in {max}");
            }
        }
    }
}
