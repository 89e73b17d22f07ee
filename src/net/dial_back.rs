//! `AutoNAT` and `DCUtR` dial the addresses that a peer names. These filters allow public ones, and the host of that peer.
//!
//! Without them, a stranger could have this node connect to ports of its own machine and of its private network.

use either::Either;
use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::server,
    dcutr,
    swarm::{ConnectionDenied, ConnectionId, THandlerInEvent, THandlerOutEvent, ToSwarm},
};

use super::{filtered::Filter, strangers::Strangers};

/// The filter for the server of `AutoNAT`. A dial to an address that is not allowed fails.
pub(super) struct DialBack {
    strangers: Strangers,
    /// The last dial of the server, which the swarm starts before it polls the server again.
    dial: Option<ConnectionId>,
}

#[derive(Debug, thiserror::Error)]
#[error("the address is neither public nor at the host of the peer that asks")]
struct Refused;

impl DialBack {
    pub(super) fn new(strangers: Strangers) -> Self {
        Self { strangers, dial: None }
    }
}

impl Filter<server::Behaviour> for DialBack {
    fn sent(&mut self, event: &mut ToSwarm<server::Event, THandlerInEvent<server::Behaviour>>) {
        if let ToSwarm::Dial { opts } = event {
            self.dial = Some(opts.connection_id());
        }
    }

    fn check_dial(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
    ) -> Result<(), ConnectionDenied> {
        let allowed = |addr| peer.is_some_and(|peer| self.strangers.may_name(&peer, addr));
        if self.dial == Some(id) && !addrs.iter().all(allowed) {
            return Err(ConnectionDenied::new(Refused));
        }
        Ok(())
    }
}

/// The type of events that only relayed connections have.
trait Relayed {
    type Event;
}

impl<L, R> Relayed for Either<L, R> {
    type Event = L;
}

type HolePunch = <THandlerOutEvent<dcutr::Behaviour> as Relayed>::Event;

/// The members of a cluster may name any address.
impl Filter<dcutr::Behaviour> for Strangers {
    fn received(&mut self, peer: PeerId, event: &mut THandlerOutEvent<dcutr::Behaviour>) {
        if let Either::Left(
            HolePunch::InboundConnectNegotiated { remote_addrs }
            | HolePunch::OutboundConnectNegotiated { remote_addrs },
        ) = event
            && !self.in_cluster
        {
            remote_addrs.retain(|addr| self.may_name(&peer, addr));
        }
    }
}
