//! A transport that changes how another transport dials, and nothing else.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    futures::future::BoxFuture,
};

type DialFuture<T> = BoxFuture<'static, Result<<T as Transport>::Output, <T as Transport>::Error>>;
type DialFn<T> = Box<dyn FnMut(<T as Transport>::Dial, &Multiaddr, DialOpts) -> DialFuture<T> + Send>;

/// A transport whose dials pass through a function.
pub(super) struct MapDial<T: Transport> {
    inner: T,
    map: DialFn<T>,
}

impl<T: Transport> MapDial<T> {
    /// `map` gets the future, the address and the options of each dial.
    pub(super) fn new(
        inner: T,
        map: impl FnMut(T::Dial, &Multiaddr, DialOpts) -> DialFuture<T> + Send + 'static,
    ) -> Self {
        Self { inner, map: Box::new(map) }
    }
}

impl<T: Transport + Unpin> Transport for MapDial<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = DialFuture<T>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let dial = self.inner.dial(addr.clone(), opts)?;
        Ok((self.map)(dial, &addr, opts))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
