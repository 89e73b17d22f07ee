//! Withdrawals that are still to be done.
//!
//! Other peers hold provider records that name this node. If a file is removed while they cannot be reached, the removal is
//! noted durably, and they are notified when they connect. Until then, or until the record expires, they send readers here
//! in vain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, Notify, broadcast::error::RecvError, oneshot},
    time::timeout,
};

use super::{
    announcements::Announcements,
    clock::unix_s,
    error::NodeError,
    handles::Tasks,
    network::{META_PEERS, Network},
};
use crate::{content::cid::Cid, net::NetEvent, store::Store, transfer::Withdrawn};

/// Store key of the notes.
const META_WITHDRAWALS: &str = "withdrawals";
/// Provider records expire after this time, and the notes with them.
const RECORD_TTL: Duration = Duration::from_secs(48 * 3600);
/// Maximum number of notes. The oldest ones are dropped: their records expire.
const MAX_NOTES: usize = 4096;
/// Time limit of the first attempt: a user waits for it.
const FIRST_ATTEMPT: Duration = Duration::from_secs(5);
/// Withdrawals attempted at the same time.
const CONCURRENT: usize = 4;
/// Pause after a new DHT peer, because several tend to connect at the same time.
const SETTLE: Duration = Duration::from_secs(1);
/// Pause between attempts while an announcement under way may still undo the withdrawal.
const RETRY_UNSETTLED: Duration = Duration::from_secs(5);
/// Pause between attempts while no new peer connects.
const RETRY: Duration = Duration::from_secs(600);

/// A removed file whose record is still to be withdrawn.
#[derive(Clone, Serialize, Deserialize)]
struct Note {
    cid: Cid,
    since_unix_s: u64,
}

/// The state of a withdrawal when its caller gets the answer.
pub(super) struct Outcome {
    /// Peers that were notified.
    pub(super) notified: u32,
    /// Whether more peers have to be notified.
    pub(super) pending: bool,
}

/// The result of one attempt.
struct Attempt {
    notified: u32,
    /// Whether a peer may hold the record and was not notified.
    missed: bool,
    /// Whether every announcement of the file has ended, so that none can arrive after the withdrawal.
    settled: bool,
}

/// Withdraws the provider records of removed files.
pub(super) struct Withdrawals {
    pub(super) announcements: Announcements,
    pub(super) tasks: Tasks,
    /// Whether no bootstrap address is configured.
    pub(super) no_bootstrap: bool,
    pub(super) started: Instant,
    /// Held while the notes are changed, because each change reads the result of the one before.
    pub(super) changing: Mutex<()>,
    /// Wakes [`Withdrawals::keep_retrying`] for a withdrawal that is not settled.
    pub(super) unsettled: Notify,
}

impl Withdrawals {
    /// Notes that a file is about to be removed. A node that has never had a peer has no peer to notify, and notes nothing.
    pub(super) async fn note(&self, cid: Cid) -> Result<(), NodeError> {
        let alone = self.no_bootstrap && !self.has_dht_peers();
        self.change_notes(move |store, notes| {
            if alone && store.meta(META_PEERS)?.is_none() {
                return Ok(());
            }
            notes.retain(|note| note.cid != cid);
            notes.push(Note { cid, since_unix_s: unix_s() });
            notes.drain(..notes.len().saturating_sub(MAX_NOTES));
            Ok(())
        })
        .await
    }

    /// Notifies the connected peers. A node that has just started waits for one first.
    pub(super) async fn withdraw(self: &Arc<Self>, cid: Cid) -> Result<Outcome, NodeError> {
        let mut outcome = Outcome { notified: 0, pending: self.noted().await?.contains(&cid) };
        if self.announcements.network.is_some() && outcome.pending {
            // A node that was started for this removal alone has no peers yet.
            let just_started = FIRST_ATTEMPT.saturating_sub(self.started.elapsed());
            if timeout(just_started, self.first_peer()).await.is_ok()
                && let Ok(Ok(attempt)) = timeout(FIRST_ATTEMPT, self.begin(cid)).await
            {
                let Attempt { notified, missed, settled } = attempt?;
                outcome = Outcome { notified, pending: missed };
                if !settled {
                    self.unsettled.notify_one();
                }
            }
        }
        Ok(outcome)
    }

    /// Attempts the noted withdrawals whenever a new DHT peer connects, and from time to time. Returns when the network ends.
    pub(super) async fn keep_retrying(&self) {
        let Some(network) = &self.announcements.network else { return };
        let mut events = network.net.events();
        loop {
            let noted = self.noted().await.unwrap_or_default();
            let unsettled = AtomicBool::new(false);
            if !noted.is_empty() && self.has_dht_peers() {
                let unsettled = &unsettled;
                let attempts = futures::stream::iter(noted).map(|cid| async move {
                    match self.attempt(cid).await {
                        Ok(attempt) => {
                            unsettled.fetch_or(!attempt.settled, Ordering::Relaxed);
                        }
                        Err(error) => tracing::warn!(%cid, "cannot withdraw the provider record: {error}"),
                    }
                });
                attempts.buffer_unordered(CONCURRENT).collect::<()>().await;
            }
            let new_peer = async {
                loop {
                    match events.recv().await {
                        Ok(NetEvent::DhtPeer { .. }) | Err(RecvError::Lagged(_)) => return true,
                        Ok(_) => {}
                        Err(RecvError::Closed) => return false,
                    }
                }
            };
            let pause = if unsettled.into_inner() { RETRY_UNSETTLED } else { RETRY };
            let wait = tokio::select! {
                connected = new_peer => if connected { SETTLE } else { return },
                () = self.unsettled.notified() => RETRY_UNSETTLED,
                () = tokio::time::sleep(pause) => Duration::ZERO,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Starts an attempt that runs to its end although its caller may stop waiting. If it were cut off, it could withdraw the
    /// record of a file that is stored again in the meantime, and nothing would announce that file.
    fn begin(self: &Arc<Self>, cid: Cid) -> oneshot::Receiver<Result<Attempt, NodeError>> {
        let (done, receiver) = oneshot::channel();
        let withdrawals = Arc::clone(self);
        self.tasks.spawn_until_stop(async move {
            if done.send(withdrawals.attempt(cid).await).is_err() {
                // The caller has stopped waiting: the retries do the rest.
                withdrawals.unsettled.notify_one();
            }
        });
        receiver
    }

    /// Notifies the peers that hold the record. Drops the note once all are notified and no announcement can undo it. Takes
    /// half a minute at most: the search of the DHT takes that long, then all peers are notified at the same time.
    async fn attempt(&self, cid: Cid) -> Result<Attempt, NodeError> {
        let network = Network::require(self.announcements.network.as_ref())?;
        if self.announcements.is_kept(cid).await? {
            // The file was stored again, and an earlier attempt may have withdrawn its new record.
            network.net.provide(cid).await;
            self.forget(cid).await?;
            return Ok(Attempt { notified: 0, missed: false, settled: true });
        }
        let Withdrawn { dropped: notified, missed } = network.fetcher.transfers().withdraw(cid).await;
        let missed = notified == 0 || missed > 0;
        let settled = network.net.is_settled(cid).await?;
        if settled && !missed {
            self.forget(cid).await?;
        }
        if self.announcements.is_kept(cid).await? {
            network.net.provide(cid).await;
        }
        Ok(Attempt { notified, missed, settled })
    }

    /// Returns when a DHT peer is connected.
    async fn first_peer(&self) {
        let Some(network) = &self.announcements.network else { return };
        let mut events = network.net.events();
        while !network.has_dht_peers() {
            if matches!(events.recv().await, Err(RecvError::Closed)) {
                return;
            }
        }
    }

    fn has_dht_peers(&self) -> bool {
        self.announcements.network.as_ref().is_some_and(|network| network.has_dht_peers())
    }

    async fn noted(&self) -> Result<Vec<Cid>, NodeError> {
        let notes = self.announcements.store.run(load).await?;
        Ok(notes.into_iter().map(|note| note.cid).collect())
    }

    async fn forget(&self, cid: Cid) -> Result<(), NodeError> {
        self.change_notes(move |_, notes| {
            notes.retain(|note| note.cid != cid);
            Ok(())
        })
        .await
    }

    async fn change_notes(
        &self,
        change: impl FnOnce(&Store, &mut Vec<Note>) -> Result<(), NodeError> + Send + 'static,
    ) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        self.announcements
            .store
            .run(move |store| {
                let mut notes = load(store)?;
                let before = notes.len();
                change(store, &mut notes)?;
                if before == 0 && notes.is_empty() {
                    return Ok(());
                }
                let bytes = serde_json::to_vec(&notes).unwrap_or_default();
                Ok(store.set_meta_to_free_space(META_WITHDRAWALS, &bytes)?)
            })
            .await
    }
}

/// Returns the notes whose records have not expired.
fn load(store: &Store) -> Result<Vec<Note>, NodeError> {
    let bytes = store.meta(META_WITHDRAWALS)?.unwrap_or_default();
    let mut notes: Vec<Note> = serde_json::from_slice(&bytes).unwrap_or_default();
    let now = unix_s();
    notes.retain(|note| now < note.since_unix_s.saturating_add(RECORD_TTL.as_secs()));
    Ok(notes)
}
