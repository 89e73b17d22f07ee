//! Raw streams for our own protocols: a behaviour that does nothing else.
//!
//! Streams that a peer opens go to one bounded queue. While it is full they wait at their connection, up to a bound
//! above which the newest is reset: the opener sees that, nothing disappears silently.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        FromSwarm, NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::PollSender;

use super::NetError;

/// Streams of one connection that may wait for the queue.
const WAITING: usize = 32;

/// A stream that a peer opened.
pub(super) type Incoming = (PeerId, Stream);
/// Who gets a stream that we open.
pub(super) type Reply = oneshot::Sender<Result<Stream, NetError>>;

/// The behaviour.
pub(super) struct Streams {
    protocol: StreamProtocol,
    incoming: mpsc::Sender<Incoming>,
    wanted: VecDeque<(PeerId, Reply)>,
    /// Connections that run over no relay: a stream takes one of them where there is a choice.
    direct: HashMap<PeerId, Vec<ConnectionId>>,
}

impl Streams {
    pub(super) fn new(protocol: StreamProtocol, incoming: mpsc::Sender<Incoming>) -> Self {
        Self { protocol, incoming, wanted: VecDeque::new(), direct: HashMap::new() }
    }

    /// Opens a stream to a connected peer.
    pub(super) fn open(&mut self, peer: PeerId, reply: Reply) {
        self.wanted.push_back((peer, reply));
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler {
            peer,
            protocol: self.protocol.clone(),
            incoming: PollSender::new(self.incoming.clone()),
            arrived: VecDeque::new(),
            wanted: VecDeque::new(),
            opening: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) if !endpoint.is_relayed() => {
                self.direct.entry(peer_id).or_default().push(connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(direct) = self.direct.get_mut(&peer_id) {
                    direct.retain(|id| *id != connection_id);
                    if direct.is_empty() {
                        self.direct.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.wanted.pop_front() {
            Some((peer_id, reply)) => {
                // The newest is the one most surely alive.
                let direct = self.direct.get(&peer_id).and_then(|ids| ids.last());
                let handler = direct.map_or(NotifyHandler::Any, |id| NotifyHandler::One(*id));
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: reply })
            }
            // The swarm polls again after every command.
            None => Poll::Pending,
        }
    }
}

/// One connection's side of it.
pub(super) struct Handler {
    peer: PeerId,
    protocol: StreamProtocol,
    incoming: PollSender<Incoming>,
    arrived: VecDeque<Stream>,
    wanted: VecDeque<Reply>,
    opening: VecDeque<Reply>,
}

impl Handler {
    fn upgrade(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.upgrade()
    }

    /// Connections are kept: a swarm of ours is small, and a connection at hand saves the first byte's handshake.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        while !self.arrived.is_empty() {
            match self.incoming.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    let stream = self.arrived.pop_front().expect("it is not empty");
                    // The slot has just been reserved.
                    drop(self.incoming.send_item((self.peer, stream)));
                }
                Poll::Ready(Err(_)) => self.arrived.clear(),
                Poll::Pending => break,
            }
        }
        if let Some(reply) = self.wanted.pop_front() {
            self.opening.push_back(reply);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.upgrade(),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        self.wanted.push_back(reply);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                if self.arrived.len() < WAITING {
                    self.arrived.push_back(stream);
                } else {
                    tracing::debug!(peer = %self.peer, "a peer opens more streams than are taken");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream, ..
            }) => {
                if let Some(reply) = self.opening.pop_front() {
                    drop(reply.send(Ok(stream)));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                if let Some(reply) = self.opening.pop_front() {
                    let refused = matches!(error, StreamUpgradeError::NegotiationFailed);
                    let reason = error.to_string();
                    drop(reply.send(Err(if refused {
                        NetError::NotStorgo
                    } else {
                        NetError::Stream(reason)
                    })));
                }
            }
            _ => {}
        }
    }
}
