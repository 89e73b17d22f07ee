//! Whom to dial, and when: bootstrap addresses for ever, and peers of earlier days while nobody is there.

use std::{collections::HashMap, num::NonZeroU8, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

/// First and longest pause between two tries of a bootstrap address.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// First and longest pause between two words about a bootstrap address that cannot be reached.
const SAY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// With so many peers of the DHT, the loss of a bootstrap node is nothing to hurry for.
const ENOUGH: usize = 16;
/// While one address is tried, others that led to the same peer wait for so long.
const NEXT: Duration = Duration::from_secs(5);
/// Addresses of one peer that are tried at once: as many as an invitation carries.
const AT_ONCE: NonZeroU8 = NonZeroU8::new(16).expect("not zero");
/// A peer found on the local network that could not be reached is left alone for this long.
const SHUN: Duration = Duration::from_secs(300);

/// A connection that has lived for so long was a good one: the next try begins with short pauses again.
const LIVED: Duration = Duration::from_secs(10);

/// The addresses that a node must never give up.
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
}

/// Addresses of one peer, or one address without a peer's id.
struct Entry {
    addrs: Vec<Multiaddr>,
    /// Who is there: as the addresses say, or who was there the last time.
    peer: Option<PeerId>,
    state: State,
    pause: Duration,
    /// When it is next to be said that it cannot be reached, and how long after that again.
    say: (Instant, Duration),
}

enum State {
    Waiting(Instant),
    Dialing(ConnectionId),
    Connected {
        since: Instant,
        /// It has said who it is: whoever is turned away is connected for a moment, too.
        identified: bool,
    },
}

/// Where a connection was led to by a bootstrap address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Led {
    /// It was none of them that led here.
    Elsewhere,
    ToPeer,
    /// To a peer to which another of the addresses has led before, and whose connection lives.
    ToTheSame,
}

impl Bootstrap {
    pub(super) fn new(mut addrs: Vec<Multiaddr>) -> Self {
        addrs.sort();
        addrs.dedup();
        let now = Instant::now();
        let mut entries: Vec<Entry> = Vec::new();
        for addr in addrs {
            let peer = peer_of(&addr);
            match entries.iter_mut().find(|entry| peer.is_some() && entry.peer == peer) {
                Some(entry) => entry.addrs.push(addr),
                None => entries.push(Entry {
                    addrs: vec![addr],
                    peer,
                    state: State::Waiting(now),
                    pause: PAUSE.0,
                    say: (now, SAY.0),
                }),
            }
        }
        Self { entries }
    }

    /// When the next address is to be tried.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = |entry: &Entry| match entry.state {
            State::Waiting(at) => Some(at),
            _ => None,
        };
        self.entries.iter().filter_map(waiting).min()
    }

    /// What to dial now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<DialOpts> {
        let mut dials = Vec::new();
        for n in 0..self.entries.len() {
            let entry = &self.entries[n];
            if !matches!(entry.state, State::Waiting(at) if at <= now) {
                continue;
            }
            // Where others lead to the same peer, one at a time is enough.
            let same = |other: &&Entry| entry.peer.is_some() && other.peer == entry.peer;
            let busy = |state: &&State| !matches!(state, State::Waiting(_));
            let state = match self.entries.iter().filter(same).map(|other| &other.state).find(busy) {
                Some(State::Connected { since, identified }) => {
                    State::Connected { since: *since, identified: *identified }
                }
                Some(_) => State::Waiting(now + NEXT),
                None => {
                    let opts = entry.dial_opts();
                    let state = State::Dialing(opts.connection_id());
                    dials.push(opts);
                    state
                }
            };
            self.entries[n].state = state;
        }
        dials
    }

    /// A connection is there: whether one of these addresses led to it.
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId, now: Instant) -> Led {
        let connected = |entry: &Entry| matches!(entry.state, State::Connected { .. });
        let again = self.entries.iter().any(|entry| connected(entry) && entry.peer == Some(peer));
        let dialed =
            self.entries.iter_mut().find(|entry| matches!(entry.state, State::Dialing(d) if d == id));
        let Some(entry) = dialed else { return Led::Elsewhere };
        entry.state = State::Connected { since: now, identified: false };
        entry.peer = Some(peer);
        if again { Led::ToTheSame } else { Led::ToPeer }
    }

    /// A peer has said who it is.
    pub(super) fn identified(&mut self, peer: &PeerId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer.as_ref() == Some(peer)) {
            if let State::Connected { identified, .. } = &mut entry.state {
                *identified = true;
                entry.say = (Instant::now(), SAY.0);
            }
        }
    }

    /// A try has failed; answers with the address where it was one of these, and it is time to say so.
    pub(super) fn failed(&mut self, id: ConnectionId, error: &DialError) -> Option<&Multiaddr> {
        let now = Instant::now();
        let entry =
            self.entries.iter_mut().find(|entry| matches!(entry.state, State::Dialing(d) if d == id))?;
        if matches!(error, DialError::LocalPeerId { .. }) {
            // Our own, for now: a host may be given to another machine.
            entry.state = State::Waiting(now + PAUSE.1);
            return entry.worth_saying(now);
        }
        entry.wait_longer(now);
        // An aborted one has not failed: somebody else was waiting.
        if matches!(error, DialError::Aborted) { None } else { entry.worth_saying(now) }
    }

    /// A peer has gone, and so many of the DHT are still there. With enough of them there is no hurry: a bootstrap node
    /// with a large swarm cannot keep everybody's idle connection. Whoever goes without having said who it is has failed:
    /// answers with the address, where it is time to say so.
    pub(super) fn lost(&mut self, peer: &PeerId, others: usize, now: Instant) -> Option<&Multiaddr> {
        let mut say = None;
        for (n, entry) in self.entries.iter_mut().enumerate() {
            let State::Connected { since, identified } = entry.state else { continue };
            if entry.peer.as_ref() != Some(peer) {
                continue;
            }
            if since + LIVED <= now {
                entry.pause = PAUSE.0;
            }
            entry.wait_longer(now);
            if !identified {
                say = say.or(entry.worth_saying(now).is_some().then_some(n));
            } else if others >= ENOUGH {
                entry.state = State::Waiting(now + spread(PAUSE.1));
            }
        }
        say.map(|n| &self.entries[n].addrs[0])
    }
}

impl Entry {
    /// By all its addresses at once: the first that leads there is enough.
    fn dial_opts(&self) -> DialOpts {
        match peer_of(&self.addrs[0]) {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(self.addrs.clone())
                .override_dial_concurrency_factor(AT_ONCE)
                .build(),
            None => dial_opts(self.addrs[0].clone()),
        }
    }

    /// The next try comes after the pause, and the one after that twice as late.
    fn wait_longer(&mut self, now: Instant) {
        self.state = State::Waiting(now + spread(self.pause));
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    /// The address, where it is time to say that it cannot be reached.
    fn worth_saying(&mut self, now: Instant) -> Option<&Multiaddr> {
        if self.say.0 > now {
            return None;
        }
        self.say = (now + self.say.1, (self.say.1 * 2).min(SAY.1));
        self.addrs.first()
    }
}

/// Peers dialled at a time to find back into the swarm.
const BATCH: usize = 16;

/// The way back into the swarm while nobody of it is connected: peers that were seen before, a few at a time, in turn
/// and for ever.
pub(super) struct Rejoin {
    at: Instant,
    pause: Duration,
    tried: usize,
}

impl Rejoin {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, pause: PAUSE.0, tried: 0 }
    }

    /// When it is next to be tried.
    pub(super) fn next_due(&self) -> Instant {
        self.at
    }

    /// Whom to dial now, out of all who are known.
    pub(super) fn due(&mut self, now: Instant, known: &[PeerId]) -> Vec<PeerId> {
        if self.at > now {
            return Vec::new();
        }
        self.at = now + spread(self.pause);
        let batch: Vec<PeerId> = known
            .iter()
            .cycle()
            .skip(self.tried % known.len().max(1))
            .take(BATCH.min(known.len()))
            .copied()
            .collect();
        self.tried += batch.len();
        if self.tried >= known.len() {
            // Everybody has been tried: there is no hurry to begin again.
            self.tried = 0;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
        batch
    }

    /// Somebody is there, or has just gone: the next search begins with short pauses.
    pub(super) fn reset(&mut self) {
        *self = Self::new(Instant::now() + PAUSE.0);
    }
}

/// Spread, so that a swarm does not knock at its returning node all at once.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

/// How to dial an address, with or without `/p2p/…`.
pub(super) fn dial_opts(addr: Multiaddr) -> DialOpts {
    match peer_of(&addr) {
        Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![addr]).build(),
        None => DialOpts::unknown_peer_id().address(addr).build(),
    }
}

/// The peer id at the end of an address.
pub(super) fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(libp2p::multiaddr::Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Peers of the local network that could not be reached, a stranger's node among them.
#[derive(Default)]
pub(super) struct Shunned(HashMap<PeerId, Instant>);

impl Shunned {
    pub(super) fn add(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        if self.0.len() < 1024 {
            self.0.insert(peer, now + SHUN);
        }
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_answer_is_named_once_and_tried_on() {
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().expect("a multiaddr");
        let mut bootstrap = Bootstrap::new(vec![addr.clone()]);
        let mut named = Vec::new();
        for _ in 0..5 {
            let dials = bootstrap.due(bootstrap.next_due().expect("tried again"));
            named.extend(bootstrap.failed(dials[0].connection_id(), &DialError::NoAddresses).cloned());
        }
        assert_eq!(named, [addr]);
        // Once it was there, its loss is news.
        let (id, now) = (next(&mut bootstrap), Instant::now());
        let peer = PeerId::random();
        assert_eq!(bootstrap.connected(id, peer, now), Led::ToPeer);
        bootstrap.identified(&peer);
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        let id = next(&mut bootstrap);
        assert!(bootstrap.failed(id, &DialError::Aborted).is_none());
        let id = next(&mut bootstrap);
        assert!(bootstrap.failed(id, &DialError::NoAddresses).is_some());
    }

    /// The only dial that is due next.
    fn next(bootstrap: &mut Bootstrap) -> ConnectionId {
        let dials = bootstrap.due(bootstrap.next_due().expect("tried again"));
        assert_eq!(dials.len(), 1);
        dials[0].connection_id()
    }

    #[test]
    fn who_hangs_up_at_once_is_called_less_and_less_often_and_named() {
        let (mut bootstrap, peer) = (Bootstrap::new(vec![addr(1, None)]), PeerId::random());
        let (mut named, mut now) = (0, Instant::now());
        for _ in 0..12 {
            let id = next(&mut bootstrap);
            bootstrap.connected(id, peer, now);
            named += usize::from(bootstrap.lost(&peer, 0, now).is_some());
        }
        let pause = bootstrap.next_due().expect("for ever") - now;
        assert!(pause >= PAUSE.1.mul_f64(0.75), "{pause:?}");
        assert_eq!(named, 1);
        // One that says who it is and hangs up then is no better, but it answers.
        let id = next(&mut bootstrap);
        bootstrap.connected(id, peer, now);
        bootstrap.identified(&peer);
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        assert!(bootstrap.next_due().expect("for ever") - now >= PAUSE.1.mul_f64(0.75));
        // A connection that has lived is a new beginning.
        let id = next(&mut bootstrap);
        bootstrap.connected(id, peer, now);
        bootstrap.identified(&peer);
        now += LIVED;
        assert!(bootstrap.lost(&peer, 0, now).is_none());
        assert!(bootstrap.next_due().expect("for ever") - now <= PAUSE.0.mul_f64(1.25));
    }

    fn addr(port: u16, peer: Option<PeerId>) -> Multiaddr {
        let addr: Multiaddr = format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr");
        peer.map_or(addr.clone(), |peer| addr.with_p2p(peer).expect("no id yet"))
    }

    #[test]
    fn several_addresses_of_one_peer_are_one_call_and_one_connection() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let named = (1..9).map(|port| addr(port, Some(peer)));
        let mut bootstrap = Bootstrap::new(named.chain([addr(20, None), addr(21, None)]).collect());
        let ids: Vec<ConnectionId> =
            bootstrap.due(Instant::now()).iter().map(DialOpts::connection_id).collect();
        assert_eq!(ids.len(), 3, "who is at an address without an id cannot be known before");
        let led: Vec<Led> = ids.iter().map(|id| bootstrap.connected(*id, peer, now)).collect();
        assert_eq!(led, [Led::ToPeer, Led::ToTheSame, Led::ToTheSame]);
        assert_eq!(bootstrap.next_due(), None);
        // Once it is gone, one of them is tried; while it is there, none.
        bootstrap.identified(&peer);
        bootstrap.lost(&peer, 0, now);
        let later = now + PAUSE.1;
        let id = bootstrap.due(later)[..].first().expect("one").connection_id();
        assert!(bootstrap.due(later).is_empty());
        assert_eq!(bootstrap.connected(id, peer, later), Led::ToPeer);
        assert!(bootstrap.due(later + NEXT).is_empty());
        assert_eq!(bootstrap.next_due(), None);
    }

    #[test]
    fn an_address_that_is_our_own_may_be_anothers_tomorrow() {
        let mut bootstrap = Bootstrap::new(vec![addr(1, None)]);
        let id = next(&mut bootstrap);
        let ours = DialError::LocalPeerId { address: addr(1, None) };
        assert_eq!(bootstrap.failed(id, &ours), Some(&addr(1, None)), "whoever named it is told");
        assert!(bootstrap.next_due().is_some_and(|at| at > Instant::now() + PAUSE.1 / 2));
        next(&mut bootstrap);
    }

    #[test]
    fn everybody_known_is_tried_in_turn_with_growing_pauses() {
        let known: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
        let mut now = Instant::now();
        let mut rejoin = Rejoin::new(now);
        let mut tried = Vec::new();
        while tried.len() < 40 {
            let batch = rejoin.due(now, &known);
            assert!(batch.len() <= BATCH && rejoin.due(now, &known).is_empty());
            tried.extend(batch);
            now = rejoin.next_due();
        }
        assert!(known.iter().all(|peer| tried.contains(peer)));
        for _ in 0..100 {
            rejoin.due(now, &known);
            let pause = rejoin.next_due() - now;
            assert!(pause <= PAUSE.1.mul_f64(1.25), "{pause:?}");
            now = rejoin.next_due();
        }
        rejoin.reset();
        let now = Instant::now() + PAUSE.0;
        assert_eq!(rejoin.due(now, &known).len(), BATCH);
        assert!(rejoin.next_due() - now <= PAUSE.0.mul_f64(1.25));
    }
}
