//! Reading one root.

mod search;
mod turns;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    futures::{StreamExt, stream::FuturesUnordered},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use turns::{Ticket, Turn};

use super::{
    FetchError, Fetcher,
    line::{Line, Wanted},
    providers::{Picked, Providers},
    watch::{Verdict, Watch},
};
use crate::{content::cid::Cid, store::StoreError, transfer::Failure, wire::MAX_BLOCK};

/// Providers that are asked for one block at a time, where those asked before are too slow; who is silent does not count.
const HEDGES: usize = 3;
/// Questions for one block that nobody has answered.
const TRIES: usize = 64;
/// How long one waits for somebody else who fetches the same block.
const TURN: Duration = Duration::from_secs(5);
/// Rounds of asking after which a root that nobody has is given up.
const ROUNDS: u32 = 2;
/// Connected peers that are asked without being known as providers.
const ASK_CONNECTED: usize = 32;
/// Peers that are asked for a root at once: as long as it is not here, nobody is known to have anything, and any one of
/// them may be slow to say so.
const PROBES: usize = 8;
/// How long a reader waits for a first peer, where that is more than a quarter of its time.
const FIRST_PEER: Duration = Duration::from_secs(15);
/// Memory that each session has for itself, in KiB: the longest block.
const OWN_ROOM_KIB: u32 = MAX_BLOCK >> 10;
/// Bad copies of one block after which it is given up.
const BAD_COPIES: u32 = 8;

/// A provider that was asked for a block and has not answered.
struct Asked {
    peer: PeerId,
    watch: Watch,
    silent: bool,
    /// Half the time that it will still take; none as long as nobody has looked.
    half: Option<Duration>,
}

/// Reads the blocks of one root. Clones share providers and what is known of them.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    fetcher: Fetcher,
    root: Cid,
    timeout: Duration,
    state: Arc<State>,
    /// Who sent what is in the cache, as long as its content may still turn out to be wrong.
    senders: Mutex<HashMap<Cid, PeerId>>,
    discovery: Mutex<Option<AbortOnDropHandle<()>>>,
    kept: OnceLock<bool>,
    own_room: Arc<Semaphore>,
}

struct State {
    providers: Mutex<Providers>,
    line: Mutex<Line>,
    /// Something has changed that may help who waits.
    changed: Notify,
    progress: Mutex<Instant>,
    rounds: Mutex<u32>,
    /// Blocks that should be here, and are bad or lost.
    damaged: Mutex<HashSet<Cid>>,
}

impl State {
    fn new() -> Self {
        Self {
            providers: Mutex::default(),
            line: Mutex::default(),
            changed: Notify::new(),
            progress: Mutex::new(Instant::now()),
            rounds: Mutex::new(0),
            damaged: Mutex::default(),
        }
    }

    fn providers<T>(&self, change: impl FnOnce(&mut Providers) -> T) -> T {
        change(&mut self.providers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        change(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn progressed(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn add(&self, peer: PeerId, announced: bool) {
        if self.providers(|providers| providers.add(peer, announced)) {
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
                state: Arc::new(State::new()),
                senders: Mutex::default(),
                discovery: Mutex::default(),
                kept: OnceLock::new(),
                own_room: Arc::new(Semaphore::new(OWN_ROOM_KIB as usize)),
            }),
        }
    }

    /// One block, checked against its CID: from the store, or from whoever gives it first.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn block(&self, cid: &Cid, len: Option<u32>) -> Result<Vec<u8>, FetchError> {
        let ticket = Ticket::new(&self.inner.state);
        // A task of its own: where the reader goes away, what is on its way still arrives and is kept; and where it only
        // pauses, a place in the line that nobody looks after would stop all behind it.
        let (this, cid) = (self.clone(), *cid);
        let fetching = tokio::spawn(async move {
            if let Some(block) = this.stored(cid).await? {
                return Ok(block);
            }
            this.discover();
            let flight = this.inner.fetcher.flight(&cid);
            let Ok(_turn) = Arc::clone(&flight).try_acquire_owned() else {
                // Whoever has the turn may be waiting for providers that this session does not need.
                ticket.step_aside();
                let turn = tokio::time::timeout(TURN.min(this.inner.timeout), flight.acquire_owned()).await;
                if turn.is_ok()
                    && let Some(block) = this.stored(cid).await?
                {
                    return Ok(block);
                }
                return this.fetch(cid, len, &ticket).await;
            };
            this.fetch(cid, len, &ticket).await
        });
        fetching.await.map_err(|_| FetchError::Worker)?
    }

    /// Memory for a block that is about to be read. Held until the reader has it.
    ///
    /// All sessions share a window, and each has room for one block of its own besides: readers that have paused never
    /// stop another one.
    pub async fn room(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        let kib = (len >> 10) + 1;
        let own = Arc::clone(&self.inner.own_room).acquire_many_owned(OWN_ROOM_KIB);
        let shared = Arc::clone(&self.inner.fetcher.window).acquire_many_owned(kib);
        tokio::select! {
            biased;
            room = shared => room.ok(),
            room = own => room.ok(),
        }
    }

    /// Whether this room is the session's own, and no share of the window.
    pub fn is_own(&self, room: &OwnedSemaphorePermit) -> bool {
        Arc::ptr_eq(room.semaphore(), &self.inner.own_room)
    }

    /// The block's name is right, and its content is not what the reader's key says. Drops what this session fetched,
    /// and never asks again who sent it; answers whether it did. A block that was here before, or that a file here needs,
    /// stays: then it is the link that is wrong, and a wrong link must not cost another file its blocks.
    pub async fn reject(&self, cid: &Cid) -> bool {
        let sender = self.inner.senders.lock().unwrap_or_else(PoisonError::into_inner).remove(cid);
        let Some(peer) = sender else { return false };
        let (store, digest) = (self.inner.fetcher.store.clone(), *cid);
        let dropped = tokio::task::spawn_blocking(move || store.drop_cached(&digest)).await;
        match dropped {
            Ok(Ok(true)) => {
                tracing::warn!(%peer, %cid, "a peer sent a block that its reader's key does not open");
                self.inner.state.providers(|providers| providers.ban(peer));
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%cid, "a block that does not open could not be dropped: {error}");
                false
            }
            Ok(Ok(false)) | Err(_) => false,
        }
    }

    async fn stored(&self, cid: Cid) -> Result<Option<Vec<u8>>, FetchError> {
        let this = self.clone();
        let look = tokio::task::spawn_blocking(move || {
            let store = &this.inner.fetcher.store;
            let found = match store.get(&cid) {
                // Set aside; peers may have a good one.
                Err(StoreError::Corrupt { .. }) => None,
                Ok(None) if !this.is_kept() => return Ok(None),
                found => found?,
            };
            if found.is_none() {
                this.inner.state.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(cid);
            }
            Ok(found)
        });
        look.await.map_err(|_| FetchError::Worker)?
    }

    /// Whether this node keeps the whole root, so that a block of it that is not here was lost. Reads the index, once.
    fn is_kept(&self) -> bool {
        let keeps = || {
            let record = self.inner.fetcher.store.root(&self.inner.root);
            record.is_ok_and(|record| record.is_some_and(|record| record.pinned))
        };
        *self.inner.kept.get_or_init(keeps)
    }

    /// Fetches a block from providers until one gives it, or the session's time is over.
    async fn fetch(&self, cid: Cid, len: Option<u32>, ticket: &Ticket) -> Result<Vec<u8>, FetchError> {
        let state = &self.inner.state;
        let weight = u64::from(len.unwrap_or(64 << 10));
        let mut tries = FuturesUnordered::new();
        let mut asked: Vec<Asked> = Vec::new();
        let mut bad = 0;
        let at_once = if cid == self.inner.root { PROBES } else { 1 };
        self.progressed_if_idle();
        loop {
            // Registered before looking, so that nothing that changes in between is missed.
            let changed = state.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let (moved, faster_than) = self.look_after(&mut asked, now);
            if moved {
                state.progressed();
            }
            let live = asked.iter().filter(|asked| !asked.silent).count();
            let besides = asked.iter().map(|asked| asked.peer).collect::<Vec<_>>();
            let pick =
                |within| state.providers(|providers| providers.pick(&cid, weight, &besides, within, now));
            let picked = match faster_than {
                _ if asked.len() >= TRIES => None,
                _ if live < at_once && live == asked.len() => {
                    ticket.want(&Wanted { cid, len: weight, besides: besides.clone() }, now)
                }
                _ if live < at_once => pick(None),
                Some(within) if live < HEDGES => pick(Some(within)),
                _ => None,
            };
            if let Some(Picked { peer, ahead }) = picked {
                let moved = self.inner.fetcher.transfers.moved(&peer);
                let watch = Watch::new(weight, ahead, moved, now);
                asked.push(Asked { peer, watch, silent: false, half: None });
                tries.push(self.ask(peer, cid, len, weight, ticket));
                if live + 1 < at_once {
                    continue;
                }
            }
            if tries.is_empty() && self.given_up(&cid) {
                return Err(self.no_copy(cid, bad).unwrap_or(FetchError::NotFound { cid }));
            }
            let deadline = self.deadline(&cid);
            let look = asked.iter().map(|asked| asked.watch.next()).min();
            let wake = self.wake(deadline, look);
            tokio::select! {
                Some((peer, answer)) = tries.next(), if !tries.is_empty() => {
                    asked.retain(|asked| asked.peer != peer);
                    match answer {
                        Ok(block) => match self.keep(cid, block, peer).await? {
                            Some(block) => return Ok(block),
                            None => bad += 1,
                        },
                        Err(Failure::Violation) => bad += 1,
                        Err(_) => {}
                    }
                    if bad >= BAD_COPIES {
                        return Err(FetchError::Corrupt { cid });
                    }
                }
                () = &mut changed => {}
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= self.deadline(&cid) {
                        return Err(self.out_of_time(cid, bad));
                    }
                }
            }
        }
    }

    /// Looks after those who were asked, where it is time for that. Answers whether something arrives, and within what time
    /// somebody else should have the block to be asked as well, where that is known of all who are asked.
    fn look_after(&self, asked: &mut [Asked], now: Instant) -> (bool, Option<Duration>) {
        let mut arrives = false;
        for Asked { peer, watch, silent, half } in &mut *asked {
            match watch.look(self.inner.fetcher.transfers.moved(peer), now) {
                Verdict::Early => {}
                Verdict::Stalled => {
                    *silent = true;
                    self.inner.state.providers(|providers| providers.silent(peer, now));
                    // Whoever waited for it may ask somebody who was doubtful until now.
                    self.inner.state.changed.notify_waiters();
                }
                Verdict::Busy(within) => (arrives, *silent, *half) = (true, false, Some(within)),
            }
        }
        let halves: Option<Vec<Duration>> =
            asked.iter().filter(|asked| !asked.silent).map(|asked| asked.half).collect();
        (arrives, halves.filter(|_| arrives).and_then(|halves| halves.into_iter().min()))
    }

    /// Asks one provider, and notes what comes of it.
    async fn ask(
        &self,
        peer: PeerId,
        cid: Cid,
        len: Option<u32>,
        weight: u64,
        ticket: &Ticket,
    ) -> (PeerId, Result<Vec<u8>, Failure>) {
        // Given back also where the asker goes away.
        let mut turn = Turn { state: &self.inner.state, peer, weight, got: 0 };
        let question = self.inner.fetcher.transfers.ask(peer, cid, len).await;
        ticket.asked();
        let answer = match question {
            Some(answer) => answer.await.unwrap_or(Err(Failure::Lost)),
            None => Err(Failure::Lost),
        };
        match &answer {
            Ok(block) => {
                turn.got = block.len() as u64;
                self.inner.state.progressed();
            }
            Err(Failure::Missing) => self.inner.state.providers(|providers| providers.lacks(&peer, cid)),
            Err(Failure::Unreachable) => {
                self.inner.state.providers(|providers| providers.unreachable(&peer, Instant::now()));
            }
            Err(Failure::Lost | Failure::Busy) => {
                self.inner.state.providers(|providers| providers.lost(&peer, Instant::now()));
            }
            Err(Failure::Violation) => {
                tracing::warn!(%peer, "a peer breaks the transfer protocol and is not asked again");
                self.inner.state.providers(|providers| providers.ban(peer));
            }
        }
        (peer, answer)
    }

    /// Checks a block and keeps it; none where it is not what its name says.
    async fn keep(&self, cid: Cid, block: Vec<u8>, peer: PeerId) -> Result<Option<Vec<u8>>, FetchError> {
        let store = self.inner.fetcher.store.clone();
        let kept = tokio::task::spawn_blocking(move || {
            if block.len() > MAX_BLOCK as usize || !cid.matches(&block) {
                return None;
            }
            // A full disk must not keep a reader from reading: then it is not kept.
            if let Err(error) = store.put_cached(&cid, &block) {
                tracing::debug!(%cid, "not kept in the cache: {error}");
            }
            Some(block)
        });
        let kept = kept.await.map_err(|_| FetchError::Worker)?;
        if kept.is_some() {
            let mut senders = self.inner.senders.lock().unwrap_or_else(PoisonError::into_inner);
            if senders.len() > 4096 {
                senders.clear();
            }
            senders.insert(cid, peer);
        } else {
            tracing::warn!(%peer, %cid, "a peer sent a bad block and is not asked again");
            self.inner.state.providers(|providers| providers.ban(peer));
        }
        Ok(kept)
    }

    fn deadline(&self, cid: &Cid) -> Instant {
        let waits = if self.is_alone(cid) { self.first_peer() } else { self.inner.timeout };
        *self.inner.state.progress.lock().unwrap_or_else(PoisonError::into_inner) + waits
    }

    fn first_peer(&self) -> Duration {
        self.inner.timeout.min(FIRST_PEER.max(self.inner.timeout / 4))
    }

    /// Whether nobody was ever there to ask for what no other read has begun to fetch.
    fn is_alone(&self, cid: &Cid) -> bool {
        (*cid == self.inner.root || self.is_damaged(cid))
            && self.inner.state.providers(|providers| providers.is_empty())
    }

    fn is_damaged(&self, cid: &Cid) -> bool {
        self.inner.state.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(cid)
    }

    /// The error where it is known that a block was bad, or has been lost where it should be.
    fn no_copy(&self, cid: Cid, bad: u32) -> Option<FetchError> {
        let lost = cid != self.inner.root && self.inner.state.providers(|providers| providers.was_lost(&cid));
        (bad > 0 || lost || self.is_damaged(&cid)).then_some(FetchError::Corrupt { cid })
    }

    fn out_of_time(&self, cid: Cid, bad: u32) -> FetchError {
        if self.is_alone(&cid) {
            return self.no_copy(cid, bad).unwrap_or(FetchError::Alone { cid, waited: self.first_peer() });
        }
        if bad > 0 || self.is_damaged(&cid) {
            return FetchError::Corrupt { cid };
        }
        FetchError::Timeout { cid, waited: self.inner.timeout }
    }

    /// A reader that paused has not waited for the network: its time begins when it asks.
    fn progressed_if_idle(&self) {
        let mut progress = self.inner.state.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.elapsed() >= self.inner.timeout {
            *progress = Instant::now();
        }
    }

    fn wake(&self, deadline: Instant, look: Option<Instant>) -> Instant {
        let now = Instant::now();
        let rested = self.inner.state.providers(|providers| providers.next_rested(now));
        [Some(deadline), rested, look].into_iter().flatten().min().unwrap_or(deadline)
    }

    /// Whether everybody has been asked, more than once, and nobody can have it.
    fn given_up(&self, cid: &Cid) -> bool {
        let rounds = *self.inner.state.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds >= ROUNDS
            && !self.inner.fetcher.transfers.net().connected().is_empty()
            && !self.inner.state.providers(|providers| providers.may_have(cid))
    }

    /// Begins to look for providers, once per session.
    fn discover(&self) {
        let mut discovery = self.inner.discovery.lock().unwrap_or_else(PoisonError::into_inner);
        if discovery.is_some() {
            return;
        }
        let net = self.inner.fetcher.transfers.net();
        for peer in net.connected().into_iter().take(ASK_CONNECTED) {
            self.inner.state.add(peer, false);
        }
        let search = search::search(net.clone(), self.inner.root, Arc::clone(&self.inner.state));
        *discovery = Some(AbortOnDropHandle::new(tokio::spawn(search)));
    }
}
