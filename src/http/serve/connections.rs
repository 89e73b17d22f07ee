//! The limit on connections, and the choice of the one that ends when the limit is reached.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The connections of one listener.
pub(super) struct Connections {
    limit: usize,
    tls: bool,
    loopback: bool,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    next: u64,
    /// Connections that serve no authenticated request, by the time since when: the first has waited longest.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One connection. Counts against the limit until dropped.
pub(super) struct Connection {
    connections: Arc<Connections>,
    ended: CancellationToken,
    /// The key in [`Open::waiting`]. `None` while an authenticated request is served.
    waiting: Mutex<Option<u64>>,
}

/// Keeps a connection from being ended while it serves an authenticated request.
struct Serving(Arc<Connection>);

/// The connection that a request arrived on.
#[derive(Clone)]
pub(in super::super) struct ClientConnection {
    connection: Arc<Connection>,
    /// Set once the client is authenticated.
    serving: Arc<OnceLock<(Serving, Box<dyn Any + Send + Sync>)>>,
}

impl ClientConnection {
    /// A request begins: its connection becomes the last of those that wait.
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        connection.wait_anew();
        Self { connection: Arc::clone(connection), serving: Arc::default() }
    }

    /// Whether the connection is over TLS.
    pub(in super::super) fn tls(&self) -> bool {
        self.connection.connections.tls
    }

    /// Whether the server listens on a loopback address, which other machines cannot reach.
    pub(in super::super) fn loopback(&self) -> bool {
        self.connection.connections.loopback
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.serving.get().is_some()
    }

    /// The maximum number of connections.
    pub(in super::super) fn limit(&self) -> usize {
        self.connection.connections.limit
    }

    /// The client is known: the connection is not ended, and `share` not dropped, before the last frame of the response has
    /// been sent.
    pub(in super::super) fn set_authenticated(&self, share: impl Send + Sync + 'static) {
        self.serving.get_or_init(|| (self.connection.serve(), Box::new(share)));
    }
}

impl Connections {
    pub(super) fn new(limit: usize, tls: bool, loopback: bool) -> Self {
        Self { limit: limit.max(1), tls, loopback, open: Mutex::default() }
    }

    /// Admits a new connection. At the limit, the connection that has waited longest is ended; `None` if none waits.
    pub(super) fn open(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let mut open = self.lock();
        if open.count >= self.limit {
            // It is counted until it is dropped, which happens soon.
            open.waiting.pop_first()?.1.cancel();
        }
        open.count += 1;
        let ended = CancellationToken::new();
        let number = open.wait(&ended);
        drop(open);
        Some(Arc::new(Connection { connections: Arc::clone(self), ended, waiting: Mutex::new(Some(number)) }))
    }

    pub(super) fn end_longest_waiting(&self) {
        if let Some((_, longest)) = self.lock().waiting.pop_first() {
            longest.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn wait(&mut self, ended: &CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, ended.clone());
        number
    }
}

impl Connection {
    /// Cancelled when the connection must end.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    fn wait_anew(&self) {
        let mut waiting = self.waiting();
        let mut open = self.connections.lock();
        // A connection that was chosen to end is not put back.
        if waiting.is_some_and(|number| open.waiting.remove(&number).is_some()) {
            *waiting = Some(open.wait(&self.ended));
        }
    }

    fn serve(self: &Arc<Self>) -> Serving {
        let number = self.waiting().take();
        if let Some(number) = number {
            self.connections.lock().waiting.remove(&number);
        }
        Serving(Arc::clone(self))
    }

    fn waiting(&self) -> MutexGuard<'_, Option<u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let number = self.0.connections.lock().wait(&self.0.ended);
        *self.0.waiting() = Some(number);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let number = self.waiting().take();
        let mut open = self.connections.lock();
        open.count -= 1;
        if let Some(number) = number {
            open.waiting.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limit: usize) -> Arc<Connections> {
        Arc::new(Connections::new(limit, false, true))
    }

    #[test]
    fn a_connection_over_the_limit_ends_the_one_that_has_waited_longest() {
        let connections = connections(2);
        let (first, second) = (connections.open().expect("admitted"), connections.open().expect("admitted"));
        let serving = first.serve();
        let third = connections.open().expect("admitted");
        assert!(second.ended().is_cancelled());
        assert!(!first.ended().is_cancelled() && !third.ended().is_cancelled());
        drop(second);
        let third_serving = third.serve();
        assert!(connections.open().is_none(), "no connection waits");
        drop(serving);
        connections.open().expect("admitted");
        assert!(first.ended().is_cancelled(), "its request has ended");
        drop((third_serving, first, third));
        let open = connections.lock();
        assert_eq!((open.count, open.waiting.len()), (0, 0));
    }

    #[test]
    fn a_request_protects_its_connection_once_the_client_is_authenticated() {
        let connections = connections(2);
        let (first, second) = (connections.open().expect("admitted"), connections.open().expect("admitted"));
        let request = ClientConnection::new(&first);
        connections.end_longest_waiting();
        assert!(
            second.ended().is_cancelled() && !first.ended().is_cancelled(),
            "the last request waits last"
        );
        request.set_authenticated(());
        connections.end_longest_waiting();
        assert!(!first.ended().is_cancelled());
        drop(request);
        connections.end_longest_waiting();
        assert!(first.ended().is_cancelled());
    }
}
