//! Work that goes on by itself: announcing, collecting, checking, saving; and what a user may ask of it.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use libp2p::Multiaddr;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::{
    Network, Node, Reference,
    error::NodeError,
    health::Mended,
    report::{Event, GcReport, Status, VerifyReport},
    start::{META_PEERS, META_RECORDS},
    unix_s,
};
use crate::{
    content::cid::Cid,
    net::NetEvent,
    store::{Collected, Store, StoreError, Verified},
};

/// How often unreferenced blocks are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(600);
/// How often block files that the index does not know are looked for, and where the last time is noted.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
const SWEPT: &str = "swept";
/// How often what the network knows is saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// How often it is saved though nothing has changed: records have a time left.
const SAVE_ANYWAY: Duration = Duration::from_secs(3600);
/// Pause between two rounds of checking stored blocks, and where the end of the last one is noted.
const SCRUB_PAUSE: Duration = Duration::from_secs(24 * 3600);
const SCRUBBED: &str = "scrubbed";
/// What is done rarely waits this long after the start, and after each other time.
const SETTLE: Duration = Duration::from_secs(600);
/// Roots read at a time.
const PAGE: usize = 256;

/// Begins everything that goes on by itself.
pub(super) fn start(node: &Node) {
    if node.inner.network.is_some() {
        every_now_and_then(node, SAVE_EVERY, |node| async move {
            if let Some(network) = &node.inner.network {
                save_network(&node, network, false).await;
            }
        });
        every_now_and_then(node, SAVE_ANYWAY, |node| async move {
            if let Some(network) = &node.inner.network {
                save_network(&node, network, true).await;
            }
        });
        run(node, |node| async move { node.announce_all().await });
        run(node, |node| async move { node.keep_withdrawing().await });
        run(node, |node| async move { node.pass_on_events().await });
    }
    if node.inner.options.offline {
        return;
    }
    every_now_and_then(node, COLLECT_EVERY, |node| async move {
        if let Err(error) = node.collect().await {
            tracing::warn!("collection failed: {error}");
        }
    });
    rarely(node, SWEPT, SWEEP_EVERY, |node| async move {
        match node.blocking(|store| Ok(store.sweep()?)).await {
            Ok(Collected { blocks: 0, .. }) => {}
            Ok(Collected { blocks, bytes }) => {
                tracing::info!(blocks, bytes, "leftovers of killed uploads removed");
            }
            Err(error) => tracing::warn!("the sweep failed: {error}"),
        }
    });
    let rate = node.inner.options.scrub_rate;
    if rate > 0 {
        rarely(node, SCRUBBED, SCRUB_PAUSE, move |node| async move { node.scrub(rate).await });
    }
}

/// Runs a task of the node until it ends or the node stops.
fn run<F: Future<Output = ()> + Send + 'static>(node: &Node, task: impl FnOnce(Node) -> F) {
    let (task, stop) = (task(node.clone()), node.stopping());
    node.spawn(async move {
        stop.run_until_cancelled(task).await;
    });
}

fn every_now_and_then<F: Future<Output = ()> + Send + 'static>(
    node: &Node,
    period: Duration,
    work: impl Fn(Node) -> F + Send + 'static,
) {
    run(node, |node| async move {
        // Not all nodes of a swarm at once.
        let first = period.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let mut next = tokio::time::interval_at(Instant::now() + first, period);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            work(node.clone()).await;
        }
    });
}

/// As [`every_now_and_then`], for what is due after a day: when it was last done outlives the node, so that one which runs some
/// hours a day comes to it, too.
fn rarely<F: Future<Output = ()> + Send + 'static>(
    node: &Node,
    mark: &'static str,
    period: Duration,
    work: impl Fn(Node) -> F + Send + 'static,
) {
    run(node, move |node| async move {
        loop {
            let last = node.meta(mark).await.ok().flatten();
            let last = last.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
            // Not all nodes of a swarm at once; and never again and again, whatever can be noted.
            let settle = SETTLE.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::time::sleep(due_in(last, unix_s(), period).max(settle)).await;
            work(node.clone()).await;
            if let Err(error) = node.set_meta(mark, unix_s().to_le_bytes().into()).await {
                tracing::warn!("when this was done could not be noted: {error}");
            }
        }
    });
}

/// How long until something is due that was last done at this time, in seconds since 1970. A clock that went back makes nobody
/// wait longer than a period.
fn due_in(last: Option<u64>, now: u64, period: Duration) -> Duration {
    let due = last.map_or(0, |last| last.saturating_add(period.as_secs()));
    Duration::from_secs(due.saturating_sub(now)).min(period)
}

/// Saves peers and provider records for the next start, where they have changed, or `anyway`: they also grow older.
pub(super) async fn save_network(node: &Node, network: &Network, anyway: bool) {
    let last = *network.saved.lock().unwrap_or_else(PoisonError::into_inner);
    let last = last.filter(|_| !anyway);
    let Ok(snapshot) = network.net.snapshot_since(last).await else {
        return;
    };
    let version = snapshot.records_version;
    let saved = node.blocking(move |store| {
        // Nobody known now is no reason to forget whom we knew.
        if !snapshot.remembered.is_empty() {
            let peers = serde_json::to_vec(&snapshot.remembered).unwrap_or_default();
            if store.meta(META_PEERS)?.as_deref() != Some(&peers) {
                store.set_meta(META_PEERS, &peers)?;
            }
        }
        if last != Some(version) {
            store.set_meta(META_RECORDS, &snapshot.records)?;
        }
        Ok(())
    });
    match saved.await {
        Ok(()) => *network.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(version),
        Err(error) => tracing::warn!("what the network knows could not be saved: {error}"),
    }
}

impl Node {
    /// Announces every file that is kept here.
    async fn announce_all(&self) {
        let Ok(network) = self.network() else { return };
        let mut after: Option<Cid> = None;
        loop {
            let page = match self.blocking(move |store| Ok(store.roots(after, PAGE)?)).await {
                Ok(page) => page,
                Err(error) => return tracing::error!("files cannot be announced: {error}"),
            };
            let Some(last) = page.last() else { return };
            after = Some(last.cid);
            for record in page.iter().filter(|record| record.pinned) {
                network.net.provide(record.cid).await;
            }
        }
    }

    async fn pass_on_events(&self) {
        let Ok(network) = self.network() else { return };
        let mut events = network.net.events();
        loop {
            let event = match events.recv().await {
                Ok(NetEvent::Connected { peer, addr }) => {
                    Event::PeerConnected { peer: peer.to_string(), addr: addr.to_string() }
                }
                Ok(NetEvent::Lost { peer }) => Event::PeerLost { peer: peer.to_string() },
                Ok(NetEvent::Listening { addr }) => Event::Listening { addr: addr.to_string() },
                Ok(NetEvent::SameIdentity { addr }) => Event::SameIdentity { addr: addr.to_string() },
                Ok(NetEvent::Announced { cid, peers }) => Event::Announced { cid, peers },
                Ok(NetEvent::DhtPeer { .. }) => continue,
                Err(RecvError::Lagged(count)) => Event::Skipped { count },
                Err(RecvError::Closed) => return,
            };
            self.emit(event);
        }
    }

    /// Removes blocks that no file has needed for the grace period.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn collect(&self) -> Result<GcReport, NodeError> {
        self.collect_by(Store::collect).await
    }

    /// Removes all blocks that no file needs, whether their grace period is over or not, and what uploads have left that
    /// were interrupted.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn purge(&self) -> Result<GcReport, NodeError> {
        self.collect_by(Store::purge).await
    }

    async fn collect_by(
        &self,
        collect: fn(&Store) -> Result<Collected, StoreError>,
    ) -> Result<GcReport, NodeError> {
        let (removed, usage) = self.blocking(move |store| Ok((collect(store)?, store.usage()))).await?;
        let Collected { blocks, bytes } = removed;
        if blocks > 0 {
            self.emit(Event::Collected { blocks, bytes });
        }
        Ok(GcReport { blocks, bytes, waiting: usage.unreferenced })
    }

    /// Reads the blocks of a file, or all, again; sets bad ones aside, and fetches bad and missing ones from peers.
    ///
    /// # Errors
    /// [`super::ErrorCode::NotFound`] where the file is not here. Damage is no error: it is what the answer lists.
    pub async fn verify(&self, reference: Option<&Reference>) -> Result<VerifyReport, NodeError> {
        let root = match reference {
            None => None,
            Some(reference) => Some(self.kept(reference).await?),
        };
        let stop = self.stopping();
        let found = self
            .blocking(move |store| Ok(store.verify(root.as_ref(), &mut |_| !stop.is_cancelled())?))
            .await?;
        self.settle(root, found).await
    }

    /// Says which blocks were bad, and mends what can be.
    pub(super) async fn settle(&self, root: Option<Cid>, found: Verified) -> Result<VerifyReport, NodeError> {
        let Verified { checked, bytes, bad, missing } = found;
        for cid in &bad {
            self.emit(Event::BadBlock { cid: *cid, origin: "disk".into() });
        }
        let mut damaged = bad.clone();
        damaged.extend(&missing);
        let Mended { blocks: repaired, failure } = self.mend(root, &damaged).await;
        if !damaged.is_empty() {
            self.inner.census.forget();
        }
        Ok(VerifyReport { checked, bytes, bad, missing, repaired, failure })
    }

    /// Connects to an address, with or without `/p2p/…`; answers with the id of the peer there.
    ///
    /// # Errors
    /// [`super::ErrorCode::Unreachable`].
    pub async fn connect(&self, addr: Multiaddr) -> Result<String, NodeError> {
        Ok(self.network()?.net.connect(addr).await?.to_string())
    }

    /// How the node is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self) -> Result<Status, NodeError> {
        let looked = self.blocking(|store| Ok((store.usage(), store.disk_free(), store.is_index_behind())));
        let (usage, disk_free, index_behind) = looked.await?;
        let inner = &self.inner;
        let net = inner.network.as_ref().map(|network| &network.net);
        let (announced, announce_queue) = net.map_or((0, 0), crate::net::Net::announcements);
        let moved = |which: fn(&crate::transfer::Counters) -> u64| {
            inner.network.as_ref().map_or(0, |network| which(&network.counters))
        };
        Ok(Status {
            peer: inner.peer.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: inner.started.elapsed().as_secs(),
            listen: net
                .map_or_else(Vec::new, |net| net.listen_addrs().iter().map(ToString::to_string).collect()),
            http: self.http().map(|door| door.addr.to_string()),
            https: self.http().is_some_and(|door| door.tls),
            data_dir: inner.options.data_dir.display().to_string(),
            cluster: inner.options.cluster.is_some(),
            same_identity: net.and_then(crate::net::Net::twin).map(|addr| addr.to_string()),
            peers: net.map_or(0, |net| u32::try_from(net.connected().len()).unwrap_or(u32::MAX)),
            outside: net.and_then(crate::net::Net::outside).map(|addr| addr.to_string()),
            files: usage.roots,
            kept: usage.roots.saturating_sub(usage.known),
            blocks: usage.blocks,
            stored_bytes: usage.bytes + usage.pending_bytes,
            cached_bytes: usage.cached_bytes,
            capacity: inner.options.capacity,
            disk_free,
            quarantined: usage.quarantined,
            missing: usage.missing,
            index_behind,
            announced,
            announce_queue,
            sent_bytes: moved(|counters| counters.sent.load(Ordering::Relaxed)),
            received_bytes: moved(|counters| counters.received.load(Ordering::Relaxed)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_due_by_the_clock_and_not_by_how_long_the_node_has_run() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let (now, day) = (1_000_000, DAY.as_secs());
        for (last, due) in [
            (None, 0),
            (Some(now), day),
            (Some(now - day / 3), day - day / 3),
            (Some(now - 3 * day), 0),
            (Some(now + 100 * day), day),
            (Some(u64::MAX), day),
        ] {
            assert_eq!(due_in(last, now, DAY), Duration::from_secs(due), "{last:?}");
        }
    }
}
