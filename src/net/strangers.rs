//! Which peers are strangers, and what they are told.
//!
//! Everybody may join an open network, and its DHT needs addresses. But an address in a private network is of no use outside
//! it, and shows how that network is built. So such addresses pass only between peers that share one: a peer that is
//! connected from a public address, or through a relay at one, is told public addresses only, and only those are believed. The
//! members of a cluster tell each other everything.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
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
    address_ranking::{is_public_host, is_relayed},
    provider_records::ProviderRecords,
};

/// Returns whether the other end of a connection is in a private network that this node is in too, or on this machine. Of
/// a relayed connection, the relay counts.
fn is_near(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Listener { local_addr, send_back_addr } => is_near_caller(local_addr, send_back_addr),
        ConnectedPoint::Dialer { address, .. } => is_near_addr(address),
    }
}

/// As [`is_near`], for an incoming connection. The remote address of a relayed one is only a peer id; the local one names
/// the relay.
pub(super) fn is_near_caller(local: &Multiaddr, remote: &Multiaddr) -> bool {
    is_near_addr(if is_relayed(local) { local } else { remote })
}

/// As [`is_near`], for an address that names the peer's host or its relay.
pub(super) fn is_near_addr(addr: &Multiaddr) -> bool {
    !is_public_host(addr)
}

/// Knows which connected peers are strangers.
#[derive(Default)]
pub(super) struct Strangers {
    in_cluster: bool,
    /// Number of connections to each peer that is near.
    near: HashMap<PeerId, usize>,
}

impl Strangers {
    pub(super) fn new(in_cluster: bool) -> Self {
        Self { in_cluster, near: HashMap::new() }
    }

    fn on_swarm_event(&mut self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, endpoint, .. })
                if is_near(endpoint) =>
            {
                *self.near.entry(*peer_id).or_default() += 1;
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, endpoint, .. }) if is_near(endpoint) => {
                if let Some(count) = self.near.get_mut(peer_id) {
                    *count -= 1;
                    if *count == 0 {
                        self.near.remove(peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    /// Removes the addresses that this peer must not be told, or cannot know.
    pub(super) fn retain_for(&self, peer: &PeerId, addrs: &mut Vec<Multiaddr>) {
        if !self.in_cluster && !self.near.contains_key(peer) {
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
    pub(super) fn new(kad: Kad, in_cluster: bool) -> Self {
        Self { kad, strangers: Strangers::new(in_cluster) }
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
