//! Handles that the services of a node share. All of them are cheap to clone.

use std::sync::Arc;

use tokio::sync::{Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    error::{ErrorCode, NodeError},
    report::Event,
};
use crate::store::Store;

/// Maximum number of walks at a time.
const MAX_WALKS: usize = 4;

/// The store, for callers that must not block: each call runs on a thread of its own.
#[derive(Clone)]
pub(super) struct BlockingStore(pub(super) Store);

impl BlockingStore {
    /// Runs `work` on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|_| NodeError::worker_failed())?
    }

    /// As [`BlockingStore::run`], for work that takes long: it checks now and then whether its caller still waits.
    pub(super) async fn run_while_wanted<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &Wanted) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let wanted = Wanted(CancellationToken::new());
        let _guard = wanted.0.clone().drop_guard();
        self.run(move |store| work(store, &wanted)).await
    }

    /// Returns the small value that is stored under `name`.
    pub(super) async fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, NodeError> {
        self.run(move |store| Ok(store.meta(name)?)).await
    }

    /// Stores a small value under `name`, durably.
    pub(super) async fn set_meta(&self, name: &'static str, value: Vec<u8>) -> Result<(), NodeError> {
        self.run(move |store| Ok(store.set_meta(name, &value)?)).await
    }
}

/// Runs walks over the blocks of roots. A request can make a walk long, so few run at a time, and each ends when its
/// caller has gone.
#[derive(Clone)]
pub(super) struct Walks {
    store: BlockingStore,
    permits: Arc<Semaphore>,
}

/// Whether a caller still waits.
pub(super) struct Wanted(CancellationToken);

impl Wanted {
    pub(super) fn is_wanted(&self) -> bool {
        !self.0.is_cancelled()
    }

    /// Errors: the caller has gone, so nobody sees this error.
    pub(super) fn check(&self) -> Result<(), NodeError> {
        if self.is_wanted() { Ok(()) } else { Err(NodeError::new(ErrorCode::Other, "the caller has gone")) }
    }
}

impl Walks {
    pub(super) fn new(store: BlockingStore) -> Self {
        Self { store, permits: Arc::new(Semaphore::new(MAX_WALKS)) }
    }

    /// As [`BlockingStore::run_while_wanted`], once few enough other walks are under way.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &Wanted) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.store
            .run_while_wanted(move |store, wanted| {
                let _permit = permit;
                work(store, wanted)
            })
            .await
    }
}

/// The tasks of a node.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    /// Each task ends soon after `stop` is cancelled.
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Tasks {
    /// Runs a task, and drops it when the node stops.
    pub(super) fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Errors: [`super::ErrorCode::ShuttingDown`] once the node stops.
    pub(super) fn check_running(&self) -> Result<(), NodeError> {
        if self.stop.is_cancelled() { Err(NodeError::shutting_down()) } else { Ok(()) }
    }

    /// Stops the tasks and waits until all have ended.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Sends events to everybody who has subscribed.
#[derive(Clone)]
pub(super) struct Events(pub(super) broadcast::Sender<Event>);

impl Events {
    pub(super) fn emit(&self, event: Event) {
        // An error only means that nobody has subscribed.
        drop(self.0.send(event));
    }
}
