//! The download scheduler: one root, all its providers at once.
//!
//! ```text
//! block ─ here already? ─▶ done
//!   └─ Session: providers (connected peers at once, the DHT beside) ─ the one that should be done first ─▶ Transfers
//!         ├─ standing still, or somebody else would be done in half the time: asked as well, the first good answer counts
//!         ├─ lost, missing: another one        ├─ one bad block: never asked again
//!         └─ SHA-1, caller's own check, cache: one job on a thread that may block
//! ```
//! A provider's turn is decided by what it has to do already and how fast it was so far. Blocks are kept as cache when
//! they are complete, so whatever was fetched once is there when a read is tried again.

mod line;
mod providers;
mod session;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    content::cid::Cid,
    store::{Store, StoreError},
    transfer::Transfers,
};
pub use session::Session;

/// Memory for blocks on their way to readers that all sessions share, in KiB.
const WINDOW_KIB: usize = 40 << 10;
/// Blocks of one session on their way at a time.
pub const READ_AHEAD: usize = 20;

/// Why a block could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Peers were asked, and nobody has it.
    #[error("{cid} is not here, and no peer that can be reached has it")]
    NotFound {
        /// The block.
        cid: Cid,
    },
    /// Nothing arrived for as long as the reader was ready to wait.
    #[error("nothing arrived for {} s: block {cid} is still missing", waited.as_secs())]
    Timeout {
        /// The block.
        cid: Cid,
        /// How long.
        waited: Duration,
    },
    /// No peer was there to ask.
    #[error("no peer could be reached in {} s, and block {cid} is not here", waited.as_secs())]
    Alone {
        /// The block.
        cid: Cid,
        /// How long.
        waited: Duration,
    },
    /// No good copy is left: what is held is damaged, or those who say that they have the file have lost the block.
    #[error("no good copy of block {cid} was found: it is damaged or lost where this file is kept")]
    Corrupt {
        /// The block.
        cid: Cid,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread of ours panicked.
    #[error("a worker failed")]
    Worker,
}

/// Makes sessions. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    store: Store,
    transfers: Transfers,
    window: Arc<Semaphore>,
    /// Blocks on their way: who wants the same one waits for it.
    flights: Arc<Mutex<HashMap<Cid, Weak<Semaphore>>>>,
}

impl Fetcher {
    /// A scheduler over a store and the network.
    pub fn new(store: Store, transfers: Transfers) -> Self {
        Self { store, transfers, window: Arc::new(Semaphore::new(WINDOW_KIB)), flights: Arc::default() }
    }

    /// Begins to read what belongs to a root. `timeout`: how long to wait without anything arriving.
    pub fn session(&self, root: Cid, timeout: Duration) -> Session {
        Session::new(self.clone(), root, timeout)
    }

    /// The turn to fetch a block: one at a time, whatever session it is for.
    fn flight(&self, cid: &Cid) -> Arc<Semaphore> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(cid).and_then(Weak::upgrade) {
            return flight;
        }
        if flights.len() > 1024 {
            flights.retain(|_, flight| flight.strong_count() > 0);
        }
        let flight = Arc::new(Semaphore::new(1));
        flights.insert(*cid, Arc::downgrade(&flight));
        flight
    }

    /// The transfers below.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }
}
