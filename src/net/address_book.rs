//! The address book: known addresses of peers. It is bounded and drops the peers that were seen least recently.

use std::collections::{BTreeMap, HashMap};

use libp2p::{Multiaddr, PeerId};

use super::address_ranking::{is_relayed, rank, without_peer_id};

/// Maximum peers.
const PEERS: usize = 4096;
/// Maximum direct listen addresses that a peer reports of itself.
const LISTEN: usize = 12;
/// Maximum relayed listen addresses that a peer reports of itself.
const RELAYED: usize = 2;
/// Maximum addresses from a peer's own provider records.
const RECORDED: usize = 4;
/// Maximum addresses of a peer that other peers report. One DHT answer adds two, or four of the peer that it looks for.
const REPORTED: usize = 8;

/// Known addresses of peers.
#[derive(Default)]
pub(super) struct AddressBook {
    peers: HashMap<PeerId, PeerAddrs>,
    /// Peers by the time they were last seen.
    order: BTreeMap<u64, PeerId>,
    clock: u64,
}

#[derive(Default)]
struct PeerAddrs {
    /// The address at which it was reached. Kept whatever the peer reports: behind a forwarded port, it knows only addresses
    /// that are useless here.
    reached: Option<Multiaddr>,
    listen: Vec<Multiaddr>,
    recorded: Vec<Multiaddr>,
    reported: Vec<Multiaddr>,
    /// Whether it supports this DHT's protocol.
    dht: bool,
    seen: u64,
}

impl AddressBook {
    fn entry(&mut self, peer: PeerId) -> &mut PeerAddrs {
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

    /// Sets the address at which a peer was reached.
    pub(super) fn set_reached(&mut self, peer: PeerId, addr: &Multiaddr) {
        self.entry(peer).reached = Some(without_peer_id(addr));
    }

    /// Adds an address that another peer or the local network reports.
    pub(super) fn add_reported(&mut self, peer: PeerId, addr: &Multiaddr) {
        let (entry, addr) = (self.entry(peer), without_peer_id(addr));
        entry.reported.retain(|known| *known != addr);
        entry.reported.insert(0, addr);
        entry.reported.truncate(REPORTED);
    }

    /// Sets the addresses in a peer's provider record. Reports of other peers do not replace them.
    pub(super) fn set_recorded(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        if !addrs.is_empty() {
            self.entry(peer).recorded = addrs.iter().take(RECORDED).map(without_peer_id).collect();
        }
    }

    /// Sets the listen addresses that a peer of this DHT reports of itself.
    pub(super) fn set_listen(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        let entry = self.entry(peer);
        entry.dht = true;
        let (relayed, mut direct): (Vec<_>, Vec<_>) = addrs.iter().partition(|addr| is_relayed(addr));
        direct.sort_by_cached_key(|addr| rank(addr));
        let direct = direct.into_iter().take(LISTEN);
        entry.listen = direct.chain(relayed.into_iter().take(RELAYED)).map(without_peer_id).collect();
    }

    /// Returns where a peer was reached, and this address together with those that it reports of itself.
    pub(super) fn first_hand(&self, peer: &PeerId) -> (Option<Multiaddr>, Vec<Multiaddr>) {
        let known = |entry: &PeerAddrs| {
            (entry.reached.clone(), entry.reached.iter().chain(&entry.listen).cloned().collect())
        };
        self.peers.get(peer).map(known).unwrap_or_default()
    }

    /// Returns all addresses of a peer, best first.
    pub(super) fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers.get(peer).map(PeerAddrs::all).unwrap_or_default()
    }

    /// Returns whether an address of a peer is known that was not tried.
    pub(super) fn has_untried(&self, peer: &PeerId, tried: &[Multiaddr]) -> bool {
        let tried: Vec<Multiaddr> = tried.iter().map(without_peer_id).collect();
        self.addrs(peer).iter().any(|addr| !tried.contains(addr))
    }

    /// Returns the peers of this DHT, most recently seen first.
    pub(super) fn dht_peers(&self) -> impl Iterator<Item = (PeerId, Vec<Multiaddr>)> + '_ {
        let described = |peer: &PeerId| {
            let entry = self.peers.get(peer).filter(|entry| entry.dht)?;
            Some((*peer, entry.all()))
        };
        self.order.values().rev().filter_map(described)
    }
}

impl PeerAddrs {
    fn all(&self) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = self.reached.iter().cloned().collect();
        for addr in self.listen.iter().chain(&self.recorded).chain(&self.reported) {
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
    fn the_address_at_which_a_peer_was_reached_comes_first() {
        let (mut book, peer) = (AddressBook::default(), PeerId::random());
        book.add_reported(peer, &addr(1));
        book.set_reached(peer, &addr(2).with_p2p(peer).expect("no id yet"));
        book.set_listen(peer, &(100..200).map(addr).collect::<Vec<_>>());
        book.set_listen(peer, &[addr(3), addr(2)]);
        assert_eq!(book.addrs(&peer), [addr(2), addr(3), addr(1)]);
        (1000..1100).for_each(|port| book.add_reported(peer, &addr(port)));
        assert_eq!(book.addrs(&peer).len(), 2 + REPORTED);
    }

    #[test]
    fn reports_of_other_peers_do_not_replace_what_a_peer_reports_of_itself() {
        let (mut book, peer) = (AddressBook::default(), PeerId::random());
        book.set_recorded(peer, &[addr(1), addr(2)]);
        (1000..1100).for_each(|port| book.add_reported(peer, &addr(port)));
        assert_eq!(book.addrs(&peer)[..2], [addr(1), addr(2)]);
        // Of many listen addresses, the public ones are kept.
        let private = |port: u16| format!("/ip4/172.17.0.1/tcp/{port}").parse().expect("a multiaddr");
        book.set_listen(peer, &[(1..50).map(private).collect(), vec![addr(3)]].concat());
        assert_eq!(book.addrs(&peer)[0], addr(3));
        assert_eq!(book.first_hand(&peer).1.len(), LISTEN);
    }

    #[test]
    fn a_full_book_drops_the_peer_seen_least_recently() {
        let mut book = AddressBook::default();
        let peers: Vec<PeerId> = (0..=PEERS).map(|_| PeerId::random()).collect();
        for peer in &peers[..PEERS] {
            book.set_listen(*peer, &[addr(1)]);
        }
        book.set_reached(peers[0], &addr(2));
        book.add_reported(peers[PEERS], &addr(3));
        let known = [1, 0].map(|n| book.addrs(&peers[n]).len());
        assert_eq!((known, book.peers.len()), ([0, 2], PEERS));
        let dht: Vec<PeerId> = book.dht_peers().map(|(peer, _)| peer).collect();
        assert_eq!((dht.len(), dht[0], book.order.len()), (PEERS - 1, peers[0], PEERS));
    }
}
