//! Identify that tells strangers less: no addresses of private networks, and no version.
//!
//! The behaviour of libp2p tells every peer the same. So there are two of them, and each connection belongs to one.

use std::{
    collections::HashSet,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    identify,
    identity::PublicKey,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionId, ExternalAddresses, FromSwarm, ListenAddresses,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use super::{address_ranking::is_public_host, strangers::Strangers};

type Handler = <identify::Behaviour as NetworkBehaviour>::ConnectionHandler;
type ToHandler = THandlerInEvent<identify::Behaviour>;

pub(super) struct ScopedIdentify {
    strangers: Strangers,
    /// For members of this node's cluster and peers in its private network.
    near: identify::Behaviour,
    /// For all others. It knows the private addresses too: with their ports it turns the address that a peer observed of an
    /// outgoing connection into one that accepts connections. Its handlers, which send addresses, get the public ones.
    far: identify::Behaviour,
    listen: ListenAddresses,
    external: ExternalAddresses,
    /// The connections to near peers.
    to_near: HashSet<ConnectionId>,
}

impl ScopedIdentify {
    pub(super) fn new(key: &PublicKey, strangers: Strangers) -> Self {
        let identify = |agent: &str| {
            let config = identify::Config::new("/storgo/1.0.0".into(), key.clone())
                .with_agent_version(agent.into())
                // The address book has the addresses that are believed.
                .with_cache_size(0)
                // A relayed address becomes known only after peers have identified this node.
                .with_push_listen_addr_updates(true);
            identify::Behaviour::new(config)
        };
        let near = identify(concat!("storgo/", env!("CARGO_PKG_VERSION")));
        Self {
            strangers,
            near,
            far: identify("storgo"),
            listen: ListenAddresses::default(),
            external: ExternalAddresses::default(),
            to_near: HashSet::new(),
        }
    }

    fn of(&mut self, id: ConnectionId) -> &mut identify::Behaviour {
        if self.to_near.contains(&id) { &mut self.near } else { &mut self.far }
    }

    fn add(&mut self, id: ConnectionId, near: bool) -> &mut identify::Behaviour {
        if near || self.strangers.in_cluster {
            self.to_near.insert(id);
        }
        self.of(id)
    }

    /// Sets the addresses that the handler of a new connection sends.
    fn scope(&self, id: ConnectionId, mut handler: Handler) -> Handler {
        if !self.to_near.contains(&id) {
            let known = self.listen.iter().chain(self.external.iter());
            let public = known.filter(|addr| is_public_host(addr)).cloned().collect();
            handler.on_behaviour_event(ToHandler::AddressesChanged(public));
        }
        handler
    }
}

impl NetworkBehaviour for ScopedIdentify {
    type ConnectionHandler = Handler;
    type ToSwarm = identify::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let near = self.strangers.is_near_caller(&peer, local, remote);
        let handler = self.add(id, near).handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(self.scope(id, handler))
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
        let handler =
            self.add(id, near).handle_established_outbound_connection(id, peer, addr, role, port)?;
        Ok(self.scope(id, handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.of(established.connection_id).on_swarm_event(event);
            }
            FromSwarm::AddressChange(change) => self.of(change.connection_id).on_swarm_event(event),
            FromSwarm::ConnectionClosed(closed) => {
                self.of(closed.connection_id).on_swarm_event(event);
                self.to_near.remove(&closed.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.to_near.remove(&failure.connection_id);
            }
            other => {
                if let FromSwarm::DialFailure(failure) = other {
                    self.to_near.remove(&failure.connection_id);
                }
                self.listen.on_swarm_event(&other);
                self.external.on_swarm_event(&other);
                self.near.on_swarm_event(other);
                self.far.on_swarm_event(other);
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
        self.far.poll(cx).map(|mut event| {
            if let ToSwarm::NotifyHandler { event: ToHandler::AddressesChanged(addrs), .. } = &mut event {
                addrs.retain(is_public_host);
            }
            event
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use libp2p::{core::transport::ListenerId, identity::Keypair, swarm::behaviour::NewListenAddr};

    use super::{super::connected::Shared, *};

    type FromHandler = THandlerOutEvent<identify::Behaviour>;

    fn addr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn the_observed_address_of_a_node_behind_a_nat_gets_its_listen_port() {
        let key = Keypair::generate_ed25519().public();
        let mut identify = ScopedIdentify::new(&key, Strangers::new(false, Shared::default()));
        let listen = addr("/ip4/192.168.1.5/tcp/3000");
        let listener_id = ListenerId::next();
        identify.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &listen }));
        let (id, remote) = (ConnectionId::new_unchecked(1), Keypair::generate_ed25519().public());
        let peer = remote.to_peer_id();
        let server = addr("/ip4/198.51.100.1/tcp/3000");
        let handler = identify.handle_established_outbound_connection(
            id,
            peer,
            &server,
            Endpoint::Dialer,
            PortUse::New,
        );
        assert!(handler.is_ok());
        let info = identify::Info {
            public_key: remote,
            protocol_version: String::new(),
            agent_version: String::new(),
            listen_addrs: Vec::new(),
            protocols: Vec::new(),
            observed_addr: addr("/ip4/203.0.113.7/tcp/51234"),
            signed_peer_record: None,
        };
        identify.on_connection_handler_event(peer, id, FromHandler::Identified(info));
        let mut context = Context::from_waker(Waker::noop());
        let mut candidates = Vec::new();
        while let Poll::Ready(event) = identify.poll(&mut context) {
            if let ToSwarm::NewExternalAddrCandidate(addr) = event {
                candidates.push(addr);
            }
        }
        assert_eq!(candidates, [addr("/ip4/203.0.113.7/tcp/3000")]);
    }
}
