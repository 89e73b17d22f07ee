//! Detects providers that stalled or are slow to deliver a requested block. No I/O.

use std::time::{Duration, Instant};

/// Interval between two checks of one request, and the longest time without progress.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(1200);

/// Fewer bytes than this between two checks count as no progress.
const MIN_PROGRESS: u64 = 1 << 10;

/// Watches one request to one provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallDetector {
    len: u64,
    queued_bytes: u64,
    since: Instant,
    /// Bytes received from the provider before the request.
    received_before: u64,
    /// Bytes received from the provider at the last check.
    received: u64,
    pub(super) next_check: Instant,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The next check is not due yet.
    NotDue,
    /// Almost nothing arrives: any other provider should be asked too.
    Stalled,
    /// Bytes arrive. A second provider is worth asking if it delivers within this time, half of the estimated rest.
    Moving(Duration),
}

impl StallDetector {
    /// `len`: length of the block. `queued_bytes`: bytes that the provider sends up to the end of the block. `received`:
    /// bytes received from the provider so far, for any request.
    pub(super) fn new(len: u64, queued_bytes: u64, received: u64, now: Instant) -> Self {
        let next_check = now + CHECK_INTERVAL;
        Self { len, queued_bytes, since: now, received_before: received, received, next_check }
    }

    /// Checks the progress. A block that waits behind others on a slow link does not count as stalled.
    pub(super) fn check(&mut self, received: u64, now: Instant) -> Delivery {
        if now < self.next_check {
            return Delivery::NotDue;
        }
        self.next_check = now + CHECK_INTERVAL;
        let last = std::mem::replace(&mut self.received, received);
        if received < last + MIN_PROGRESS {
            return Delivery::Stalled;
        }
        let arrived = received.saturating_sub(self.received_before).max(1);
        // The bytes may belong to other readers, so at least the block itself is still to come.
        let left = self.queued_bytes.saturating_sub(arrived).max(self.len);
        #[allow(clippy::cast_precision_loss)]
        let share = left as f64 / arrived as f64;
        Delivery::Moving((now - self.since).mul_f64((share / 2.0).min(1e6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    #[test]
    fn a_block_queued_behind_others_on_a_slow_link_is_not_stalled() {
        let start = Instant::now();
        // 1 MiB/s; eight blocks end with this one.
        let mut detector = StallDetector::new(LEN, 8 * LEN, 100, start);
        assert_eq!(detector.check(100, start), Delivery::NotDue);
        for seconds in [2, 4, 6_u32] {
            let received = 100 + u64::from(seconds) * LEN;
            let Delivery::Moving(within) = detector.check(received, start + Duration::from_secs(1) * seconds)
            else {
                panic!("no progress");
            };
            let half_of_rest = f64::from(8 - seconds) / 2.0;
            assert!((within.as_secs_f64() - half_of_rest).abs() < 0.01, "{within:?}, not {half_of_rest}");
        }
    }

    #[test]
    fn silence_and_a_trickle_are_stalls() {
        let start = Instant::now();
        let mut detector = StallDetector::new(LEN, LEN, 0, start);
        assert_eq!(detector.check(0, start + CHECK_INTERVAL), Delivery::Stalled);
        assert_eq!(detector.check(2, start + CHECK_INTERVAL * 2), Delivery::Stalled);
        let slow = detector.check(2 + MIN_PROGRESS, start + CHECK_INTERVAL * 3);
        assert!(matches!(slow, Delivery::Moving(within) if within > Duration::from_secs(1000)), "{slow:?}");
    }

    #[test]
    fn bytes_for_other_readers_do_not_complete_the_block() {
        let start = Instant::now();
        let mut detector = StallDetector::new(LEN, LEN, 0, start);
        let interval = CHECK_INTERVAL * 2;
        assert_eq!(detector.check(4 * LEN, start + interval), Delivery::Moving(interval / 8));
    }
}
