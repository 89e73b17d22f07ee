//! The state of the node at a glance, and the events of its network.

use std::sync::atomic::Ordering;

use tokio::sync::broadcast::error::RecvError;

use super::{
    data_dir::DataDir,
    error::{ErrorCode, NodeError, Reason},
    identity,
    invite::Invite,
    membership,
    report::{Event, Space, Status},
    services::Services,
};
use crate::{
    net::{Net, NetEvent},
    store::StoreError,
    transfer::Counters,
};

impl Services {
    /// Gathers the status of the node.
    pub(super) async fn status(&self) -> Result<Status, NodeError> {
        let (cluster, own) = (self.options.cluster.clone(), self.peer);
        let read = self.store.run(move |store| {
            let other_identity = identity::peer_id(store.dir()).is_some_and(|peer| peer != own);
            let restart_pending =
                other_identity || membership::check(DataDir::Open(store), cluster.as_ref()).is_err();
            let problems = (store.is_index_behind(), store.write_problem());
            Ok((store.usage(), store.disk_free(), problems, restart_pending))
        });
        let (usage, disk_free, (index_behind, write_problem), restart_pending) = read.await?;
        let damage = self.listing.damage.recent().await?;
        let http = self.http();
        let net = self.network.as_ref().map(|network| &network.net);
        let (announced, announce_queue) = net.map_or((0, 0), Net::announcements);
        let moved =
            |count: fn(&Counters) -> u64| self.network.as_ref().map_or(0, |network| count(&network.counters));
        Ok(Status {
            peer: self.peer.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            listen: net
                .map_or_else(Vec::new, |net| net.listen_addrs().iter().map(ToString::to_string).collect()),
            http: http.map(|http| http.addr.to_string()),
            https: http.is_some_and(|http| http.tls),
            data_dir: self.options.store.dir.display().to_string(),
            cluster: self.options.cluster.is_some(),
            restart_pending,
            same_identity: net.and_then(Net::duplicate_identity).map(|addr| addr.to_string()),
            peers: net.map_or(0, |net| u32::try_from(net.connected().len()).unwrap_or(u32::MAX)),
            outside: net.and_then(Net::other_cluster).map(|addr| addr.to_string()),
            files: usage.roots,
            kept: usage.roots.saturating_sub(usage.known),
            blocks: usage.blocks,
            stored_bytes: usage.bytes + usage.pending_bytes,
            cached_bytes: usage.cached_bytes,
            capacity: self.options.store.capacity,
            disk_free,
            quarantined: usage.quarantined,
            missing: damage.map_or(usage.missing, |damage| damage.missing),
            write_problem: write_problem.map(ToOwned::to_owned),
            index_behind,
            announced,
            announce_queue,
            sent_bytes: moved(|counters| counters.sent.load(Ordering::Relaxed)),
            received_bytes: moved(|counters| counters.received.load(Ordering::Relaxed)),
        })
    }

    /// Returns what is wrong with the data directory, although the node runs.
    pub(super) fn warnings(&self) -> Vec<NodeError> {
        let store = &self.store.0;
        let behind = store.is_index_behind().then(|| NodeError::from(StoreError::IndexBehind));
        let journal = store.journal_damage().map(|damage| {
            let made_again = if behind.is_none() { ", and is made again from the index" } else { "" };
            NodeError::new(ErrorCode::Other, format!("the journal was damaged ({damage}){made_again}"))
        });
        let storage = store.write_problem().map(|problem| NodeError::new(ErrorCode::Denied, problem));
        behind.into_iter().chain(journal).chain(storage).collect()
    }

    /// Makes an invite to the cluster of this node.
    pub(super) async fn invite(&self) -> Result<Invite, NodeError> {
        let Some(key) = &self.options.cluster else {
            return Err(
                NodeError::new(ErrorCode::BadRequest, "this node is in no cluster").reason(Reason::NoCluster)
            );
        };
        let mut addrs: Vec<String> = self.options.external.iter().map(ToString::to_string).collect();
        addrs.extend(self.status().await?.listen);
        Ok(Invite::new(key, addrs))
    }

    /// Returns how much more can be stored.
    pub(super) async fn space(&self) -> Result<Space, NodeError> {
        let (usage, disk_free) = self.store.run(|store| Ok((store.usage(), store.disk_free()))).await?;
        Ok(Space {
            kept_bytes: (usage.bytes + usage.pending_bytes).saturating_sub(usage.cached_bytes),
            capacity: self.options.store.capacity,
            disk_free,
        })
    }

    /// Passes the events of the network on to the subscribers of the node. Returns when the network ends.
    pub(super) async fn forward_network_events(&self) {
        let Some(network) = &self.network else { return };
        let mut events = network.net.events();
        loop {
            let event = match events.recv().await {
                Ok(NetEvent::Connected { peer, addr }) => {
                    Event::PeerConnected { peer: peer.to_string(), addr: addr.to_string() }
                }
                Ok(NetEvent::Lost { peer }) => Event::PeerLost { peer: peer.to_string() },
                Ok(NetEvent::Listening { addr }) => Event::Listening { addr: addr.to_string() },
                Ok(NetEvent::DuplicateIdentity { addr }) => Event::SameIdentity { addr: addr.to_string() },
                Ok(NetEvent::Announced { cid, peers }) => Event::Announced { cid, peers },
                Ok(NetEvent::DhtPeer { .. }) => continue,
                Err(RecvError::Lagged(count)) => Event::Skipped { count },
                Err(RecvError::Closed) => return,
            };
            self.events.emit(event);
        }
    }
}
