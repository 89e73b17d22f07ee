//! Whom to dial, and when: bootstrap addresses for ever, and peers of earlier days while nobody is there.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tokio::time::Instant;

/// First and longest pause between two tries of a bootstrap address.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// First and longest pause between two words about a bootstrap address that cannot be reached.
const SAY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// With so many peers of the DHT, the loss of a bootstrap node is nothing to hurry for.
const ENOUGH: usize = 16;
/// A peer found on the local network that could not be reached is left alone for this long.
const SHUN: Duration = Duration::from_secs(300);

/// The addresses that a node must never give up.
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
}

struct Entry {
    addr: Multiaddr,
    state: State,
    pause: Duration,
    /// When it is next to be said that it cannot be reached, and how long after that again.
    say: (Instant, Duration),
}

enum State {
    Waiting(Instant),
    Dialing(ConnectionId),
    Connected(PeerId),
    /// It is our own address.
    Ourselves,
}

impl Bootstrap {
    pub(super) fn new(mut addrs: Vec<Multiaddr>) -> Self {
        addrs.sort();
        addrs.dedup();
        let now = Instant::now();
        let entry = |addr| Entry { addr, state: State::Waiting(now), pause: PAUSE.0, say: (now, SAY.0) };
        Self { entries: addrs.into_iter().map(entry).collect() }
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
        for entry in &mut self.entries {
            if matches!(entry.state, State::Waiting(at) if at <= now) {
                let opts = dial_opts(entry.addr.clone());
                entry.state = State::Dialing(opts.connection_id());
                dials.push(opts);
            }
        }
        dials
    }

    /// A connection is there; `true` where one of these addresses led to it.
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId) -> bool {
        let dialed =
            self.entries.iter_mut().find(|entry| matches!(entry.state, State::Dialing(d) if d == id));
        if let Some(entry) = dialed {
            entry.state = State::Connected(peer);
            entry.pause = PAUSE.0;
            entry.say = (Instant::now(), SAY.0);
            return true;
        }
        false
    }

    /// A try has failed; answers with the address where it was one of these, and it is time to say so.
    pub(super) fn failed(&mut self, id: ConnectionId, error: &DialError) -> Option<&Multiaddr> {
        let now = Instant::now();
        let entry =
            self.entries.iter_mut().find(|entry| matches!(entry.state, State::Dialing(d) if d == id))?;
        entry.state = if matches!(error, DialError::LocalPeerId { .. }) {
            State::Ourselves
        } else {
            let pause = spread(entry.pause);
            entry.pause = (entry.pause * 2).min(PAUSE.1);
            State::Waiting(now + pause)
        };
        // An aborted one has not failed: somebody else was waiting.
        if matches!(error, DialError::Aborted) || entry.say.0 > now {
            return None;
        }
        entry.say = (now + entry.say.1, (entry.say.1 * 2).min(SAY.1));
        Some(&entry.addr)
    }

    /// A peer has gone, and so many of the DHT are still there. With enough of them there is no hurry: a bootstrap node
    /// with a large swarm cannot keep everybody's idle connection.
    pub(super) fn lost(&mut self, peer: &PeerId, others: usize) {
        let pause = if others < ENOUGH { PAUSE.0 } else { spread(PAUSE.1) };
        for entry in &mut self.entries {
            if matches!(&entry.state, State::Connected(known) if known == peer) {
                entry.state = State::Waiting(Instant::now() + pause);
            }
        }
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
        Some(peer) => DialOpts::peer_id(peer)
            .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
            .addresses(vec![addr])
            .build(),
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
        let id = bootstrap.due(bootstrap.next_due().expect("due"))[0].connection_id();
        let peer = PeerId::random();
        assert!(bootstrap.connected(id, peer));
        bootstrap.lost(&peer, 0);
        let id = bootstrap.due(bootstrap.next_due().expect("due"))[0].connection_id();
        assert!(bootstrap.failed(id, &DialError::Aborted).is_none());
        let id = bootstrap.due(bootstrap.next_due().expect("due"))[0].connection_id();
        assert!(bootstrap.failed(id, &DialError::NoAddresses).is_some());
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
        assert!(rejoin.due(Instant::now() + PAUSE.0, &[]).is_empty());
    }
}
