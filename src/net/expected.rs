//! Who answers at an address is who was called, or the call by this address has failed and the others go on.
//!
//! libp2p looks at the peer only when the first of a peer's addresses has led to somebody, and then gives up all of them.
//! But nodes tell private addresses, the one of their loopback among them, and all listen on the same port: what is told
//! of another machine may well lead to this one, and always first.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
    },
    futures::{FutureExt, future::BoxFuture},
};

use super::discovery::peer_of;

type Connected = (PeerId, StreamMuxerBox);

/// A transport that looks who answers.
pub(super) struct Expected {
    pub(super) inner: Boxed<Connected>,
    pub(super) local: PeerId,
    /// How often we were called where another peer was.
    pub(super) self_calls: Arc<AtomicU64>,
}

impl Transport for Expected {
    type Output = Connected;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Connected> as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Connected>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let expected = peer_of(&addr);
        let (dial, local, self_calls) =
            (self.inner.dial(addr, opts)?, self.local, Arc::clone(&self.self_calls));
        let check = move |done: io::Result<Connected>| match (done, expected) {
            (Ok((peer, _)), Some(expected)) if peer != expected => {
                if peer == local {
                    self_calls.fetch_add(1, Ordering::Relaxed);
                    return Err(io::Error::other("that is this node itself"));
                }
                Err(io::Error::other(format!("another peer is at this address: {peer}")))
            }
            (done, _) => done,
        };
        Ok(dial.map(check).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
