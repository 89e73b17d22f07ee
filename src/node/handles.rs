//! Handles that the services of a node share. All of them are cheap to clone.

use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{error::NodeError, report::Event};
use crate::store::Store;

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

    /// Returns the small value that is stored under `name`.
    pub(super) async fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, NodeError> {
        self.run(move |store| Ok(store.meta(name)?)).await
    }

    /// Stores a small value under `name`, durably.
    pub(super) async fn set_meta(&self, name: &'static str, value: Vec<u8>) -> Result<(), NodeError> {
        self.run(move |store| Ok(store.set_meta(name, &value)?)).await
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
