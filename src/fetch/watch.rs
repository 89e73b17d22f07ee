//! Whether a provider that was asked is still worth waiting for. No I/O.

use std::time::{Duration, Instant};

/// How often somebody who was asked is looked after, and how long nothing may arrive from them.
pub(super) const LOOK: Duration = Duration::from_millis(1200);

/// Less than this between two looks is as good as nothing.
const TRICKLE: u64 = 1 << 10;

/// One provider that was asked for one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    len: u64,
    ahead: u64,
    since: Instant,
    /// Bytes that had arrived from it when it was asked, and at the last look.
    moved: (u64, u64),
    next: Instant,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not time to look yet.
    Early,
    /// Nothing to speak of arrives: anybody else should be asked as well.
    Stalled,
    /// It will still take twice this long: somebody who is faster than this should be asked as well.
    Busy(Duration),
}

impl Watch {
    /// `len`: of the block. `ahead`: bytes that come before it is complete, its own included. `moved`: bytes that have
    /// arrived from the provider so far, for whatever was asked.
    pub(super) fn new(len: u64, ahead: u64, moved: u64, now: Instant) -> Self {
        Self { len, ahead, since: now, moved: (moved, moved), next: now + LOOK }
    }

    /// When it is next to be looked after.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks after it. A block that waits behind others on a slow link is no reason to fetch it twice.
    pub(super) fn look(&mut self, moved: u64, now: Instant) -> Verdict {
        if now < self.next {
            return Verdict::Early;
        }
        self.next = now + LOOK;
        let before = std::mem::replace(&mut self.moved.1, moved);
        if moved < before + TRICKLE {
            return Verdict::Stalled;
        }
        let arrived = moved.saturating_sub(self.moved.0).max(1);
        // What arrives may be for other readers: at least the block itself is still to come.
        let left = self.ahead.saturating_sub(arrived).max(self.len);
        #[allow(clippy::cast_precision_loss)]
        let share = left as f64 / arrived as f64;
        Verdict::Busy((now - self.since).mul_f64((share / 2.0).min(1e6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    #[test]
    fn a_block_behind_others_on_a_slow_link_is_waited_for() {
        let start = Instant::now();
        // 1 MiB/s, eight blocks before this one is complete.
        let mut watch = Watch::new(LEN, 8 * LEN, 100, start);
        assert_eq!(watch.look(100, start), Verdict::Early);
        for seconds in [2, 4, 6_u32] {
            let moved = 100 + u64::from(seconds) * LEN;
            let Verdict::Busy(within) = watch.look(moved, start + Duration::from_secs(1) * seconds) else {
                panic!("it moves");
            };
            // Half of what it still takes.
            let expected = f64::from(8 - seconds) / 2.0;
            assert!((within.as_secs_f64() - expected).abs() < 0.01, "{within:?} instead of {expected}");
        }
    }

    #[test]
    fn silence_is_a_stall_and_a_trickle_hardly_better() {
        let start = Instant::now();
        let mut watch = Watch::new(LEN, LEN, 0, start);
        assert_eq!(watch.look(0, start + LOOK), Verdict::Stalled);
        assert_eq!(watch.look(2, start + LOOK * 2), Verdict::Stalled);
        let hours = watch.look(2 + TRICKLE, start + LOOK * 3);
        assert!(matches!(hours, Verdict::Busy(within) if within > Duration::from_secs(1000)), "{hours:?}");
    }

    #[test]
    fn what_arrives_for_others_does_not_make_it_done() {
        let start = Instant::now();
        let mut watch = Watch::new(LEN, LEN, 0, start);
        assert_eq!(watch.look(4 * LEN, start + LOOK * 2), Verdict::Busy(LOOK * 2 / 8));
    }
}
