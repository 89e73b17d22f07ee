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
};

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    futures::FutureExt,
};

use super::{
    dial_failure::{SelfDial, WrongPeer},
    discovery::peer_of,
    map_dial::MapDial,
};

type Connected = (PeerId, StreamMuxerBox);

/// Returns a transport that checks who answers. `self_dials` counts dials to other peers that this node answered.
pub(super) fn check_peer(
    inner: Boxed<Connected>,
    local: PeerId,
    self_dials: Arc<AtomicU64>,
) -> Boxed<Connected> {
    let check_dial = move |dial: <Boxed<Connected> as Transport>::Dial, addr: &Multiaddr, _| {
        let (expected, self_dials) = (peer_of(addr), Arc::clone(&self_dials));
        let check = move |done: io::Result<Connected>| match (done, expected) {
            (Ok((peer, _)), Some(expected)) if peer != expected => {
                if peer == local {
                    self_dials.fetch_add(1, Ordering::Relaxed);
                    return Err(io::Error::other(SelfDial));
                }
                Err(io::Error::other(WrongPeer(peer)))
            }
            (done, _) => done,
        };
        dial.map(check).boxed()
    };
    MapDial::new(inner, check_dial).boxed()
}
