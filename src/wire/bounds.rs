//! Is this one CBOR item (RFC 8949) of bounded shape? Decided without recursion and without allocation.

use super::{MAX_CIDS, WireError};

/// Arrays and maps inside each other, at most.
const MAX_DEPTH: usize = 8;
/// Items in all, at most: a request for [`MAX_CIDS`] blocks with lengths, and room.
const MAX_ITEMS: usize = 4 * MAX_CIDS;

pub(super) fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut rest = bytes;
    let mut items = 0;
    // Items still to come at each level.
    let mut open = [0_u64; MAX_DEPTH];
    let mut depth = 0;
    open[0] = 1;
    loop {
        while open[depth] == 0 {
            if depth == 0 {
                return if rest.is_empty() {
                    Ok(())
                } else {
                    Err(WireError::Unbounded("bytes behind it"))
                };
            }
            depth -= 1;
        }
        open[depth] -= 1;
        items += 1;
        if items > MAX_ITEMS {
            return Err(WireError::Unbounded("too many items"));
        }
        let (major, value) = head(&mut rest)?;
        match major {
            0 | 1 | 7 => {}
            2 | 3 => {
                let len = usize::try_from(value).map_err(|_| WireError::Unbounded("a length"))?;
                rest = rest.get(len..).ok_or(WireError::Unbounded("cut off"))?;
            }
            4 | 5 => {
                let inside = if major == 5 {
                    value.saturating_mul(2)
                } else {
                    value
                };
                // Each item takes a byte at least.
                if inside > rest.len() as u64 {
                    return Err(WireError::Unbounded("cut off"));
                }
                depth += 1;
                if depth == MAX_DEPTH {
                    return Err(WireError::Unbounded("nested too deeply"));
                }
                open[depth] = inside;
            }
            _ => return Err(WireError::Unbounded("a tag")),
        }
    }
}

/// Major type and value of the next item. Indefinite lengths are not taken.
fn head(rest: &mut &[u8]) -> Result<(u8, u64), WireError> {
    let (first, after) = rest.split_first().ok_or(WireError::Unbounded("cut off"))?;
    let (major, info) = (first >> 5, first & 31);
    let extra = match info {
        0..=23 => 0,
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return Err(WireError::Unbounded("an indefinite length")),
    };
    let (bytes, after) = after
        .split_at_checked(extra)
        .ok_or(WireError::Unbounded("cut off"))?;
    *rest = after;
    let value = if extra == 0 {
        u64::from(info)
    } else {
        bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    Ok((major, value))
}
