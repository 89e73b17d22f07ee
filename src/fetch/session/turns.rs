//! Whose turn it is: blocks wait for providers, and providers for their next block.

use std::{sync::Arc, time::Instant};

use libp2p::PeerId;

use super::State;
use crate::fetch::{
    line::{Line, Wanted},
    providers::Picked,
};

/// A block's place in the line of those that need a provider.
pub(super) struct Ticket {
    state: Arc<State>,
    number: u64,
}

impl Ticket {
    pub(super) fn new(state: &Arc<State>) -> Self {
        Self { state: Arc::clone(state), number: state.line(Line::enter) }
    }

    /// A provider for this block, when it has its turn.
    pub(super) fn want(&self, wanted: &Wanted, now: Instant) -> Option<Picked> {
        let (picked, others) = self.state.line(|line| {
            self.state.providers(|providers| {
                let mut others = false;
                loop {
                    let (picked, more) =
                        line.want(self.number, wanted.clone(), |Wanted { cid, len, besides }| {
                            providers.pick(cid, *len, besides, None, now)
                        });
                    others |= more;
                    // Given before it was found out: another one is picked.
                    if !picked.is_some_and(|picked| providers.is_banned(&picked.peer)) {
                        return (picked, others);
                    }
                }
            })
        });
        if others {
            self.state.changed.notify_waiters();
        }
        picked
    }

    /// The question is with the provider: the next block's may follow.
    pub(super) fn asked(&self) {
        let others = self.state.line(|line| {
            line.asked(self.number);
            !line.is_empty()
        });
        if others {
            self.state.changed.notify_waiters();
        }
    }

    /// Lets others go first until it wants a provider.
    pub(super) fn step_aside(&self) {
        let (given, others) = self.state.line(|line| (line.leave(self.number), !line.is_empty()));
        if let Some((wanted, picked)) = given {
            self.state.providers(|providers| providers.gave(&picked.peer, wanted.len, 0, Instant::now()));
        }
        if others {
            self.state.changed.notify_waiters();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.step_aside();
    }
}

/// One question to one provider.
pub(super) struct Turn<'a> {
    pub(super) state: &'a State,
    pub(super) peer: PeerId,
    pub(super) weight: u64,
    pub(super) got: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.state.providers(|providers| providers.gave(&self.peer, self.weight, self.got, Instant::now()));
        self.state.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::{Cid, Codec};

    #[test]
    fn who_lied_is_not_asked_for_what_it_was_given_before() {
        let state = Arc::new(State::new());
        let (liar, other) = (PeerId::random(), PeerId::random());
        state.add(liar, true);
        let tickets = [Ticket::new(&state), Ticket::new(&state)];
        let now = Instant::now();
        let want = |n: usize| {
            let cid = Cid::of(Codec::Raw, &[n.try_into().expect("small")]);
            let picked = tickets[n].want(&Wanted { cid, len: 1, besides: Vec::new() }, now);
            picked.map(|picked| picked.peer)
        };
        assert_eq!(want(1), None, "the first one may need somebody");
        assert_eq!(want(0), Some(liar));
        tickets[0].asked();
        state.providers(|providers| providers.ban(liar));
        assert_eq!(want(1), None);
        state.add(other, true);
        assert_eq!(want(1), Some(other));
    }
}
