//! `AutoNAT` dials its client's addresses on request. This guard allows public addresses, and the host of the client itself.
//!
//! Without it, a stranger could have this node connect to ports of its own machine and of its private network.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    task::{Context, Poll, ready},
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::server,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use super::address_ranking::is_public;

/// The server of `AutoNAT` with the guard.
#[derive(Default)]
pub(super) struct DialBack {
    server: server::Behaviour,
    /// Dials that the server has asked for.
    dials: HashSet<ConnectionId>,
    /// The addresses from which each peer is connected.
    clients: HashMap<PeerId, HashMap<ConnectionId, IpAddr>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the address is neither public nor at the host of the peer that asks")]
struct Refused;

/// Returns the IP address at the start of an address. A name could lead to any host.
fn ip(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

impl DialBack {
    fn is_allowed(&self, client: Option<PeerId>, addr: &Multiaddr) -> bool {
        let Some(ip) = ip(addr) else { return false };
        let own = client.and_then(|client| self.clients.get(&client)).into_iter().flat_map(HashMap::values);
        is_public(addr) && !ip.is_loopback() || own.into_iter().any(|own| *own == ip)
    }
}

impl NetworkBehaviour for DialBack {
    type ConnectionHandler = <server::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if let Some(ip) = ip(remote) {
            self.clients.entry(peer).or_default().insert(id, ip);
        }
        self.server.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.dials.remove(&id) && !addrs.iter().all(|addr| self.is_allowed(peer, addr)) {
            return Err(ConnectionDenied::new(Refused));
        }
        self.server.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let closed = match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                Some((Some(peer_id), connection_id))
            }
            FromSwarm::ListenFailure(failure) => Some((failure.peer_id, failure.connection_id)),
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dials.remove(&connection_id);
                None
            }
            _ => None,
        };
        if let Some((Some(peer), id)) = closed
            && let Some(connections) = self.clients.get_mut(&peer)
        {
            connections.remove(&id);
            if connections.is_empty() {
                self.clients.remove(&peer);
            }
        }
        self.server.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.server.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<server::Event, THandlerInEvent<Self>>> {
        let event = ready!(self.server.poll(cx));
        if let ToSwarm::Dial { opts } = &event {
            self.dials.insert(opts.connection_id());
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_only_public_addresses_and_its_own_host_dialled() {
        let (mut guard, [near, far]) = (DialBack::default(), [PeerId::random(), PeerId::random()]);
        for (peer, ip) in [(near, [10, 0, 0, 7]), (far, [198, 51, 100, 7])] {
            let id = ConnectionId::new_unchecked(usize::from(ip[0]));
            guard.clients.entry(peer).or_default().insert(id, ip.into());
        }
        let allowed = |peer, addr: &str| guard.is_allowed(Some(peer), &addr.parse().expect("a multiaddr"));
        for addr in ["/ip4/198.51.100.1/tcp/1", "/ip6/2001:db8::1/udp/1/quic-v1"] {
            assert!(allowed(near, addr) && allowed(far, addr), "{addr}");
        }
        assert!(allowed(near, "/ip4/10.0.0.7/tcp/22") && !allowed(far, "/ip4/10.0.0.7/tcp/22"));
        for addr in [
            "/ip4/127.0.0.1/tcp/3000",
            "/ip4/10.0.0.8/tcp/22",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/::1/tcp/1",
            "/ip6/::ffff:127.0.0.1/tcp/1",
            "/dns4/localhost/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
        ] {
            assert!(!allowed(near, addr) && !allowed(far, addr), "{addr}");
        }
    }
}
