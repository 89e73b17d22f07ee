//! The time of day, in the units that the store keeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time in seconds since 1970.
pub(super) fn unix_s() -> u64 {
    since_1970().as_secs()
}

/// Returns the time in microseconds since 1970: fine enough to tell which of several files of one name is the newest.
pub(super) fn unix_micros() -> i64 {
    i64::try_from(since_1970().as_micros()).unwrap_or(i64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
