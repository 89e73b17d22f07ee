//! A dial over QUIC ends early if the host refuses the same port on TCP.
//!
//! If nobody listens on a port, the host refuses a TCP connection at once and drops QUIC packets. A dial over both
//! would last until QUIC's handshake timeout of five seconds. So once TCP is refused, a dial over QUIC to the same port
//! has a short time and a few round trips left.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, Transport, futures::FutureExt, multiaddr::Protocol, quic};
use tokio::{sync::broadcast, time::Instant};

use super::map_dial::MapDial;

/// Time left to a dial after a refusal, excluding round trips. QUIC sends a lost first packet again after one second.
const GRACE: Duration = Duration::from_millis(2500);
/// Round trips left to a dial after a refusal.
const ROUND_TRIPS: u32 = 4;
/// Maximum refusals that are remembered, and that a dial may be behind.
const REFUSALS: usize = 64;
/// Time for which a refusal also ends dials that begin after it. Dials over the two transports begin in either order.
const RECENT: Duration = Duration::from_secs(1);

/// A TCP connection that was refused.
#[derive(Clone, Copy)]
struct Refusal {
    host: SocketAddr,
    at: Instant,
    /// Time from the dial to the refusal.
    round_trip: Duration,
}

/// The TCP connections that were refused.
#[derive(Clone)]
pub(super) struct Refusals {
    sender: broadcast::Sender<Refusal>,
    recent: Arc<Mutex<VecDeque<Refusal>>>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(REFUSALS).0, recent: Arc::default() }
    }

    fn add(&self, refusal: Refusal) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REFUSALS {
            recent.pop_front();
        }
        recent.push_back(refusal);
        // Sent under the lock, so that a new subscriber misses none. There may be no subscriber.
        drop(self.sender.send(refusal));
    }

    /// Returns a future that ends when a dial over QUIC to this host is to end.
    fn deadline(&self, host: SocketAddr) -> impl Future<Output = ()> + Send + use<> {
        let (mut refusals, recent) = {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let of_host = |refusal: &&Refusal| refusal.host == host && refusal.at.elapsed() < RECENT;
            (self.sender.subscribe(), recent.iter().rev().find(of_host).copied())
        };
        async move {
            let mut refusal = recent;
            while refusal.is_none() {
                match refusals.recv().await {
                    Ok(next) => refusal = Some(next).filter(|refusal| refusal.host == host),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
            let round_trip = refusal.map_or(Duration::ZERO, |refusal| refusal.round_trip);
            tokio::time::sleep(GRACE + ROUND_TRIPS * round_trip).await;
        }
    }

    /// Returns a TCP transport that records refused dials.
    pub(super) fn record<T>(self, tcp: T) -> MapDial<T>
    where
        T: Transport<Error = io::Error>,
        T::Dial: Send + 'static,
    {
        MapDial::new(tcp, move |dial, addr, _| {
            let (host, started, refusals) = (host(addr), Instant::now(), self.clone());
            let record = move |done: &io::Result<T::Output>| {
                if let (Err(error), Some(host)) = (done, host)
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    refusals.add(Refusal { host, at: Instant::now(), round_trip: started.elapsed() });
                }
            };
            dial.inspect(record).boxed()
        })
    }

    /// Returns a QUIC transport whose dials end early after a refusal.
    pub(super) fn apply<T>(self, quic: T) -> MapDial<T>
    where
        T: Transport<Error = quic::Error>,
        T::Dial: Send + 'static,
        T::Output: Send,
    {
        MapDial::new(quic, move |dial, addr, opts| {
            // In a hole punch, TCP is refused by the NAT that QUIC is to pass.
            let Some(host) = host(addr).filter(|_| opts.role.is_dialer()) else { return dial.boxed() };
            let deadline = self.deadline(host);
            let dial = async move {
                tokio::select! {
                    done = dial => done,
                    () = deadline => Err(quic::Error::HandshakeTimedOut),
                }
            };
            dial.boxed()
        })
    }
}

/// Returns the IP address and port of an address of either transport.
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

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use libp2p::{
        core::{
            Endpoint,
            transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
        },
        futures::future::Pending,
    };

    use super::*;

    /// A transport whose dials never end.
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
    async fn after_a_refusal_a_quic_dial_lasts_two_more_seconds_and_a_hole_punch_goes_on() {
        let refusals = Refusals::new();
        let addr: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().expect("a multiaddr");
        let mut quic = refusals.clone().apply(Silent);
        for (role, ends) in [(Endpoint::Dialer, true), (Endpoint::Listener, false)] {
            let start = Instant::now();
            let dial =
                quic.dial(addr.clone(), DialOpts { role, port_use: PortUse::Reuse }).expect("supported");
            let host = host(&addr).expect("an IP address");
            refusals.add(Refusal { host, at: start, round_trip: Duration::from_millis(100) });
            let ended = tokio::time::timeout(Duration::from_secs(20), dial).await;
            let expected = if ends { Duration::from_millis(2900) } else { Duration::from_secs(20) };
            assert_eq!(
                (ended.is_ok(), start.elapsed().as_millis()),
                (ends, expected.as_millis()),
                "{role:?}"
            );
        }
    }
}
