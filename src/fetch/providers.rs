//! The providers of one root: who they are, what they have to do, how fast they are. No I/O.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::content::cid::Cid;

/// Rate that a provider is taken to have before it was measured, in bytes per second: optimistic, so that it is tried.
const FIRST_RATE: f64 = 50e6;
/// An answer shorter than this says that somebody answers, and nothing about how fast.
const MEASURED: u64 = 64 << 10;
/// Bytes that one provider is asked for at a time. It sends them in order, so more only makes its loss more costly.
const OUTSTANDING: u64 = 8 << 20;
/// A provider that was lost is asked again after this long.
const REST: Duration = Duration::from_secs(3);
/// Pause after somebody untried was silent, before the next one is tried beside those who give; doubles up to the second.
const TRIAL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Seconds that somebody untried is taken to be slower: beside one that gives, it is tried where there is much to do.
const HANDICAP: f64 = 0.04;

/// What is to be expected of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has given something.
    Proven,
    /// It has said that it has the root, or is connected, and was not asked for anything yet.
    Untried,
    /// It does not answer, or lacked what it was asked for and never said that it has the root.
    Doubtful,
}

/// What stands in the way of asking somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It was asked, and nothing came for a while.
    Silent,
    /// There is no connection to it, and none could be made.
    Unreachable,
}

#[derive(Debug)]
struct Provider {
    /// Whether it has given anything.
    gave: bool,
    trouble: Option<Trouble>,
    /// Bytes per second, averaged; none before it was measured.
    rate: Option<f64>,
    outstanding: u64,
    /// Since when it has had something to do without a pause.
    busy_since: Option<Instant>,
    lacks: HashSet<Cid>,
    /// Whether it says that it has all of this root; else it is only connected.
    announced: bool,
    rests_until: Option<Instant>,
}

impl Provider {
    fn standing(&self) -> Standing {
        match self {
            _ if self.trouble.is_some() => Standing::Doubtful,
            _ if self.gave => Standing::Proven,
            _ if !self.announced && !self.lacks.is_empty() => Standing::Doubtful,
            _ => Standing::Untried,
        }
    }

    /// Whether it may have the block, and may be asked now.
    fn may_give(&self, cid: &Cid, now: Instant) -> bool {
        !self.lacks.contains(cid) && self.rests_until.is_none_or(|until| until <= now)
    }

    /// Whether it may be asked for so much beside what it has to do. Of one that has given nothing yet nobody knows when
    /// it will be done.
    fn has_room(&self, len: u64) -> bool {
        self.outstanding == 0 || (self.gave && self.outstanding + len <= OUTSTANDING)
    }

    /// In how many seconds it should have given so much more.
    #[allow(clippy::cast_precision_loss)]
    fn done_in(&self, len: u64) -> f64 {
        let sent_in = (self.outstanding + len) as f64 / self.rate.unwrap_or(FIRST_RATE);
        if self.gave { sent_in } else { sent_in + HANDICAP }
    }
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
    /// Not before then is somebody untried asked beside those who give.
    trial: Option<Instant>,
    trial_pause: Duration,
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
                return provider.trouble.take() == Some(Trouble::Unreachable) || rested;
            }
            return false;
        }
        if self.banned.contains(&peer) {
            return false;
        }
        let provider = Provider {
            gave: false,
            trouble: None,
            rate: None,
            outstanding: 0,
            busy_since: None,
            lacks: HashSet::new(),
            announced,
            rests_until: None,
        };
        self.known.insert(peer, provider);
        true
    }

    /// Picks who should have the block first, and notes that it is asked. `besides`: who is asked already. `within`:
    /// only somebody who should have it within this time.
    ///
    /// Those who have given something go first. Others are tried one at a time beside them, each with one block: somebody
    /// who is silent costs the time until that is noticed, and one block's. Whoever is silent, or is only connected and
    /// lacked what it was asked for, is asked again where nobody else is left.
    pub(super) fn pick(
        &mut self,
        cid: &Cid,
        len: u64,
        besides: &[PeerId],
        within: Option<Duration>,
        now: Instant,
    ) -> Option<Picked> {
        let (mut proven, mut untried, mut trying) = (false, false, false);
        for (peer, provider) in &self.known {
            let may = !besides.contains(peer) && provider.may_give(cid, now);
            match provider.standing() {
                Standing::Proven => proven |= may,
                Standing::Untried => {
                    untried |= may;
                    trying |= provider.outstanding > 0;
                }
                Standing::Doubtful => {}
            }
        }
        let trial = !trying && within.is_none() && self.trial.is_none_or(|at| at <= now);
        let is_next = |provider: &Provider| match provider.standing() {
            Standing::Proven => true,
            Standing::Untried => !proven || trial,
            Standing::Doubtful => !proven && !untried,
        };
        let able = self.known.iter_mut().filter(|(peer, provider)| {
            !besides.contains(peer)
                && provider.may_give(cid, now)
                && provider.has_room(len)
                && is_next(provider)
        });
        let (peer, provider) = able.min_by(|(_, a), (_, b)| {
            let order = |provider: &Provider| !provider.gave && !provider.announced;
            order(a).cmp(&order(b)).then(a.done_in(len).total_cmp(&b.done_in(len)))
        })?;
        if within.is_some_and(|within| provider.done_in(len) > within.as_secs_f64()) {
            return None;
        }
        provider.outstanding += len;
        provider.busy_since.get_or_insert(now);
        Some(Picked { peer: *peer, ahead: provider.outstanding })
    }

    /// Whether anybody might still have the block, now or when it is free again. Somebody who gave something and went
    /// away may come back; who could never be reached is not waited for.
    pub(super) fn may_have(&self, cid: &Cid) -> bool {
        let began = self.known.values().any(|provider| provider.gave);
        self.known.values().any(|provider| {
            !provider.lacks.contains(cid) && (began || provider.trouble != Some(Trouble::Unreachable))
        })
    }

    /// Whether nobody was ever there to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.banned.is_empty()
            && self.known.values().all(|p| p.trouble == Some(Trouble::Unreachable) && !p.gave)
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
            if !provider.gave {
                (self.trial, self.trial_pause) = (None, Duration::ZERO);
            }
            (provider.gave, provider.trouble) = (true, None);
        }
        if len >= MEASURED {
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
            provider.trouble = None;
        }
    }

    /// Nothing has come from it for a while, although it was asked.
    pub(super) fn silent(&mut self, peer: &PeerId, now: Instant) {
        let Some(provider) = self.known.get_mut(peer) else { return };
        if provider.standing() == Standing::Untried {
            self.trial_pause = (self.trial_pause * 2).clamp(TRIAL[0], TRIAL[1]);
            self.trial = Some(now + self.trial_pause);
        }
        provider.trouble = Some(Trouble::Silent);
    }

    /// It cannot be reached at all: it rests, and is not waited for.
    pub(super) fn unreachable(&mut self, peer: &PeerId, now: Instant) {
        self.lost(peer, now);
        if let Some(provider) = self.known.get_mut(peer) {
            provider.trouble = Some(Trouble::Unreachable);
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

    /// Answers as one that was asked and gives what it was asked for.
    fn gives(providers: &mut Providers, peer: &PeerId, len: u64, at: Instant) {
        providers.gave(peer, len, len, at);
    }

    #[test]
    fn who_gives_goes_before_those_who_were_never_tried() {
        let (good, a, b) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        providers.add(good, true);
        let now = Instant::now();
        let cid = Cid::of(Codec::Raw, b"x");
        // Its root is short: it answers, and how fast it is nobody knows.
        assert_eq!(pick(&mut providers, &cid, now), Some(good));
        gives(&mut providers, &good, 1, now + Duration::from_millis(500));
        providers.add(a, true);
        providers.add(b, true);
        // Where there is much to do, one of the untried is tried beside it, with one block.
        let ask = |providers: &mut Providers, at| {
            let picked = providers.pick(&cid, 1 << 20, &[], None, at).expect("somebody");
            picked.peer
        };
        let asked: Vec<PeerId> = (0..6).map(|_| ask(&mut providers, now)).collect();
        let tried: Vec<PeerId> = asked.iter().copied().filter(|peer| *peer != good).collect();
        let [first] = tried[..] else { panic!("{tried:?}") };
        assert_eq!(asked[0], good);
        // It is silent: the next one is tried later, and the silent one not again.
        providers.silent(&first, now);
        assert_eq!(ask(&mut providers, now), good);
        let later = now + TRIAL[0];
        let second = ask(&mut providers, later);
        assert!(second == if first == a { b } else { a });
        gives(&mut providers, &second, 1 << 20, later);
        assert_eq!(providers.trial, None, "it answers");
        providers.lost(&good, later);
        providers.lost(&second, later);
        assert_eq!(pick(&mut providers, &cid, later), None, "the silent one still has a question");
        providers.gave(&first, 1 << 20, 1, later);
        assert_eq!(pick(&mut providers, &cid, later), Some(first));
    }

    #[test]
    fn who_is_only_connected_and_lacked_a_block_is_asked_last() {
        let (stranger, other) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        let now = Instant::now();
        let [root, block] = [b"r", b"b"].map(|bytes| Cid::of(Codec::Raw, bytes));
        providers.add(stranger, false);
        assert_eq!(pick(&mut providers, &root, now), Some(stranger));
        providers.gave(&stranger, 1, 0, now);
        providers.lacks(&stranger, root);
        providers.add(other, false);
        assert_eq!(pick(&mut providers, &block, now), Some(other));
        assert_eq!(pick(&mut providers, &block, now), None, "the other may have it");
        providers.silent(&other, now);
        assert_eq!(pick(&mut providers, &block, now), Some(stranger), "nobody else is left");
    }
}
