//! Values that return a block's place in the queue, or a provider's outstanding bytes, when they are dropped.

use std::{sync::Arc, time::Instant};

use libp2p::PeerId;

use super::SessionState;
use crate::fetch::providers::{Assignment, BlockRequest};

/// A block's place in the fair queue.
pub(super) struct QueueSlot {
    state: Arc<SessionState>,
    number: u64,
}

impl QueueSlot {
    pub(super) fn new(state: &Arc<SessionState>) -> Self {
        Self { state: Arc::clone(state), number: state.queue().enter() }
    }

    /// Returns a provider for this block, or `None` while earlier blocks go first or no provider is free.
    pub(super) fn assign(&self, request: &BlockRequest, now: Instant) -> Option<Assignment> {
        let (mut queue, mut providers) = (self.state.queue(), self.state.providers());
        loop {
            let pick = |request: &BlockRequest| providers.pick(request, None, now);
            let (assignment, others) = queue.assign(self.number, request.clone(), pick);
            if others {
                self.state.changed.notify_waiters();
            }
            // The provider may have been banned after it was assigned.
            if !assignment.is_some_and(|assignment| providers.is_banned(&assignment.peer)) {
                return assignment;
            }
        }
    }

    /// Notes that the request was sent. The next block may ask the same provider.
    pub(super) fn sent(&self) {
        let mut queue = self.state.queue();
        queue.sent(self.number);
        if !queue.is_empty() {
            self.state.changed.notify_waiters();
        }
    }

    /// Lets later blocks go first, until [`QueueSlot::assign`] is called.
    pub(super) fn step_aside(&self) {
        let mut queue = self.state.queue();
        if let Some((request, assignment)) = queue.leave(self.number) {
            self.state.providers().answered(&assignment.peer, request.len, 0, Instant::now());
        }
        if !queue.is_empty() {
            self.state.changed.notify_waiters();
        }
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.step_aside();
    }
}

/// Bytes requested from one provider.
pub(super) struct OutstandingBytes<'a> {
    pub(super) state: &'a SessionState,
    pub(super) peer: PeerId,
    pub(super) requested: u64,
    pub(super) received: u64,
}

impl Drop for OutstandingBytes<'_> {
    fn drop(&mut self) {
        self.state.providers().answered(&self.peer, self.requested, self.received, Instant::now());
        self.state.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::{Cid, Codec};

    #[test]
    fn a_banned_provider_is_not_asked_for_blocks_assigned_before() {
        let state = Arc::new(SessionState::new());
        let (banned, other) = (PeerId::random(), PeerId::random());
        state.add(banned, true);
        let slots = [QueueSlot::new(&state), QueueSlot::new(&state)];
        let now = Instant::now();
        let assign = |n: usize| {
            let cid = Cid::of(Codec::Raw, &n.to_be_bytes());
            let assignment = slots[n].assign(&BlockRequest { cid, len: 1, exclude: Vec::new() }, now);
            assignment.map(|assignment| assignment.peer)
        };
        assert_eq!(assign(1), None, "the first block is undecided");
        assert_eq!(assign(0), Some(banned));
        slots[0].sent();
        state.providers().ban(banned);
        assert_eq!(assign(1), None);
        state.add(other, true);
        assert_eq!(assign(1), Some(other));
    }
}
