//! The structural check before `serde`: accepts the subset of CBOR that the protocol uses.
//!
//! The subset has definite lengths, no tags, text keys, and limits for depth and number of items (RFC 8949, section 3).
//! Lengths are compared with the remaining bytes, so accepted input cannot make a decoder allocate more than its own size.

use super::{MAX_CIDS, WireError};

/// Maximum depth of nested maps and arrays.
const MAX_DEPTH: u8 = 8;
/// Maximum number of items in one message: a map of three entries for each block, and a margin.
const MAX_ITEMS: usize = 6 * MAX_CIDS + 64;

/// Checks the structure of a message and returns the name of its kind.
pub(super) fn kind(body: &[u8]) -> Result<&str, WireError> {
    let mut whole = Reader { rest: body, items: 0 };
    whole.item(0)?;
    if !whole.rest.is_empty() {
        return Err(WireError::Structure("bytes after the message"));
    }
    let mut outer = Reader { rest: body, items: 0 };
    if outer.head()? != (Major::Map, 1) {
        return Err(WireError::Structure("not a map with one entry"));
    }
    let (_, len) = outer.head()?;
    let name =
        std::str::from_utf8(outer.take(len)?).map_err(|_| WireError::Structure("kind is not UTF-8"))?;
    match outer.head()? {
        (Major::Map, _) => Ok(name),
        _ => Err(WireError::Structure("fields are not a map")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Major {
    Number,
    Bytes,
    Text,
    Array,
    Map,
    Simple,
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    /// Checks one item and everything inside it.
    fn item(&mut self, depth: u8) -> Result<(), WireError> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(WireError::Structure("too many items"));
        }
        let (major, argument) = self.head()?;
        match major {
            Major::Number | Major::Simple => Ok(()),
            Major::Bytes | Major::Text => self.take(argument).map(drop),
            Major::Array => {
                self.enter(depth, argument)?;
                (0..argument).try_for_each(|_| self.item(depth + 1))
            }
            Major::Map => {
                self.enter(depth, argument.saturating_mul(2))?;
                (0..argument).try_for_each(|_| {
                    if self.rest.first().map(|byte| byte >> 5) != Some(3) {
                        return Err(WireError::Structure("map key is not text"));
                    }
                    self.item(depth + 1)?;
                    self.item(depth + 1)
                })
            }
        }
    }

    /// Checks the depth, and that there are at least as many bytes as items.
    fn enter(&self, depth: u8, items: u64) -> Result<(), WireError> {
        if depth >= MAX_DEPTH {
            return Err(WireError::Structure("nested too deeply"));
        }
        if items > self.rest.len() as u64 {
            return Err(WireError::Structure("truncated"));
        }
        Ok(())
    }

    /// Reads the head of an item: major type and argument.
    fn head(&mut self) -> Result<(Major, u64), WireError> {
        let first = self.take(1)?[0];
        let argument = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            size @ 24..=27 => {
                self.take(1 << (size - 24))?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
            }
            31 => return Err(WireError::Structure("indefinite length")),
            _ => return Err(WireError::Structure("reserved length")),
        };
        let major = match first >> 5 {
            0 | 1 => Major::Number,
            2 => Major::Bytes,
            3 => Major::Text,
            4 => Major::Array,
            5 => Major::Map,
            6 => return Err(WireError::Structure("tag")),
            _ => Major::Simple,
        };
        Ok((major, argument))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
            .ok_or(WireError::Structure("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_message_passes_and_returns_its_kind() {
        // {"get": {"cids": []}}
        let body = b"\xa1\x63get\xa1\x64cids\x80";
        assert_eq!(kind(body), Ok("get"));
    }

    #[test]
    fn unused_parts_of_cbor_are_rejected() {
        let refused = [
            (&b""[..], "nothing"),
            (b"\xa1\x63get\xa0\x00", "bytes after the message"),
            (b"\xa1\x63get\xbf\xff", "an indefinite length"),
            (b"\xa1\x63get\xc1\xa0", "a tag"),
            (b"\xa1\x01\xa0", "a number as key"),
            (b"\xa1\x63get\x80", "an array of fields"),
            (b"\x82\x63get\xa0", "an array of two"),
            (b"\xa2\x63get\xa0\x63put\xa0", "two kinds"),
            (b"\xa1\x63get\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "an array of 2^64"),
            (b"\xa1\x63get\xa1\x61a\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "a map of 2^64"),
            (b"\xa1\x63get\xa1\x61a\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "a string of 2^63"),
            (b"\xa1\x63get\xa1\x61a\x1c", "a reserved length"),
            (b"\xa1\x63\xff\xff\xff\xa0", "kind is not UTF-8"),
        ];
        for (body, what) in refused {
            assert!(kind(body).is_err(), "{what}");
        }
    }

    #[test]
    fn more_than_eight_levels_are_rejected() {
        let nested = |levels: usize| {
            let mut body = b"\xa1\x63get\xa1\x61a".to_vec();
            body.extend(vec![0x81; levels]);
            body.push(0x00);
            body
        };
        // The arrays are inside two maps.
        assert!(kind(&nested(6)).is_ok());
        assert_eq!(kind(&nested(7)), Err(WireError::Structure("nested too deeply")));
        assert_eq!(kind(&nested(1_000_000)), Err(WireError::Structure("nested too deeply")));
    }

    #[test]
    fn too_many_items_are_rejected() {
        let mut body = b"\xa1\x63get\xa1\x61a\x99\xff\xff".to_vec();
        body.extend(vec![0x00; 0xffff]);
        assert_eq!(kind(&body), Err(WireError::Structure("too many items")));
    }
}
