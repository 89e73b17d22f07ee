//! Modification times in tar headers, including times before 1970, which the `tar` crate does not know.

/// The first four of the twelve bytes of a time before 1970 as GNU tar writes it; the other eight are an `i64`.
const BEFORE_1970: [u8; 4] = [0xff; 4];

/// Returns the modification time of an entry in seconds since 1970; `None` if it is invalid.
pub(crate) fn mtime(header: &tar::Header) -> Option<i64> {
    let seconds = header.mtime().ok()?;
    if header.as_old().mtime.starts_with(&BEFORE_1970) {
        return Some(seconds.cast_signed());
    }
    i64::try_from(seconds).ok()
}

/// Sets the modification time of an entry, in seconds since 1970.
pub(crate) fn set_mtime(header: &mut tar::Header, seconds: i64) {
    header.set_mtime(seconds.cast_unsigned());
    if seconds < 0 {
        header.as_old_mut().mtime[..BEFORE_1970.len()].copy_from_slice(&BEFORE_1970);
    }
}
