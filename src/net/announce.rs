//! Announces roots: a few at a time, again before the records expire, and again after a failure.
//!
//! A root is queued in `ready`, in flight, or scheduled in `later`. A root whose announcement reached no peer is scheduled
//! like others and also listed in `undelivered`, so that it is announced as soon as a peer connects.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use libp2p::kad::QueryId;
use tokio::{sync::oneshot, time::Instant};

use crate::content::cid::Cid;

/// Maximum announcements in flight.
const IN_FLIGHT: usize = 12;
/// Time after which a failed announcement is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Time within which a sent record arrives, or never does: Kademlia sends a message within ten seconds.
const ARRIVAL: Duration = Duration::from_secs(20);

/// The roots to announce, and when.
pub(super) struct Announcer {
    /// Interval between two announcements of a root.
    interval: Duration,
    roots: HashMap<Cid, Announcement>,
    /// May list a root that is no longer [`AnnounceState::Ready`]. Such an entry is skipped.
    ready: VecDeque<Cid>,
    ready_count: usize,
    later: BTreeSet<(Instant, Cid)>,
    /// Roots whose last announcement reached no peer.
    undelivered: HashSet<Cid>,
    in_flight: HashMap<QueryId, Cid>,
    /// Roots that are no longer provided, and until when their last announcement may still arrive.
    settling: HashMap<Cid, Instant>,
}

#[derive(Default)]
struct Announcement {
    state: AnnounceState,
    /// When it was last sent.
    sent: Option<Instant>,
    /// Number of peers that got the record the last time.
    peers: Option<u32>,
    waiting: Vec<oneshot::Sender<Option<u32>>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum AnnounceState {
    #[default]
    InFlight,
    Ready,
    Later(Instant),
}

impl Announcer {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            roots: HashMap::new(),
            ready: VecDeque::new(),
            ready_count: 0,
            later: BTreeSet::new(),
            undelivered: HashSet::new(),
            in_flight: HashMap::new(),
            settling: HashMap::new(),
        }
    }

    /// Adds a root and announces it as soon as possible, even if it was announced before.
    pub(super) fn add(&mut self, cid: Cid) {
        self.roots.entry(cid).or_default();
        self.set_state(cid, AnnounceState::Ready);
    }

    fn set_state(&mut self, cid: Cid, state: AnnounceState) {
        let Some(root) = self.roots.get_mut(&cid) else {
            return;
        };
        let old = std::mem::replace(&mut root.state, state);
        if old == state {
            return;
        }
        match old {
            AnnounceState::InFlight => {}
            AnnounceState::Ready => self.ready_count -= 1,
            AnnounceState::Later(at) => drop(self.later.remove(&(at, cid))),
        }
        match state {
            AnnounceState::InFlight => {}
            AnnounceState::Ready => {
                self.ready_count += 1;
                self.ready.push_back(cid);
            }
            AnnounceState::Later(at) => drop(self.later.insert((at, cid))),
        }
    }

    /// Removes a root. Returns the query that is announcing it, if one is in flight.
    pub(super) fn remove(&mut self, cid: &Cid) -> Option<QueryId> {
        self.set_state(*cid, AnnounceState::InFlight);
        self.undelivered.remove(cid);
        let mut root = self.roots.remove(cid);
        for reply in root.iter_mut().flat_map(|root| root.waiting.drain(..)) {
            let _ = reply.send(None);
        }
        let query = self.in_flight.iter().find(|(_, root)| *root == cid).map(|(query, _)| *query);
        let now = Instant::now();
        let sent = root.and_then(|root| root.sent).filter(|sent| *sent + ARRIVAL > now);
        if query.is_some() || sent.is_some() {
            self.settling.retain(|_, until| *until > now);
            self.settling.insert(*cid, now + ARRIVAL);
        }
        query
    }

    /// Returns whether no announcement of a root can arrive any more. Records are not acknowledged, so one may arrive
    /// after a later message on another stream.
    pub(super) fn is_settled(&self, cid: &Cid, now: Instant) -> bool {
        !self.roots.contains_key(cid) && self.settling.get(cid).is_none_or(|until| *until <= now)
    }

    /// Replies with the number of peers when the root has been announced, or `None` when it is not provided.
    pub(super) fn wait(&mut self, cid: &Cid, reply: oneshot::Sender<Option<u32>>) {
        match self.roots.get_mut(cid) {
            Some(Announcement { peers: Some(peers), .. }) => drop(reply.send(Some(*peers))),
            Some(root) => {
                // Callers that gave up are dropped.
                root.waiting.retain(|waiting| !waiting.is_closed());
                root.waiting.push(reply);
            }
            None => drop(reply.send(None)),
        }
    }

    /// Returns when the next announcement is due.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        if self.ready_count > 0 { Some(now) } else { self.later.first().map(|(at, _)| *at) }
    }

    /// Returns the next root to announce now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Cid> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        while let Some((_, cid)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.set_state(cid, AnnounceState::Ready);
        }
        while let Some(cid) = self.ready.pop_front() {
            if self.roots.get(&cid).is_some_and(|root| root.state == AnnounceState::Ready) {
                self.set_state(cid, AnnounceState::InFlight);
                return Some(cid);
            }
        }
        None
    }

    pub(super) fn started(&mut self, query: QueryId, cid: Cid) {
        self.in_flight.insert(query, cid);
    }

    /// Notes that an announcement could not start.
    pub(super) fn failed(&mut self, cid: Cid) {
        self.set_state(cid, AnnounceState::Later(Instant::now() + RETRY));
    }

    /// Notes that a query has ended. Returns its root if it was an announcement and the root is still provided.
    pub(super) fn ended(&mut self, query: QueryId, peers: u32) -> Option<Cid> {
        let cid = self.in_flight.remove(&query)?;
        let root = self.roots.get_mut(&cid)?;
        if peers == 0 {
            self.undelivered.insert(cid);
            if root.state == AnnounceState::InFlight {
                self.failed(cid);
            }
            return Some(cid);
        }
        self.undelivered.remove(&cid);
        root.sent = Some(Instant::now());
        let first = root.peers.replace(peers).is_none();
        root.waiting.drain(..).for_each(|reply| {
            let _ = reply.send(Some(peers));
        });
        if root.state == AnnounceState::InFlight {
            // The first interval is random and later ones are whole: announcements made together at start are spread
            // evenly from then on.
            let pause = if first { self.interval.mul_f64(rand::random()) } else { self.interval };
            self.set_state(cid, AnnounceState::Later(Instant::now() + pause));
        }
        Some(cid)
    }

    /// Announces again what reached no peer, because a peer has connected.
    pub(super) fn peer_connected(&mut self) {
        for cid in std::mem::take(&mut self.undelivered) {
            self.set_state(cid, AnnounceState::Ready);
        }
    }

    /// Announces everything again, because the swarm has grown and records may belong to other peers now.
    pub(super) fn swarm_grew(&mut self) {
        let announced: Vec<Cid> =
            self.roots.iter().filter(|(_, root)| root.peers.is_some()).map(|(cid, _)| *cid).collect();
        for cid in announced {
            self.set_state(cid, AnnounceState::Ready);
        }
    }

    /// Returns the number of roots that wait for an announcement or are in flight.
    pub(super) fn queued(&self) -> u64 {
        (self.ready_count + self.in_flight.len() + self.undelivered.len()) as u64
    }
}

/// Growth after which records are announced again: few of the peers closest to a record are still so, five of twenty.
const GROWTH: usize = 4;
/// Time without a new peer after which a growing swarm is announced to, and the longest time it may grow before.
const QUIET: Duration = Duration::from_secs(2);
const LONGEST_GROWTH: Duration = Duration::from_secs(20);

/// Time after which a smaller swarm counts as the one that the records were announced to.
const SHRUNK: Duration = Duration::from_secs(60);

/// Detects that the swarm has grown so much that everything is to be announced again.
#[derive(Default)]
pub(super) struct Growth {
    /// DHT peers at the last announcement of everything, or fewer if the swarm has shrunk since.
    announced_to: usize,
    since: Option<Instant>,
    due: Option<Instant>,
    /// Numbers of DHT peers in descending order, and since when. One counts until the next is `SHRUNK` old.
    counts: VecDeque<(Instant, usize)>,
}

impl Growth {
    /// Notes that a peer has joined, which makes `peers`.
    pub(super) fn peer_joined(&mut self, peers: usize, now: Instant) {
        self.count(peers, now);
        if self.announced_to == 0 {
            self.announced_to = peers;
        }
        if peers >= self.announced_to.saturating_mul(GROWTH) {
            let since = *self.since.get_or_insert(now);
            self.due = Some((now + QUIET).min(since + LONGEST_GROWTH));
        }
    }

    /// Notes that a peer has left, which leaves `peers`.
    pub(super) fn peer_left(&mut self, peers: usize, now: Instant) {
        self.count(peers, now);
    }

    fn count(&mut self, peers: usize, now: Instant) {
        while self.counts.get(1).is_some_and(|(since, _)| *since + SHRUNK <= now) {
            self.counts.pop_front();
        }
        if let Some((_, most)) = self.counts.front() {
            self.announced_to = self.announced_to.min(*most);
        }
        let mut since = now;
        while let Some((earlier, _)) = self.counts.back().filter(|(_, count)| *count <= peers) {
            since = *earlier;
            self.counts.pop_back();
        }
        self.counts.push_back((since, peers));
    }

    /// Returns when everything is to be announced again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns whether to announce everything again now, to `peers`.
    pub(super) fn is_due(&mut self, peers: usize, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            (self.announced_to, self.since, self.due) = (peers.max(self.announced_to), None, None);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{PeerId, kad};

    use super::*;
    use crate::content::cid::Codec;

    const INTERVAL: Duration = Duration::from_secs(12 * 3600);

    fn root(n: u32) -> Cid {
        Cid::of(Codec::DagCbor, &n.to_be_bytes())
    }

    /// Query ids, which only Kademlia makes.
    fn queries() -> impl Iterator<Item = QueryId> {
        let local = PeerId::random();
        let mut kad = kad::Behaviour::new(local, kad::store::MemoryStore::new(local));
        std::iter::repeat_with(move || kad.get_closest_peers(PeerId::random()))
    }

    #[test]
    fn a_few_roots_are_in_flight_at_a_time_and_each_is_announced_once() {
        let (mut announcer, mut queries) = (Announcer::new(INTERVAL), queries());
        (0..100).for_each(|n| announcer.add(root(n)));
        (0..100).for_each(|n| announcer.add(root(n)));
        assert_eq!(announcer.queued(), 100);
        let mut seen = Vec::new();
        while let Some(cid) = announcer.next(Instant::now()) {
            seen.push(cid);
            announcer.started(queries.next().expect("endless"), cid);
            if announcer.in_flight.len() == IN_FLIGHT {
                assert_eq!(
                    (announcer.next(Instant::now()), announcer.next_due(Instant::now())),
                    (None, None)
                );
                let query = *announcer.in_flight.keys().next().expect("twelve");
                announcer.ended(query, 3);
            }
        }
        assert_eq!(seen, (0..100).map(root).collect::<Vec<_>>());
    }

    #[test]
    fn an_announcement_without_peers_is_retried_later_and_at_once_when_a_peer_connects() {
        let (mut announcer, mut queries) = (Announcer::new(INTERVAL), queries());
        announcer.add(root(1));
        let (reply, mut answer) = oneshot::channel();
        announcer.wait(&root(1), reply);
        for connected in [false, true] {
            let cid = announcer.next(Instant::now() + RETRY).expect("due");
            let query = queries.next().expect("endless");
            announcer.started(query, cid);
            assert_eq!(announcer.ended(query, 0), Some(cid));
            assert_eq!(announcer.next(Instant::now()), None);
            assert_eq!(announcer.queued(), 1);
            if connected {
                announcer.peer_connected();
            }
        }
        let cid = announcer.next(Instant::now()).expect("due");
        let query = queries.next().expect("endless");
        announcer.started(query, cid);
        assert!(answer.try_recv().is_err());
        announcer.ended(query, 2);
        assert_eq!((answer.try_recv(), announcer.queued()), (Ok(Some(2)), 0));
    }

    #[test]
    fn republication_is_spread_over_the_first_interval_and_then_regular() {
        let (mut announcer, mut queries) = (Announcer::new(INTERVAL), queries());
        (0..1000).for_each(|n| announcer.add(root(n)));
        let started = Instant::now();
        let mut round = |announcer: &mut Announcer, now| {
            while let Some(cid) = announcer.next(now) {
                let query = queries.next().expect("endless");
                announcer.started(query, cid);
                announcer.ended(query, 1);
            }
        };
        round(&mut announcer, started);
        let in_first_half = announcer.later.iter().filter(|(at, _)| *at < started + INTERVAL / 2).count();
        assert!((400..600).contains(&in_first_half), "{in_first_half}");
        let again = Instant::now();
        round(&mut announcer, started + INTERVAL / 2);
        assert_eq!(announcer.later.len(), 1000);
        let after_a_whole_interval = announcer.later.iter().filter(|(at, _)| *at >= again + INTERVAL).count();
        assert_eq!(after_a_whole_interval, in_first_half);
    }

    #[test]
    fn a_growing_swarm_is_announced_to_when_it_is_quiet_and_not_for_each_peer() {
        let start = Instant::now();
        let (mut growth, mut announced) = (Growth::default(), Vec::new());
        for peers in 1..=200 {
            let now = start + QUIET / 10 * u32::try_from(peers).expect("small");
            growth.peer_joined(peers, now);
            if growth.is_due(peers, now) {
                announced.push(peers);
            }
        }
        assert!((1..=3).contains(&announced.len()), "{announced:?}");
        let last = *announced.last().expect("one at least");
        let end = start + LONGEST_GROWTH * 100;
        growth.peer_joined(last * GROWTH, end);
        assert_eq!(growth.next_due(), Some(end + QUIET));
        assert!(!growth.is_due(last * GROWTH, end) && growth.is_due(last * GROWTH, end + QUIET));
        growth.peer_joined(last * GROWTH + 1, end);
        assert_eq!(growth.next_due(), None);
    }

    #[test]
    fn a_swarm_that_was_small_for_a_while_has_grown_when_the_peers_are_back() {
        let start = Instant::now();
        for (apart, announced) in [(SHRUNK / 2, false), (SHRUNK, true)] {
            let mut growth = Growth { announced_to: 100, ..Growth::default() };
            (3..100).rev().for_each(|peers| growth.peer_left(peers, start));
            // Records announced now reach three peers.
            (4..=100).for_each(|peers| growth.peer_joined(peers, start + apart));
            assert_eq!(growth.is_due(100, start + apart + QUIET), announced, "{apart:?}");
        }
        // A swarm that shrinks slowly counts with its size of a minute ago.
        let mut growth = Growth { announced_to: 100, ..Growth::default() };
        (0..100)
            .for_each(|n| growth.peer_left(99 - n, start + SHRUNK / 4 * u32::try_from(n).expect("small")));
        assert_eq!(growth.announced_to, 4);
    }

    #[test]
    fn a_removed_root_is_not_announced_and_its_query_is_returned() {
        let (mut announcer, mut queries) = (Announcer::new(INTERVAL), queries());
        announcer.add(root(1));
        announcer.add(root(2));
        let query = queries.next().expect("endless");
        let in_flight = announcer.next(Instant::now()).expect("due");
        announcer.started(query, in_flight);
        let (reply, mut answer) = oneshot::channel();
        announcer.wait(&root(2), reply);
        assert_eq!(announcer.remove(&root(2)), None);
        assert_eq!(answer.try_recv(), Ok(None), "a caller that waits gets a reply");
        let (reply, mut answer) = oneshot::channel();
        announcer.wait(&root(2), reply);
        assert_eq!(answer.try_recv(), Ok(None), "and a later caller too");
        assert_eq!(announcer.remove(&in_flight), Some(query));
        assert_eq!(announcer.ended(query, 1), None);
        assert_eq!((announcer.next(Instant::now()), announcer.queued()), (None, 0));
        // A record that was being sent may still arrive.
        let now = Instant::now();
        assert!(announcer.is_settled(&root(2), now) && !announcer.is_settled(&in_flight, now));
        assert!(announcer.is_settled(&in_flight, now + ARRIVAL));
    }
}
