//! Schedules dials: to bootstrap addresses for ever, and to remembered peers while no DHT peer is connected.

use std::{num::NonZeroU8, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

/// First and longest pause between two dials to a bootstrap address.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// First and longest interval of warnings about a bootstrap address that cannot be reached.
const WARN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// Number of DHT peers from which a lost bootstrap peer is dialled again only after the longest pause.
const ENOUGH: usize = 16;
/// Time that an address waits while another address of the same peer is dialled.
const SAME_PEER: Duration = Duration::from_secs(5);
/// Addresses of one peer dialled at once: as many as an invitation has.
const CONCURRENT: NonZeroU8 = NonZeroU8::new(16).expect("not zero");
/// Lifetime of a connection after which the pause starts again at its shortest.
const STABLE: Duration = Duration::from_secs(10);

/// The bootstrap addresses. They are dialled for ever.
pub(super) struct Bootstrap {
    entries: Vec<BootstrapPeer>,
}

/// The addresses of one peer, or one address without a peer id.
struct BootstrapPeer {
    addrs: Vec<Multiaddr>,
    /// The peer id in the addresses, or of the last connection.
    peer: Option<PeerId>,
    state: DialState,
    pause: Duration,
    next_warning: Instant,
    warn_interval: Duration,
}

enum DialState {
    Waiting(Instant),
    Dialing(ConnectionId),
    Connected {
        since: Instant,
        /// Whether the peer has identified itself. A rejected connection is open for a moment too.
        identified: bool,
    },
}

/// How a new connection relates to the bootstrap addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BootstrapMatch {
    /// It was not made by a bootstrap address.
    None,
    New,
    /// Another bootstrap address leads to the same peer, and its connection is open.
    Duplicate,
}

impl Bootstrap {
    pub(super) fn new(mut addrs: Vec<Multiaddr>) -> Self {
        addrs.sort();
        addrs.dedup();
        let now = Instant::now();
        let mut entries: Vec<BootstrapPeer> = Vec::new();
        for addr in addrs {
            let peer = peer_of(&addr);
            match entries.iter_mut().find(|entry| peer.is_some() && entry.peer == peer) {
                Some(entry) => entry.addrs.push(addr),
                None => entries.push(BootstrapPeer {
                    addrs: vec![addr],
                    peer,
                    state: DialState::Waiting(now),
                    pause: PAUSE.0,
                    next_warning: now,
                    warn_interval: WARN.0,
                }),
            }
        }
        Self { entries }
    }

    /// Returns when the next address is to be dialled.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = |entry: &BootstrapPeer| match entry.state {
            DialState::Waiting(at) => Some(at),
            _ => None,
        };
        self.entries.iter().filter_map(waiting).min()
    }

    /// Returns the dials to make now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<DialOpts> {
        let mut dials = Vec::new();
        for n in 0..self.entries.len() {
            let entry = &self.entries[n];
            if !matches!(entry.state, DialState::Waiting(at) if at <= now) {
                continue;
            }
            // Of several addresses of one peer, one is dialled at a time.
            let same = |other: &&BootstrapPeer| entry.peer.is_some() && other.peer == entry.peer;
            let busy = |state: &&DialState| !matches!(state, DialState::Waiting(_));
            let state = match self.entries.iter().filter(same).map(|other| &other.state).find(busy) {
                Some(DialState::Connected { since, identified }) => {
                    DialState::Connected { since: *since, identified: *identified }
                }
                Some(_) => DialState::Waiting(now + SAME_PEER),
                None => {
                    let opts = entry.dial_opts();
                    let state = DialState::Dialing(opts.connection_id());
                    dials.push(opts);
                    state
                }
            };
            self.entries[n].state = state;
        }
        dials
    }

    /// Notes a new connection. Returns whether a bootstrap address led to it.
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId, now: Instant) -> BootstrapMatch {
        let connected = |entry: &BootstrapPeer| matches!(entry.state, DialState::Connected { .. });
        let again = self.entries.iter().any(|entry| connected(entry) && entry.peer == Some(peer));
        let dialed =
            self.entries.iter_mut().find(|entry| matches!(entry.state, DialState::Dialing(d) if d == id));
        let Some(entry) = dialed else { return BootstrapMatch::None };
        entry.state = DialState::Connected { since: now, identified: false };
        entry.peer = Some(peer);
        if again { BootstrapMatch::Duplicate } else { BootstrapMatch::New }
    }

    /// Notes that a peer has identified itself.
    pub(super) fn identified(&mut self, peer: &PeerId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer.as_ref() == Some(peer)) {
            if let DialState::Connected { identified, .. } = &mut entry.state {
                *identified = true;
                (entry.next_warning, entry.warn_interval) = (Instant::now(), WARN.0);
            }
        }
    }

    /// Notes a failed dial. Returns the address if it is one of these and a warning is due.
    pub(super) fn failed(&mut self, id: ConnectionId, error: &DialError) -> Option<&Multiaddr> {
        let now = Instant::now();
        let entry =
            self.entries.iter_mut().find(|entry| matches!(entry.state, DialState::Dialing(d) if d == id))?;
        if matches!(error, DialError::LocalPeerId { .. }) {
            // Dialled again, because the address may be given to another machine.
            entry.state = DialState::Waiting(now + PAUSE.1);
            return entry.warning_due(now);
        }
        entry.wait_longer(now);
        // An aborted dial is no failure.
        if matches!(error, DialError::Aborted) { None } else { entry.warning_due(now) }
    }

    /// Notes a lost peer. With enough DHT peers left, it is dialled again later: a bootstrap node of a large swarm cannot
    /// keep everybody's idle connection. A peer that was lost before it identified itself counts as a failure. Returns its
    /// address if a warning is due.
    pub(super) fn lost(&mut self, peer: &PeerId, dht_peers: usize, now: Instant) -> Option<&Multiaddr> {
        let mut warn = None;
        for (n, entry) in self.entries.iter_mut().enumerate() {
            let DialState::Connected { since, identified } = entry.state else { continue };
            if entry.peer.as_ref() != Some(peer) {
                continue;
            }
            if since + STABLE <= now {
                entry.pause = PAUSE.0;
            }
            entry.wait_longer(now);
            if !identified {
                warn = warn.or(entry.warning_due(now).is_some().then_some(n));
            } else if dht_peers >= ENOUGH {
                entry.state = DialState::Waiting(now + with_jitter(PAUSE.1));
            }
        }
        warn.map(|n| &self.entries[n].addrs[0])
    }
}

impl BootstrapPeer {
    /// Dials all addresses of a known peer at once; the first connection is used.
    fn dial_opts(&self) -> DialOpts {
        match peer_of(&self.addrs[0]) {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(self.addrs.clone())
                .override_dial_concurrency_factor(CONCURRENT)
                .build(),
            None => dial_opts(self.addrs[0].clone()),
        }
    }

    /// Schedules the next dial after the pause, and doubles the pause.
    fn wait_longer(&mut self, now: Instant) {
        self.state = DialState::Waiting(now + with_jitter(self.pause));
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    /// Returns the address if a warning about it is due, and schedules the next one.
    fn warning_due(&mut self, now: Instant) -> Option<&Multiaddr> {
        if self.next_warning > now {
            return None;
        }
        self.next_warning = now + self.warn_interval;
        self.warn_interval = (self.warn_interval * 2).min(WARN.1);
        self.addrs.first()
    }
}

/// Remembered peers dialled at a time.
const BATCH: usize = 16;

/// Schedules dials to remembered peers while no DHT peer is connected: a few at a time, in turn and for ever.
pub(super) struct ReconnectSchedule {
    at: Instant,
    pause: Duration,
    tried: usize,
}

impl ReconnectSchedule {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, pause: PAUSE.0, tried: 0 }
    }

    /// Returns when the next dials are due.
    pub(super) fn next_due(&self) -> Instant {
        self.at
    }

    /// Returns the peers to dial now, out of all known ones.
    pub(super) fn due(&mut self, now: Instant, known: &[PeerId]) -> Vec<PeerId> {
        if self.at > now {
            return Vec::new();
        }
        self.at = now + with_jitter(self.pause);
        let batch: Vec<PeerId> = known
            .iter()
            .cycle()
            .skip(self.tried % known.len().max(1))
            .take(BATCH.min(known.len()))
            .copied()
            .collect();
        self.tried += batch.len();
        if self.tried >= known.len() {
            // All peers were dialled; the next round is slower.
            self.tried = 0;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
        batch
    }

    /// Starts again with the shortest pause.
    pub(super) fn reset(&mut self) {
        *self = Self::new(Instant::now() + PAUSE.0);
    }
}

/// Varies a pause, so that a swarm does not dial a returning node all at once.
fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

/// Returns the options to dial an address, with or without `/p2p/…`.
pub(super) fn dial_opts(addr: Multiaddr) -> DialOpts {
    match peer_of(&addr) {
        Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![addr]).build(),
        None => DialOpts::unknown_peer_id().address(addr).build(),
    }
}

/// Returns the peer id at the end of an address.
pub(super) fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(libp2p::multiaddr::Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_address_is_dialled_for_ever_with_one_warning() {
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().expect("a multiaddr");
        let mut bootstrap = Bootstrap::new(vec![addr.clone()]);
        let mut warned = Vec::new();
        for _ in 0..5 {
            let dials = bootstrap.due(bootstrap.next_due().expect("dialled again"));
            warned.extend(bootstrap.failed(dials[0].connection_id(), &DialError::NoAddresses).cloned());
        }
        assert_eq!(warned, [addr]);
        // After a connection, a failure is reported again.
        let (id, now) = (next(&mut bootstrap), Instant::now());
        let peer = PeerId::random();
        assert_eq!(bootstrap.connected(id, peer, now), BootstrapMatch::New);
        bootstrap.identified(&peer);
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        let id = next(&mut bootstrap);
        assert!(bootstrap.failed(id, &DialError::Aborted).is_none());
        let id = next(&mut bootstrap);
        assert!(bootstrap.failed(id, &DialError::NoAddresses).is_some());
    }

    /// The only dial that is due next.
    fn next(bootstrap: &mut Bootstrap) -> ConnectionId {
        let dials = bootstrap.due(bootstrap.next_due().expect("dialled again"));
        assert_eq!(dials.len(), 1);
        dials[0].connection_id()
    }

    #[test]
    fn a_peer_that_hangs_up_at_once_is_dialled_less_often_with_one_warning() {
        let (mut bootstrap, peer) = (Bootstrap::new(vec![addr(1, None)]), PeerId::random());
        let (mut warned, mut now) = (0, Instant::now());
        for _ in 0..12 {
            let id = next(&mut bootstrap);
            bootstrap.connected(id, peer, now);
            warned += usize::from(bootstrap.lost(&peer, 0, now).is_some());
        }
        let pause = bootstrap.next_due().expect("dialled again") - now;
        assert!(pause >= PAUSE.1.mul_f64(0.75), "{pause:?}");
        assert_eq!(warned, 1);
        // A peer that identifies itself and then hangs up gets the same pause and no warning.
        let id = next(&mut bootstrap);
        bootstrap.connected(id, peer, now);
        bootstrap.identified(&peer);
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        assert!(bootstrap.next_due().expect("dialled again") - now >= PAUSE.1.mul_f64(0.75));
        // A stable connection resets the pause.
        let id = next(&mut bootstrap);
        bootstrap.connected(id, peer, now);
        bootstrap.identified(&peer);
        now += STABLE;
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        assert!(bootstrap.next_due().expect("dialled again") - now <= PAUSE.0.mul_f64(1.25));
    }

    fn addr(port: u16, peer: Option<PeerId>) -> Multiaddr {
        let addr: Multiaddr = format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr");
        peer.map_or(addr.clone(), |peer| addr.with_p2p(peer).expect("no id yet"))
    }

    #[test]
    fn several_addresses_of_one_peer_are_one_dial_and_one_connection() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let named = (1..9).map(|port| addr(port, Some(peer)));
        let mut bootstrap = Bootstrap::new(named.chain([addr(20, None), addr(21, None)]).collect());
        let ids: Vec<ConnectionId> =
            bootstrap.due(Instant::now()).iter().map(DialOpts::connection_id).collect();
        assert_eq!(ids.len(), 3, "each address without a peer id is dialled");
        let matches: Vec<BootstrapMatch> = ids.iter().map(|id| bootstrap.connected(*id, peer, now)).collect();
        assert_eq!(matches, [BootstrapMatch::New, BootstrapMatch::Duplicate, BootstrapMatch::Duplicate]);
        assert_eq!(bootstrap.next_due(), None);
        // After the connection is lost, one of them is dialled.
        bootstrap.identified(&peer);
        bootstrap.lost(&peer, 0, now);
        let later = now + PAUSE.1;
        let id = bootstrap.due(later)[..].first().expect("one").connection_id();
        assert!(bootstrap.due(later).is_empty());
        assert_eq!(bootstrap.connected(id, peer, later), BootstrapMatch::New);
        assert!(bootstrap.due(later + SAME_PEER).is_empty());
        assert_eq!(bootstrap.next_due(), None);
    }

    #[test]
    fn an_address_of_this_node_is_dialled_again_later() {
        let mut bootstrap = Bootstrap::new(vec![addr(1, None)]);
        let id = next(&mut bootstrap);
        let own = DialError::LocalPeerId { address: addr(1, None) };
        assert_eq!(bootstrap.failed(id, &own), Some(&addr(1, None)), "a warning");
        assert!(bootstrap.next_due().is_some_and(|at| at > Instant::now() + PAUSE.1 / 2));
        next(&mut bootstrap);
    }

    #[test]
    fn all_remembered_peers_are_dialled_in_turn_with_growing_pauses() {
        let known: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
        let mut now = Instant::now();
        let mut schedule = ReconnectSchedule::new(now);
        let mut tried = Vec::new();
        while tried.len() < 40 {
            let batch = schedule.due(now, &known);
            assert!(batch.len() <= BATCH && schedule.due(now, &known).is_empty());
            tried.extend(batch);
            now = schedule.next_due();
        }
        assert!(known.iter().all(|peer| tried.contains(peer)));
        for _ in 0..100 {
            schedule.due(now, &known);
            let pause = schedule.next_due() - now;
            assert!(pause <= PAUSE.1.mul_f64(1.25), "{pause:?}");
            now = schedule.next_due();
        }
        schedule.reset();
        let now = Instant::now() + PAUSE.0;
        assert_eq!(schedule.due(now, &known).len(), BATCH);
        assert!(schedule.next_due() - now <= PAUSE.0.mul_f64(1.25));
    }
}
