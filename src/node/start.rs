//! Starting and stopping.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Inner, Network, Node, NodeOptions, chores,
    error::{ErrorCode, NodeError},
    identity,
    pool::Pool,
};
use crate::{
    fetch::Fetcher,
    net::{Net, NetOptions, RememberedPeer},
    store::{Store, StoreError, StoreOptions},
    transfer::{Counters, Limiter, ServeOptions, Transfers, serve},
};

/// Threads that seal and write: more than cores, because most of them wait for a sync.
const SEALERS: usize = 16;
/// Uploads that may arrive at a time. Each holds the chunk that it is cutting and the next one; what seals them is bounded for all.
const UPLOADS: usize = 16;
/// Uploads of what is on this disk already that may be stored at a time, beside those: none of them waits for anybody.
const LOCAL_UPLOADS: usize = 4;
/// Events that a slow listener may be behind.
const EVENTS: usize = 1024;
/// How long tasks may take to end after they were told.
const STOP: Duration = Duration::from_secs(3);
/// How long others may take to look at the lock of the data directory.
const LOOKERS: Duration = Duration::from_millis(200);

/// Name under which remembered peers are kept in the store.
pub(super) const META_PEERS: &str = "peers";
/// Name under which provider records of others are kept in the store.
pub(super) const META_RECORDS: &str = "provider-records";

impl Node {
    /// Opens the data directory, joins the network, and announces what is stored.
    ///
    /// # Errors
    /// [`ErrorCode::Locked`] where another process has the data directory; [`ErrorCode::Other`] for an address that
    /// cannot be listened on, and for a data directory that cannot be used.
    pub async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let store_options = StoreOptions {
            layout: options.layout,
            capacity: options.capacity,
            cache_size: options.cache_size,
            grace: options.grace,
            ..StoreOptions::new(&options.data_dir)
        };
        let opened = tokio::task::spawn_blocking(move || -> Result<_, NodeError> {
            let store = open(&store_options)?;
            let keypair = identity::load_or_create(store.dir())?;
            Ok((store, keypair))
        });
        let (store, keypair) = opened.await.map_err(|_| NodeError::lost_worker())??;
        let secret = match &options.cluster {
            Some(cluster) => cluster.convergence_secret(),
            None => identity::own_secret(&keypair)?,
        };
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let peer = keypair.public().to_peer_id();
        let network = if options.offline {
            None
        } else {
            Some(Network::start(&options, keypair, &store, &stop, &tasks).await?)
        };
        let pool =
            Pool::new(SEALERS).map_err(|e| NodeError::new(ErrorCode::Other, format!("no threads: {e}")))?;
        let node = Self {
            inner: Arc::new(Inner {
                options,
                peer,
                secret,
                store,
                network,
                pool,
                uploads: Semaphore::new(UPLOADS),
                local_uploads: Semaphore::new(LOCAL_UPLOADS),
                events: broadcast::channel(EVENTS).0,
                stop,
                tasks,
                started: std::time::Instant::now(),
                http: std::sync::Mutex::default(),
                withdrawing: tokio::sync::Mutex::default(),
                census: super::health::Census::default(),
                said: std::sync::Mutex::default(),
                withdrawn: tokio::sync::Notify::new(),
            }),
        };
        chores::start(&node);
        Ok(node)
    }

    /// Stops everything in order: no new work, running work ends or is cut off, what the network knows is saved.
    /// Nothing that was acknowledged is lost, whenever the process ends.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        inner.tasks.close();
        let saving = async {
            if let Some(network) = &inner.network {
                chores::save_network(self, network, true).await;
            }
        };
        if tokio::time::timeout(STOP, futures::future::join(saving, inner.tasks.wait())).await.is_err() {
            tracing::warn!("some work did not end in time and is cut off");
        }
        if let Some(network) = &inner.network {
            network.net.shutdown().await;
        }
    }
}

/// Opens the store. Whoever looks who holds the lock holds it for that moment too: that is no reason to fail.
fn open(options: &StoreOptions) -> Result<Store, StoreError> {
    let deadline = std::time::Instant::now() + LOOKERS;
    loop {
        match Store::open(options.clone()) {
            Err(StoreError::Locked { .. }) if std::time::Instant::now() < deadline => {
                std::thread::sleep(LOOKERS / 20);
            }
            opened => return opened,
        }
    }
}

impl Network {
    async fn start(
        options: &NodeOptions,
        keypair: libp2p::identity::Keypair,
        store: &Store,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, NodeError> {
        let remembered: Vec<RememberedPeer> = match store.meta(META_PEERS)? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Vec::new(),
        };
        let net_options = NetOptions {
            listen: options.listen.clone(),
            external: options.external.clone(),
            bootstrap: options.bootstrap.clone(),
            membership: options.cluster.as_ref().map(crate::content::secret::ClusterKey::membership),
            mdns: options.mdns,
            relay_server: options.relay_server,
            max_connections: options.max_connections,
            remembered,
            records: store.meta(META_RECORDS)?.unwrap_or_default(),
            ..NetOptions::new(keypair)
        };
        let (net, incoming) = Net::start(net_options).await?;
        let counters = Arc::new(Counters::default());
        let serve_options = ServeOptions {
            limit: options.upload_limit.map(|rate| Arc::new(Limiter::new(rate))),
            region: options.region.clone(),
            capacity: options.capacity,
        };
        tasks.spawn(serve(
            net.clone(),
            incoming,
            store.clone(),
            serve_options,
            Arc::clone(&counters),
            stop.clone(),
        ));
        let transfers = Transfers::new(net.clone(), Arc::clone(&counters));
        let fetcher = Fetcher::new(store.clone(), transfers);
        Ok(Self { net, fetcher, counters, saved: std::sync::Mutex::default() })
    }
}
