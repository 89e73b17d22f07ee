//! Single byte ranges (RFC 9110, 14).

use std::ops::Range;

/// The request of a `Range` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    Bytes(Range<u64>),
    Unsatisfiable,
}

/// Parses a single byte range (RFC 9110, 14.1.2). `None` means: respond with the whole file, as the RFC allows for
/// anything else, several ranges included.
pub(super) fn parse_range(text: &str, size: u64) -> Option<RequestedRange> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that overflows a u64 is beyond the end of any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let len = number(suffix)?;
            (if len == 0 { size } else { size.saturating_sub(len) }, size)
        }
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (start, last) = (number(first)?, number(last)?);
            if last < start {
                return None;
            }
            (start, last.saturating_add(1).min(size))
        }
    };
    Some(if start >= size { RequestedRange::Unsatisfiable } else { RequestedRange::Bytes(start..end) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_parsed_as_the_rfc_defines() {
        let part = |range| Some(RequestedRange::Bytes(range));
        assert_eq!(parse_range("bytes=0-9", 100), part(0..10));
        assert_eq!(parse_range("bytes=90-", 100), part(90..100));
        assert_eq!(parse_range("bytes=-7", 100), part(93..100));
        assert_eq!(parse_range("bytes=-700", 100), part(0..100));
        assert_eq!(parse_range("bytes=5-99999999999999999999999", 100), part(5..100));
        assert_eq!(parse_range("bytes=100-", 100), Some(RequestedRange::Unsatisfiable));
        assert_eq!(parse_range("bytes=-0", 100), Some(RequestedRange::Unsatisfiable));
        assert_eq!(parse_range("bytes=0-", 0), Some(RequestedRange::Unsatisfiable));
        for ignored in ["bytes=9-1", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=-", "bytes=+1-2", "5-6"] {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }

    #[test]
    fn ranges_beyond_four_gibibytes_are_parsed() {
        let size = 6 << 40;
        let last = size - 1;
        assert_eq!(parse_range(&format!("bytes={last}-"), size), Some(RequestedRange::Bytes(last..size)));
        assert_eq!(
            parse_range("bytes=4294967296-4294967297", size),
            Some(RequestedRange::Bytes(4_294_967_296..4_294_967_298))
        );
        assert_eq!(parse_range("bytes=-1", u64::MAX), Some(RequestedRange::Bytes(u64::MAX - 1..u64::MAX)));
    }

    proptest! {
        #[test]
        fn a_range_is_within_the_file(
            text in prop_oneof![".{0,40}", "bytes=[0-9]{0,22}-[0-9]{0,22}", "bytes=[-0-9, ]{0,30}"],
            size in prop_oneof![0..200_u64, any::<u64>()],
        ) {
            match parse_range(&text, size) {
                Some(RequestedRange::Bytes(part)) => prop_assert!(part.start < part.end && part.end <= size),
                Some(RequestedRange::Unsatisfiable) | None => {}
            }
        }

        #[test]
        fn a_range_within_the_file_is_parsed_exactly((size, start, end) in (1..=u64::MAX).prop_flat_map(|size| {
            (0..size).prop_flat_map(move |start| (Just(size), Just(start), start + 1..=size))
        })) {
            let part = |text: String| parse_range(&text, size);
            prop_assert_eq!(part(format!("bytes={start}-{}", end - 1)), Some(RequestedRange::Bytes(start..end)));
            prop_assert_eq!(part(format!("bytes={start}-")), Some(RequestedRange::Bytes(start..size)));
            prop_assert_eq!(part(format!("bytes=-{}", size - start)), Some(RequestedRange::Bytes(start..size)));
        }
    }
}
