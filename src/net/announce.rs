//! Announcing roots: a few at a time, again before they expire, and again when nobody took them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use libp2p::kad::QueryId;
use tokio::{sync::oneshot, time::Instant};

use crate::content::cid::Cid;

/// Announcements on their way at a time.
const IN_FLIGHT: usize = 12;
/// Records live for 48 hours; each is announced again after this long, or a little earlier.
const AGAIN: Duration = Duration::from_secs(12 * 3600);
/// An announcement that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);

/// What is announced, and when it is next.
#[derive(Default)]
pub(super) struct Announcer {
    roots: HashMap<Cid, Root>,
    due: BTreeSet<(Instant, Cid)>,
    /// Announced while nobody was there to take the record.
    unheard: HashSet<Cid>,
    in_flight: HashMap<QueryId, Cid>,
}

#[derive(Default)]
struct Root {
    due: Option<Instant>,
    peers: Option<u32>,
    waiting: Vec<oneshot::Sender<u32>>,
}

impl Announcer {
    /// Adds a root; announces it as soon as possible, also where it was announced before.
    pub(super) fn add(&mut self, cid: Cid) {
        self.schedule(cid, Instant::now());
    }

    fn schedule(&mut self, cid: Cid, at: Instant) {
        let root = self.roots.entry(cid).or_default();
        if let Some(old) = root.due.replace(at) {
            self.due.remove(&(old, cid));
        }
        self.due.insert((at, cid));
    }

    /// Ends the announcement of a root.
    pub(super) fn remove(&mut self, cid: &Cid) {
        self.unheard.remove(cid);
        if let Some(Root { due: Some(due), .. }) = self.roots.remove(cid) {
            self.due.remove(&(due, *cid));
        }
    }

    /// Answers when the root has been announced to somebody. A root that is not here drops the question.
    pub(super) fn wait(&mut self, cid: &Cid, reply: oneshot::Sender<u32>) {
        match self.roots.get_mut(cid) {
            Some(Root { peers: Some(peers), .. }) => drop(reply.send(*peers)),
            Some(root) => root.waiting.push(reply),
            None => {}
        }
    }

    /// When something is next to be done.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.in_flight.len() >= IN_FLIGHT { None } else { self.due.first().map(|(at, _)| *at) }
    }

    /// The next root to announce now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Cid> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let (at, cid) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        if let Some(root) = self.roots.get_mut(&cid) {
            root.due = None;
        }
        Some(cid)
    }

    pub(super) fn begun(&mut self, query: QueryId, cid: Cid) {
        self.in_flight.insert(query, cid);
    }

    /// An announcement could not even begin.
    pub(super) fn failed(&mut self, cid: Cid) {
        self.schedule(cid, Instant::now() + RETRY);
    }

    /// An announcement has ended; answers which, where it was one of ours and the root is still provided.
    pub(super) fn ended(&mut self, query: QueryId, peers: u32) -> Option<Cid> {
        let cid = self.in_flight.remove(&query)?;
        let root = self.roots.get_mut(&cid)?;
        if peers == 0 {
            self.unheard.insert(cid);
            return Some(cid);
        }
        root.peers = Some(peers);
        root.waiting.drain(..).for_each(|reply| {
            let _ = reply.send(peers);
        });
        if root.due.is_none() {
            // Spread over a tenth of the time, so that ten thousand roots do not fall due at once.
            let early = AGAIN.mul_f64(rand::random::<f64>() / 10.0);
            self.schedule(cid, Instant::now() + AGAIN - early);
        }
        Some(cid)
    }

    /// Somebody is there now: what nobody took is announced again.
    pub(super) fn peers_came(&mut self) {
        let now = Instant::now();
        for cid in std::mem::take(&mut self.unheard) {
            self.schedule(cid, now);
        }
    }

    /// The swarm has grown so much that records may belong to other peers now: everything is announced again.
    pub(super) fn swarm_grew(&mut self) {
        let now = Instant::now();
        let announced: Vec<Cid> =
            self.roots.iter().filter(|(_, root)| root.peers.is_some()).map(|(cid, _)| *cid).collect();
        for cid in announced {
            self.schedule(cid, now);
        }
    }

    /// Roots that wait to be announced for the first time, or again.
    pub(super) fn queued(&self, now: Instant) -> u64 {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).count();
        (due + self.in_flight.len() + self.unheard.len()) as u64
    }
}
