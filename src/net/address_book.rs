//! Where peers are, as far as it is known: bounded, and the peers that were seen longest ago go first.

use std::collections::{BTreeMap, HashMap};

use libp2p::{Multiaddr, PeerId};

use super::address_ranking::{bare, farness, is_relayed};

/// Peers whose addresses are kept.
const PEERS: usize = 4096;
/// Addresses kept that a peer says it listens on.
const LISTEN: usize = 12;
/// Addresses kept besides at which it is reached through a relay.
const RELAYED: usize = 2;
/// Addresses kept that stand in a peer's own provider records.
const RECORDED: usize = 4;
/// Addresses kept that others told of a peer: of one who is asked, two are taken, or four of the peer that is looked for.
const HEARD: usize = 8;

/// The addresses of peers.
#[derive(Default)]
pub(super) struct AddressBook {
    peers: HashMap<PeerId, Entry>,
    /// By when they were last seen.
    order: BTreeMap<u64, PeerId>,
    clock: u64,
}

#[derive(Default)]
struct Entry {
    /// Where we have reached it. What it says of itself does not push this out: a peer behind a forwarded port knows only
    /// addresses that are of no use to us.
    reached: Option<Multiaddr>,
    listen: Vec<Multiaddr>,
    recorded: Vec<Multiaddr>,
    heard: Vec<Multiaddr>,
    /// Whether it is of our DHT.
    ours: bool,
    seen: u64,
}

impl AddressBook {
    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        self.clock += 1;
        let entry = self.peers.entry(peer).or_default();
        self.order.remove(&entry.seen);
        entry.seen = self.clock;
        self.order.insert(self.clock, peer);
        if self.peers.len() > PEERS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.peers.remove(&oldest);
        }
        self.peers.entry(peer).or_default()
    }

    /// Notes where a peer was reached.
    pub(super) fn reached(&mut self, peer: PeerId, addr: &Multiaddr) {
        self.entry(peer).reached = Some(bare(addr));
    }

    /// Notes what somebody says of a peer.
    pub(super) fn heard(&mut self, peer: PeerId, addr: &Multiaddr) {
        let (entry, addr) = (self.entry(peer), bare(addr));
        entry.heard.retain(|known| *known != addr);
        entry.heard.insert(0, addr);
        entry.heard.truncate(HEARD);
    }

    /// Notes where a peer's provider record says that it is; no stranger's word pushes this out.
    pub(super) fn recorded(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        if !addrs.is_empty() {
            self.entry(peer).recorded = addrs.iter().take(RECORDED).map(bare).collect();
        }
    }

    /// Notes what a peer of our DHT says of itself; what it said before is out of date.
    pub(super) fn says(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        let entry = self.entry(peer);
        entry.ours = true;
        let (relayed, mut direct): (Vec<_>, Vec<_>) = addrs.iter().partition(|addr| is_relayed(addr));
        // It says them in any order.
        direct.sort_by_cached_key(|addr| farness(addr));
        let direct = direct.into_iter().take(LISTEN);
        entry.listen = direct.chain(relayed.into_iter().take(RELAYED)).map(bare).collect();
    }

    /// Where a peer is for certain: where it was reached, and what it says of itself.
    pub(super) fn own(&self, peer: &PeerId) -> (Option<Multiaddr>, Vec<Multiaddr>) {
        let known = |entry: &Entry| {
            (entry.reached.clone(), entry.reached.iter().chain(&entry.listen).cloned().collect())
        };
        self.peers.get(peer).map(known).unwrap_or_default()
    }

    /// What is known of a peer, best first.
    pub(super) fn of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers.get(peer).map(Entry::addrs).unwrap_or_default()
    }

    /// Whether an address of a peer is known that is none of these.
    pub(super) fn knows_besides(&self, peer: &PeerId, tried: &[Multiaddr]) -> bool {
        let tried: Vec<Multiaddr> = tried.iter().map(bare).collect();
        self.of(peer).iter().any(|addr| !tried.contains(addr))
    }

    /// Peers of our DHT, most recently seen first.
    pub(super) fn ours(&self) -> impl Iterator<Item = (PeerId, Vec<Multiaddr>)> + '_ {
        let described = |peer: &PeerId| {
            let entry = self.peers.get(peer).filter(|entry| entry.ours)?;
            Some((*peer, entry.addrs()))
        };
        self.order.values().rev().filter_map(described)
    }
}

impl Entry {
    fn addrs(&self) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = self.reached.iter().cloned().collect();
        for addr in self.listen.iter().chain(&self.recorded).chain(&self.heard) {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    #[test]
    fn where_a_peer_was_reached_comes_first_whatever_it_says() {
        let (mut book, peer) = (AddressBook::default(), PeerId::random());
        book.heard(peer, &addr(1));
        book.reached(peer, &addr(2).with_p2p(peer).expect("no id yet"));
        book.says(peer, &(100..200).map(addr).collect::<Vec<_>>());
        book.says(peer, &[addr(3), addr(2)]);
        assert_eq!(book.of(&peer), [addr(2), addr(3), addr(1)]);
        (1000..1100).for_each(|port| book.heard(peer, &addr(port)));
        assert_eq!(book.of(&peer).len(), 2 + HEARD);
    }

    #[test]
    fn what_others_say_pushes_nothing_out_that_a_peer_says_itself() {
        let (mut book, peer) = (AddressBook::default(), PeerId::random());
        book.recorded(peer, &[addr(1), addr(2)]);
        (1000..1100).for_each(|port| book.heard(peer, &addr(port)));
        assert_eq!(book.of(&peer)[..2], [addr(1), addr(2)]);
        // Of many that it says itself, the useless ones go.
        let home = |port: u16| format!("/ip4/172.17.0.1/tcp/{port}").parse().expect("a multiaddr");
        let said = [(1..50).map(home).collect(), vec![addr(3)]].concat();
        book.says(peer, &said);
        assert_eq!(book.of(&peer)[0], addr(3));
        assert_eq!(book.own(&peer).1.len(), LISTEN);
    }

    #[test]
    fn peers_that_were_not_seen_for_longest_are_forgotten() {
        let mut book = AddressBook::default();
        let peers: Vec<PeerId> = (0..=PEERS).map(|_| PeerId::random()).collect();
        for peer in &peers[..PEERS] {
            book.says(*peer, &[addr(1)]);
        }
        book.reached(peers[0], &addr(2));
        book.heard(peers[PEERS], &addr(3));
        assert_eq!((book.of(&peers[1]).len(), book.of(&peers[0]).len(), book.peers.len()), (0, 2, PEERS));
        let ours: Vec<PeerId> = book.ours().map(|(peer, _)| peer).collect();
        assert_eq!((ours.len(), ours[0], book.order.len()), (PEERS - 1, peers[0], PEERS));
    }
}
