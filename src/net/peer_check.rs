//! A dial to an address with a peer id fails if another peer answers, and only at this address.
//!
//! libp2p compares the peer ids only after the first of a peer's addresses has led to a connection, and then gives up all
//! of them. But nodes report private and loopback addresses too, and all listen on the same port. The reported address of
//! another machine often leads to this one, and answers first.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::{StreamMuxerBox, StreamMuxerExt},
        transport::Boxed,
    },
    futures::{FutureExt, TryFutureExt},
};
use tokio::time::timeout;

use super::{
    dial_failure::{SelfDial, WrongPeer},
    discovery::peer_of,
    map_dial::MapDial,
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
    let check_dial = move |dial: <Boxed<Connected> as Transport>::Dial, addr: &Multiaddr, _| {
        let (expected, self_dials) = (peer_of(addr), Arc::clone(&self_dials));
        dial.and_then(async move |(peer, mut connection)| {
            if peer == local {
                // What the other end still reads after a close would decide whether it learns who has called.
                drop(timeout(CLOSED_BY_OTHER_END, poll_fn(|cx| drain(&mut connection, cx))).await);
            }
            match expected {
                Some(expected) if peer == expected => Ok((peer, connection)),
                Some(_) if peer == local => {
                    self_dials.fetch_add(1, Ordering::Relaxed);
                    Err(io::Error::other(SelfDial))
                }
                Some(_) => Err(io::Error::other(WrongPeer(peer))),
                None => Ok((peer, connection)),
            }
        })
        .boxed()
    };
    MapDial::new(inner, check_dial).boxed()
}

/// Reads from a connection until it ends.
fn drain(connection: &mut StreamMuxerBox, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        match connection.poll_unpin(cx) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
