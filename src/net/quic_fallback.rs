//! A host that refuses TCP at once does not make a caller wait for QUIC.
//!
//! Where nobody listens, TCP says so and QUIC says nothing: a call by both would take as long as the handshake of QUIC
//! may, five seconds. So where a port is refused on TCP, a call to the same port on QUIC has a moment more, and some
//! round trips.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    futures::{FutureExt, future::BoxFuture},
    multiaddr::Protocol,
    quic,
};
use tokio::{sync::broadcast, time::Instant};

/// What a call has still after a refusal, besides round trips: QUIC sends its first packet again after a second, where
/// that was lost.
const MOMENT: Duration = Duration::from_millis(2500);
/// Round trips that it has besides.
const ROUND_TRIPS: u32 = 4;
/// Refusals that a call may not have looked at yet.
const UNSEEN: usize = 64;

/// How long a refusal holds for a call that begins after it: the two begin together, in either order.
const HOLDS: Duration = Duration::from_secs(1);

/// Who has refused, and how long that took: a round trip.
#[derive(Clone)]
pub(super) struct QuicFallback {
    sender: broadcast::Sender<(SocketAddr, Duration)>,
    last: Arc<Mutex<VecDeque<(SocketAddr, Duration, Instant)>>>,
}

impl QuicFallback {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(UNSEEN).0, last: Arc::default() }
    }

    fn tell(&self, host: SocketAddr, took: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == UNSEEN {
            last.pop_front();
        }
        last.push_back((host, took, Instant::now()));
        // Under the lock, so that who begins to listen misses none. Nobody may be calling by QUIC.
        drop(self.sender.send((host, took)));
    }

    /// Refusals from now on, and how long the last one of this host took.
    fn hear(&self, host: SocketAddr) -> (broadcast::Receiver<(SocketAddr, Duration)>, Option<Duration>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = last.iter().rev().find(|(refused, _, at)| *refused == host && at.elapsed() < HOLDS);
        (self.sender.subscribe(), of_host.map(|(_, took, _)| *took))
    }

    /// TCP, which tells.
    pub(super) fn told_by<T>(&self, inner: T) -> Telling<T> {
        Telling { inner, refusals: self.clone() }
    }

    /// QUIC, which listens.
    pub(super) fn heard_by<T>(&self, inner: T) -> Hearing<T> {
        Hearing { inner, refusals: self.clone() }
    }

    /// Returns when a call to this host has waited long enough after a refusal.
    async fn given_up(
        (mut heard, before): (broadcast::Receiver<(SocketAddr, Duration)>, Option<Duration>),
        host: SocketAddr,
    ) {
        if let Some(took) = before {
            return tokio::time::sleep(MOMENT + ROUND_TRIPS * took).await;
        }
        loop {
            match heard.recv().await {
                Ok((refused, took)) if refused == host => {
                    return tokio::time::sleep(MOMENT + ROUND_TRIPS * took).await;
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// The host and the port of an address, of either transport.
fn host(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// A transport that tells when it was refused.
pub(super) struct Telling<T> {
    inner: T,
    refusals: QuicFallback,
}

impl<T> Transport for Telling<T>
where
    T: Transport<Error = io::Error> + Unpin,
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let (host, begun, refusals) = (host(&addr), Instant::now(), self.refusals.clone());
        let dial = self.inner.dial(addr, opts)?.inspect(move |done| {
            if let (Err(error), Some(host)) = (done, host)
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                refusals.tell(host, begun.elapsed());
            }
        });
        Ok(dial.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// A transport that does not wait long for whom TCP has found to be away.
pub(super) struct Hearing<T> {
    inner: T,
    refusals: QuicFallback,
}

impl<T> Transport for Hearing<T>
where
    T: Transport<Error = quic::Error> + Unpin,
    T::Dial: Send + 'static,
    T::Output: Send,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        // In a hole punch, what refuses TCP is the very NAT that is to be passed.
        let host = host(&addr).filter(|_| opts.role.is_dialer());
        let dial = self.inner.dial(addr, opts)?;
        let Some(host) = host else { return Ok(dial.boxed()) };
        let heard = self.refusals.hear(host);
        let dial = async move {
            tokio::select! {
                done = dial => done,
                () = QuicFallback::given_up(heard, host) => Err(quic::Error::HandshakeTimedOut),
            }
        };
        Ok(dial.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        core::{Endpoint, transport::PortUse},
        futures::future::Pending,
    };

    use super::*;

    /// Nobody answers here.
    struct Silent;

    impl Transport for Silent {
        type Output = ();
        type Error = quic::Error;
        type ListenerUpgrade = Pending<Result<(), quic::Error>>;
        type Dial = Pending<Result<(), quic::Error>>;

        fn listen_on(&mut self, _: ListenerId, addr: Multiaddr) -> Result<(), TransportError<quic::Error>> {
            Err(TransportError::MultiaddrNotSupported(addr))
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(&mut self, _: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<quic::Error>> {
            Ok(libp2p::futures::future::pending())
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, quic::Error>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_quic_may_send_its_first_packet_once_more_and_a_hole_punch_goes_on() {
        let (refusals, took) = (QuicFallback::new(), Duration::from_millis(100));
        let addr: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().expect("a multiaddr");
        let mut quic = refusals.heard_by(Silent);
        for (role, waits) in [(Endpoint::Dialer, true), (Endpoint::Listener, false)] {
            let begun = Instant::now();
            let call = quic.dial(addr.clone(), DialOpts { role, port_use: PortUse::Reuse }).expect("begun");
            refusals.tell(host(&addr).expect("a host"), took);
            let ended = tokio::time::timeout(Duration::from_secs(20), call).await;
            assert_eq!(ended.is_ok(), waits, "{role:?}");
            assert!(begun.elapsed() > Duration::from_secs(2), "{role:?}");
        }
    }
}
