//! The order in which the blocks of one reader are asked for: the order in which the reader needs them. No I/O.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::providers::Picked;
use crate::content::cid::Cid;

/// A block that needs a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) cid: Cid,
    /// Length in bytes, as far as it is known.
    pub(super) len: u64,
    /// Who has been asked for it already.
    pub(super) besides: Vec<PeerId>,
}

#[derive(Debug)]
enum Place {
    /// Whether the block is needed will be known in a moment: nobody behind it goes first.
    Looking,
    Wanted(Wanted),
    /// A provider that was chosen for it while somebody else was asking.
    Given(Wanted, Picked),
    /// Its question is on the way to this provider, which answers in the order of the questions.
    Asking(PeerId),
}

/// Blocks that wait for a provider.
#[derive(Debug, Default)]
pub(super) struct Line {
    next: u64,
    places: BTreeMap<u64, Place>,
}

impl Line {
    /// Takes the last place.
    pub(super) fn enter(&mut self) -> u64 {
        self.next += 1;
        self.places.insert(self.next, Place::Looking);
        self.next
    }

    /// Gives a place up; answers with a provider that was given and will not be asked.
    pub(super) fn leave(&mut self, number: u64) -> Option<(Wanted, Picked)> {
        match self.places.remove(&number) {
            Some(Place::Given(wanted, picked)) => Some((wanted, picked)),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The question for a block is with its provider: the next one may follow.
    pub(super) fn asked(&mut self, number: u64) {
        if matches!(self.places.get(&number), Some(Place::Asking(_))) {
            self.places.remove(&number);
        }
    }

    /// Gives providers, as `pick` finds them, to all who wait, in their order. Answers with the one for `number`, as soon
    /// as nobody before it still has to ask the same one, and whether others were given one. Until then it keeps its place.
    pub(super) fn want(
        &mut self,
        number: u64,
        wanted: Wanted,
        mut pick: impl FnMut(&Wanted) -> Option<Picked>,
    ) -> (Option<Picked>, bool) {
        if matches!(self.places.get(&number), Some(Place::Given(..))) {
            return (self.take(number), false);
        }
        self.places.insert(number, Place::Wanted(wanted));
        let mut others = false;
        for (waiting, place) in &mut self.places {
            match place {
                Place::Looking => break,
                Place::Wanted(wanted) => {
                    if let Some(picked) = pick(wanted) {
                        *place = Place::Given(wanted.clone(), picked);
                        others |= *waiting != number;
                    }
                }
                Place::Given(..) | Place::Asking(_) => {}
            }
        }
        (self.take(number), others)
    }

    /// What was given to `number`, where it is next to ask.
    fn take(&mut self, number: u64) -> Option<Picked> {
        let place = self.places.get(&number)?;
        let Place::Given(_, picked) = place else { return None };
        let picked = *picked;
        let to_ask = |place: &Place| match place {
            Place::Given(_, Picked { peer, .. }) | Place::Asking(peer) => *peer == picked.peer,
            _ => false,
        };
        if self.places.range(..number).any(|(_, place)| to_ask(place)) {
            return None;
        }
        self.places.insert(number, Place::Asking(picked.peer));
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cid::Codec;

    fn block(n: u8) -> Wanted {
        Wanted { cid: Cid::of(Codec::Raw, &[n]), len: 1, besides: Vec::new() }
    }

    /// Picks as long as there is `room`, and notes for whom.
    fn some(room: usize, order: &mut Vec<Cid>) -> impl FnMut(&Wanted) -> Option<Picked> {
        let peer = PeerId::random();
        let full = order.len() + room;
        move |wanted| {
            (order.len() < full).then(|| {
                order.push(wanted.cid);
                Picked { peer, ahead: 1 }
            })
        }
    }

    #[test]
    fn who_came_first_is_given_first_whoever_asks() {
        let mut line = Line::default();
        let numbers: Vec<u64> = (0..4).map(|_| line.enter()).collect();
        let mut order = Vec::new();
        // The first one does not know yet whether it needs anybody.
        assert_eq!(line.want(numbers[2], block(2), some(9, &mut order)), (None, false));
        assert_eq!(line.want(numbers[1], block(1), some(9, &mut order)), (None, false));
        assert!(order.is_empty());
        let (own, others) = line.want(numbers[0], block(0), some(2, &mut order));
        assert!(own.is_some() && others);
        assert_eq!(order, [block(0).cid, block(1).cid]);
        let given = |_: &Wanted| unreachable!("it was given one");
        assert_eq!(line.want(numbers[1], block(1), given), (None, false), "the first one has not asked yet");
        line.asked(numbers[0]);
        assert!(line.want(numbers[1], block(1), given).0.is_some());
        line.asked(numbers[1]);
        assert_eq!(line.want(numbers[3], block(3), some(1, &mut order)), (None, true));
        assert_eq!(order[2], block(2).cid);
        // The third goes away: what it was given goes back.
        assert!(line.leave(numbers[2]).is_some() && line.leave(numbers[3]).is_none() && line.is_empty());
    }

    #[test]
    fn a_block_that_nobody_can_give_now_holds_nobody_up() {
        let mut line = Line::default();
        let (first, second) = (line.enter(), line.enter());
        let picked = Picked { peer: PeerId::random(), ahead: 1 };
        let only_second = |wanted: &Wanted| (wanted.cid == block(2).cid).then_some(picked);
        assert_eq!(line.want(first, block(1), only_second), (None, false));
        assert_eq!(line.want(second, block(2), only_second), (Some(picked), false));
    }

    #[test]
    fn a_provider_that_takes_no_question_now_holds_up_its_own_blocks_alone() {
        let mut line = Line::default();
        let numbers: Vec<u64> = (0..3).map(|_| line.enter()).collect();
        let [slow, quick] = [(); 2].map(|()| Picked { peer: PeerId::random(), ahead: 1 });
        let pick = |wanted: &Wanted| Some(if wanted.cid == block(2).cid { quick } else { slow });
        assert_eq!(line.want(numbers[0], block(0), pick), (Some(slow), false));
        assert_eq!(line.want(numbers[1], block(1), pick), (None, false));
        assert_eq!(line.want(numbers[2], block(2), pick), (Some(quick), false));
        line.asked(numbers[0]);
        assert_eq!(line.want(numbers[1], block(1), pick), (Some(slow), false));
    }
}
