//! Whom to dial, and when: bootstrap addresses for ever, others a few times.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tokio::time::Instant;

/// First and longest pause between two tries of a bootstrap address.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
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
        let entry = |addr| Entry { addr, state: State::Waiting(now), pause: PAUSE.0 };
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

    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Dialing(dialing) if dialing == id) {
                entry.state = State::Connected(peer);
                entry.pause = PAUSE.0;
            }
        }
    }

    /// A try has failed; answers with the address where it was one of these.
    pub(super) fn failed(&mut self, id: ConnectionId, error: &DialError) -> Option<&Multiaddr> {
        let entry =
            self.entries.iter_mut().find(|entry| matches!(entry.state, State::Dialing(d) if d == id))?;
        entry.state = if let DialError::LocalPeerId { .. } = error {
            State::Ourselves
        } else {
            // Spread, so that a swarm does not knock at its returning bootstrap node all at once.
            let pause = entry.pause.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            entry.pause = (entry.pause * 2).min(PAUSE.1);
            State::Waiting(Instant::now() + pause)
        };
        Some(&entry.addr)
    }

    pub(super) fn lost(&mut self, peer: &PeerId) {
        for entry in &mut self.entries {
            if matches!(&entry.state, State::Connected(known) if known == peer) {
                entry.state = State::Waiting(Instant::now() + PAUSE.0);
            }
        }
    }
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
