//! Verifying stored blocks, and fetching damaged and missing ones from peers.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use super::{
    damage_cache::DamageCache,
    error::NodeError,
    handles::{BlockingStore, Events, Tasks},
    network::Network,
    report::{Event, RepairReport, VerifyReport},
};
use crate::{
    content::cid::{Cid, Codec},
    store::{Store, Verified},
};

/// Blocks fetched at the same time.
const CONCURRENT: usize = 8;
/// Time without progress after which a block is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Verifies and repairs files.
#[derive(Clone)]
pub(super) struct Repairs {
    pub(super) store: BlockingStore,
    pub(super) network: Option<Arc<Network>>,
    pub(super) damage: DamageCache,
    pub(super) events: Events,
    pub(super) tasks: Tasks,
}

/// The result of fetching blocks.
#[derive(Default)]
struct Fetched {
    /// Blocks that are stored here now.
    blocks: Vec<Cid>,
    /// The first error from storing a block that a peer has sent.
    failure: Option<NodeError>,
}

impl Repairs {
    /// Reads and hashes the blocks of a root, or all blocks; moves damaged ones to quarantine and repairs what it can.
    pub(super) async fn verify(&self, root: Option<Cid>) -> Result<VerifyReport, NodeError> {
        let stop = self.tasks.stop.clone();
        let verified = self
            .store
            .run_while_wanted(move |store, wanted| {
                let mut goes_on = |_| !stop.is_cancelled() && wanted.is_wanted();
                Ok(store.verify(root.as_ref(), &mut goes_on)?)
            })
            .await?;
        Ok(self.repair_verified(root, verified).await)
    }

    /// Reports the damaged blocks that a verification found, and repairs what it can.
    pub(super) async fn repair_verified(&self, root: Option<Cid>, verified: Verified) -> VerifyReport {
        let Verified { checked, bytes, bad, missing } = verified;
        for cid in &bad {
            self.events.emit(Event::BadBlock { cid: *cid, origin: "disk".into() });
        }
        let mut damaged = bad.clone();
        damaged.extend(&missing);
        let Fetched { blocks: repaired, failure } = self.fetch(root, &damaged).await;
        if !damaged.is_empty() {
            self.damage.invalidate();
        }
        let index_behind = self.store.0.is_index_behind();
        VerifyReport { checked, bytes, bad, missing, repaired, failure, index_behind }
    }

    /// Fetches the missing blocks of a kept file, or of all kept files.
    pub(super) async fn repair(&self, root: Option<Cid>) -> Result<RepairReport, NodeError> {
        let mut report = RepairReport::default();
        let mut failure = None;
        let roots = if let Some(root) = root {
            vec![root]
        } else {
            self.damage.invalidate();
            self.damage.summary().await?.damaged.iter().map(|(root, _)| *root).collect()
        };
        for root in roots {
            let mut tried = HashSet::new();
            loop {
                let mut missing = self.store.run(move |store| Ok(store.lacks(&root, usize::MAX)?)).await?;
                missing.retain(|cid| tried.insert(*cid));
                if missing.is_empty() {
                    break;
                }
                let Fetched { blocks: repaired, failure: failed } = self.fetch(Some(root), &missing).await;
                let fetched: HashSet<&Cid> = repaired.iter().collect();
                report.missing.extend(missing.into_iter().filter(|cid| !fetched.contains(cid)));
                // A fetched node block may list more blocks that are missing.
                let again = repaired.iter().any(|cid| cid.codec() == Codec::DagCbor);
                report.repaired.extend(repaired);
                failure = failure.or(failed);
                if !again {
                    break;
                }
            }
        }
        self.damage.invalidate();
        failure.map_or(Ok(report), Err)
    }

    /// Fetches blocks from peers and stores them.
    async fn fetch(&self, root: Option<Cid>, blocks: &[Cid]) -> Fetched {
        let mut result = Fetched::default();
        let Some(network) = &self.network else { return result };
        if blocks.is_empty() || network.net.connected().is_empty() {
            return result;
        }
        let shared = root.map(|root| network.fetcher.session(root, TIMEOUT));
        let fetch = |cid: Cid| {
            // Without a root, peers that have this block may announce any root: the session asks connected peers anyway.
            let session = shared.clone().unwrap_or_else(|| network.fetcher.session(cid, TIMEOUT));
            async move {
                let block = session.block(&cid, None).await.ok()?;
                Some((cid, self.store.run(move |store| ensure_stored(store, &cid, &block)).await))
            }
        };
        let mut fetched = stream::iter(blocks.iter().copied()).map(fetch).buffered(CONCURRENT);
        while let Some(fetched) = fetched.next().await {
            match fetched {
                Some((cid, Ok(true))) => result.blocks.push(cid),
                Some((_, Err(error))) => drop(result.failure.get_or_insert(error)),
                Some((_, Ok(false))) | None => {}
            }
        }
        result
    }
}

/// Stores a fetched block unless the session has already done so. Returns whether it is here: a session ignores a store that
/// refuses the block, a repair reports it.
fn ensure_stored(store: &Store, cid: &Cid, block: &[u8]) -> Result<bool, NodeError> {
    if !store.holds(cid)? {
        store.put_cached(cid, block)?;
    }
    Ok(store.holds(cid)?)
}
