//! How often it is heeded what a peer says of itself: each time costs work here, and whoever listens may say it again
//! and again.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// So many words in a row are heeded: a node that starts says each of its addresses.
const IN_A_ROW: u32 = 24;
/// And after those, one in each such time.
const EACH: Duration = Duration::from_secs(5);

/// When each connected peer will have been silent for long enough to say everything again.
#[derive(Default)]
pub(super) struct Heed(HashMap<PeerId, Instant>);

impl Heed {
    /// Whether to heed what a peer says now.
    pub(super) fn is_due(&mut self, peer: PeerId, now: Instant) -> bool {
        let rested = self.0.entry(peer).or_insert(now);
        if *rested + EACH > now + EACH * IN_A_ROW {
            return false;
        }
        *rested = (*rested).max(now) + EACH;
        true
    }

    pub(super) fn gone(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_it_again_and_again_is_heeded_now_and_then() {
        let (mut heed, loud, start) = (Heed::default(), PeerId::random(), Instant::now());
        let heeded = |heed: &mut Heed, peer, now| (0..1000).filter(|_| heed.is_due(peer, now)).count();
        assert_eq!(heeded(&mut heed, loud, start), 24);
        assert_eq!(heeded(&mut heed, loud, start + EACH), 1);
        assert_eq!(heeded(&mut heed, PeerId::random(), start), 24);
        assert_eq!(heeded(&mut heed, loud, start + EACH * 100), 24);
    }
}
