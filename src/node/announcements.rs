//! Announcing kept files: provider records in the DHT that lead readers to this node.

use std::{sync::Arc, time::Duration};

use super::{error::NodeError, handles::BlockingStore, network::Network, report::Placement};
use crate::{content::cid::Cid, net::NetError};

/// Roots read from the store at a time.
const PAGE: usize = 256;

/// Announces roots, and tells how far that has come.
#[derive(Clone)]
pub(super) struct Announcements {
    pub(super) store: BlockingStore,
    pub(super) network: Option<Arc<Network>>,
}

impl Announcements {
    /// Queues the announcement of a root.
    pub(super) async fn announce(&self, root: Cid) {
        if let Some(network) = &self.network {
            network.net.provide(root).await;
        }
    }

    /// Queues the announcement of every kept file.
    pub(super) async fn announce_all(&self) {
        let mut after: Option<Cid> = None;
        loop {
            let page = match self.store.run(move |store| Ok(store.roots(after, PAGE)?)).await {
                Ok(page) => page,
                Err(error) => return tracing::error!("cannot announce the kept files: {error}"),
            };
            let Some(last) = page.last() else { return };
            after = Some(last.cid);
            for record in page.iter().filter(|record| record.pinned) {
                self.announce(record.cid).await;
            }
        }
    }

    /// Whether this node keeps the file.
    pub(super) async fn is_kept(&self, root: Cid) -> Result<bool, NodeError> {
        self.store.run(move |store| Ok(store.root(&root)?.is_some_and(|record| record.pinned))).await
    }

    /// Waits up to `wait` for the announcement of a kept file, and tells how far it has come.
    pub(super) async fn placement(&self, cid: Cid, wait: Duration) -> Result<Placement, NodeError> {
        Ok(match tokio::time::timeout(wait, self.announced(cid)).await {
            Ok(peers) => Placement { cid, done: true, announced_to: peers? },
            Err(_) => Placement { cid, done: false, announced_to: 0 },
        })
    }

    /// Waits for the announcement of a kept file, queueing it if necessary. Returns the number of peers that accepted the
    /// record.
    async fn announced(&self, cid: Cid) -> Result<u32, NodeError> {
        let net = &Network::require(self.network.as_ref())?.net;
        match net.announced(cid).await {
            Err(NetError::NotProvided(_)) => {}
            announced => return Ok(announced?),
        }
        net.provide(cid).await;
        if !self.is_kept(cid).await? {
            // The file was removed in the meantime, perhaps before this announcement.
            net.unprovide(cid).await;
        }
        Ok(net.announced(cid).await?)
    }
}
