//! The wall clock, as the API writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since 1970.
pub(super) fn unix_s() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}
