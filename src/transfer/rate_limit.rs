//! A limit on bytes per second over all streams.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Bytes sent between two waits for the limit.
pub(super) const PIECE: usize = 16 << 10;
/// Idle time that is made up for.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket for bytes per second.
#[derive(Debug)]
pub struct RateLimiter {
    bytes_per_s: u64,
    /// When all bytes so far have passed at the limit.
    paid_until: Mutex<Instant>,
}

impl RateLimiter {
    /// Creates a limiter of at least one byte per second.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until this many bytes may pass.
    pub async fn acquire(&self, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_s);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let ready = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now));
            *paid_until = start + cost;
            *paid_until
        };
        sleep_until(ready).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_limit_and_no_faster() {
        let limit = RateLimiter::new(1_000_000);
        let start = Instant::now();
        for _ in 0..100 {
            futures::join!(limit.acquire(PIECE), limit.acquire(PIECE));
        }
        let expected = Duration::from_secs_f64(2.0 * 100.0 * 16384.0 / 1e6);
        let took = start.elapsed();
        assert!(took + BURST >= expected && took < expected + BURST, "{took:?} for {expected:?}");
    }
}
