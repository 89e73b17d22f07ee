//! A session reads the blocks of one root.

mod guards;
mod search;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use guards::{OutstandingBytes, QueueSlot};
use libp2p::{
    PeerId,
    futures::{StreamExt, stream::FuturesUnordered},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    FetchError, Fetcher, Wanted,
    fair_queue::FairQueue,
    providers::{Assignment, BlockRequest, Providers},
    stall::{Delivery, StallDetector},
};
use crate::{content::cid::Cid, store::StoreError, transfer::Failure, wire::MAX_BLOCK};

/// Maximum concurrent requests for one block, excluding stalled providers.
const MAX_HEDGES: usize = 3;
/// Maximum unanswered requests for one block, including stalled providers.
const MAX_UNANSWERED: usize = 64;
/// How long a reader waits for another one that fetches the same block.
const SAME_BLOCK_WAIT: Duration = Duration::from_secs(5);
/// Searches in the DHT after which a root that no provider has is given up.
const SEARCH_ROUNDS: u32 = 2;
/// Maximum connected peers that are asked without being known as providers.
const MAX_CONNECTED: usize = 32;
/// Concurrent requests for the root block. Nothing is known about the providers yet, and any one may be slow.
const ROOT_REQUESTS: usize = 8;
/// How long a session waits for its first peer, or a quarter of its timeout if that is longer.
const FIRST_PEER_WAIT: Duration = Duration::from_secs(15);
/// Memory reserved for each session, in KiB: one block of maximum length.
const SESSION_MEMORY_KIB: u32 = MAX_BLOCK >> 10;
/// Bad copies of one block after which it is given up.
const MAX_BAD_COPIES: u32 = 8;
/// Assumed length of a block whose length is not known, in bytes.
const ASSUMED_LEN: u32 = 64 << 10;

/// A request that has not been answered.
struct InFlight {
    peer: PeerId,
    detector: StallDetector,
    stalled: bool,
    /// Half of the estimated remaining time. `None` before the first check.
    half_of_rest: Option<Duration>,
}

/// Reads the blocks of one root. Clones share the providers and what is known about them.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    fetcher: Fetcher,
    root: Cid,
    timeout: Duration,
    state: Arc<SessionState>,
    /// The sender of each cached block, until the block has been decrypted.
    senders: Mutex<HashMap<Cid, PeerId>>,
    discovery: Mutex<Option<AbortOnDropHandle<()>>>,
    root_is_pinned: OnceLock<bool>,
    own_memory: Arc<Semaphore>,
}

/// State shared by the readers of a session and its provider search.
struct SessionState {
    providers: Mutex<Providers>,
    /// Locked before `providers` when both are needed.
    queue: Mutex<FairQueue>,
    /// Notified when a waiting block may find a provider.
    changed: Notify,
    last_progress: Mutex<Instant>,
    search_rounds: AtomicU32,
    /// Blocks that are damaged in this store, or that it has lost.
    damaged: Mutex<HashSet<Cid>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionState {
    fn new() -> Self {
        Self {
            providers: Mutex::default(),
            queue: Mutex::default(),
            changed: Notify::new(),
            last_progress: Mutex::new(Instant::now()),
            search_rounds: AtomicU32::new(0),
            damaged: Mutex::default(),
        }
    }

    fn providers(&self) -> MutexGuard<'_, Providers> {
        lock(&self.providers)
    }

    fn queue(&self) -> MutexGuard<'_, FairQueue> {
        lock(&self.queue)
    }

    fn add(&self, peer: PeerId, announced: bool) {
        if self.providers().add(peer, announced) {
            self.changed.notify_waiters();
        }
    }
}

impl Session {
    pub(super) fn new(fetcher: Fetcher, root: Cid, timeout: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                fetcher,
                root,
                timeout,
                state: Arc::new(SessionState::new()),
                senders: Mutex::default(),
                discovery: Mutex::default(),
                root_is_pinned: OnceLock::new(),
                own_memory: Arc::new(Semaphore::new(SESSION_MEMORY_KIB as usize)),
            }),
        }
    }

    /// Returns one block, checked against its CID, from the store or from a provider.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn block(&self, cid: &Cid, len: Option<u32>) -> Result<Vec<u8>, FetchError> {
        let slot = QueueSlot::new(&self.inner.state);
        let (this, cid) = (self.clone(), *cid);
        // A task of its own. If the reader is dropped, the block still arrives and is cached; if the reader stops
        // polling, the slot does not stop later blocks.
        let fetching = tokio::spawn(async move {
            if let Some(block) = this.stored(cid).await? {
                return Ok(block);
            }
            this.discover();
            let lock = this.inner.fetcher.block_lock(&cid);
            let mut guard = Arc::clone(&lock).try_acquire_owned().ok();
            if guard.is_none() {
                // The reader that holds the lock may be waiting for providers that this session does not need.
                slot.step_aside();
                let wait = SAME_BLOCK_WAIT.min(this.inner.timeout);
                guard = tokio::time::timeout(wait, lock.acquire_owned()).await.ok().and_then(Result::ok);
                if guard.is_some()
                    && let Some(block) = this.stored(cid).await?
                {
                    return Ok(block);
                }
            }
            this.fetch(cid, len, &slot).await
        });
        fetching.await.map_err(|_| FetchError::Worker)?
    }

    /// Reserves memory for a block of `len` bytes, until the reader has passed it on.
    ///
    /// All sessions share one budget, and each has memory for one more block. A paused reader stops no other one.
    pub async fn reserve_memory(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        let kib = (len >> 10) + 1;
        let own = Arc::clone(&self.inner.own_memory).acquire_many_owned(SESSION_MEMORY_KIB);
        let shared = Arc::clone(&self.inner.fetcher.shared_memory).acquire_many_owned(kib);
        tokio::select! {
            biased;
            memory = shared => memory.ok(),
            memory = own => memory.ok(),
        }
    }

    /// Whether this memory is the session's own, and not part of the shared budget.
    pub fn owns_memory(&self, memory: &OwnedSemaphorePermit) -> bool {
        Arc::ptr_eq(memory.semaphore(), &self.inner.own_memory)
    }

    /// Reports a block that matches its CID but does not decrypt. If this session fetched it, removes it from the cache,
    /// bans its sender and returns true.
    ///
    /// A block that was in the store before, or that a local file needs, stays: then the link is wrong, and a wrong link
    /// must not damage another file.
    pub async fn reject(&self, cid: &Cid) -> bool {
        let Some(peer) = lock(&self.inner.senders).remove(cid) else { return false };
        let (store, digest) = (self.inner.fetcher.store.clone(), *cid);
        let dropped = tokio::task::spawn_blocking(move || store.drop_cached(&digest)).await;
        if let Ok(Err(error)) = &dropped {
            tracing::warn!(%cid, "a block that does not decrypt could not be removed: {error}");
        }
        let dropped = matches!(dropped, Ok(Ok(true)));
        if dropped {
            tracing::warn!(%peer, %cid, "a peer sent a block that the read key does not decrypt");
            self.inner.state.providers().ban(peer);
        }
        dropped
    }

    /// Reads a block from the store. Notes it as damaged if the store should have it.
    async fn stored(&self, cid: Cid) -> Result<Option<Vec<u8>>, FetchError> {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let found = match this.inner.fetcher.store.get(&cid) {
                // The store has set it aside; a provider may have an intact copy.
                Err(StoreError::Corrupt { .. }) => None,
                Ok(None) if !this.root_is_pinned() => return Ok(None),
                found => found?,
            };
            if found.is_none() {
                lock(&this.inner.state.damaged).insert(cid);
            }
            Ok(found)
        });
        read.await.map_err(|_| FetchError::Worker)?
    }

    /// Whether this node pins the root, so that a missing block of it has been lost. Reads the index once.
    fn root_is_pinned(&self) -> bool {
        *self.inner.root_is_pinned.get_or_init(|| {
            let record = self.inner.fetcher.store.root(&self.inner.root);
            record.is_ok_and(|record| record.is_some_and(|record| record.pinned))
        })
    }

    /// Fetches a block from providers until one delivers it or the timeout ends.
    async fn fetch(&self, cid: Cid, len: Option<u32>, slot: &QueueSlot) -> Result<Vec<u8>, FetchError> {
        let state = &self.inner.state;
        let expected = u64::from(len.unwrap_or(ASSUMED_LEN));
        let mut answers = FuturesUnordered::new();
        let mut in_flight: Vec<InFlight> = Vec::new();
        let mut bad_copies = 0;
        let parallel = if cid == self.inner.root { ROOT_REQUESTS } else { 1 };
        self.restart_timeout_if_idle();
        loop {
            // Registered before the state is read, so that no change in between is missed.
            let changed = state.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let hedge_within = self.check_progress(&mut in_flight, now);
            let active = in_flight.iter().filter(|request| !request.stalled).count();
            let exclude = in_flight.iter().map(|request| request.peer).collect();
            let request = BlockRequest { cid, len: expected, exclude };
            let assignment = match hedge_within {
                _ if in_flight.len() >= MAX_UNANSWERED => None,
                _ if active < parallel && active == in_flight.len() => slot.assign(&request, now),
                _ if active < parallel => state.providers().pick(&request, None, now),
                Some(_) if active < MAX_HEDGES => state.providers().pick(&request, hedge_within, now),
                _ => None,
            };
            if let Some(Assignment { peer, queued_bytes }) = assignment {
                let received = self.inner.fetcher.transfers.received(&peer);
                let detector = StallDetector::new(expected, queued_bytes, received, now);
                in_flight.push(InFlight { peer, detector, stalled: false, half_of_rest: None });
                answers.push(self.request(peer, cid, len, slot));
                if active + 1 < parallel {
                    continue;
                }
            }
            if answers.is_empty() && self.is_exhausted(&cid) {
                return Err(self
                    .damage_error(cid, bad_copies)
                    .unwrap_or(FetchError::NotFound { wanted: self.wanted(cid) }));
            }
            let next_check = in_flight.iter().map(|request| request.detector.next_check).min();
            let next_retry = state.providers().next_retry(now);
            let deadline = self.deadline(&cid);
            let wake = [next_check, next_retry].into_iter().flatten().fold(deadline, Instant::min);
            tokio::select! {
                Some((peer, answer)) = answers.next(), if !answers.is_empty() => {
                    in_flight.retain(|request| request.peer != peer);
                    match answer {
                        Ok(block) => match self.verify_and_cache(cid, block, peer).await? {
                            Some(block) => return Ok(block),
                            None => bad_copies += 1,
                        },
                        Err(Failure::Violation) => bad_copies += 1,
                        Err(_) => {}
                    }
                    if bad_copies >= MAX_BAD_COPIES {
                        return Err(FetchError::Corrupt { wanted: self.wanted(cid) });
                    }
                }
                () = &mut changed => {}
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= self.deadline(&cid) {
                        return Err(self.timeout_error(cid, bad_copies));
                    }
                }
            }
        }
    }

    /// Checks the requests that are due. Returns the time within which a second provider should deliver to be worth asking;
    /// `None` if nothing arrives, or if a request was not checked yet.
    fn check_progress(&self, in_flight: &mut [InFlight], now: Instant) -> Option<Duration> {
        let state = &self.inner.state;
        let mut moving = false;
        for InFlight { peer, detector, stalled, half_of_rest } in &mut *in_flight {
            match detector.check(self.inner.fetcher.transfers.received(peer), now) {
                Delivery::NotDue => {}
                Delivery::Stalled => {
                    *stalled = true;
                    state.providers().set_stalled(peer, now);
                    // Blocks that wait for this provider may ask suspect ones now.
                    state.changed.notify_waiters();
                }
                Delivery::Moving(half) => (moving, *stalled, *half_of_rest) = (true, false, Some(half)),
            }
        }
        if !moving {
            return None;
        }
        *lock(&state.last_progress) = Instant::now();
        let active = in_flight.iter().filter(|request| !request.stalled);
        active.map(|request| request.half_of_rest).min().flatten()
    }

    /// Requests a block from one provider and notes the outcome.
    async fn request(
        &self,
        peer: PeerId,
        cid: Cid,
        len: Option<u32>,
        slot: &QueueSlot,
    ) -> (PeerId, Result<Vec<u8>, Failure>) {
        let state = &self.inner.state;
        let requested = u64::from(len.unwrap_or(ASSUMED_LEN));
        // Dropped when the request ends, and also when the caller is dropped.
        let mut outstanding = OutstandingBytes { state, peer, requested, received: 0 };
        let sent = self.inner.fetcher.transfers.request(peer, cid, len).await;
        slot.sent();
        let answer = match sent {
            Some(answer) => answer.await.unwrap_or(Err(Failure::Lost)),
            None => Err(Failure::Lost),
        };
        match &answer {
            Ok(block) => {
                outstanding.received = block.len() as u64;
                *lock(&state.last_progress) = Instant::now();
            }
            Err(Failure::Missing) => state.providers().set_missing(&peer, cid),
            Err(Failure::Unreachable) => state.providers().set_unreachable(&peer, Instant::now()),
            Err(Failure::Lost | Failure::Busy) => state.providers().pause(&peer, Instant::now()),
            Err(Failure::Violation) => {
                tracing::warn!(%peer, "a peer broke the transfer protocol; this read does not ask it again");
                state.providers().ban(peer);
            }
        }
        (peer, answer)
    }

    /// Checks a block against its CID and caches it. Returns `None` and bans the sender if it does not match.
    async fn verify_and_cache(
        &self,
        cid: Cid,
        block: Vec<u8>,
        peer: PeerId,
    ) -> Result<Option<Vec<u8>>, FetchError> {
        let store = self.inner.fetcher.store.clone();
        let verified = tokio::task::spawn_blocking(move || {
            if block.len() > MAX_BLOCK as usize || !cid.matches(&block) {
                return None;
            }
            // A full disk must not fail the read.
            if let Err(error) = store.put_cached(&cid, &block) {
                tracing::debug!(%cid, "block not cached: {error}");
            }
            Some(block)
        });
        let verified = verified.await.map_err(|_| FetchError::Worker)?;
        if verified.is_some() {
            self.inner.fetcher.transfers.net().set_delivered(peer);
            let mut senders = lock(&self.inner.senders);
            if senders.len() > 4096 {
                senders.clear();
            }
            senders.insert(cid, peer);
        } else {
            tracing::warn!(%peer, %cid, "a peer sent a bad block; this read does not ask it again");
            self.inner.state.providers().ban(peer);
        }
        Ok(verified)
    }

    /// When the read fails, unless bytes arrive before.
    fn deadline(&self, cid: &Cid) -> Instant {
        let wait = if self.has_no_peers(cid) { self.first_peer_wait() } else { self.inner.timeout };
        *lock(&self.inner.state.last_progress) + wait
    }

    fn first_peer_wait(&self) -> Duration {
        self.inner.timeout.min(FIRST_PEER_WAIT.max(self.inner.timeout / 4))
    }

    /// Whether no peer was ever reached. Later blocks of a read that has begun get the whole timeout.
    fn has_no_peers(&self, cid: &Cid) -> bool {
        (*cid == self.inner.root || self.is_damaged(cid)) && self.inner.state.providers().none_reached()
    }

    fn is_damaged(&self, cid: &Cid) -> bool {
        lock(&self.inner.state.damaged).contains(cid)
    }

    /// Returns the error for a block that is known to be damaged or lost where it should be.
    fn damage_error(&self, cid: Cid, bad_copies: u32) -> Option<FetchError> {
        let lost = cid != self.inner.root && self.inner.state.providers().is_lost(&cid);
        let damaged = bad_copies > 0 || lost || self.is_damaged(&cid);
        damaged.then(|| FetchError::Corrupt { wanted: self.wanted(cid) })
    }

    fn wanted(&self, cid: Cid) -> Wanted {
        if cid == self.inner.root { Wanted::File } else { Wanted::Block(cid) }
    }

    fn timeout_error(&self, cid: Cid, bad_copies: u32) -> FetchError {
        if let Some(error) = self.damage_error(cid, bad_copies) {
            return error;
        }
        if self.has_no_peers(&cid) {
            return FetchError::NoPeers { wanted: self.wanted(cid), waited: self.first_peer_wait() };
        }
        FetchError::Timeout { wanted: self.wanted(cid), waited: self.inner.timeout }
    }

    /// Starts the timeout again for a reader that had paused: it did not wait for the network.
    fn restart_timeout_if_idle(&self) {
        let mut progress = lock(&self.inner.state.last_progress);
        if progress.elapsed() >= self.inner.timeout {
            *progress = Instant::now();
        }
    }

    /// Whether the search has run often enough, and no known provider can have the block.
    fn is_exhausted(&self, cid: &Cid) -> bool {
        self.inner.state.search_rounds.load(Ordering::Relaxed) >= SEARCH_ROUNDS
            && !self.inner.fetcher.transfers.net().connected().is_empty()
            && !self.inner.state.providers().may_serve(cid)
    }

    /// Starts the search for providers, once for each session.
    fn discover(&self) {
        let mut discovery = lock(&self.inner.discovery);
        if discovery.is_some() {
            return;
        }
        let net = self.inner.fetcher.transfers.net();
        for peer in net.connected().into_iter().take(MAX_CONNECTED) {
            self.inner.state.add(peer, false);
        }
        let search = search::search(net.clone(), self.inner.root, Arc::clone(&self.inner.state));
        *discovery = Some(AbortOnDropHandle::new(tokio::spawn(search)));
    }
}
