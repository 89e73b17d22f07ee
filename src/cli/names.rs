//! Names that strangers chose, on a terminal: they cannot move its cursor, turn round what stands beside them, or push
//! it out of sight.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands where something was left out.
const CUT: char = '…';

/// Whether a character shows nothing by itself and changes what others show: controls, overrides of the direction of
/// writing (UAX 9), breaks of lines, and what has no width at all. Joiners are letters of some scripts, and stay.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// A name with everything in it visible, on one line.
pub(super) fn clean(text: &str) -> String {
    shown(text, is_hidden)
}

/// A sentence that may hold such names; its own lines stay lines.
pub(super) fn clean_lines(text: &str) -> String {
    shown(text, |c| c != '\n' && is_hidden(c))
}

fn shown(text: &str, hidden: impl Fn(char) -> bool) -> String {
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
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// A text in at most so many columns: what is too long loses its middle, so that the end (`.tar.gz`, ` (2).jpg`) stays.
pub(super) fn shorten(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.into();
    }
    let room = room.saturating_sub(1);
    let (front, back) = (room.div_ceil(2), room / 2);
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut taken = Vec::new();
        let mut used = 0;
        for c in chars {
            used += c.width().unwrap_or(0);
            if used > room {
                break;
            }
            taken.push(c);
        }
        taken
    };
    let head = take(&mut text.chars(), front);
    let mut tail = take(&mut text.chars().rev(), back);
    tail.reverse();
    head.into_iter().chain([CUT]).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelt_out() {
        for (name, seen) in [
            ("plain ünïcödé 日本語 👩‍👧 می‌خواهم", "plain ünïcödé 日本語 👩‍👧 می‌خواهم"),
            ("a\nb\tc\u{1b}[31m", "a\\nb\\tc\\u{1b}[31m"),
            ("photo\u{202e}gpj.exe", "photo\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{2069}\u{200b}\u{feff}\u{2028}", "a\\u{2066}b\\u{2069}\\u{200b}\\u{feff}\\u{2028}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
        ] {
            assert_eq!(clean(name), seen);
        }
        assert_eq!(clean_lines("first\nsecond\u{202e}\r"), "first\nsecond\\u{202e}\\r");
    }

    #[test]
    fn a_long_name_loses_its_middle_and_keeps_to_its_room() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("holiday pictures 2024.tar.gz", 15), "holiday….tar.gz");
        // Characters that take two columns are not cut in half.
        assert_eq!(shorten("日本語日本語", 7), "日…語");
        for room in 1..30 {
            for name in ["holiday pictures 2024.tar.gz", "日本語日本語日本語日本語", "éééééééééééééééééééééé"]
            {
                assert!(columns(&shorten(name, room)) <= room.max(1), "{name} in {room}");
            }
        }
    }
}
