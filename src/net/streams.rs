//! Raw streams for the protocols of other modules, as a libp2p behaviour.
//!
//! Each accepted protocol has one bounded queue for its server. While the queue is full, streams wait at their connection.
//! Above a bound the newest is reset, which its opener sees as an error.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future,
    task::{Context, Poll},
    vec,
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::oneshot;
use tokio_util::sync::PollSender;

use super::{NetError, connected::Shared, protected_peers::ProtectedPeers, protocols::Protocols};

/// Maximum streams of one protocol that wait at one connection for their server's queue.
const WAITING: usize = 32;

/// The behaviour.
pub(super) struct Streams {
    protocols: Protocols,
    commands: VecDeque<(PeerId, NotifyHandler, HandlerCommand)>,
    shared: Shared,
    /// Peers whose connections stay open while idle.
    protected: ProtectedPeers,
}

/// A stream to open.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) protocol: StreamProtocol,
    pub(super) reply: oneshot::Sender<Result<Stream, NetError>>,
}

/// A command to the handler of one connection.
#[derive(Debug)]
pub(super) enum HandlerCommand {
    Open(OpenStream),
    /// Whether the connection stays open while idle.
    KeepAlive(bool),
}

impl Streams {
    pub(super) fn new(protocols: Protocols, shared: Shared, protected: ProtectedPeers) -> Self {
        Self { protocols, commands: VecDeque::new(), shared, protected }
    }

    /// Opens a stream to a connected peer.
    pub(super) fn open(&mut self, peer: PeerId, open: OpenStream) {
        // The newest connection is the least likely to be dead. A direct one is better than a relayed one.
        let newest = self.connections(peer).into_iter().rfind(|(_, direct)| *direct);
        let handler = newest.map_or(NotifyHandler::Any, |(id, _)| NotifyHandler::One(id));
        self.commands.push_back((peer, handler, HandlerCommand::Open(open)));
    }

    /// Returns the connections to a peer, oldest first, and whether each runs without a relay.
    fn connections(&self, peer: PeerId) -> Vec<(ConnectionId, bool)> {
        self.shared.read(|state| {
            let known = state.peers.get(&peer).into_iter().flat_map(|state| &state.connections);
            known.map(|(id, connection)| (*id, !connection.is_relayed())).collect()
        })
    }

    /// Keeps connections to a peer at a bootstrap address open while idle.
    pub(super) fn protect_bootstrap_peer(&mut self, peer: PeerId) {
        self.protected.add_bootstrap(peer);
        self.update_keep_alive(peer);
    }

    /// Keeps connections to a connected DHT peer open while idle, if it is near.
    pub(super) fn protect_dht_peer(&mut self, peer: PeerId) {
        let farthest = self.protected.add_dht_peer(peer);
        for changed in farthest.into_iter().chain([peer]) {
            self.update_keep_alive(changed);
        }
    }

    /// Ends the protection of a disconnected peer. Returns whether there is room for another DHT peer.
    pub(super) fn unprotect(&mut self, peer: PeerId) -> bool {
        self.protected.remove(peer)
    }

    /// Tells each connection to a peer whether to stay open while idle. A relayed connection does so only if there is no
    /// direct one.
    pub(super) fn update_keep_alive(&mut self, peer: PeerId) {
        let (connections, protected) = (self.connections(peer), self.protected.contains(&peer));
        let any_direct = connections.iter().any(|(_, direct)| *direct);
        for (id, direct) in connections {
            let command = HandlerCommand::KeepAlive(protected && (direct || !any_direct));
            self.commands.push_back((peer, NotifyHandler::One(id), command));
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        let accepting = self.protocols.0.iter().map(|(protocol, queue)| Accepting {
            protocol: protocol.clone(),
            queue: PollSender::new(queue.clone()),
            waiting: VecDeque::new(),
        });
        let accepting = accepting.collect();
        Handler { peer, keep_alive: self.protected.contains(&peer), accepting, to_open: VecDeque::new() }
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

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.commands.pop_front() {
            Some((peer_id, handler, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event })
            }
            // The swarm polls again after every command to the task.
            None => Poll::Pending,
        }
    }
}

/// The handler of one connection.
pub(super) struct Handler {
    peer: PeerId,
    keep_alive: bool,
    accepting: Vec<Accepting>,
    to_open: VecDeque<OpenStream>,
}

/// An accepted protocol and its streams that wait for room in the queue of its server.
struct Accepting {
    protocol: StreamProtocol,
    queue: PollSender<(PeerId, Stream)>,
    waiting: VecDeque<Stream>,
}

impl Accepting {
    fn poll(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        while !self.waiting.is_empty() {
            match self.queue.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    let stream = self.waiting.pop_front().expect("it is not empty");
                    // The slot has just been reserved.
                    drop(self.queue.send_item((peer, stream)));
                }
                // The server has ended.
                Poll::Ready(Err(_)) => self.waiting.clear(),
                Poll::Pending => return,
            }
        }
    }
}

/// Negotiates one of the accepted protocols.
pub(super) struct Accepted(Vec<StreamProtocol>);

impl UpgradeInfo for Accepted {
    type Info = StreamProtocol;
    type InfoIter = vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Accepted {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        future::ready(Ok((protocol, stream)))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = HandlerCommand;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accepted;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenStream;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let protocols = self.accepting.iter().map(|accepting| accepting.protocol.clone());
        SubstreamProtocol::new(Accepted(protocols.collect()), ())
    }

    /// The swarm itself keeps a connection with open streams.
    fn connection_keep_alive(&self) -> bool {
        self.keep_alive
            || !self.to_open.is_empty()
            || self.accepting.iter().any(|accepting| !accepting.waiting.is_empty())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpenStream, Self::ToBehaviour>> {
        for accepting in &mut self.accepting {
            accepting.poll(self.peer, cx);
        }
        let Some(open) = self.to_open.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(open.protocol.clone()), open);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, command: HandlerCommand) {
        match command {
            HandlerCommand::Open(open) => self.to_open.push_back(open),
            HandlerCommand::KeepAlive(keep_alive) => self.keep_alive = keep_alive,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), OpenStream>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream),
                ..
            }) => {
                let accepting = self.accepting.iter_mut().find(|accepting| accepting.protocol == protocol);
                if let Some(accepting) = accepting.filter(|accepting| accepting.waiting.len() < WAITING) {
                    accepting.waiting.push_back(stream);
                } else {
                    tracing::debug!(peer = %self.peer, %protocol, "stream reset: too many are waiting");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                drop(info.reply.send(Ok(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => NetError::UnsupportedProtocol(info.protocol),
                    other => NetError::Stream(other.to_string()),
                };
                drop(info.reply.send(Err(error)));
            }
            _ => {}
        }
    }
}
