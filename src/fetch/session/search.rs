//! Looking for providers of one root.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::broadcast::error::RecvError;

use super::{ROUNDS, State};
use crate::{
    content::cid::Cid,
    net::{Net, NetEvent},
};

/// Pause between two questions to the DHT, and between the first ones, whose answers decide whether it is worth waiting.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_ONCE_MORE: Duration = Duration::from_millis(500);

/// Looks for providers as long as the session lives: in the DHT again and again, and among peers that come.
pub(super) async fn search(net: Net, root: Cid, state: Arc<State>) {
    let mut events = net.events();
    loop {
        let mut found = net.find_providers(root).await;
        while let Some(peer) = found.recv().await {
            // Others may say that this node has it, too.
            if peer != net.peer_id() {
                state.add(peer, true);
            }
        }
        // With nobody of the DHT there, nobody was asked.
        let asked = u32::from(net.peers().iter().any(|peer| peer.dht));
        let rounds = {
            let mut rounds = state.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            *rounds += asked;
            *rounds
        };
        state.changed.notify_waiters();
        let pause = tokio::time::sleep(if rounds < ROUNDS { ASK_ONCE_MORE } else { ASK_AGAIN });
        let mut pause = std::pin::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                event = events.recv() => match event {
                    Ok(NetEvent::Connected { peer, .. }) => state.add(peer, false),
                    // With the first peer of our DHT there is somebody to ask.
                    Ok(NetEvent::DhtPeer { .. }) => break,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}
