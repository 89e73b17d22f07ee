//! Withdrawals that are still to be done.
//!
//! Other peers hold the records that say what this node has. A file that is removed while they cannot be told (no node
//! runs, or they are away) is noted, durably, and they are told when they are there: until then, or until the record
//! expires, they send readers here in vain.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast::error::RecvError, oneshot},
    time::timeout,
};

use super::{Node, error::NodeError, start::META_PEERS, unix_s};
use crate::{content::cid::Cid, net::NetEvent, store::Store, transfer::Withdrawn};

/// Name under which the notes are kept in the store.
const META_WITHDRAWALS: &str = "withdrawals";
/// Records expire after this long, and with them the notes.
const RECORD_TTL: Duration = Duration::from_secs(48 * 3600);
/// Notes at most: of more, the oldest are left to expire.
const MOST: usize = 4096;
/// How long the first try may take: somebody waits for it.
const FIRST_TRY: Duration = Duration::from_secs(5);
/// Files whose records are withdrawn at a time.
const AT_A_TIME: usize = 4;
/// Peers of the DHT come several at a time: so long is waited for the others.
const SETTLE: Duration = Duration::from_secs(1);
/// An announcement may arrive after its withdrawal: until none can any more, it is withdrawn again so often.
const REPEAT: Duration = Duration::from_secs(5);
/// How often it is tried again where nobody new comes.
const AGAIN: Duration = Duration::from_secs(600);

/// A file that was removed, and when.
#[derive(Clone, Serialize, Deserialize)]
struct Note {
    cid: Cid,
    since_unix_s: u64,
}

/// What became of a withdrawal.
pub(super) struct Outcome {
    pub(super) told: u32,
    /// Somebody is still to be told.
    pub(super) pending: bool,
}

/// What came of one try.
struct Tried {
    told: u32,
    /// Somebody may have the record and was not told.
    missed: bool,
    /// No announcement of it is still to arrive.
    settled: bool,
}

impl Node {
    /// Notes that a file is about to be removed. A node that never had a peer has nobody to tell.
    pub(super) async fn note_withdrawal(&self, cid: Cid) -> Result<(), NodeError> {
        let lonely = self.inner.options.bootstrap.is_empty() && !self.has_peers();
        self.change_notes(move |store, notes| {
            if lonely && store.meta(META_PEERS)?.is_none() {
                return Ok(());
            }
            notes.retain(|note| note.cid != cid);
            notes.push(Note { cid, since_unix_s: unix_s() });
            notes.drain(..notes.len().saturating_sub(MOST));
            Ok(())
        })
        .await
    }

    /// Tells the peers that are there; in the first seconds of a node, waits for one.
    pub(super) async fn withdraw(&self, cid: Cid) -> Result<Outcome, NodeError> {
        let mut outcome = Outcome { told: 0, pending: self.withdrawals().await?.contains(&cid) };
        if self.inner.network.is_some() && outcome.pending {
            // A node that was started for this alone has not met anybody yet.
            let just_started = FIRST_TRY.saturating_sub(self.inner.started.elapsed());
            if timeout(just_started, self.first_peer()).await.is_ok()
                && let Ok(Ok(tried)) = timeout(FIRST_TRY, self.begin_withdrawal(cid)).await
            {
                let Tried { told, missed, settled } = tried?;
                outcome = Outcome { told, pending: missed };
                if !settled {
                    self.inner.withdrawn.notify_one();
                }
            }
        }
        Ok(outcome)
    }

    /// Does what is noted, whenever a peer comes that can be told; returns when the network ends.
    pub(super) async fn keep_withdrawing(&self) {
        let Ok(network) = self.network() else { return };
        let mut events = network.net.events();
        loop {
            let noted = self.withdrawals().await.unwrap_or_default();
            let unsettled = AtomicBool::new(false);
            if !noted.is_empty() && self.has_peers() {
                let unsettled = &unsettled;
                let tries = futures::stream::iter(noted).map(|cid| async move {
                    match self.try_withdrawal(cid).await {
                        Ok(tried) => {
                            unsettled.fetch_or(!tried.settled, Ordering::Relaxed);
                        }
                        Err(error) => tracing::warn!(%cid, "a record cannot be withdrawn: {error}"),
                    }
                });
                tries.buffer_unordered(AT_A_TIME).collect::<()>().await;
            }
            let somebody_new = async {
                loop {
                    match events.recv().await {
                        Ok(NetEvent::DhtPeer { .. }) | Err(RecvError::Lagged(_)) => return true,
                        Ok(_) => {}
                        Err(RecvError::Closed) => return false,
                    }
                }
            };
            let pause = if unsettled.into_inner() { REPEAT } else { AGAIN };
            let wait = tokio::select! {
                came = somebody_new => if came { SETTLE } else { return },
                () = self.inner.withdrawn.notified() => REPEAT,
                () = tokio::time::sleep(pause) => Duration::ZERO,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Begins a try, which goes on to its end, whoever still waits for it: one that was cut off could take the record away
    /// of a file that is stored again meanwhile, and nobody would announce that.
    fn begin_withdrawal(&self, cid: Cid) -> oneshot::Receiver<Result<Tried, NodeError>> {
        let (done, tried) = oneshot::channel();
        let (node, stop) = (self.clone(), self.stopping());
        self.spawn(async move {
            let tried = stop.run_until_cancelled(node.try_withdrawal(cid)).await;
            if tried.is_some_and(|tried| done.send(tried).is_err()) {
                // Nobody has waited for it: what is left to do is done by and by.
                node.inner.withdrawn.notify_one();
            }
        });
        tried
    }

    /// Tells whoever holds the record; forgets the note where nobody is left, and no announcement can bring it back. It
    /// takes half a minute at most: that long the DHT is asked, and then everybody is told at once.
    async fn try_withdrawal(&self, cid: Cid) -> Result<Tried, NodeError> {
        let network = self.network()?;
        if self.is_kept(cid).await? {
            // It was stored again meanwhile, and a try before this one may have reached its new record.
            network.net.provide(cid).await;
            self.forget_withdrawal(cid).await?;
            return Ok(Tried { told: 0, missed: false, settled: true });
        }
        let Withdrawn { told, missed } = network.fetcher.transfers().withdraw(cid).await;
        let missed = told == 0 || missed > 0;
        let settled = network.net.is_settled(cid).await?;
        if settled && !missed {
            self.forget_withdrawal(cid).await?;
        }
        if self.is_kept(cid).await? {
            network.net.provide(cid).await;
        }
        Ok(Tried { told, missed, settled })
    }

    /// Returns when a peer of the DHT is there.
    async fn first_peer(&self) {
        let Ok(network) = self.network() else { return };
        let mut events = network.net.events();
        while !self.has_peers() {
            if matches!(events.recv().await, Err(RecvError::Closed)) {
                return;
            }
        }
    }

    fn has_peers(&self) -> bool {
        self.network().is_ok_and(|network| network.net.peers().iter().any(|peer| peer.dht))
    }

    pub(super) async fn is_kept(&self, cid: Cid) -> Result<bool, NodeError> {
        self.blocking(move |store| Ok(store.root(&cid)?.is_some_and(|root| root.pinned))).await
    }

    async fn withdrawals(&self) -> Result<Vec<Cid>, NodeError> {
        let notes = self.blocking(load).await?;
        Ok(notes.into_iter().map(|note| note.cid).collect())
    }

    async fn forget_withdrawal(&self, cid: Cid) -> Result<(), NodeError> {
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
        // One change at a time: each reads what the one before has written.
        let _turn = self.inner.withdrawing.lock().await;
        self.blocking(move |store| {
            let mut notes = load(store)?;
            let before = notes.len();
            change(store, &mut notes)?;
            if before == 0 && notes.is_empty() {
                return Ok(());
            }
            let bytes = serde_json::to_vec(&notes).unwrap_or_default();
            Ok(store.set_meta_to_let_go(META_WITHDRAWALS, &bytes)?)
        })
        .await
    }
}

/// The notes whose records may still exist.
fn load(store: &Store) -> Result<Vec<Note>, NodeError> {
    let bytes = store.meta(META_WITHDRAWALS)?.unwrap_or_default();
    let mut notes: Vec<Note> = serde_json::from_slice(&bytes).unwrap_or_default();
    let now = unix_s();
    notes.retain(|note| now < note.since_unix_s.saturating_add(RECORD_TTL.as_secs()));
    Ok(notes)
}
