//! Ranks addresses by how widely they can be reached, and selects the few of a peer that are shared with other peers.

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Maximum addresses of a peer to share: a DHT answer names up to forty peers and must fit into one message.
pub(super) const MAX_SHARED: usize = 4;
/// Maximum length of a shared address in bytes.
pub(super) const MAX_ADDR_LEN: usize = 128;

/// Selects the addresses of a peer to share, from those that it `reported`: first `confirmed` ones, then the most widely
/// reachable. Of equally good ones, those in `previous` come first, then those reported first.
pub(super) fn select(
    reported: &[Multiaddr],
    previous: &[Multiaddr],
    confirmed: impl Fn(&Multiaddr) -> bool,
) -> Vec<Multiaddr> {
    let short =
        reported.iter().map(without_peer_id).filter(|addr| addr.len() <= MAX_ADDR_LEN && !addr.is_empty());
    let (mut relayed, mut direct): (Vec<_>, Vec<_>) = short.partition(is_relayed);
    // A peer behind a NAT can be reached only through a relay, so one relayed address always has a place.
    relayed.sort_by_key(|addr| !previous.contains(addr));
    relayed.truncate(1);
    direct.sort_by_cached_key(|addr| (!confirmed(addr), rank(addr), !previous.contains(addr)));
    let mut selected: Vec<Multiaddr> = Vec::new();
    for addr in direct {
        if selected.len() + relayed.len() < MAX_SHARED && !selected.contains(&addr) {
            selected.push(addr);
        }
    }
    selected.append(&mut relayed);
    // Copied, so that they do not keep the received message in memory.
    selected.iter().filter_map(|addr| Multiaddr::try_from(addr.to_vec()).ok()).collect()
}

/// Returns the sort key of an address: the most widely reachable first, then TCP before QUIC.
pub(super) fn rank(addr: &Multiaddr) -> (u8, u8) {
    let transport = match addr.iter().nth(1) {
        Some(Protocol::Tcp(_)) => 0,
        Some(Protocol::Udp(_)) => 1,
        _ => 2,
    };
    (scope(addr), transport)
}

/// Returns from where an address can be reached: 0 from everywhere, 1 from its network, 2 from its own machine.
pub(super) fn scope(addr: &Multiaddr) -> u8 {
    let loopback = match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    if is_public(addr) { 0 } else { 1 + u8::from(loopback) }
}

/// Returns whether an address means the same host everywhere, and leads there directly.
pub(super) fn is_public(addr: &Multiaddr) -> bool {
    is_public_host(addr) && !is_relayed(addr)
}

/// Returns whether an address starts with a host that is the same everywhere: the peer itself or its relay.
pub(super) fn is_public_host(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            let [a, b, ..] = ip.octets();
            let carrier_nat = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || carrier_nat)
        }
        Some(Protocol::Ip6(ip)) if ip.to_ipv4_mapped().is_some() => {
            ip.to_ipv4_mapped().is_some_and(|ip| is_public_host(&Multiaddr::empty().with(Protocol::Ip4(ip))))
        }
        Some(Protocol::Ip6(ip)) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
        _ => is_name(addr),
    }
}

/// Returns whether an address starts with a DNS name.
pub(super) fn is_name(addr: &Multiaddr) -> bool {
    let first = addr.iter().next();
    matches!(first, Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)))
}

/// Returns whether a host without IPv6 can dial an address.
pub(super) fn is_for_ipv4(addr: &Multiaddr) -> bool {
    !matches!(addr.iter().next(), Some(Protocol::Ip6(_) | Protocol::Dns6(_)))
}

/// Returns an address without the peer id at its end.
pub(super) fn without_peer_id(addr: &Multiaddr) -> Multiaddr {
    let mut addr = addr.clone();
    if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

/// Returns whether an address leads through a relay.
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
    fn private_and_relayed_addresses_are_not_public() {
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
        assert!(scope(&addr("/ip4/10.0.0.1/tcp/1")) < scope(&addr("/ip4/127.0.0.1/tcp/1")));
    }

    #[test]
    fn the_most_widely_reachable_addresses_are_selected_and_the_selection_is_stable() {
        let private: Vec<Multiaddr> = (1..10).map(|n| addr(&format!("/ip4/172.17.{n}.1/tcp/3000"))).collect();
        let [public, quic, name] =
            ["/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.1/udp/1/quic-v1", "/dns/a.org/tcp/1"].map(addr);
        let relayed =
            public.clone().with_p2p(PeerId::random()).expect("no id yet").with(Protocol::P2pCircuit);
        let long = addr(&format!("/dns4/{}/tcp/1", "x".repeat(MAX_ADDR_LEN)));
        let mut reported =
            [vec![addr("/ip4/127.0.0.1/tcp/1"), long], private.clone(), vec![quic.clone()]].concat();
        let none = |_: &Multiaddr| false;
        let selected = select(&reported, &[], none);
        assert_eq!(selected, [std::slice::from_ref(&quic), &private[..3]].concat());
        reported.reverse();
        let again = select(&reported, &selected, none);
        assert!(
            again.len() == selected.len() && again.iter().all(|addr| selected.contains(addr)),
            "{again:?}"
        );
        let confirmed = |addr: &Multiaddr| *addr == private[7];
        assert_eq!(select(&reported, &[], confirmed)[..2], [private[7].clone(), quic.clone()]);
        reported.extend([relayed.clone(), name.clone(), public.clone(), public.clone()]);
        assert_eq!(select(&reported, &selected, none), [name, public, quic, relayed]);
        assert_eq!(select(&[], &selected, none), []);
    }
}
