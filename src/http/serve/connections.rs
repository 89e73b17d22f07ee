//! How many connections there are, and which of them goes when there are too many.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// The connections of one door.
pub(super) struct Connections {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: usize,
    next: u64,
    /// Those that do nothing for a known caller, the one that has waited longest first.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection; given back when dropped.
pub(super) struct Slot {
    connections: Arc<Connections>,
    ended: CancellationToken,
    /// Its number among those that wait; none while a known caller is answered.
    waits: Mutex<Option<u64>>,
}

/// A request of a known caller that is being answered.
struct Busy(Arc<Slot>);

/// The connection of a request, for whoever finds out who calls.
#[derive(Clone)]
pub(in super::super) struct Presence {
    slot: Arc<Slot>,
    busy: Arc<Mutex<Option<Busy>>>,
    known: Arc<AtomicBool>,
}

impl Presence {
    /// A request begins: the connection waits anew.
    pub(super) fn of(slot: &Arc<Slot>) -> Self {
        slot.again();
        Self { slot: Arc::clone(slot), busy: Arc::default(), known: Arc::default() }
    }

    /// Whether the caller is known: also after this is gone.
    pub(super) fn known(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.known)
    }

    /// The caller is known: the connection stays until the last of its answer has gone out.
    pub(in super::super) fn keep(&self) {
        self.known.store(true, Ordering::Relaxed);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.is_none() {
            *busy = Some(self.slot.busy());
        }
    }
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), state: Mutex::default() }
    }

    /// A place for a new connection. Where all are taken, the connection that has waited longest ends; where none
    /// waits, there is no place.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let mut state = self.lock();
        if state.open >= self.limit {
            let (_, longest) = state.waiting.pop_first()?;
            longest.cancel();
            // Its own slot finds itself not waiting any more, and counts down when it is dropped: soon.
        }
        state.open += 1;
        let ended = CancellationToken::new();
        let number = state.wait(&ended);
        drop(state);
        Some(Arc::new(Slot { connections: Arc::clone(self), ended, waits: Mutex::new(Some(number)) }))
    }

    /// Ends the connection that has waited longest.
    pub(super) fn end_one(&self) {
        if let Some((_, longest)) = self.lock().waiting.pop_first() {
            longest.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, ended: &CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, ended.clone());
        number
    }
}

impl Slot {
    /// Cancelled when the connection must go.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Makes it the last of those that wait.
    fn again(&self) {
        let mut waits = self.waits();
        let mut state = self.connections.lock();
        // Whoever was taken out to be ended stays out.
        if waits.is_some_and(|number| state.waiting.remove(&number).is_some()) {
            *waits = Some(state.wait(&self.ended));
        }
    }

    /// Says that a known caller is answered; the connection waits again when this is dropped.
    fn busy(self: &Arc<Self>) -> Busy {
        let number = self.waits().take();
        if let Some(number) = number {
            self.connections.lock().waiting.remove(&number);
        }
        Busy(Arc::clone(self))
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let number = self.0.connections.lock().wait(&self.0.ended);
        *self.0.waits() = Some(number);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let number = self.waits().take();
        let mut state = self.connections.lock();
        state.open -= 1;
        if let Some(number) = number {
            state.waiting.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waits_longest_makes_room() {
        let connections = Arc::new(Connections::new(2));
        let (first, second) = (connections.enter().expect("room"), connections.enter().expect("room"));
        let busy = first.busy();
        let third = connections.enter().expect("room is made");
        assert!(
            !first.ended().is_cancelled() && second.ended().is_cancelled() && !third.ended().is_cancelled()
        );
        drop(second);
        let busy_too = third.busy();
        assert!(connections.enter().is_none(), "whoever works is not sent away");
        drop(busy);
        let fourth = connections.enter().expect("room");
        assert!(first.ended().is_cancelled());
        drop((busy_too, first));
        // Whoever is not known gives way, whatever it asks; the last one to ask goes last.
        let asks = Presence::of(&third);
        connections.end_one();
        assert!(fourth.ended().is_cancelled() && !third.ended().is_cancelled());
        asks.keep();
        connections.end_one();
        assert!(!third.ended().is_cancelled());
        drop((asks, third, fourth));
        let state = connections.lock();
        assert_eq!((state.open, state.waiting.len()), (0, 0));
    }
}
