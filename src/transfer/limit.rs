//! A limit on bytes per second, shared by all who send.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Bytes that are sent between two looks at the clock.
pub(super) const PIECE: usize = 16 << 10;
/// How long a silence may be made up for.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket: on average, no more than so many bytes per second pass.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_s: u64,
    /// When all that was let through so far has passed at the limit.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// A bucket for this many bytes per second, at least one.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until this many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_s);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let turn = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now));
            *paid_until = start + cost;
            *paid_until
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lets_through_what_it_should_and_no_more() {
        let limit = Limiter::new(1_000_000);
        let start = Instant::now();
        for _ in 0..100 {
            futures::join!(limit.pass(PIECE), limit.pass(PIECE));
        }
        let expected = Duration::from_secs_f64(2.0 * 100.0 * 16384.0 / 1e6);
        let took = start.elapsed();
        assert!(took + BURST >= expected && took < expected + BURST, "{took:?} for {expected:?}");
    }
}
