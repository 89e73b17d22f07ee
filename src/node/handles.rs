//! Handles that the services of a node share. All of them are cheap to clone.

use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{error::NodeError, report::Event};
use crate::store::Store;

/// The store, for callers that must not block: each call runs on a thread of its own.
#[derive(Clone)]
pub(super) struct BlockingStore(Store);

impl BlockingStore {
    pub(super) const fn new(store: Store) -> Self {
        Self(store)
    }

    /// The store itself, for threads that may block.
    pub(super) const fn get(&self) -> &Store {
        &self.0
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|_| NodeError::worker_failed())?
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

/// The tasks of a node and the token that stops them. [`Tasks::stop`] waits for all of them.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs a task that ends by itself soon after the stop token is cancelled.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn(task)
    }

    /// Runs a task, and drops it when the node stops.
    pub(super) fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Runs `work` on a thread that may block.
    pub(super) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// The token that is cancelled when the node begins to stop.
    pub(super) const fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Errors: [`super::ErrorCode::ShuttingDown`] once the node stops.
    pub(super) fn check_running(&self) -> Result<(), NodeError> {
        if self.stop.is_cancelled() { Err(NodeError::shutting_down()) } else { Ok(()) }
    }

    /// Cancels the stop token and waits until every task has ended.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Sends events to everybody who has subscribed.
#[derive(Clone)]
pub(super) struct Events(broadcast::Sender<Event>);

impl Events {
    /// A subscriber that is more than `capacity` events behind loses the oldest ones.
    pub(super) fn new(capacity: usize) -> Self {
        Self(broadcast::channel(capacity).0)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    pub(super) fn emit(&self, event: Event) {
        // An error only means that nobody has subscribed.
        drop(self.0.send(event));
    }
}
