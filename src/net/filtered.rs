//! A behaviour of libp2p with a filter: for what peers send to it, for what it sends, and for its dials.

use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

/// Changes what passes between a behaviour and the swarm.
pub(super) trait Filter<B: NetworkBehaviour> {
    /// Changes what the behaviour gets from the connection to a peer.
    fn received(&mut self, _: PeerId, _: &mut THandlerOutEvent<B>) {}

    /// Changes what the behaviour tells the swarm or a connection.
    fn sent(&mut self, _: &mut ToSwarm<B::ToSwarm, THandlerInEvent<B>>) {}

    /// Refuses a dial of any behaviour.
    fn check_dial(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
    ) -> Result<(), ConnectionDenied> {
        Ok(())
    }
}

/// A behaviour and its filter.
pub(super) struct Filtered<B, F> {
    inner: B,
    pub(super) filter: F,
}

impl<B, F> Filtered<B, F> {
    pub(super) fn new(inner: B, filter: F) -> Self {
        Self { inner, filter }
    }
}

impl<B, F> Deref for Filtered<B, F> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B, F> DerefMut for Filtered<B, F> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour, F: Filter<B> + 'static> NetworkBehaviour for Filtered<B, F> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.filter.check_dial(id, peer, addrs)?;
        self.inner.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        mut event: THandlerOutEvent<Self>,
    ) {
        self.filter.received(peer, &mut event);
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(|mut event| {
            self.filter.sent(&mut event);
            event
        })
    }
}
