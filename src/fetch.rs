//! The download scheduler: reads the blocks of one root from all its providers at once.
//!
//! ```text
//! block ─ in the store? ─▶ done
//!   └─ Session: providers (connected peers first, the DHT in parallel) ─ expected to finish first ─▶ Transfers
//!         ├─ stalled, or another one would take half the time: request from a second provider; first good answer wins
//!         ├─ connection lost or block missing: next provider        ├─ bad block: ban the provider
//!         └─ SHA-1, hash check of the caller, cache write: on a blocking thread
//! ```
//! A provider is chosen by the bytes that it still has to send and by its measured rate. Complete blocks go into the
//! cache, so a read that failed continues where it stopped.

mod fair_queue;
mod providers;
mod session;
mod stall;

use std::{
    collections::HashMap,
    fmt,
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

/// Memory for blocks in flight to readers, shared by all sessions, in KiB.
const SHARED_MEMORY_KIB: usize = 40 << 10;
/// Maximum number of blocks in flight in one session.
pub const READ_AHEAD: usize = 20;

/// The file or block that could not be fetched. The root stands for the whole file.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// The root of the session.
    File,
    /// Another block.
    Block(Cid),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("the file"),
            Self::Block(cid) => write!(f, "block {cid}"),
        }
    }
}

/// Why a block could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// All providers were asked, and none has the block.
    #[error("{wanted} is not on this node, and no reachable peer has it")]
    NotFound {
        /// The missing file or block.
        wanted: Wanted,
    },
    /// No bytes arrived within the session's timeout.
    #[error("no data arrived for {} s; {wanted} is still missing", waited.as_secs())]
    Timeout {
        /// The missing file or block.
        wanted: Wanted,
        /// The timeout.
        waited: Duration,
    },
    /// No peer could be reached.
    #[error("no peer could be reached in {} s, and {wanted} is not on this node", waited.as_secs())]
    NoPeers {
        /// The missing file or block.
        wanted: Wanted,
        /// How long the session tried.
        waited: Duration,
    },
    /// No intact copy was found: the available ones are damaged, or a provider of the root has lost the block.
    #[error("no intact copy of {wanted} was found; its providers have lost or damaged it")]
    Corrupt {
        /// The missing file or block.
        wanted: Wanted,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking thread or a task of the session panicked.
    #[error("a worker failed")]
    Worker,
}

/// Creates sessions. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    store: Store,
    transfers: Transfers,
    shared_memory: Arc<Semaphore>,
    /// One lock for each block that is being fetched, so that concurrent readers fetch it once.
    block_locks: Arc<Mutex<HashMap<Cid, Weak<Semaphore>>>>,
}

impl Fetcher {
    /// Creates a scheduler over a store and the network.
    pub fn new(store: Store, transfers: Transfers) -> Self {
        Self {
            store,
            transfers,
            shared_memory: Arc::new(Semaphore::new(SHARED_MEMORY_KIB)),
            block_locks: Arc::default(),
        }
    }

    /// Starts a read of the blocks of `root`. The read fails when no bytes arrive for `timeout`.
    pub fn session(&self, root: Cid, timeout: Duration) -> Session {
        Session::new(self.clone(), root, timeout)
    }

    /// Returns the lock that a fetch of this block takes, in any session.
    fn block_lock(&self, cid: &Cid) -> Arc<Semaphore> {
        let mut locks = self.block_locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(cid).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() > 1024 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(Semaphore::new(1));
        locks.insert(*cid, Arc::downgrade(&lock));
        lock
    }

    /// The transfer client that sessions use.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }
}
