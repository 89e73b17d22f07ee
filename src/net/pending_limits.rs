//! Incoming connections that have not authenticated yet: each has five seconds, and their number is limited.
//!
//! Everybody may call, so a limit that refused new callers would let a few silent ones shut out all others. Instead, the
//! oldest caller goes: above the limit of a host its own oldest, above the common limit the oldest of the host with the
//! most. Callers in memory, which only tests have, are not limited.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    futures::{FutureExt, future::BoxFuture},
};
use tokio_util::sync::CancellationToken;

use super::host::{Host, oldest_of_largest};

/// Time within which a caller must authenticate: handshake, muxer and the proof of a cluster.
const AUTHENTICATE: Duration = Duration::from_secs(5);

/// A transport that limits the incoming connections of another one.
pub(super) struct PendingLimits<T> {
    inner: T,
    callers: Arc<Callers>,
}

impl<T> PendingLimits<T> {
    pub(super) fn new(inner: T, max: usize, max_per_host: usize) -> Self {
        Self { inner, callers: Arc::new(Callers { max, max_per_host, state: Mutex::default() }) }
    }
}

/// The callers that have not authenticated.
struct Callers {
    max: usize,
    max_per_host: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By arrival.
    waiting: BTreeMap<u64, (Host, CancellationToken)>,
}

/// The place of a caller, until it is dropped.
struct Place {
    callers: Arc<Callers>,
    number: u64,
    /// Cancelled when another caller gets the place.
    lost: CancellationToken,
}

impl Callers {
    fn update<R>(&self, update: impl FnOnce(&mut State) -> R) -> R {
        update(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(self: &Arc<Self>, host: Host) -> Place {
        self.update(|state| {
            let of_host =
                |(number, (of, _)): (&u64, &(Host, CancellationToken))| (*of == host).then_some(*number);
            let same: Vec<u64> = state.waiting.iter().filter_map(of_host).collect();
            let oldest = if same.len() >= self.max_per_host {
                same.first().copied()
            } else if state.waiting.len() >= self.max {
                let all = state.waiting.iter().map(|(number, (of, _))| (Some(*of), *number, *number));
                // Equal hosts take turns: the oldest of all goes.
                oldest_of_largest(all, Some(host)).or_else(|| state.waiting.keys().next().copied())
            } else {
                None
            };
            if let Some((_, lost)) = oldest.and_then(|oldest| state.waiting.remove(&oldest)) {
                lost.cancel();
            }
            let (number, lost) = (state.next, CancellationToken::new());
            state.next += 1;
            state.waiting.insert(number, (host, lost.clone()));
            Place { callers: Arc::clone(self), number, lost }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.callers.update(|state| state.waiting.remove(&self.number));
    }
}

impl<T> Transport for PendingLimits<T>
where
    T: Transport<Error = io::Error> + Unpin,
    T::ListenerUpgrade: Send + 'static,
    T::Output: Send,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<T::Output>>;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        let TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } = event else {
            return Poll::Ready(event.map_upgrade(|_| unreachable!("not incoming")));
        };
        let Some(host) = Host::of(&send_back_addr) else {
            let upgrade = upgrade.boxed();
            return Poll::Ready(TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            });
        };
        let place = self.callers.add(host);
        let upgrade = async move {
            tokio::select! {
                biased;
                done = upgrade => done,
                () = place.lost.cancelled() => Err(io::Error::other("too many callers have not authenticated")),
                () = tokio::time::sleep(AUTHENTICATE) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the caller did not authenticate in time"))
                }
            }
        };
        Poll::Ready(TransportEvent::Incoming {
            listener_id,
            upgrade: upgrade.boxed(),
            local_addr,
            send_back_addr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> Host {
        Host::of(&format!("/ip4/192.0.2.{n}/tcp/1").parse().expect("a multiaddr")).expect("a host")
    }

    #[test]
    fn the_oldest_caller_of_the_busiest_host_loses_its_place() {
        let callers = Arc::new(Callers { max: 10, max_per_host: 6, state: Mutex::default() });
        let honest = callers.add(host(1));
        let silent: Vec<Place> = (0..100).map(|_| callers.add(host(2))).collect();
        let waiting = |places: &[Place]| places.iter().filter(|place| !place.lost.is_cancelled()).count();
        assert_eq!((waiting(&silent), honest.lost.is_cancelled()), (6, false));
        let others: Vec<Place> = (3..11).map(|n| callers.add(host(n))).collect();
        assert!(!honest.lost.is_cancelled());
        assert_eq!((waiting(&silent), waiting(&others)), (1, 8));
        drop((honest, silent, others));
        assert!(callers.update(|state| state.waiting.is_empty()));
    }
}
