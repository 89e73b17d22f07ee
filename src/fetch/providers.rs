//! The providers of one root: who they are, what they have to do, how fast they are. No I/O.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::content::cid::Cid;

/// Rate that a provider is taken to have before it was measured, in bytes per second: optimistic, so that it is tried.
const FIRST_RATE: f64 = 50e6;
/// Bytes that one provider is asked for at a time. It sends them in order, so more only makes its loss more costly.
const OUTSTANDING: u64 = 8 << 20;
/// A provider that was lost is asked again after this long.
const REST: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Provider {
    /// Bytes per second, averaged; none before it was measured.
    rate: Option<f64>,
    outstanding: u64,
    /// Since when it has had something to do without a pause.
    busy_since: Option<Instant>,
    lacks: HashSet<Cid>,
    /// Whether it says that it has all of this root; else it is only connected.
    announced: bool,
    rests_until: Option<Instant>,
    /// There is no connection to it, and none could be made.
    unreachable: bool,
}

/// Who is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) peer: PeerId,
    /// Bytes that it has been asked for, the block's own included: it sends them in order.
    pub(super) ahead: u64,
}

/// Who can be asked.
#[derive(Debug, Default)]
pub(super) struct Providers {
    known: HashMap<PeerId, Provider>,
    banned: HashSet<PeerId>,
}

impl Providers {
    /// Adds a provider, which `announced` the root or is only connected; answers whether it is new, or can be asked
    /// again.
    pub(super) fn add(&mut self, peer: PeerId, announced: bool) -> bool {
        if let Some(provider) = self.known.get_mut(&peer) {
            provider.announced |= announced;
            // Only one that is connected comes unannounced.
            if !announced {
                let rested = provider.rests_until.take().is_some();
                return std::mem::take(&mut provider.unreachable) || rested;
            }
            return false;
        }
        if self.banned.contains(&peer) {
            return false;
        }
        let provider = Provider {
            rate: None,
            outstanding: 0,
            busy_since: None,
            lacks: HashSet::new(),
            announced,
            rests_until: None,
            unreachable: false,
        };
        self.known.insert(peer, provider);
        true
    }

    /// Picks who should have the block first, and notes that it is asked. `besides`: who is asked already. `within`:
    /// only somebody who should have it within this time.
    pub(super) fn pick(
        &mut self,
        cid: &Cid,
        len: u64,
        besides: &[PeerId],
        within: Option<Duration>,
        now: Instant,
    ) -> Option<Picked> {
        let able = self.known.iter_mut().filter(|(peer, provider)| {
            !besides.contains(peer)
                && !provider.lacks.contains(cid)
                && provider.rests_until.is_none_or(|until| until <= now)
                && (provider.outstanding == 0 || provider.outstanding + len <= OUTSTANDING)
                // Of one that was never measured and has not answered yet, nobody knows when it will be done.
                && (within.is_none() || provider.rate.is_some() || provider.outstanding == 0)
        });
        #[allow(clippy::cast_precision_loss)]
        let done_in =
            |provider: &Provider| (provider.outstanding + len) as f64 / provider.rate.unwrap_or(FIRST_RATE);
        let (peer, provider) = able.min_by(|(_, a), (_, b)| done_in(a).total_cmp(&done_in(b)))?;
        if within.is_some_and(|within| done_in(provider) > within.as_secs_f64()) {
            return None;
        }
        provider.outstanding += len;
        provider.busy_since.get_or_insert(now);
        Some(Picked { peer: *peer, ahead: provider.outstanding })
    }

    /// Whether anybody might still have the block, now or when it is free again. Somebody who gave something and went
    /// away may come back; who could never be reached is not waited for.
    pub(super) fn may_have(&self, cid: &Cid) -> bool {
        let began = self.known.values().any(|provider| provider.rate.is_some());
        self.known.values().any(|provider| !provider.lacks.contains(cid) && (began || !provider.unreachable))
    }

    /// Whether nobody was ever there to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.banned.is_empty() && self.known.values().all(|p| p.unreachable && p.rate.is_none())
    }

    /// Whether somebody who announced the root lacks this block of it.
    pub(super) fn was_lost(&self, cid: &Cid) -> bool {
        self.known.values().any(|provider| provider.announced && provider.lacks.contains(cid))
    }

    /// When the next resting provider may be asked again.
    pub(super) fn next_rested(&self, now: Instant) -> Option<Instant> {
        self.known.values().filter_map(|provider| provider.rests_until).filter(|until| *until > now).min()
    }

    /// An answer of `len` bytes has come. `took`: since it was asked.
    pub(super) fn gave(&mut self, peer: &PeerId, asked: u64, len: u64, now: Instant) {
        let Some(provider) = self.known.get_mut(peer) else {
            return;
        };
        // Answers come one after the other: the time since the last one is what this one took.
        let took = provider.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if len > 0 {
            provider.unreachable = false;
            #[allow(clippy::cast_precision_loss)]
            let rate = len as f64 / took.as_secs_f64().max(1e-4);
            provider.rate = Some(provider.rate.map_or(rate, |known| known * 0.8 + rate * 0.2));
        }
        provider.outstanding = provider.outstanding.saturating_sub(asked);
        provider.busy_since = (provider.outstanding > 0).then_some(now);
    }

    /// It does not have this block.
    pub(super) fn lacks(&mut self, peer: &PeerId, cid: Cid) {
        if let Some(provider) = self.known.get_mut(peer) {
            provider.lacks.insert(cid);
        }
    }

    /// It cannot be reached at all: it rests, and is not waited for.
    pub(super) fn unreachable(&mut self, peer: &PeerId, now: Instant) {
        self.lost(peer, now);
        if let Some(provider) = self.known.get_mut(peer) {
            provider.unreachable = true;
        }
    }

    /// It is gone, or is too slow: it rests.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(provider) = self.known.get_mut(peer) {
            provider.rests_until = Some(now + REST);
            provider.rate = provider.rate.map(|rate| (rate / 2.0).max(1000.0));
        }
    }

    /// Whether it was found to have sent what is not true.
    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer)
    }

    /// It sent what is not true: never again.
    pub(super) fn ban(&mut self, peer: PeerId) {
        self.known.remove(&peer);
        self.banned.insert(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::Codec;

    #[test]
    fn work_goes_where_it_is_done_first() {
        let (slow, fast) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        providers.add(slow, true);
        providers.add(fast, false);
        let start = Instant::now();
        for (peer, millis) in [(slow, 1000), (fast, 10)] {
            for n in 0..20 {
                let at = start + Duration::from_millis(millis * n);
                let provider = providers.known.get_mut(&peer).expect("known");
                provider.busy_since = Some(at);
                providers.gave(&peer, 0, 1 << 20, at + Duration::from_millis(millis));
            }
        }
        let cid = Cid::of(Codec::Raw, b"x");
        let picks: Vec<_> = (0..7).filter_map(|_| providers.pick(&cid, 1 << 20, &[], None, start)).collect();
        assert!(picks.iter().all(|picked| picked.peer == fast), "a hundred times as fast");
        assert_eq!(picks.last().map(|picked| picked.ahead), Some(7 << 20));
        let soon = Some(Duration::from_millis(200));
        assert_eq!(providers.pick(&cid, 1 << 20, &[fast], soon, start), None);
        assert_eq!(providers.pick(&cid, 1 << 20, &[fast], None, start).map(|picked| picked.peer), Some(slow));
    }

    fn pick(providers: &mut Providers, cid: &Cid, now: Instant) -> Option<PeerId> {
        providers.pick(cid, 1, &[], None, now).map(|picked| picked.peer)
    }

    #[test]
    fn who_lies_is_out_and_who_lacks_is_passed_over() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        assert!(providers.is_empty());
        assert!(providers.add(a, false) && providers.add(b, true) && !providers.add(a, false));
        let cid = Cid::of(Codec::Raw, b"x");
        let now = Instant::now();
        providers.lacks(&a, cid);
        assert!(!providers.was_lost(&cid), "it never said that it has the file");
        providers.add(a, true);
        assert!(providers.was_lost(&cid));
        assert_eq!(pick(&mut providers, &cid, now), Some(b));
        providers.ban(b);
        assert!(!providers.add(b, true));
        assert_eq!((pick(&mut providers, &cid, now), providers.may_have(&cid)), (None, false));
        let other = Cid::of(Codec::Raw, b"y");
        providers.unreachable(&a, now);
        assert!(!providers.may_have(&other) && !providers.is_empty(), "b was asked");
        providers.add(a, false);
        assert!(providers.may_have(&other), "it is connected now");
        providers.lost(&a, now);
        assert_eq!((pick(&mut providers, &other, now), providers.may_have(&other)), (None, true));
        assert_eq!(pick(&mut providers, &other, now + REST), Some(a));
    }
}
