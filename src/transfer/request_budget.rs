//! Memory for requests that have arrived and are not answered yet.
//!
//! A peer chooses how many requests it sends, how long they are and when it reads the answers. So the bytes of a request
//! count from before it is read until it is answered, against a limit for the peer and one for all peers. A peer above its
//! own limit breaks the protocol. When the common limit is reached, the peer with the most bytes loses its streams. No other
//! peer does while the memory of the first is enough and not yet returned.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::TransferError;

/// Bytes that each request takes beside its message.
const OVERHEAD: usize = 256;
/// Time for the streams of a peer to end before another peer loses its own.
const RELEASE: Duration = Duration::from_millis(100);

/// The budget for the requests of all peers.
pub(super) struct RequestBudget {
    per_peer: usize,
    all: Arc<Semaphore>,
    peers: Mutex<HashMap<PeerId, Share>>,
}

/// The part of one peer.
struct Share {
    streams: usize,
    own: Arc<Semaphore>,
    /// Cancelled when the streams of the peer are to end.
    ended: CancellationToken,
}

/// A stream whose requests count against the budget, until it is dropped.
pub(super) struct BudgetedStream<'a> {
    budget: &'a RequestBudget,
    peer: PeerId,
    own: Arc<Semaphore>,
    ended: CancellationToken,
}

/// The memory of one request. Dropping it returns the memory.
#[derive(Debug)]
pub(super) struct RequestMemory {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl RequestBudget {
    pub(super) fn new(all: usize, per_peer: usize) -> Self {
        Self { per_peer, all: Arc::new(Semaphore::new(all)), peers: Mutex::default() }
    }

    fn update<T>(&self, update: impl FnOnce(&mut HashMap<PeerId, Share>) -> T) -> T {
        update(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a stream of a peer.
    pub(super) fn add(&self, peer: PeerId) -> BudgetedStream<'_> {
        self.update(|peers| {
            let share = peers.entry(peer).or_insert_with(|| Share {
                streams: 0,
                own: Arc::new(Semaphore::new(self.per_peer)),
                ended: CancellationToken::new(),
            });
            share.streams += 1;
            BudgetedStream { budget: self, peer, own: Arc::clone(&share.own), ended: share.ended.clone() }
        })
    }

    /// Returns the bytes of peers whose streams are ending.
    fn ending(&self, peers: &HashMap<PeerId, Share>) -> usize {
        peers.values().filter(|share| share.ended.is_cancelled()).map(|share| self.held(share)).sum()
    }

    fn held(&self, share: &Share) -> usize {
        self.per_peer - share.own.available_permits()
    }

    /// Ends the streams of the peer whose requests take the most memory, unless streams are ending already that return
    /// these bytes.
    fn end_largest(&self, bytes: usize) {
        self.update(|peers| {
            if self.ending(peers) >= bytes {
                return;
            }
            let held = |share: &Share| self.held(share);
            let candidates =
                peers.iter().filter(|(_, share)| !share.ended.is_cancelled() && held(share) > 0);
            if let Some((peer, share)) = candidates.max_by_key(|(_, share)| held(share)) {
                tracing::info!(%peer, bytes = held(share), "streams ended: others need the memory of their requests");
                share.ended.cancel();
            }
        });
    }
}

impl BudgetedStream<'_> {
    /// Waits until the stream is to end, because others need the memory of its peer.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Takes memory for a request of this length. Waits while other peers hold too much. Errors: the peer itself does.
    pub(super) async fn reserve(&self, len: usize) -> Result<RequestMemory, TransferError> {
        let bytes = u32::try_from(len + OVERHEAD).expect("at most MAX_REQUEST");
        let own = Arc::clone(&self.own)
            .try_acquire_many_owned(bytes)
            .map_err(|_| TransferError::Violation("too many unanswered requests"))?;
        let mut all = std::pin::pin!(Arc::clone(&self.budget.all).acquire_many_owned(bytes));
        let ending = self.budget.update(|peers| self.budget.ending(peers) > 0);
        let mut wait = if ending { RELEASE } else { Duration::ZERO };
        loop {
            tokio::select! {
                biased;
                all = &mut all => {
                    let all = all.map_err(|_| TransferError::Refused("the node is shutting down".into()))?;
                    return Ok(RequestMemory { _own: own, _all: all });
                }
                () = tokio::time::sleep(wait) => self.budget.end_largest(len + OVERHEAD),
            }
            wait = RELEASE;
        }
    }
}

impl Drop for BudgetedStream<'_> {
    fn drop(&mut self) {
        self.budget.update(|peers| {
            if let Some(share) = peers.get_mut(&self.peer) {
                share.streams -= 1;
                if share.streams == 0 {
                    peers.remove(&self.peer);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    #[tokio::test]
    async fn a_peer_above_its_own_limit_breaks_the_protocol() {
        let budget = RequestBudget::new(1 << 20, 64 * KIB);
        let peer = PeerId::random();
        let (one, other) = (budget.add(peer), budget.add(peer));
        let held = one.reserve(40 * KIB).await.expect("free");
        let refused = other.reserve(40 * KIB).await.map(drop);
        assert!(matches!(refused, Err(TransferError::Violation(_))), "{refused:?}");
        drop(held);
        other.reserve(40 * KIB).await.expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_common_limit_is_reached_the_peer_with_the_most_bytes_loses_its_streams() {
        let budget = RequestBudget::new(100 * KIB, 64 * KIB);
        let (small, large, new) =
            (budget.add(PeerId::random()), budget.add(PeerId::random()), budget.add(PeerId::random()));
        let _small = small.reserve(30 * KIB).await.expect("free");
        let held = large.reserve(60 * KIB).await.expect("free");
        let ended = async {
            large.ended().await;
            drop(held);
        };
        let (reserved, ()) = tokio::join!(new.reserve(20 * KIB), ended);
        reserved.expect("the memory of the largest");
        assert!(!small.ended.is_cancelled() && !new.ended.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_wait_end_the_streams_of_one_peer_if_its_memory_is_enough_for_each() {
        let budget = RequestBudget::new(100 * KIB, 64 * KIB);
        let [small, large, one, other] = std::array::from_fn(|_| budget.add(PeerId::random()));
        let _small = small.reserve(30 * KIB).await.expect("free");
        let held = large.reserve(60 * KIB).await.expect("free");
        let ended = async {
            large.ended().await;
            // Streams can take longer to end than others wait for them.
            tokio::time::sleep(5 * RELEASE).await;
            assert!(!small.ended.is_cancelled());
            drop(held);
        };
        let (one, other, ()) = tokio::join!(one.reserve(20 * KIB), other.reserve(20 * KIB), ended);
        let _held = (one.expect("the memory of the largest"), other.expect("the memory of the largest"));
        assert!(!small.ended.is_cancelled());
    }
}
