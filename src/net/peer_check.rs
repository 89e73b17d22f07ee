//! A dial to an address with a peer id fails if another peer answers, and only at this address.
//!
//! libp2p compares the peer ids only after the first of a peer's addresses has led to a connection, and then gives up all
//! of them. But nodes report private and loopback addresses too, and all listen on the same port. The reported address of
//! another machine often leads to this one, and answers first.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::{
    PeerId, Transport,
    core::{ConnectedPoint, muxing::StreamMuxerBox, transport::Boxed},
};
use tokio::time::timeout;

use super::{
    dial_failure::{SelfDial, WrongPeer},
    discovery::peer_of,
    proof::drive,
};

/// Maximum time in which the other end of a connection between equal peer ids closes it.
const CLOSED_BY_OTHER_END: Duration = Duration::from_secs(2);

type Connected = (PeerId, StreamMuxerBox);

/// Returns a transport that checks who answers. `self_dials` counts dials to other peers that this node answered.
pub(super) fn check_peer(
    inner: Boxed<Connected>,
    local: PeerId,
    self_dials: Arc<AtomicU64>,
) -> Boxed<Connected> {
    inner
        .and_then(move |connected, endpoint| check(connected, endpoint, local, self_dials))
        .map_err(|error| error.either(|inner| inner, |checked| checked))
        .boxed()
}

async fn check(
    (peer, mut connection): Connected,
    endpoint: ConnectedPoint,
    local: PeerId,
    self_dials: Arc<AtomicU64>,
) -> io::Result<Connected> {
    let ConnectedPoint::Dialer { address, .. } = endpoint else { return Ok((peer, connection)) };
    if peer == local {
        // The other end learns who has called only if it reads the whole handshake before the connection closes.
        drop(timeout(CLOSED_BY_OTHER_END, drive(&mut connection)).await);
    }
    match peer_of(&address) {
        Some(expected) if peer != expected && peer == local => {
            self_dials.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::other(SelfDial))
        }
        Some(expected) if peer != expected => Err(io::Error::other(WrongPeer(peer))),
        _ => Ok((peer, connection)),
    }
}
