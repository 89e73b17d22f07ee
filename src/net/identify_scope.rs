//! Identify that tells strangers less: no addresses of private networks, and no version.
//!
//! The behaviour of libp2p tells every peer the same. So there are two of them, and each connection belongs to one.

use std::{
    collections::HashMap,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    identify,
    identity::PublicKey,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::{address_ranking::is_public_host, strangers::Strangers};

pub(super) struct ScopedIdentify {
    in_cluster: bool,
    strangers: Strangers,
    /// For members of this node's cluster and peers in its private network.
    near: identify::Behaviour,
    far: identify::Behaviour,
    /// Whether the peer of each connection is near.
    connections: HashMap<ConnectionId, bool>,
}

impl ScopedIdentify {
    pub(super) fn new(key: &PublicKey, in_cluster: bool, strangers: Strangers) -> Self {
        let identify = |agent: &str| {
            let config = identify::Config::new("/storgo/1.0.0".into(), key.clone())
                .with_agent_version(agent.into())
                // A relayed address becomes known only after peers have identified this node.
                .with_push_listen_addr_updates(true);
            identify::Behaviour::new(config)
        };
        let near = identify(concat!("storgo/", env!("CARGO_PKG_VERSION")));
        Self { in_cluster, strangers, near, far: identify("storgo"), connections: HashMap::new() }
    }

    fn of(&mut self, id: ConnectionId) -> &mut identify::Behaviour {
        if self.connections.get(&id).copied().unwrap_or_default() { &mut self.near } else { &mut self.far }
    }

    fn add(&mut self, id: ConnectionId, near: bool) -> &mut identify::Behaviour {
        self.connections.insert(id, near || self.in_cluster);
        self.of(id)
    }
}

impl NetworkBehaviour for ScopedIdentify {
    type ConnectionHandler = <identify::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = identify::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let near = self.strangers.is_near_caller(&peer, local, remote);
        self.add(id, near).handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.near.handle_pending_outbound_connection(id, peer, addrs, role)?;
        known.extend(self.far.handle_pending_outbound_connection(id, peer, addrs, role)?);
        Ok(known)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let near = self.strangers.is_near(&peer, addr);
        self.add(id, near).handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.of(established.connection_id).on_swarm_event(event);
            }
            FromSwarm::AddressChange(change) => self.of(change.connection_id).on_swarm_event(event),
            FromSwarm::ConnectionClosed(closed) => {
                self.of(closed.connection_id).on_swarm_event(event);
                self.connections.remove(&closed.connection_id);
            }
            FromSwarm::ListenFailure(failure) => drop(self.connections.remove(&failure.connection_id)),
            other => {
                if let FromSwarm::DialFailure(failure) = other {
                    self.connections.remove(&failure.connection_id);
                }
                let private = match other {
                    FromSwarm::NewListenAddr(event) => !is_public_host(event.addr),
                    FromSwarm::ExternalAddrConfirmed(event) => !is_public_host(event.addr),
                    _ => false,
                };
                self.near.on_swarm_event(other);
                if !private {
                    self.far.on_swarm_event(other);
                }
            }
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.of(id).on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<identify::Event, THandlerInEvent<Self>>> {
        if let Poll::Ready(event) = self.near.poll(cx) {
            return Poll::Ready(event);
        }
        self.far.poll(cx)
    }
}
