//! The providers of one root: what each has to send, how fast it is, and which one is asked next. No I/O.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::content::cid::Cid;

/// Assumed rate of a provider without a measurement, in bytes per second. High, so that it is tried.
const DEFAULT_RATE: f64 = 50e6;
/// Shorter answers are not used to measure the rate, in bytes.
const MIN_MEASURED: u64 = 64 << 10;
/// Maximum bytes requested from one provider at a time. It sends them in order, so more would only cost more if it is lost.
const MAX_OUTSTANDING: u64 = 8 << 20;
/// A provider that was lost is asked again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(3);
/// Shortest and longest pause after an untried provider stalled, before the next one is tried beside proven ones.
const TRIAL_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Seconds added to the estimate of an untried provider: beside a proven one it is tried when much is outstanding.
const UNTRIED_PENALTY_S: f64 = 0.04;

/// How much a provider can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProviderState {
    /// It has delivered bytes.
    Proven,
    /// It has announced the root or is connected, and has not been asked yet.
    Untried,
    /// It does not answer, or it lacks a requested block and has not announced the root.
    Suspect,
}

/// Why a provider does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It was asked, and no bytes arrived for a while.
    Stalled,
    /// There is no connection to it, and dialing failed.
    Unreachable,
}

#[derive(Debug, Default)]
struct Provider {
    has_delivered: bool,
    fault: Option<Fault>,
    /// Bytes per second, averaged. `None`: not measured yet.
    rate: Option<f64>,
    outstanding: u64,
    /// Since when requests have been outstanding without a break.
    busy_since: Option<Instant>,
    missing: HashSet<Cid>,
    /// It announced the root. Otherwise it is only connected.
    announced: bool,
    paused_until: Option<Instant>,
}

impl Provider {
    fn state(&self) -> ProviderState {
        match self {
            _ if self.fault.is_some() => ProviderState::Suspect,
            _ if self.has_delivered => ProviderState::Proven,
            _ if !self.announced && !self.missing.is_empty() => ProviderState::Suspect,
            _ => ProviderState::Untried,
        }
    }

    /// Whether it may have the block and can be asked now.
    fn can_serve(&self, request: &BlockRequest, now: Instant) -> bool {
        !self.missing.contains(&request.cid) && self.paused_until.is_none_or(|until| until <= now)
    }

    /// Whether it may be asked for `len` more bytes. An untried provider gets one request at a time.
    fn has_capacity(&self, len: u64) -> bool {
        self.outstanding == 0 || (self.has_delivered && self.outstanding + len <= MAX_OUTSTANDING)
    }

    /// Estimated seconds until it has sent `len` more bytes.
    #[allow(clippy::cast_precision_loss)]
    fn completion_s(&self, len: u64) -> f64 {
        let seconds = (self.outstanding + len) as f64 / self.rate.unwrap_or(DEFAULT_RATE);
        if self.has_delivered { seconds } else { seconds + UNTRIED_PENALTY_S }
    }
}

/// A block that needs a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockRequest {
    pub(super) cid: Cid,
    /// Length in bytes; an estimate if it is not known.
    pub(super) len: u64,
    /// Providers that have been asked for it already.
    pub(super) exclude: Vec<PeerId>,
}

/// The provider chosen for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) peer: PeerId,
    /// Bytes requested from it, up to the end of this block. It sends them in order.
    pub(super) queued_bytes: u64,
}

/// All providers of one root.
#[derive(Debug, Default)]
pub(super) struct Providers {
    known: HashMap<PeerId, Provider>,
    banned: HashSet<PeerId>,
    /// Peers that have delivered blocks to earlier reads.
    preferred: HashSet<PeerId>,
    /// Earliest time to try an untried provider beside proven ones. `None`: now.
    next_trial: Option<Instant>,
    trial_pause: Duration,
}

impl Providers {
    /// Adds a provider that announced the root, or (`!announced`) a connected peer. Returns whether it is new or can be
    /// asked again.
    pub(super) fn add(&mut self, peer: PeerId, announced: bool) -> bool {
        if let Some(provider) = self.known.get_mut(&peer) {
            provider.announced |= announced;
            if announced {
                return false;
            }
            let paused = provider.paused_until.take().is_some();
            return provider.fault.take() == Some(Fault::Unreachable) || paused;
        }
        if self.banned.contains(&peer) {
            return false;
        }
        self.known.insert(peer, Provider { announced, ..Provider::default() });
        true
    }

    /// Notes that a peer has delivered blocks to an earlier read. It is asked before untried ones: anybody can announce a root.
    pub(super) fn prefer(&mut self, peer: PeerId) {
        self.preferred.insert(peer);
    }

    /// Picks the provider that should deliver the block first, and counts the request as outstanding. With `max_time`,
    /// only a provider that should deliver within it.
    ///
    /// Proven providers come first. Untried ones are tried one at a time beside them, with one block each, so that a
    /// provider that never answers costs one block's delay. Suspect ones are asked if no others are left.
    pub(super) fn pick(
        &mut self,
        request: &BlockRequest,
        max_time: Option<Duration>,
        now: Instant,
    ) -> Option<Assignment> {
        let (mut proven, mut untried, mut trying) = (false, false, false);
        for (peer, provider) in &self.known {
            let usable = !request.exclude.contains(peer) && provider.can_serve(request, now);
            match provider.state() {
                ProviderState::Proven => proven |= usable,
                ProviderState::Untried => {
                    untried |= usable;
                    trying |= provider.outstanding > 0;
                }
                ProviderState::Suspect => {}
            }
        }
        let trial = !trying && max_time.is_none() && self.next_trial.is_none_or(|at| at <= now);
        let is_eligible = |provider: &Provider| match provider.state() {
            ProviderState::Proven => true,
            ProviderState::Untried => !proven || trial,
            ProviderState::Suspect => !proven && !untried,
        };
        let eligible = self.known.iter_mut().filter(|(peer, provider)| {
            !request.exclude.contains(peer)
                && provider.can_serve(request, now)
                && provider.has_capacity(request.len)
                && is_eligible(provider)
        });
        let preferred = &self.preferred;
        let rank = |peer: &PeerId, provider: &Provider| {
            let only_connected = !provider.has_delivered && !provider.announced;
            // Until one has delivered to this read, those that delivered to earlier ones come first.
            (only_connected, !proven && !preferred.contains(peer))
        };
        let (peer, provider) = eligible.min_by(|(a_peer, a), (b_peer, b)| {
            let by_time = || a.completion_s(request.len).total_cmp(&b.completion_s(request.len));
            rank(a_peer, a).cmp(&rank(b_peer, b)).then_with(by_time)
        })?;
        if max_time.is_some_and(|limit| provider.completion_s(request.len) > limit.as_secs_f64()) {
            return None;
        }
        provider.outstanding += request.len;
        provider.busy_since.get_or_insert(now);
        Some(Assignment { peer: *peer, queued_bytes: provider.outstanding })
    }

    /// Whether any provider might still have the block, now or after its pause. An unreachable one may come back if it has
    /// delivered to this read. It also may if another one has, and none has answered that it lacks the block: then the
    /// network of this node may be down.
    pub(super) fn may_serve(&self, cid: &Cid) -> bool {
        let started = self.known.values().any(|provider| provider.has_delivered);
        let answered = self.known.values().any(|provider| provider.missing.contains(cid));
        self.known.values().any(|provider| {
            let may_come_back = provider.has_delivered || (started && !answered);
            !provider.missing.contains(cid) && (may_come_back || provider.fault != Some(Fault::Unreachable))
        })
    }

    /// Whether no provider was ever reached.
    pub(super) fn none_reached(&self) -> bool {
        self.banned.is_empty()
            && self.known.values().all(|p| p.fault == Some(Fault::Unreachable) && !p.has_delivered)
    }

    /// Whether a provider that announced the root lacks this block of it.
    pub(super) fn is_lost(&self, cid: &Cid) -> bool {
        self.known.values().any(|provider| provider.announced && provider.missing.contains(cid))
    }

    /// When the next paused provider can be asked again.
    pub(super) fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.known.values().filter_map(|provider| provider.paused_until).filter(|until| *until > now).min()
    }

    /// Notes the end of a request for `requested` bytes, of which `received` arrived.
    pub(super) fn answered(&mut self, peer: &PeerId, requested: u64, received: u64, now: Instant) {
        let Some(provider) = self.known.get_mut(peer) else { return };
        // Answers come one after the other, so this one took the time since the last one.
        let took = provider.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if received > 0 {
            if !provider.has_delivered {
                (self.next_trial, self.trial_pause) = (None, Duration::ZERO);
            }
            (provider.has_delivered, provider.fault) = (true, None);
        }
        if received >= MIN_MEASURED {
            #[allow(clippy::cast_precision_loss)]
            let rate = received as f64 / took.as_secs_f64().max(1e-4);
            provider.rate = Some(provider.rate.map_or(rate, |known| known * 0.8 + rate * 0.2));
        }
        provider.outstanding = provider.outstanding.saturating_sub(requested);
        provider.busy_since = (provider.outstanding > 0).then_some(now);
    }

    /// Notes that the provider does not have this block.
    pub(super) fn set_missing(&mut self, peer: &PeerId, cid: Cid) {
        if let Some(provider) = self.known.get_mut(peer) {
            provider.missing.insert(cid);
            provider.fault = None;
        }
    }

    /// Notes that no bytes have arrived from the provider for a while.
    pub(super) fn set_stalled(&mut self, peer: &PeerId, now: Instant) {
        let Some(provider) = self.known.get_mut(peer) else { return };
        if provider.state() == ProviderState::Untried {
            self.trial_pause = (self.trial_pause * 2).clamp(TRIAL_PAUSE[0], TRIAL_PAUSE[1]);
            self.next_trial = Some(now + self.trial_pause);
        }
        provider.fault = Some(Fault::Stalled);
    }

    /// Notes that the provider cannot be dialed, and pauses it.
    pub(super) fn set_unreachable(&mut self, peer: &PeerId, now: Instant) {
        self.pause(peer, now);
        if let Some(provider) = self.known.get_mut(peer) {
            provider.fault = Some(Fault::Unreachable);
        }
    }

    /// Pauses a provider whose connection was lost or that is busy, and halves its rate.
    pub(super) fn pause(&mut self, peer: &PeerId, now: Instant) {
        if let Some(provider) = self.known.get_mut(peer) {
            provider.paused_until = Some(now + RETRY_AFTER);
            provider.rate = provider.rate.map(|rate| (rate / 2.0).max(1000.0));
        }
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer)
    }

    /// Excludes a provider that sent wrong data, for the rest of the session.
    pub(super) fn ban(&mut self, peer: PeerId) {
        self.known.remove(&peer);
        self.banned.insert(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::Codec;

    const MIB: u64 = 1 << 20;

    fn request(cid: Cid, len: u64) -> BlockRequest {
        BlockRequest { cid, len, exclude: Vec::new() }
    }

    fn pick(providers: &mut Providers, cid: &Cid, len: u64, now: Instant) -> Option<PeerId> {
        providers.pick(&request(*cid, len), None, now).map(|assignment| assignment.peer)
    }

    #[test]
    fn requests_go_to_the_provider_that_finishes_first() {
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
                providers.answered(&peer, 0, MIB, at + Duration::from_millis(millis));
            }
        }
        let mut request = request(Cid::of(Codec::Raw, b"x"), MIB);
        let picks: Vec<_> = (0..7).filter_map(|_| providers.pick(&request, None, start)).collect();
        assert!(picks.iter().all(|assignment| assignment.peer == fast), "it is 100 times as fast");
        assert_eq!(picks.last().map(|assignment| assignment.queued_bytes), Some(7 * MIB));
        request.exclude = vec![fast];
        assert_eq!(providers.pick(&request, Some(Duration::from_millis(200)), start), None);
        assert_eq!(providers.pick(&request, None, start).map(|assignment| assignment.peer), Some(slow));
    }

    #[test]
    fn banned_providers_and_those_without_the_block_are_skipped() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        assert!(providers.none_reached());
        assert!(providers.add(a, false) && providers.add(b, true) && !providers.add(a, false));
        let cid = Cid::of(Codec::Raw, b"x");
        let now = Instant::now();
        providers.set_missing(&a, cid);
        assert!(!providers.is_lost(&cid), "it did not announce the root");
        providers.add(a, true);
        assert!(providers.is_lost(&cid));
        assert_eq!(pick(&mut providers, &cid, 1, now), Some(b));
        providers.ban(b);
        assert!(!providers.add(b, true));
        assert_eq!((pick(&mut providers, &cid, 1, now), providers.may_serve(&cid)), (None, false));
        let other = Cid::of(Codec::Raw, b"y");
        providers.set_unreachable(&a, now);
        assert!(!providers.may_serve(&other) && !providers.none_reached(), "b was reached");
        providers.add(a, false);
        assert!(providers.may_serve(&other), "it is connected now");
        providers.pause(&a, now);
        assert_eq!((pick(&mut providers, &other, 1, now), providers.may_serve(&other)), (None, true));
        assert_eq!(pick(&mut providers, &other, 1, now + RETRY_AFTER), Some(a));
    }

    #[test]
    fn of_untried_providers_one_that_delivered_to_an_earlier_read_comes_first() {
        let (known, now) = (PeerId::random(), Instant::now());
        let mut providers = Providers::default();
        providers.prefer(known);
        let strangers: Vec<PeerId> = (0..64).map(|_| PeerId::random()).collect();
        assert!(strangers.iter().chain([&known]).all(|peer| providers.add(*peer, true)));
        assert_eq!(pick(&mut providers, &Cid::of(Codec::Raw, b"x"), MIB, now), Some(known));
    }

    #[test]
    fn an_unreachable_provider_is_waited_for_only_if_it_has_delivered() {
        let (living, dead) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        let now = Instant::now();
        let cid = Cid::of(Codec::Raw, b"x");
        providers.add(living, true);
        providers.add(dead, true);
        providers.answered(&living, 1, 1, now);
        providers.set_missing(&living, cid);
        assert!(providers.may_serve(&cid), "the other one was not asked");
        providers.set_unreachable(&dead, now);
        assert!(!providers.may_serve(&cid) && providers.is_lost(&cid));
        providers.answered(&dead, 1, 1, now);
        providers.set_unreachable(&dead, now);
        assert!(providers.may_serve(&cid), "it may come back");
    }

    #[test]
    fn proven_providers_are_preferred_to_untried_ones() {
        let (good, a, b) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        providers.add(good, true);
        let now = Instant::now();
        let cid = Cid::of(Codec::Raw, b"x");
        // The answer is too short to measure a rate.
        assert_eq!(pick(&mut providers, &cid, 1, now), Some(good));
        providers.answered(&good, 1, 1, now + Duration::from_millis(500));
        providers.add(a, true);
        providers.add(b, true);
        // While much is outstanding, one untried provider is tried with one block.
        let ask = |providers: &mut Providers, at| pick(providers, &cid, MIB, at).expect("a provider");
        let asked: Vec<PeerId> = (0..6).map(|_| ask(&mut providers, now)).collect();
        let tried: Vec<PeerId> = asked.iter().copied().filter(|peer| *peer != good).collect();
        let [first] = tried[..] else { panic!("{tried:?}") };
        assert_eq!(asked[0], good);
        // It stalls: the other one is tried after a pause, and the stalled one not again.
        providers.set_stalled(&first, now);
        assert_eq!(ask(&mut providers, now), good);
        let later = now + TRIAL_PAUSE[0];
        let second = ask(&mut providers, later);
        assert!(second == if first == a { b } else { a });
        providers.answered(&second, MIB, MIB, later);
        assert_eq!(providers.next_trial, None, "it answered");
        providers.pause(&good, later);
        providers.pause(&second, later);
        assert_eq!(pick(&mut providers, &cid, 1, later), None, "the stalled one has an open request");
        providers.answered(&first, MIB, 1, later);
        assert_eq!(pick(&mut providers, &cid, 1, later), Some(first));
    }

    #[test]
    fn a_connected_peer_that_lacked_a_block_is_asked_last() {
        let (first, other) = (PeerId::random(), PeerId::random());
        let mut providers = Providers::default();
        let now = Instant::now();
        let [root, block] = [b"r", b"b"].map(|bytes| Cid::of(Codec::Raw, bytes));
        providers.add(first, false);
        assert_eq!(pick(&mut providers, &root, 1, now), Some(first));
        providers.answered(&first, 1, 0, now);
        providers.set_missing(&first, root);
        providers.add(other, false);
        assert_eq!(pick(&mut providers, &block, 1, now), Some(other));
        assert_eq!(pick(&mut providers, &block, 1, now), None, "the other peer may have it");
        providers.set_stalled(&other, now);
        assert_eq!(pick(&mut providers, &block, 1, now), Some(first), "no other peer is left");
    }
}
