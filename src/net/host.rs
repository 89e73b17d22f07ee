//! Groups connections by the host at their other end: identities are free, addresses are not.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

use super::address_ranking::is_relayed;

/// One host: an IPv4 address, the /64 of an IPv6 address, or everybody behind a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first half of an IPv6 address.
    V6(u64),
    /// Behind a relay.
    Relayed,
}

/// Peers that share limits: those of one host do, because identities are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// All peers of a host.
    Host(Host),
    /// One peer alone: a member of the cluster, one that has delivered blocks, or one without an IP address.
    Peer(PeerId),
}

impl Host {
    /// Returns the host at a remote address. `None` means that it has no IP address, as in memory.
    pub(super) fn of(addr: &Multiaddr) -> Option<Self> {
        if is_relayed(addr) {
            return Some(Self::Relayed);
        }
        match addr.iter().next()? {
            Protocol::Ip4(ip) => Some(Self::V4(ip)),
            Protocol::Ip6(ip) => Some(Self::of_ipv6(ip)),
            // An incoming relayed connection names only its peer.
            Protocol::P2p(_) => Some(Self::Relayed),
            _ => None,
        }
    }

    fn of_ipv6(ip: Ipv6Addr) -> Self {
        match ip.to_ipv4_mapped() {
            Some(ip) => Self::V4(ip),
            None => Self::V6(u64::from_be_bytes(ip.octets()[..8].try_into().expect("eight bytes"))),
        }
    }
}

/// Returns the oldest item of the host with the most items. `held` are (host, age, item), and the lowest age is the oldest.
/// `newcomer` is the host that needs a place: it gets none from a host that has no more items than itself.
pub(super) fn oldest_of_largest<T: Copy>(
    held: impl Iterator<Item = (Option<Host>, u64, T)>,
    newcomer: Option<Host>,
) -> Option<T> {
    let mut groups: HashMap<Option<Host>, (usize, u64, T)> = HashMap::new();
    for (host, age, item) in held {
        let group = groups.entry(host).or_insert((0, age, item));
        group.0 += 1;
        if age < group.1 {
            (group.1, group.2) = (age, item);
        }
    }
    let own = groups.get(&newcomer).map_or(0, |group| group.0);
    let largest = groups.into_values().max_by_key(|(count, age, _)| (*count, u64::MAX - age));
    largest.filter(|(count, ..)| *count > own).map(|(.., item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(addr: &str) -> Option<Host> {
        Host::of(&addr.parse().expect("a multiaddr"))
    }

    #[test]
    fn an_ipv4_address_and_a_64_bit_prefix_are_one_host() {
        assert_eq!(host("/ip4/192.0.2.1/tcp/1"), host("/ip4/192.0.2.1/udp/2/quic-v1"));
        assert_ne!(host("/ip4/192.0.2.1/tcp/1"), host("/ip4/192.0.2.2/tcp/1"));
        assert_eq!(host("/ip6/2001:db8:1:2::1/tcp/1"), host("/ip6/2001:db8:1:2:ffff::9/tcp/1"));
        assert_ne!(host("/ip6/2001:db8:1:2::1/tcp/1"), host("/ip6/2001:db8:1:3::1/tcp/1"));
        assert_eq!(host("/ip6/::ffff:192.0.2.1/tcp/1"), host("/ip4/192.0.2.1/tcp/1"));
        assert_eq!(host("/memory/7"), None);
    }

    #[test]
    fn a_place_is_taken_from_the_host_that_has_the_most_and_never_from_an_equal_one() {
        let [a, b, c] = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.3/tcp/1"].map(host);
        let held = [(a, 3, "a3"), (b, 1, "b1"), (a, 2, "a2"), (b, 4, "b4"), (a, 5, "a5")];
        assert_eq!(oldest_of_largest(held.into_iter(), c), Some("a2"));
        assert_eq!(oldest_of_largest(held.into_iter(), b), Some("a2"));
        assert_eq!(oldest_of_largest(held.into_iter(), a), None);
        // Of equal hosts, the oldest.
        assert_eq!(oldest_of_largest(held[..4].iter().copied(), c), Some("b1"));
        assert_eq!(oldest_of_largest([].into_iter(), a), None::<&str>);
    }
}
