//! The search for providers of one root.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::broadcast::error::RecvError;

use super::{SEARCH_ROUNDS, SessionState};
use crate::{
    content::cid::Cid,
    net::{Net, NetEvent},
};

/// Pause between two DHT queries.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause between the first queries, which decide whether the read is given up.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Adds providers while the session lives: from repeated DHT queries, and peers that connect.
pub(super) async fn search(net: Net, root: Cid, state: Arc<SessionState>) {
    let mut events = net.events();
    loop {
        let mut found = net.find_providers(root).await;
        while let Some(peer) = found.recv().await {
            // Other nodes may have a provider record of this node.
            if peer != net.peer_id() {
                if net.has_delivered(&peer) {
                    state.providers().prefer(peer);
                }
                state.add(peer, true);
            }
        }
        // A query counts only if a peer of the DHT was connected.
        let round = u32::from(net.peers().iter().any(|peer| peer.dht));
        let rounds = state.search_rounds.fetch_add(round, Ordering::Relaxed) + round;
        state.changed.notify_waiters();
        let pause = tokio::time::sleep(if rounds < SEARCH_ROUNDS { FIRST_PAUSE } else { PAUSE });
        let mut pause = std::pin::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                event = events.recv() => match event {
                    Ok(NetEvent::Connected { peer, .. }) => state.add(peer, false),
                    // The first peer of the DHT: query it at once.
                    Ok(NetEvent::DhtPeer { .. }) => break,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}
