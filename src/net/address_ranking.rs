//! From how far away an address can be reached, and which few of a peer's addresses are told on.

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Addresses of a peer that are told on: an answer of the DHT names up to forty peers, and must fit into a message.
pub(super) const TOLD: usize = 4;
/// Longest address that is told on, in bytes.
pub(super) const LONGEST: usize = 128;

/// The addresses of a peer to tell on, out of those that are `said`: first where it was `met`, then by how far they can
/// be reached from. Of several that are as good, those stay that were told before, and then those that were said first.
pub(super) fn choose(
    said: &[Multiaddr],
    told: &[Multiaddr],
    met: impl Fn(&Multiaddr) -> bool,
) -> Vec<Multiaddr> {
    let short = said.iter().map(bare).filter(|addr| addr.len() <= LONGEST && !addr.is_empty());
    let (mut relayed, mut direct): (Vec<_>, Vec<_>) = short.partition(is_relayed);
    // Who cannot be called is reached through a relay alone: one such address has its place.
    relayed.sort_by_key(|addr| !told.contains(addr));
    relayed.truncate(1);
    direct.sort_by_cached_key(|addr| (!met(addr), farness(addr), !told.contains(addr)));
    let mut chosen: Vec<Multiaddr> = Vec::new();
    for addr in direct {
        if chosen.len() + relayed.len() < TOLD && !chosen.contains(&addr) {
            chosen.push(addr);
        }
    }
    chosen.append(&mut relayed);
    // Copied, so that they do not hold the message that they came in.
    chosen.iter().filter_map(|addr| Multiaddr::try_from(addr.to_vec()).ok()).collect()
}

/// The order of addresses: from everywhere first, and of one reach TCP before QUIC.
pub(super) fn farness(addr: &Multiaddr) -> (u8, u8) {
    let transport = match addr.iter().nth(1) {
        Some(Protocol::Tcp(_)) => 0,
        Some(Protocol::Udp(_)) => 1,
        _ => 2,
    };
    (remoteness(addr), transport)
}

/// How far away an address can be reached from: the smallest is the farthest.
pub(super) fn remoteness(addr: &Multiaddr) -> u8 {
    let loopback = match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    if is_public(addr) { 0 } else { 1 + u8::from(loopback) }
}

/// Whether an address means the same everywhere.
pub(super) fn is_public(addr: &Multiaddr) -> bool {
    let public = match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            let [a, b, ..] = ip.octets();
            let behind_a_carrier = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || behind_a_carrier)
        }
        Some(Protocol::Ip6(ip)) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    };
    public && !is_relayed(addr)
}

/// Whether an address can be called by who has no IPv6.
pub(super) fn is_for_ipv4(addr: &Multiaddr) -> bool {
    !matches!(addr.iter().next(), Some(Protocol::Ip6(_) | Protocol::Dns6(_)))
}

/// An address without the peer's id at its end: one form for both.
pub(super) fn bare(addr: &Multiaddr) -> Multiaddr {
    let mut addr = addr.clone();
    if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn an_address_of_a_home_is_not_public_and_one_through_a_relay_is_not_either() {
        for private in ["10.0.0.1", "192.168.1.2", "172.16.0.1", "100.64.0.1", "127.0.0.1", "169.254.1.1"] {
            assert!(!is_public(&addr(&format!("/ip4/{private}/tcp/1"))), "{private}");
        }
        for private in ["::1", "fe80::1", "fd00::1"] {
            assert!(!is_public(&addr(&format!("/ip6/{private}/tcp/1"))), "{private}");
        }
        for public in ["/ip4/198.51.100.1/tcp/1", "/ip6/2001:db8::1/tcp/1", "/dns4/example.org/tcp/1"] {
            assert!(is_public(&addr(public)), "{public}");
        }
        let relay = addr("/ip4/198.51.100.1/tcp/1").with_p2p(PeerId::random()).expect("no id yet");
        assert!(!is_public(&relay.with(Protocol::P2pCircuit)));
        assert!(remoteness(&addr("/ip4/10.0.0.1/tcp/1")) < remoteness(&addr("/ip4/127.0.0.1/tcp/1")));
    }

    #[test]
    fn of_many_addresses_those_are_told_by_which_most_others_reach_the_peer() {
        let private: Vec<Multiaddr> = (1..10).map(|n| addr(&format!("/ip4/172.17.{n}.1/tcp/3000"))).collect();
        let [public, quic, name] =
            ["/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.1/udp/1/quic-v1", "/dns/a.org/tcp/1"].map(addr);
        let relayed =
            public.clone().with_p2p(PeerId::random()).expect("no id yet").with(Protocol::P2pCircuit);
        let long = addr(&format!("/dns4/{}/tcp/1", "x".repeat(LONGEST)));
        let mut said =
            [vec![addr("/ip4/127.0.0.1/tcp/1"), long], private.clone(), vec![quic.clone()]].concat();
        let nobody = |_: &Multiaddr| false;
        assert_eq!(choose(&said, &[], nobody), [std::slice::from_ref(&quic), &private[..3]].concat());
        // What was told stays, in whatever order it is said the next time.
        let told = choose(&said, &[], nobody);
        said.reverse();
        assert_eq!(choose(&said, &told, nobody).iter().filter(|addr| told.contains(addr)).count(), TOLD);
        // Where it was met is certain.
        assert_eq!(choose(&said, &[], |addr| *addr == private[7])[..2], [private[7].clone(), quic.clone()]);
        said.extend([relayed.clone(), name.clone(), public.clone(), public.clone()]);
        assert_eq!(choose(&said, &told, nobody), [name, public, quic, relayed]);
        assert_eq!(choose(&[], &told, nobody), []);
    }
}
