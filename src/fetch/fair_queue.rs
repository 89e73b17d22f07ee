//! The order in which the blocks of one reader are requested: the order in which the reader needs them. No I/O.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::providers::{Assignment, BlockRequest};

/// State of one queued block.
#[derive(Debug)]
enum QueueState {
    /// It is not known yet whether the block needs a provider. Later blocks wait.
    Undecided,
    /// No provider is free.
    Waiting(BlockRequest),
    /// A provider was chosen while another block's call ran the assignment.
    Assigned(BlockRequest, Assignment),
    /// The request is being sent to this provider, which answers in the order of the requests.
    Sending(PeerId),
}

/// Blocks that wait for a provider, in the reader's order.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    last: u64,
    slots: BTreeMap<u64, QueueState>,
}

impl FairQueue {
    /// Appends a block and returns its number.
    pub(super) fn enter(&mut self) -> u64 {
        self.last += 1;
        self.slots.insert(self.last, QueueState::Undecided);
        self.last
    }

    /// Removes a block. Returns the provider that was assigned to it and will not be asked.
    pub(super) fn leave(&mut self, number: u64) -> Option<(BlockRequest, Assignment)> {
        match self.slots.remove(&number) {
            Some(QueueState::Assigned(request, assignment)) => Some((request, assignment)),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Notes that the request was sent. The next block may ask the same provider.
    pub(super) fn sent(&mut self, number: u64) {
        if matches!(self.slots.get(&number), Some(QueueState::Sending(_))) {
            self.slots.remove(&number);
        }
    }

    /// Assigns providers that `pick` returns to all waiting blocks, in order.
    ///
    /// Returns the provider for block `number` as soon as no earlier block still has to ask the same one (until then the
    /// block keeps its slot), and whether other blocks received a provider.
    pub(super) fn assign(
        &mut self,
        number: u64,
        request: BlockRequest,
        mut pick: impl FnMut(&BlockRequest) -> Option<Assignment>,
    ) -> (Option<Assignment>, bool) {
        if matches!(self.slots.get(&number), Some(QueueState::Assigned(..))) {
            return (self.take(number), false);
        }
        self.slots.insert(number, QueueState::Waiting(request));
        let mut others = false;
        for (waiting, slot) in &mut self.slots {
            match slot {
                QueueState::Undecided => break,
                QueueState::Waiting(request) => {
                    if let Some(assignment) = pick(request) {
                        *slot = QueueState::Assigned(request.clone(), assignment);
                        others |= *waiting != number;
                    }
                }
                QueueState::Assigned(..) | QueueState::Sending(_) => {}
            }
        }
        (self.take(number), others)
    }

    /// Returns the provider of block `number`, if no earlier block has to ask it first.
    fn take(&mut self, number: u64) -> Option<Assignment> {
        let Some(QueueState::Assigned(_, assignment)) = self.slots.get(&number) else { return None };
        let assignment = *assignment;
        let asks_it = |slot: &QueueState| match slot {
            QueueState::Assigned(_, Assignment { peer, .. }) | QueueState::Sending(peer) => {
                *peer == assignment.peer
            }
            _ => false,
        };
        if self.slots.range(..number).any(|(_, slot)| asks_it(slot)) {
            return None;
        }
        self.slots.insert(number, QueueState::Sending(assignment.peer));
        Some(assignment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::{Cid, Codec};

    fn block(n: u8) -> BlockRequest {
        BlockRequest { cid: Cid::of(Codec::Raw, &[n]), len: 1, exclude: Vec::new() }
    }

    fn assignment() -> Assignment {
        Assignment { peer: PeerId::random(), queued_bytes: 1 }
    }

    /// Assigns one provider to at most `count` blocks, and records their order.
    fn first(count: usize, order: &mut Vec<Cid>) -> impl FnMut(&BlockRequest) -> Option<Assignment> {
        let assignment = assignment();
        let full = order.len() + count;
        move |request| {
            (order.len() < full).then(|| {
                order.push(request.cid);
                assignment
            })
        }
    }

    #[test]
    fn providers_are_assigned_in_the_order_of_the_queue() {
        let mut queue = FairQueue::default();
        let numbers: Vec<u64> = (0..4).map(|_| queue.enter()).collect();
        let mut order = Vec::new();
        // Block 0 is undecided.
        assert_eq!(queue.assign(numbers[2], block(2), first(9, &mut order)), (None, false));
        assert_eq!(queue.assign(numbers[1], block(1), first(9, &mut order)), (None, false));
        assert!(order.is_empty());
        let (own, others) = queue.assign(numbers[0], block(0), first(2, &mut order));
        assert!(own.is_some() && others);
        assert_eq!(order, [block(0).cid, block(1).cid]);
        let assigned = |_: &BlockRequest| unreachable!("a provider was assigned before");
        assert_eq!(queue.assign(numbers[1], block(1), assigned), (None, false), "block 0 is not sent yet");
        queue.sent(numbers[0]);
        assert!(queue.assign(numbers[1], block(1), assigned).0.is_some());
        queue.sent(numbers[1]);
        assert_eq!(queue.assign(numbers[3], block(3), first(1, &mut order)), (None, true));
        assert_eq!(order[2], block(2).cid);
        // Block 2 leaves and returns its provider.
        assert!(queue.leave(numbers[2]).is_some() && queue.leave(numbers[3]).is_none() && queue.is_empty());
    }

    #[test]
    fn a_block_without_a_free_provider_does_not_delay_later_blocks() {
        let mut queue = FairQueue::default();
        let (first, second) = (queue.enter(), queue.enter());
        let assignment = assignment();
        let only_second = |request: &BlockRequest| (request.cid == block(2).cid).then_some(assignment);
        assert_eq!(queue.assign(first, block(1), only_second), (None, false));
        assert_eq!(queue.assign(second, block(2), only_second), (Some(assignment), false));
    }

    #[test]
    fn a_provider_that_accepts_no_request_delays_its_own_blocks_only() {
        let mut queue = FairQueue::default();
        let numbers: Vec<u64> = (0..3).map(|_| queue.enter()).collect();
        let [slow, quick] = [assignment(), assignment()];
        let pick = |request: &BlockRequest| Some(if request.cid == block(2).cid { quick } else { slow });
        assert_eq!(queue.assign(numbers[0], block(0), pick), (Some(slow), false));
        assert_eq!(queue.assign(numbers[1], block(1), pick), (None, false));
        assert_eq!(queue.assign(numbers[2], block(2), pick), (Some(quick), false));
        queue.sent(numbers[0]);
        assert_eq!(queue.assign(numbers[1], block(1), pick), (Some(slow), false));
    }
}
