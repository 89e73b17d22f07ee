//! The services of a node, and how they are built on top of the store and the network when it starts.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    NodeOptions,
    announcements::Announcements,
    collector::Collector,
    damage_cache::DamageCache,
    data_dir::{DataDir, META_CLUSTER, META_PEER, remember},
    error::NodeError,
    files::Files,
    handles::{BlockingStore, Events, Tasks, Walks},
    health::HealthCheck,
    identity,
    keep::Keeping,
    listing::Listing,
    membership,
    network::Network,
    peers::Peers,
    put::Puts,
    read::Reads,
    repair::Repairs,
    scrub::Scrub,
    withdrawals::Withdrawals,
};
use libp2p::PeerId;
use tokio::sync::{Notify, broadcast};

use crate::store::{Store, StoreError, StoreOptions};

/// Events that a slow subscriber may be behind.
const EVENT_BACKLOG: usize = 1024;
/// How long opening waits for the lock of the data directory: a process that only asks who holds the lock holds it briefly.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The address of the HTTP API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpEndpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: bool,
}

/// The services of a running node, and what they share.
pub(super) struct Services {
    pub(super) options: NodeOptions,
    pub(super) peer: PeerId,
    pub(super) started: Instant,
    /// Address of the HTTP API, once it is served.
    pub(super) http: Mutex<Option<HttpEndpoint>>,
    pub(super) store: BlockingStore,
    /// `None` in a node that was started offline.
    pub(super) network: Option<Arc<Network>>,
    pub(super) events: Events,
    pub(super) tasks: Tasks,
    pub(super) puts: Arc<Puts>,
    pub(super) files: Files,
    pub(super) keeping: Keeping,
    pub(super) listing: Listing,
    pub(super) health: HealthCheck,
    pub(super) repairs: Repairs,
    pub(super) scrub: Scrub,
    pub(super) collector: Collector,
    pub(super) announcements: Announcements,
    pub(super) withdrawals: Arc<Withdrawals>,
    pub(super) peers: Peers,
}

impl Services {
    pub(super) fn http(&self) -> Option<HttpEndpoint> {
        *self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves peers and provider records for the next start (see [`Network::save`]).
    pub(super) async fn save_network(&self, unchanged: bool) {
        if let Some(network) = &self.network {
            network.save(&self.store, unchanged).await;
        }
    }

    /// Opens the data directory, joins the network and builds the services.
    pub(super) async fn start(options: NodeOptions) -> Result<Services, NodeError> {
        let (store_options, cluster) = (options.store.clone(), options.cluster.clone());
        let opened = tokio::task::spawn_blocking(move || -> Result<_, NodeError> {
            let store = open(&store_options)?;
            let data_dir = DataDir::Open(&store);
            membership::check(data_dir, cluster.as_ref())?;
            let keypair = identity::load_or_create(data_dir)?;
            // A full disk must not prevent the start.
            if let Some(Err(error)) = cluster.as_ref().map(|key| membership::record(store.dir(), key)) {
                tracing::warn!("{error}");
            }
            remember(&store, META_CLUSTER, &cluster.as_ref().map(membership::id).unwrap_or_default());
            remember(&store, META_PEER, &keypair.public().to_peer_id().to_string());
            Ok((store, keypair))
        });
        let (store, keypair) = opened.await.map_err(|_| NodeError::worker_failed())??;
        let store = BlockingStore(store);
        let secret = match &options.cluster {
            Some(cluster) => cluster.convergence_secret(),
            None => identity::own_secret(&keypair)?,
        };
        let peer = keypair.public().to_peer_id();
        let (tasks, events) = (Tasks::default(), Events(broadcast::channel(EVENT_BACKLOG).0));
        let network = if options.offline {
            None
        } else {
            Some(Arc::new(Network::start(&options, keypair, &store, &tasks).await?))
        };
        let started = Instant::now();
        let damage = DamageCache::new(store.clone());
        let walks = Walks::new(store.clone());
        let announcements = Announcements { store: store.clone(), network: network.clone() };
        let withdrawals = Arc::new(Withdrawals {
            announcements: announcements.clone(),
            tasks: tasks.clone(),
            no_bootstrap: options.bootstrap.is_empty(),
            started,
            changing: tokio::sync::Mutex::default(),
            unsettled: Notify::new(),
        });
        let reads = Reads {
            store: store.clone(),
            network: network.clone(),
            tasks: tasks.clone(),
            events: events.clone(),
            timeout: options.timeout,
        };
        let repairs = Repairs {
            store: store.clone(),
            network: network.clone(),
            damage: damage.clone(),
            events: events.clone(),
            tasks: tasks.clone(),
        };
        let puts =
            Puts::new(secret, options.chunker, peer, announcements.clone(), events.clone(), tasks.clone())?;
        Ok(Self {
            puts: Arc::new(puts),
            keeping: Keeping {
                reads: reads.clone(),
                announcements: announcements.clone(),
                damage: damage.clone(),
                owner: peer,
            },
            files: Files {
                reads,
                withdrawals: Arc::clone(&withdrawals),
                damage: damage.clone(),
                events: events.clone(),
            },
            listing: Listing { damage, walks: walks.clone(), counts: Arc::default() },
            health: HealthCheck::new(walks, network.clone()),
            scrub: Scrub { repairs: repairs.clone(), rate_bytes_per_s: options.scrub_rate },
            collector: Collector { store: store.clone(), events: events.clone() },
            peers: Peers::default(),
            http: Mutex::default(),
            options,
            peer,
            started,
            store,
            network,
            events,
            tasks,
            repairs,
            announcements,
            withdrawals,
        })
    }
}

/// Opens the store. Waits briefly for a process that holds the lock of the data directory.
fn open(options: &StoreOptions) -> Result<Store, StoreError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match Store::open(options.clone()) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_TIMEOUT / 20);
            }
            opened => return opened,
        }
    }
}
