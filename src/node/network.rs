//! The network of a node: the swarm, the download scheduler and the block server, and their state that is saved for the next
//! start.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, identity::Keypair};

use super::{
    ErrorCode, NodeOptions,
    error::{NodeError, Reason},
    handles::{BlockingStore, Tasks},
    identity::{add_former_addrs, former_addrs},
};
use crate::{
    content::cid::Cid,
    fetch::Fetcher,
    net::{Net, NetOptions, Protocols, RememberedPeer},
    store::Store,
    transfer::{self, Counters, RateLimiter, ServeOptions, Transfers},
};

/// Store keys of the remembered peers and of the provider records of other nodes.
pub(super) const META_PEERS: &str = "peers";
const META_RECORDS: &str = "provider-records";
/// How long one search gathers providers.
const PROVIDER_SEARCH: Duration = Duration::from_secs(5);
/// Maximum number of providers that one search returns.
const MAX_PROVIDERS: usize = 100;

/// Addresses of one peer that [`known_addrs`] lists.
const ADDRS_OF_EACH: usize = 2;

/// A running network. Absent in a node that was started offline.
pub(super) struct Network {
    pub(super) net: Net,
    pub(super) fetcher: Fetcher,
    pub(super) counters: Arc<Counters>,
    /// Version of the provider records that were saved last.
    saved_version: Mutex<Option<u64>>,
}

/// Returns a job that saves the addresses of this node. If it fails, another machine with this identity is noticed later.
fn save_addrs(net: &Net) -> impl FnOnce(&Store) -> Result<(), NodeError> + Send + use<> {
    let addrs = net.listen_addrs();
    move |store| {
        if let Err(error) = add_former_addrs(store.dir(), addrs) {
            tracing::debug!("cannot save the addresses of this node: {error}");
        }
        Ok(())
    }
}

impl Network {
    /// Joins the swarm and starts to serve blocks.
    pub(super) async fn start(
        options: &NodeOptions,
        keypair: Keypair,
        store: &BlockingStore,
        tasks: &Tasks,
    ) -> Result<Self, NodeError> {
        let remembered = remembered(store).await?;
        let net_options = NetOptions {
            listen: options.listen.clone(),
            external: options.external.clone(),
            bootstrap: options.bootstrap.clone(),
            membership: options.cluster.as_ref().map(crate::content::secret::ClusterKey::membership),
            mdns: options.mdns,
            relay_server: options.relay_server,
            max_connections: options.max_connections,
            remembered,
            records: store.meta(META_RECORDS).await?.unwrap_or_default(),
            former: former_addrs(store.0.dir()),
            ..NetOptions::new(keypair)
        };
        let mut protocols = Protocols::default();
        let incoming = protocols.accept(transfer::PROTOCOL);
        let net = Net::start(net_options, protocols).await?;
        store.run(save_addrs(&net)).await?;
        let store = &store.0;
        let counters = Arc::new(Counters::default());
        let serve_options = ServeOptions {
            limit: options.upload_limit.map(|rate| Arc::new(RateLimiter::new(rate))),
            region: options.region.clone(),
            capacity: options.store.capacity,
        };
        tasks.tracker.spawn(transfer::serve(
            net.clone(),
            incoming,
            store.clone(),
            serve_options,
            Arc::clone(&counters),
            tasks.stop.clone(),
        ));
        let transfers = Transfers::new(net.clone(), Arc::clone(&counters));
        let fetcher = Fetcher::new(store.clone(), transfers);
        Ok(Self { net, fetcher, counters, saved_version: Mutex::default() })
    }

    /// Returns the network of a node that has one.
    ///
    /// Errors: [`ErrorCode::Unreachable`] if the node is offline.
    pub(super) fn require(network: Option<&Arc<Self>>) -> Result<&Self, NodeError> {
        network.map(Arc::as_ref).ok_or_else(|| {
            NodeError::new(ErrorCode::Unreachable, "this node was started without a network")
                .reason(Reason::Offline)
        })
    }

    /// Returns the peers of this DHT and their addresses, most recently seen first.
    async fn dht_peers(&self) -> Vec<RememberedPeer> {
        let seen = *self.saved_version.lock().unwrap_or_else(PoisonError::into_inner);
        self.net.snapshot_since(seen).await.map(|snapshot| snapshot.remembered).unwrap_or_default()
    }

    /// Looks for peers that announce a root.
    pub(super) async fn find_providers(&self, root: Cid) -> Vec<PeerId> {
        let mut found = Vec::new();
        let mut search = self.net.find_providers(root).await;
        let deadline = tokio::time::Instant::now() + PROVIDER_SEARCH;
        while let Ok(Some(peer)) = tokio::time::timeout_at(deadline, search.recv()).await {
            if !found.contains(&peer) {
                found.push(peer);
            }
            if found.len() == MAX_PROVIDERS {
                break;
            }
        }
        found
    }

    /// Whether a peer that takes part in the DHT is connected.
    pub(super) fn has_dht_peers(&self) -> bool {
        self.net.peers().iter().any(|peer| peer.dht)
    }

    /// Saves peers and provider records for the next start. Records that have not changed are saved only if `unchanged` is
    /// set: their remaining lifetime changes all the same.
    pub(super) async fn save(&self, store: &BlockingStore, unchanged: bool) {
        let last = *self.saved_version.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.filter(|_| !unchanged);
        let Ok(snapshot) = self.net.snapshot_since(last).await else {
            return;
        };
        let version = snapshot.records_version;
        let save_addrs = save_addrs(&self.net);
        let saved = store.run(move |store| {
            save_addrs(store)?;
            // A node that has met no peers yet keeps those of its last run.
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
            Ok(()) => *self.saved_version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version),
            Err(error) => tracing::warn!("cannot save peers and provider records: {error}"),
        }
    }
}

/// Returns the peers that the last run has saved.
async fn remembered(store: &BlockingStore) -> Result<Vec<RememberedPeer>, NodeError> {
    let saved = store.meta(META_PEERS).await?;
    Ok(saved.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// Returns addresses of peers of this DHT, connected or not: a few of each, the most recently seen peers first.
pub(super) async fn known_addrs(
    network: Option<&Arc<Network>>,
    store: &BlockingStore,
) -> Result<Vec<Multiaddr>, NodeError> {
    let mut peers = match network {
        Some(network) => network.dht_peers().await,
        None => Vec::new(),
    };
    for saved in remembered(store).await? {
        if !peers.iter().any(|known| known.peer == saved.peer) {
            peers.push(saved);
        }
    }
    let addrs = |RememberedPeer { peer, addrs }: RememberedPeer| {
        addrs.into_iter().take(ADDRS_OF_EACH).filter_map(move |addr| addr.with_p2p(peer).ok())
    };
    Ok(peers.into_iter().flat_map(addrs).collect())
}
