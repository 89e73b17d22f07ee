//! Limits the addresses that strangers are told, and those that are believed from them.
//!
//! Everybody may join an open network, and its DHT needs addresses. But an address in a private network is of no use outside
//! it, and shows how that network is built. So peers exchange such addresses only within a private network. A
//! stranger is a peer that is connected from a public address, or through a relay at one. It is told public addresses only, and
//! this node believes no others from it. The members of a cluster tell each other everything.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    kad::{self, KadPeer},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};

use super::{
    address_ranking::{is_name, is_public_host, is_relayed},
    provider_records::ProviderRecords,
};

/// Maximum dials whose resolved addresses are remembered: the swarm asks for each as soon as it succeeds.
const DIALS: usize = 512;

/// Knows which connected peers are strangers.
#[derive(Clone)]
pub(super) struct Strangers {
    in_cluster: bool,
    peers: Arc<Mutex<Peers>>,
}

#[derive(Default)]
struct Peers {
    /// The peers that answered the last dials, oldest first, and whether each did so in a private network. The swarm knows
    /// the dialled name only, and a name can lead into a private network.
    dialled: VecDeque<(PeerId, bool)>,
    /// The connections to each peer that is near.
    near: HashMap<PeerId, HashSet<ConnectionId>>,
}

impl Strangers {
    pub(super) fn new(in_cluster: bool) -> Self {
        Self { in_cluster, peers: Arc::default() }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the peer that answered a dial, with the resolved address.
    pub(super) fn set_dialled(&self, peer: PeerId, endpoint: &ConnectedPoint) {
        if let ConnectedPoint::Dialer { address, .. } = endpoint {
            let mut peers = self.peers();
            if peers.dialled.len() >= DIALS {
                peers.dialled.pop_front();
            }
            peers.dialled.push_back((peer, !is_public_host(address)));
        }
    }

    /// Returns whether a peer that answered a dial is in a private network that this node is in too, or on this machine. For
    /// a relayed connection, the address of the relay decides.
    pub(super) fn is_near(&self, peer: &PeerId, dialled: &Multiaddr) -> bool {
        if !is_name(dialled) {
            return !is_public_host(dialled);
        }
        self.peers().dialled.iter().rev().find(|(known, _)| known == peer).is_some_and(|(_, near)| *near)
    }

    /// As [`Strangers::is_near`], for a caller. The remote address of a relayed connection is only a peer id; the local one
    /// names the relay.
    pub(super) fn is_near_caller(&self, peer: &PeerId, local: &Multiaddr, remote: &Multiaddr) -> bool {
        self.is_near(peer, if is_relayed(local) { local } else { remote })
    }

    fn on_swarm_event(&self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let near = match endpoint {
                    ConnectedPoint::Dialer { address, .. } => self.is_near(peer_id, address),
                    ConnectedPoint::Listener { local_addr, send_back_addr } => {
                        self.is_near_caller(peer_id, local_addr, send_back_addr)
                    }
                };
                if near {
                    self.peers().near.entry(*peer_id).or_default().insert(*connection_id);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                let near = &mut self.peers().near;
                if let Some(connections) = near.get_mut(peer_id) {
                    connections.remove(connection_id);
                    if connections.is_empty() {
                        near.remove(peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns whether a peer is a stranger: this node is open, and no connection to the peer is within a private network.
    pub(super) fn is_stranger(&self, peer: &PeerId) -> bool {
        !self.in_cluster && !self.peers().near.contains_key(peer)
    }

    /// Removes the addresses that this peer must not be told, or cannot know.
    pub(super) fn retain_for(&self, peer: &PeerId, addrs: &mut Vec<Multiaddr>) {
        if self.is_stranger(peer) {
            addrs.retain(is_public_host);
        }
    }

    fn retain_of(&self, peer: &PeerId, described: &mut [KadPeer]) {
        for other in described {
            self.retain_for(peer, &mut other.multiaddrs);
        }
    }
}

type Kad = kad::Behaviour<ProviderRecords>;
type ToHandler = THandlerInEvent<Kad>;
type FromHandler = THandlerOutEvent<Kad>;

/// Kademlia that exchanges addresses of private networks only with peers that share one.
pub(super) struct ScopedKad {
    kad: Kad,
    pub(super) strangers: Strangers,
}

impl ScopedKad {
    pub(super) fn new(kad: Kad, strangers: Strangers) -> Self {
        Self { kad, strangers }
    }
}

impl Deref for ScopedKad {
    type Target = Kad;

    fn deref(&self) -> &Kad {
        &self.kad
    }
}

impl DerefMut for ScopedKad {
    fn deref_mut(&mut self) -> &mut Kad {
        &mut self.kad
    }
}

impl NetworkBehaviour for ScopedKad {
    type ConnectionHandler = <Kad as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kad.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.strangers.on_swarm_event(&event);
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, mut event: FromHandler) {
        match &mut event {
            FromHandler::FindNodeRes { closer_peers, .. }
            | FromHandler::GetRecordRes { closer_peers, .. } => {
                self.strangers.retain_of(&peer, closer_peers);
            }
            FromHandler::GetProvidersRes { closer_peers, provider_peers, .. } => {
                self.strangers.retain_of(&peer, closer_peers);
                self.strangers.retain_of(&peer, provider_peers);
            }
            FromHandler::AddProvider { provider, .. } => {
                self.strangers.retain_for(&peer, &mut provider.multiaddrs);
            }
            _ => {}
        }
        self.kad.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<kad::Event, ToHandler>> {
        let mut event = ready!(self.kad.poll(cx));
        if let ToSwarm::NotifyHandler { peer_id, event, .. } = &mut event {
            match event {
                ToHandler::FindNodeRes { closer_peers, .. }
                | ToHandler::GetRecordRes { closer_peers, .. } => {
                    self.strangers.retain_of(peer_id, closer_peers);
                }
                ToHandler::GetProvidersRes { closer_peers, provider_peers, .. } => {
                    self.strangers.retain_of(peer_id, closer_peers);
                    self.strangers.retain_of(peer_id, provider_peers);
                }
                ToHandler::AddProvider { provider, .. } => {
                    self.strangers.retain_for(peer_id, &mut provider.multiaddrs);
                }
                _ => {}
            }
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn a_peer_dialled_by_name_is_near_if_the_name_leads_into_a_private_network() {
        let strangers = Strangers::new(false);
        let [home, away, unknown] = std::array::from_fn(|_| PeerId::random());
        let dial = |peer, resolved: &str| {
            let endpoint = ConnectedPoint::Dialer {
                address: addr(resolved),
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            strangers.set_dialled(peer, &endpoint);
        };
        dial(home, "/ip4/172.18.0.2/tcp/3000");
        dial(away, "/ip4/198.51.100.1/tcp/3000");
        let name = addr("/dns4/node1/tcp/3000");
        assert_eq!([home, away, unknown].map(|peer| strangers.is_near(&peer, &name)), [true, false, false]);
        assert!(!strangers.is_near(&home, &addr("/ip4/198.51.100.2/tcp/3000")));
        // The last dial counts.
        dial(home, "/ip4/198.51.100.1/tcp/3000");
        assert!(!strangers.is_near(&home, &name));
        (0..2 * DIALS).for_each(|_| dial(PeerId::random(), "/ip4/10.0.0.1/tcp/1"));
        assert_eq!(strangers.peers().dialled.len(), DIALS);
    }
}
