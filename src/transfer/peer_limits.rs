//! Limits on what peers take of this node: streams, memory for blocks and for requests, and walks over roots.
//!
//! A peer chooses how many requests it sends, how long they are and when it reads the answers. Identities are free, so
//! each amount is limited three times: for a peer, for its host (half of all), and in all.
//!
//! The bytes of a request count from before it is read until it is answered. A peer above its own limit of them breaks the
//! protocol. At the limit of a host, or at the common one, the peer with the most bytes at the host with the most loses its
//! streams. No other peer does while the memory of the first is enough and not yet returned.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::TransferError;
use crate::{net::Group, wire::MAX_BLOCK};

/// Bytes that each request takes beside its message.
const OVERHEAD: usize = 256;
/// Time for the streams of a peer to end before another peer loses its own.
const RELEASE: Duration = Duration::from_millis(100);
/// After a walk over a root, its peer gets no other for this many times as long: it takes a quarter of a core at most.
const WALK_PAUSE: u32 = 3;

/// Amounts that may be taken at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amounts {
    /// Bytes of blocks in memory.
    pub(super) blocks: usize,
    /// Bytes of unanswered requests.
    pub(super) requests: usize,
    /// Walks over whole roots, the most expensive requests.
    pub(super) walks: usize,
}

/// Limits for peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum streams of one peer.
    pub(super) streams_per_peer: usize,
    pub(super) per_peer: Amounts,
    pub(super) all: Amounts,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_peer: 32,
            per_peer: Amounts { blocks: 12 << 20, requests: 1 << 20, walks: 1 },
            all: Amounts { blocks: 32 << 20, requests: 8 << 20, walks: 2 },
        }
    }
}

impl Limits {
    fn per_group(&self) -> Amounts {
        let half = |all: usize, peer: usize| (all / 2).max(peer);
        Amounts {
            blocks: half(self.all.blocks, self.per_peer.blocks),
            requests: half(self.all.requests, self.per_peer.requests),
            walks: half(self.all.walks, self.per_peer.walks),
        }
    }
}

/// The rest of [`Amounts`].
pub(super) struct Left {
    pub(super) blocks: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    walks: Arc<Semaphore>,
}

impl Left {
    fn new(amounts: Amounts) -> Arc<Self> {
        Arc::new(Self {
            // At least one block.
            blocks: Arc::new(Semaphore::new(amounts.blocks.max(MAX_BLOCK as usize))),
            requests: Arc::new(Semaphore::new(amounts.requests)),
            walks: Arc::new(Semaphore::new(amounts.walks)),
        })
    }
}

/// The limits of all peers, and what is left of them.
pub(super) struct PeerLimits {
    limits: Limits,
    all: Arc<Left>,
    peers: Mutex<HashMap<PeerId, Usage>>,
}

/// The part of one peer.
struct Usage {
    streams: usize,
    group: Group,
    own: Arc<Left>,
    of_group: Arc<Left>,
    /// Cancelled when the streams of the peer are to end.
    ended: CancellationToken,
    /// When its next walk may begin.
    next_walk: Instant,
}

/// A stream that counts against the limits, until it is dropped.
pub(super) struct LimitedStream<'a> {
    peers: &'a Arc<PeerLimits>,
    pub(super) peer: PeerId,
    pub(super) group: Group,
    pub(super) own: Arc<Left>,
    pub(super) of_group: Arc<Left>,
    pub(super) all: Arc<Left>,
    ended: CancellationToken,
    /// Whether the peer has too many streams, so that requests are answered with `Busy`.
    pub(super) excess: bool,
}

/// The memory of one request. Dropping it returns the memory.
#[derive(Debug)]
pub(super) struct RequestMemory {
    _permits: [OwnedSemaphorePermit; 3],
}

/// A walk over a root. When it is dropped, the pause of its peer begins.
pub(super) struct Walk {
    peers: Arc<PeerLimits>,
    peer: PeerId,
    begun: Instant,
    _permits: [OwnedSemaphorePermit; 3],
}

impl PeerLimits {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, all: Left::new(limits.all), peers: Mutex::default() }
    }

    fn update<T>(&self, update: impl FnOnce(&mut HashMap<PeerId, Usage>) -> T) -> T {
        update(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts one more stream of a peer. `None` means that it has more than twice the maximum.
    pub(super) fn add(self: &Arc<Self>, peer: PeerId, group: Group) -> Option<LimitedStream<'_>> {
        self.update(|peers| {
            let now = Instant::now();
            // A peer without streams is forgotten, but not the pause after its walk: another stream would be a way around.
            peers.retain(|_, usage| {
                let walking = usage.own.walks.available_permits() < self.limits.per_peer.walks;
                usage.streams > 0 || walking || usage.next_walk > now
            });
            let known = peers.values().find(|usage| usage.group == group);
            let of_group = known.map(|usage| Arc::clone(&usage.of_group));
            let usage = peers.entry(peer).or_insert_with(|| Usage {
                streams: 0,
                group,
                own: Left::new(self.limits.per_peer),
                of_group: of_group.unwrap_or_else(|| Left::new(self.limits.per_group())),
                ended: CancellationToken::new(),
                next_walk: now,
            });
            if usage.streams >= 2 * self.limits.streams_per_peer {
                return None;
            }
            if usage.streams == 0 {
                usage.ended = CancellationToken::new();
            }
            usage.streams += 1;
            Some(LimitedStream {
                peers: self,
                peer,
                group: usage.group,
                own: Arc::clone(&usage.own),
                of_group: Arc::clone(&usage.of_group),
                all: Arc::clone(&self.all),
                ended: usage.ended.clone(),
                excess: usage.streams > self.limits.streams_per_peer,
            })
        })
    }

    /// Returns the bytes of the requests of a peer, and of all peers of its group.
    fn held(&self, usage: &Usage) -> (usize, usize) {
        let own = self.limits.per_peer.requests - usage.own.requests.available_permits();
        (self.limits.per_group().requests - usage.of_group.requests.available_permits(), own)
    }

    /// Returns the bytes of peers of a group, or of all groups, whose streams are ending.
    fn ending(&self, peers: &HashMap<PeerId, Usage>, group: Option<Group>) -> usize {
        let ending =
            |usage: &&Usage| group.is_none_or(|group| usage.group == group) && usage.ended.is_cancelled();
        peers.values().filter(ending).map(|usage| self.held(usage).1).sum()
    }

    /// Ends the streams of the peer whose requests take the most memory, of `group` or of the group with the most, unless
    /// streams are ending already that return these bytes.
    fn end_largest(&self, bytes: usize, group: Option<Group>) {
        self.update(|peers| {
            if self.ending(peers, group) >= bytes {
                return;
            }
            let candidates = peers.iter().filter(|(_, usage)| {
                let in_group = group.is_none_or(|group| usage.group == group);
                in_group && !usage.ended.is_cancelled() && self.held(usage).1 > 0
            });
            if let Some((peer, usage)) = candidates.max_by_key(|(_, usage)| self.held(usage)) {
                let bytes = self.held(usage).1;
                tracing::info!(%peer, bytes, "streams ended: others need the memory of their requests");
                usage.ended.cancel();
            }
        });
    }

    /// Takes memory for a request, of one group or of all. While there is too little, streams are ended.
    async fn reserve(
        &self,
        memory: &Arc<Semaphore>,
        bytes: u32,
        group: Option<Group>,
    ) -> Result<OwnedSemaphorePermit, TransferError> {
        let mut memory = std::pin::pin!(Arc::clone(memory).acquire_many_owned(bytes));
        let ending = self.update(|peers| self.ending(peers, group) > 0);
        let mut wait = if ending { RELEASE } else { Duration::ZERO };
        loop {
            tokio::select! {
                biased;
                memory = &mut memory => return memory.map_err(|_| closing()),
                () = tokio::time::sleep(wait) => self.end_largest(bytes as usize, group),
            }
            wait = RELEASE;
        }
    }
}

impl LimitedStream<'_> {
    /// Waits until the stream is to end, because others need the memory of its peer.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Takes memory for a request of this length. Waits while other peers hold too much. Errors: the peer itself does.
    pub(super) async fn reserve(&self, len: usize) -> Result<RequestMemory, TransferError> {
        let bytes = u32::try_from(len + OVERHEAD).expect("at most MAX_REQUEST");
        let own = Arc::clone(&self.own.requests)
            .try_acquire_many_owned(bytes)
            .map_err(|_| TransferError::Violation("too many unanswered requests"))?;
        let of_group = self.peers.reserve(&self.of_group.requests, bytes, Some(self.group)).await?;
        let of_all = self.peers.reserve(&self.all.requests, bytes, None).await?;
        Ok(RequestMemory { _permits: [own, of_group, of_all] })
    }

    /// Waits until the peer may walk a root.
    pub(super) async fn begin_walk(&self) -> Result<Walk, TransferError> {
        let permit = |left: &Left| Arc::clone(&left.walks).acquire_owned();
        let own = permit(&self.own).await.map_err(|_| closing())?;
        let next = self.peers.update(|peers| peers.get(&self.peer).map(|usage| usage.next_walk));
        sleep_until(next.unwrap_or_else(Instant::now)).await;
        let of_group = permit(&self.of_group).await.map_err(|_| closing())?;
        let of_all = permit(&self.all).await.map_err(|_| closing())?;
        let peers = Arc::clone(self.peers);
        Ok(Walk { peers, peer: self.peer, begun: Instant::now(), _permits: [own, of_group, of_all] })
    }
}

impl Drop for LimitedStream<'_> {
    fn drop(&mut self) {
        self.peers.update(|peers| {
            if let Some(usage) = peers.get_mut(&self.peer) {
                usage.streams -= 1;
            }
        });
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let next = Instant::now() + self.begun.elapsed() * WALK_PAUSE;
        self.peers.update(|peers| {
            if let Some(usage) = peers.get_mut(&self.peer) {
                usage.next_walk = next;
            }
        });
    }
}

/// The error of a semaphore that is closed.
pub(super) fn closing() -> TransferError {
    TransferError::Refused("the node is shutting down".into())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Host;

    const KIB: usize = 1 << 10;

    /// Limits on requests only.
    fn limited(all: usize, per_peer: usize) -> Arc<PeerLimits> {
        let mut limits = Limits::default();
        (limits.all.requests, limits.per_peer.requests) = (all, per_peer);
        Arc::new(PeerLimits::new(limits))
    }

    /// A stream of a new peer at the host with this number, or at one of its own.
    fn stream(peers: &Arc<PeerLimits>, host: Option<u8>) -> LimitedStream<'_> {
        let peer = PeerId::random();
        let group = host.map_or(Group::Peer(peer), |n| Group::Host(Host::V4(Ipv4Addr::new(192, 0, 2, n))));
        peers.add(peer, group).expect("the first")
    }

    #[tokio::test]
    async fn a_peer_above_its_own_limit_breaks_the_protocol() {
        let peers = limited(1 << 20, 64 * KIB);
        let one = stream(&peers, None);
        let other = peers.add(one.peer, one.group).expect("the second");
        let held = one.reserve(40 * KIB).await.expect("free");
        let refused = other.reserve(40 * KIB).await.map(drop);
        assert!(matches!(refused, Err(TransferError::Violation(_))), "{refused:?}");
        drop(held);
        other.reserve(40 * KIB).await.expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_wait_end_the_streams_of_the_largest_peer_if_its_memory_is_enough_for_each() {
        let peers = limited(100 * KIB, 64 * KIB);
        let [small, large, one, other] = std::array::from_fn(|_| stream(&peers, None));
        let _small = small.reserve(30 * KIB).await.expect("free");
        let held = large.reserve(60 * KIB).await.expect("free");
        let ended = async {
            large.ended().await;
            // Streams can take longer to end than others wait for them.
            tokio::time::sleep(5 * RELEASE).await;
            drop(held);
        };
        let (one, other, ()) = tokio::join!(one.reserve(20 * KIB), other.reserve(20 * KIB), ended);
        let _held = (one.expect("the memory of the largest"), other.expect("the memory of the largest"));
        assert!(!small.ended.is_cancelled());
    }

    /// Reserves memory, or returns `None` if there is too little.
    async fn reserve(stream: &LimitedStream<'_>, len: usize) -> Option<RequestMemory> {
        let reserved = tokio::time::timeout(RELEASE / 2, stream.reserve(len)).await.ok()?;
        Some(reserved.expect("within its own limit"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_identities_of_one_host_get_half_and_lose_their_streams_before_a_larger_peer() {
        let peers = limited(160 * KIB, 40 * KIB);
        let large = stream(&peers, Some(1));
        let _large = reserve(&large, 39 * KIB).await.expect("free");
        let crowd: Vec<LimitedStream<'_>> = (0..9).map(|_| stream(&peers, Some(2))).collect();
        let mut held = Vec::new();
        for (n, identity) in crowd[..8].iter().enumerate() {
            held.push(reserve(identity, 9 * KIB - n).await.expect("free"));
        }
        let ended =
            || crowd.iter().map(|identity| u8::from(identity.ended.is_cancelled())).collect::<Vec<_>>();
        assert!(reserve(&crowd[8], 8 * KIB).await.is_none(), "half is taken");
        assert_eq!(ended(), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        held[0] = reserve(&stream(&peers, Some(3)), 30 * KIB).await.expect("others have the other half");
        held.push(reserve(&crowd[8], 8 * KIB).await.expect("the memory of the first"));
        // All memory is taken: the next peer waits for the host with the most.
        assert!(reserve(&stream(&peers, Some(4)), 30 * KIB).await.is_none());
        assert_eq!((ended(), large.ended.is_cancelled()), (vec![1, 1, 0, 0, 0, 0, 0, 0, 0], false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_comes_back_waits_for_the_pause_after_its_walk() {
        let peers = limited(1 << 20, 1 << 20);
        let stream = stream(&peers, None);
        let (peer, group, begun) = (stream.peer, stream.group, Instant::now());
        let walk = stream.begin_walk().await.expect("free");
        drop(stream);
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(walk);
        let again = peers.add(peer, group).expect("the first");
        drop(again.begin_walk().await.expect("free"));
        assert_eq!(begun.elapsed().as_secs(), 8);
        drop(again);
        let other = peers.add(PeerId::random(), Group::Peer(PeerId::random())).expect("the first");
        assert_eq!(peers.update(|peers| peers.len()), 1, "nothing is left of a peer that has gone");
        drop(other);
    }
}
