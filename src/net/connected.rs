//! The state of the swarm that handles and behaviours read without a command to the task: connected peers and counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::{address_ranking::is_relayed, host::Host};

/// A handle on the state, which the task updates.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<SwarmState>>);

impl Shared {
    pub(super) fn read<T>(&self, read: impl FnOnce(&SwarmState) -> T) -> T {
        self.update(|state| read(state))
    }

    pub(super) fn update<T>(&self, update: impl FnOnce(&mut SwarmState) -> T) -> T {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
pub(super) struct SwarmState {
    pub(super) peers: HashMap<PeerId, Peer>,
    pub(super) listen: Vec<Multiaddr>,
    pub(super) duplicate_identity: Option<Multiaddr>,
    pub(super) announced: u64,
    pub(super) queued: u64,
    /// Address of the last dialled node of another cluster.
    pub(super) other_cluster: Option<Multiaddr>,
}

/// A connected peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Oldest first.
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) rtt: Option<Duration>,
    pub(super) agent: Option<String>,
    pub(super) dht: bool,
}

pub(super) struct Connection {
    /// The remote address. For a relayed connection, that of the relay and then the peer.
    pub(super) addr: Multiaddr,
    pub(super) incoming: bool,
    /// Whether it is within a private network.
    pub(super) near: bool,
}

impl SwarmState {
    /// Returns the connections to a peer, oldest first.
    pub(super) fn connections(&self, peer: &PeerId) -> impl DoubleEndedIterator<Item = &Connection> {
        self.peers.get(peer).into_iter().flat_map(|state| state.connections.values())
    }

    /// Returns the host of a connected peer: of several, always the same one.
    pub(super) fn host(&self, peer: &PeerId) -> Option<Host> {
        self.connections(peer).filter_map(|connection| Host::of(&connection.addr)).min()
    }
}

impl Connection {
    pub(super) fn is_relayed(&self) -> bool {
        is_relayed(&self.addr)
    }

    /// Returns whether the peer has connected without a relay.
    pub(super) fn is_direct_call(&self) -> bool {
        self.incoming && !self.is_relayed()
    }
}
