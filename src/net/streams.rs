//! Raw streams for our own protocols: a behaviour that does nothing else.
//!
//! Streams that a peer opens go to one bounded queue. While it is full they wait at their connection, up to a bound
//! above which the newest is reset: the opener sees that, nothing disappears silently.

use std::{
    collections::{HashMap, HashSet, VecDeque},
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
    orders: VecDeque<(PeerId, NotifyHandler, Order)>,
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Peers whose connections stay when nothing is done on them.
    kept: HashSet<PeerId>,
}

struct Connection {
    id: ConnectionId,
    /// It runs over no relay: a stream takes such a one where there is a choice.
    direct: bool,
}

/// What a connection is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Open a stream.
    Open(Reply),
    /// Stay, or end when idle.
    Keep(bool),
}

impl Streams {
    pub(super) fn new(protocol: StreamProtocol, incoming: mpsc::Sender<Incoming>) -> Self {
        let (orders, connections, kept) = (VecDeque::new(), HashMap::new(), HashSet::new());
        Self { protocol, incoming, orders, connections, kept }
    }

    /// Opens a stream to a connected peer.
    pub(super) fn open(&mut self, peer: PeerId, reply: Reply) {
        // The newest is the one most surely alive.
        let mut connections = self.connections.get(&peer).into_iter().flatten();
        let direct = connections.rfind(|connection| connection.direct);
        let handler = direct.map_or(NotifyHandler::Any, |connection| NotifyHandler::One(connection.id));
        self.orders.push_back((peer, handler, Order::Open(reply)));
    }

    /// Keeps the connections to a peer, those to come as well, or lets them end when they are idle.
    pub(super) fn keep(&mut self, peer: PeerId, keep: bool) {
        let changed = if keep { self.kept.insert(peer) } else { self.kept.remove(&peer) };
        if changed {
            self.keep_ways(peer);
        }
    }

    /// Says of each connection to a peer whether it stays. One through a relay does where there is no other, and else
    /// only as long as it is in use.
    pub(super) fn keep_ways(&mut self, peer: PeerId) {
        let (connections, kept) = (self.connections.get(&peer), self.kept.contains(&peer));
        let direct = connections.is_some_and(|all| all.iter().any(|connection| connection.direct));
        for connection in connections.into_iter().flatten() {
            let keep = kept && (connection.direct || !direct);
            self.orders.push_back((peer, NotifyHandler::One(connection.id), Order::Keep(keep)));
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler {
            peer,
            keep: self.kept.contains(&peer),
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
            }) => {
                let connection = Connection { id: connection_id, direct: !endpoint.is_relayed() };
                self.connections.entry(peer_id).or_default().push(connection);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|connection| connection.id != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
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
        match self.orders.pop_front() {
            Some((peer_id, handler, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event })
            }
            // The swarm polls again after every command.
            None => Poll::Pending,
        }
    }
}

/// One connection's side of it.
pub(super) struct Handler {
    peer: PeerId,
    keep: bool,
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
    type FromBehaviour = Order;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.upgrade()
    }

    /// Besides, a connection stays as long as a stream on it is in use: the swarm sees to that.
    fn connection_keep_alive(&self) -> bool {
        self.keep || !self.wanted.is_empty() || !self.opening.is_empty() || !self.arrived.is_empty()
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

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Open(reply) => self.wanted.push_back(reply),
            Order::Keep(keep) => self.keep = keep,
        }
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
