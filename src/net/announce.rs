//! Announcing roots: a few at a time, again before they expire, and again when nobody took them.
//!
//! A root is `ready` (its turn comes in order), in flight, or scheduled for `later`. Roots that nobody took are scheduled
//! like others, and noted in `unheard` besides, so that the first peer to appear gets them at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use libp2p::kad::QueryId;
use tokio::{sync::oneshot, time::Instant};

use crate::content::cid::Cid;

/// Announcements on their way at a time.
const IN_FLIGHT: usize = 12;
/// An announcement that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);

/// What was sent has arrived after this long, or never will: Kademlia gives a message ten seconds to leave.
const ARRIVAL: Duration = Duration::from_secs(20);

/// What is announced, and when it is next.
pub(super) struct Announcer {
    /// How long after an announcement the next one is made.
    again: Duration,
    roots: HashMap<Cid, Root>,
    /// May name a root that is not [`Turn::Ready`] any more: such an entry is passed over.
    ready: VecDeque<Cid>,
    ready_count: usize,
    later: BTreeSet<(Instant, Cid)>,
    /// Announced while nobody was there to take the record.
    unheard: HashSet<Cid>,
    in_flight: HashMap<QueryId, Cid>,
    /// Roots that are not provided any more and whose last announcement may not have arrived yet, and until when.
    arriving: HashMap<Cid, Instant>,
}

#[derive(Default)]
struct Root {
    turn: Turn,
    /// When it was last announced.
    sent: Option<Instant>,
    /// Peers that took the record the last time.
    peers: Option<u32>,
    waiting: Vec<oneshot::Sender<Option<u32>>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is being announced.
    #[default]
    None,
    Ready,
    Later(Instant),
}

impl Announcer {
    pub(super) fn new(again: Duration) -> Self {
        Self {
            again,
            roots: HashMap::new(),
            ready: VecDeque::new(),
            ready_count: 0,
            later: BTreeSet::new(),
            unheard: HashSet::new(),
            in_flight: HashMap::new(),
            arriving: HashMap::new(),
        }
    }

    /// Adds a root; announces it as soon as possible, also where it was announced before.
    pub(super) fn add(&mut self, cid: Cid) {
        self.roots.entry(cid).or_default();
        self.turn(cid, Turn::Ready);
    }

    fn turn(&mut self, cid: Cid, turn: Turn) {
        let Some(root) = self.roots.get_mut(&cid) else {
            return;
        };
        let old = std::mem::replace(&mut root.turn, turn);
        if old == turn {
            return;
        }
        match old {
            Turn::None => {}
            Turn::Ready => self.ready_count -= 1,
            Turn::Later(at) => drop(self.later.remove(&(at, cid))),
        }
        match turn {
            Turn::None => {}
            Turn::Ready => {
                self.ready_count += 1;
                self.ready.push_back(cid);
            }
            Turn::Later(at) => drop(self.later.insert((at, cid))),
        }
    }

    /// Ends the announcement of a root; answers with the query that is announcing it right now.
    pub(super) fn remove(&mut self, cid: &Cid) -> Option<QueryId> {
        self.turn(*cid, Turn::None);
        self.unheard.remove(cid);
        let mut root = self.roots.remove(cid);
        for reply in root.iter_mut().flat_map(|root| root.waiting.drain(..)) {
            let _ = reply.send(None);
        }
        let flying = self.in_flight.iter().find(|(_, flying)| *flying == cid).map(|(query, _)| *query);
        let now = Instant::now();
        let sent = root.and_then(|root| root.sent).filter(|sent| *sent + ARRIVAL > now);
        if flying.is_some() || sent.is_some() {
            self.arriving.retain(|_, until| *until > now);
            self.arriving.insert(*cid, now + ARRIVAL);
        }
        flying
    }

    /// Whether no announcement of a root can arrive any more. Nobody answers to one: what was sent may come later than
    /// what is said by another stream.
    pub(super) fn is_settled(&self, cid: &Cid, now: Instant) -> bool {
        !self.roots.contains_key(cid) && self.arriving.get(cid).is_none_or(|until| *until <= now)
    }

    /// Answers when the root has been announced to somebody; with none as soon as it is not to be announced.
    pub(super) fn wait(&mut self, cid: &Cid, reply: oneshot::Sender<Option<u32>>) {
        match self.roots.get_mut(cid) {
            Some(Root { peers: Some(peers), .. }) => drop(reply.send(Some(*peers))),
            Some(root) => {
                // Whoever asks again and again, and gives up in between, leaves nothing behind.
                root.waiting.retain(|waiting| !waiting.is_closed());
                root.waiting.push(reply);
            }
            None => drop(reply.send(None)),
        }
    }

    /// When something is next to be done.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        if self.ready_count > 0 { Some(now) } else { self.later.first().map(|(at, _)| *at) }
    }

    /// The next root to announce now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Cid> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        while let Some((_, cid)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.turn(cid, Turn::Ready);
        }
        while let Some(cid) = self.ready.pop_front() {
            if self.roots.get(&cid).is_some_and(|root| root.turn == Turn::Ready) {
                self.turn(cid, Turn::None);
                return Some(cid);
            }
        }
        None
    }

    pub(super) fn begun(&mut self, query: QueryId, cid: Cid) {
        self.in_flight.insert(query, cid);
    }

    /// An announcement could not even begin.
    pub(super) fn failed(&mut self, cid: Cid) {
        self.turn(cid, Turn::Later(Instant::now() + RETRY));
    }

    /// An announcement has ended; answers which, where it was one of ours and the root is still provided.
    pub(super) fn ended(&mut self, query: QueryId, peers: u32) -> Option<Cid> {
        let cid = self.in_flight.remove(&query)?;
        let root = self.roots.get_mut(&cid)?;
        if peers == 0 {
            self.unheard.insert(cid);
            if root.turn == Turn::None {
                self.failed(cid);
            }
            return Some(cid);
        }
        self.unheard.remove(&cid);
        root.sent = Some(Instant::now());
        let first = root.peers.replace(peers).is_none();
        root.waiting.drain(..).for_each(|reply| {
            let _ = reply.send(Some(peers));
        });
        if root.turn == Turn::None {
            // The first time anywhere within the period, then always after the same time: what was announced in one go
            // at start is spread evenly ever after.
            let pause = if first { self.again.mul_f64(rand::random()) } else { self.again };
            self.turn(cid, Turn::Later(Instant::now() + pause));
        }
        Some(cid)
    }

    /// Somebody is there now: what nobody took is announced again.
    pub(super) fn peers_came(&mut self) {
        for cid in std::mem::take(&mut self.unheard) {
            self.turn(cid, Turn::Ready);
        }
    }

    /// The swarm has grown so much that records may belong to other peers now: everything is announced again.
    pub(super) fn swarm_grew(&mut self) {
        let announced: Vec<Cid> =
            self.roots.iter().filter(|(_, root)| root.peers.is_some()).map(|(cid, _)| *cid).collect();
        for cid in announced {
            self.turn(cid, Turn::Ready);
        }
    }

    /// Roots that wait to be announced for the first time, or again.
    pub(super) fn queued(&self) -> u64 {
        (self.ready_count + self.in_flight.len() + self.unheard.len()) as u64
    }
}

/// A swarm that has grown by this factor has few peers left that were closest to a record before: of twenty, five.
const GROWTH: usize = 4;
/// A swarm that comes up all at once is told when nobody has come for this long, or after `LONGEST_GROWTH`.
const QUIET: Duration = Duration::from_secs(2);
const LONGEST_GROWTH: Duration = Duration::from_secs(20);

/// A swarm that has shrunk for this long has shrunk: what is announced meanwhile is announced to it as it is.
const SHRUNK: Duration = Duration::from_secs(60);

/// When the swarm has grown so much that everything is to be announced again.
#[derive(Default)]
pub(super) struct Growth {
    /// Peers of the DHT when everything was last announced, or fewer that are left of them.
    told: usize,
    since: Option<Instant>,
    due: Option<Instant>,
    /// How many there were since when: each fewer than the one before, which is counted for another minute.
    counts: VecDeque<(Instant, usize)>,
}

impl Growth {
    /// A peer has come, and now there are `peers`.
    pub(super) fn peer_came(&mut self, peers: usize, now: Instant) {
        self.count(peers, now);
        if self.told == 0 {
            self.told = peers;
        }
        if peers >= self.told.saturating_mul(GROWTH) {
            let since = *self.since.get_or_insert(now);
            self.due = Some((now + QUIET).min(since + LONGEST_GROWTH));
        }
    }

    /// A peer has gone, and now there are `peers`.
    pub(super) fn peer_went(&mut self, peers: usize, now: Instant) {
        self.count(peers, now);
    }

    fn count(&mut self, peers: usize, now: Instant) {
        while self.counts.get(1).is_some_and(|(since, _)| *since + SHRUNK <= now) {
            self.counts.pop_front();
        }
        if let Some((_, most)) = self.counts.front() {
            self.told = self.told.min(*most);
        }
        let mut since = now;
        while let Some((earlier, _)) = self.counts.back().filter(|(_, count)| *count <= peers) {
            since = *earlier;
            self.counts.pop_back();
        }
        self.counts.push_back((since, peers));
    }

    /// When everything is to be announced again, as far as is known.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to announce everything again, to `peers`.
    pub(super) fn is_due(&mut self, peers: usize, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            (self.told, self.since, self.due) = (peers.max(self.told), None, None);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{PeerId, kad};

    use super::*;
    use crate::content::cid::Codec;

    const AGAIN: Duration = Duration::from_secs(12 * 3600);

    fn root(n: u32) -> Cid {
        Cid::of(Codec::DagCbor, &n.to_be_bytes())
    }

    /// Kademlia alone makes query ids.
    fn queries() -> impl Iterator<Item = QueryId> {
        let local = PeerId::random();
        let mut kad = kad::Behaviour::new(local, kad::store::MemoryStore::new(local));
        std::iter::repeat_with(move || kad.get_closest_peers(PeerId::random()))
    }

    #[test]
    fn a_few_fly_at_a_time_and_each_has_its_turn_once() {
        let (mut announcer, mut queries) = (Announcer::new(AGAIN), queries());
        (0..100).for_each(|n| announcer.add(root(n)));
        (0..100).for_each(|n| announcer.add(root(n)));
        assert_eq!(announcer.queued(), 100);
        let mut seen = Vec::new();
        while let Some(cid) = announcer.next(Instant::now()) {
            seen.push(cid);
            announcer.begun(queries.next().expect("endless"), cid);
            if announcer.in_flight.len() == IN_FLIGHT {
                assert_eq!(
                    (announcer.next(Instant::now()), announcer.next_due(Instant::now())),
                    (None, None)
                );
                let flying = *announcer.in_flight.keys().next().expect("twelve");
                announcer.ended(flying, 3);
            }
        }
        assert_eq!(seen, (0..100).map(root).collect::<Vec<_>>());
    }

    #[test]
    fn what_nobody_took_is_tried_again_after_a_while_and_at_once_when_somebody_comes() {
        let (mut announcer, mut queries) = (Announcer::new(AGAIN), queries());
        announcer.add(root(1));
        let (told, mut answer) = oneshot::channel();
        announcer.wait(&root(1), told);
        for came in [false, true] {
            let cid = announcer.next(Instant::now() + RETRY).expect("its turn");
            let query = queries.next().expect("endless");
            announcer.begun(query, cid);
            assert_eq!(announcer.ended(query, 0), Some(cid));
            assert_eq!(announcer.next(Instant::now()), None);
            assert_eq!(announcer.queued(), 1);
            if came {
                announcer.peers_came();
            }
        }
        let cid = announcer.next(Instant::now()).expect("its turn");
        let query = queries.next().expect("endless");
        announcer.begun(query, cid);
        assert!(answer.try_recv().is_err());
        announcer.ended(query, 2);
        assert_eq!((answer.try_recv(), announcer.queued()), (Ok(Some(2)), 0));
    }

    #[test]
    fn republication_is_spread_over_the_whole_period_and_then_keeps_its_pace() {
        let (mut announcer, mut queries) = (Announcer::new(AGAIN), queries());
        (0..1000).for_each(|n| announcer.add(root(n)));
        let started = Instant::now();
        let mut round = |announcer: &mut Announcer, now| {
            while let Some(cid) = announcer.next(now) {
                let query = queries.next().expect("endless");
                announcer.begun(query, cid);
                announcer.ended(query, 1);
            }
        };
        round(&mut announcer, started);
        let in_first_half = announcer.later.iter().filter(|(at, _)| *at < started + AGAIN / 2).count();
        assert!((400..600).contains(&in_first_half), "{in_first_half}");
        let again = Instant::now();
        round(&mut announcer, started + AGAIN / 2);
        assert_eq!(announcer.later.len(), 1000);
        let after_the_whole_period = announcer.later.iter().filter(|(at, _)| *at >= again + AGAIN).count();
        assert_eq!(after_the_whole_period, in_first_half);
    }

    #[test]
    fn a_growing_swarm_is_told_once_it_is_quiet_and_not_at_each_newcomer() {
        let start = Instant::now();
        let (mut growth, mut told) = (Growth::default(), Vec::new());
        for peers in 1..=200 {
            let now = start + QUIET / 10 * u32::try_from(peers).expect("small");
            growth.peer_came(peers, now);
            if growth.is_due(peers, now) {
                told.push(peers);
            }
        }
        assert!((1..=3).contains(&told.len()), "{told:?}");
        let last = *told.last().expect("one at least");
        let end = start + LONGEST_GROWTH * 100;
        growth.peer_came(last * GROWTH, end);
        assert!(growth.next_due().is_some_and(|at| at == end + QUIET));
        assert!(!growth.is_due(last * GROWTH, end) && growth.is_due(last * GROWTH, end + QUIET));
        growth.peer_came(last * GROWTH + 1, end);
        assert_eq!(growth.next_due(), None);
    }

    #[test]
    fn a_swarm_that_was_small_for_a_while_has_grown_when_the_others_are_back() {
        let start = Instant::now();
        for (apart, announced) in [(SHRUNK / 2, false), (SHRUNK, true)] {
            let mut growth = Growth { told: 100, ..Growth::default() };
            (3..100).rev().for_each(|peers| growth.peer_went(peers, start));
            // What is announced now, three peers are told of.
            (4..=100).for_each(|peers| growth.peer_came(peers, start + apart));
            assert_eq!(growth.is_due(100, start + apart + QUIET), announced, "{apart:?}");
        }
        // One that shrinks slowly is counted by what it was a while ago.
        let mut growth = Growth { told: 100, ..Growth::default() };
        (0..100)
            .for_each(|n| growth.peer_went(99 - n, start + SHRUNK / 4 * u32::try_from(n).expect("small")));
        assert!(growth.told <= 10, "{}", growth.told);
    }

    #[test]
    fn a_removed_root_is_not_announced_and_names_the_query_to_stop() {
        let (mut announcer, mut queries) = (Announcer::new(AGAIN), queries());
        announcer.add(root(1));
        announcer.add(root(2));
        let query = queries.next().expect("endless");
        let flying = announcer.next(Instant::now()).expect("its turn");
        announcer.begun(query, flying);
        let (told, mut answer) = oneshot::channel();
        announcer.wait(&root(2), told);
        assert_eq!(announcer.remove(&root(2)), None);
        assert_eq!(answer.try_recv(), Ok(None), "who waits for it is told");
        let (told, mut answer) = oneshot::channel();
        announcer.wait(&root(2), told);
        assert_eq!(answer.try_recv(), Ok(None), "and who asks later");
        assert_eq!(announcer.remove(&flying), Some(query));
        assert_eq!(announcer.ended(query, 1), None);
        assert_eq!((announcer.next(Instant::now()), announcer.queued()), (None, 0));
        // What was being sent may still arrive; what never was cannot.
        let now = Instant::now();
        assert!(announcer.is_settled(&root(2), now) && !announcer.is_settled(&flying, now));
        assert!(announcer.is_settled(&flying, now + ARRIVAL));
    }
}
