//! The state of the node at a glance, and the events of its network.

use std::sync::atomic::Ordering;

use tokio::sync::broadcast::error::RecvError;

use super::{
    error::NodeError,
    report::{Event, Space, Status},
    services::Services,
};
use crate::{
    net::{Net, NetEvent},
    transfer::Counters,
};

impl Services {
    /// Gathers the status of the node.
    pub(super) async fn status(&self) -> Result<Status, NodeError> {
        let read = self.store.run(|store| {
            Ok((store.usage(), store.disk_free(), store.is_index_behind(), store.write_problem()))
        });
        let (usage, disk_free, index_behind, write_problem) = read.await?;
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
