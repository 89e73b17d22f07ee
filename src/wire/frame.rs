//! The length in front of every message.

use super::WireError;

/// Bytes of the length in front of a message.
pub const PREFIX_LEN: usize = 4;

/// The length of the message that follows `prefix`, refused above `limit` bytes.
///
/// # Errors
/// [`WireError::TooLong`]; [`WireError::Structure`] for an empty message, which is none.
pub fn body_len(prefix: [u8; PREFIX_LEN], limit: usize) -> Result<usize, WireError> {
    let len = u32::from_be_bytes(prefix) as usize;
    match len {
        0 => Err(WireError::Structure("an empty frame")),
        _ if len > limit => Err(WireError::TooLong { len, limit }),
        _ => Ok(len),
    }
}
