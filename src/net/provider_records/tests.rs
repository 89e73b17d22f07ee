//! Limits, expiry and memory use of provider records.

use super::{
    super::address_ranking::{MAX_ADDR_LEN, MAX_SHARED},
    *,
};

fn record(key: u32, provider: PeerId, expires: Instant) -> ProviderRecord {
    let key = RecordKey::from(key.to_be_bytes().to_vec());
    ProviderRecord { key, provider, expires: Some(expires), addresses: Vec::new() }
}

#[test]
fn own_records_are_unlimited_and_small() {
    let local = PeerId::random();
    let mut records = ProviderRecords::new(local, DeliveredPeers::default());
    let later = Instant::now() + Duration::from_secs(60);
    for key in 0..300_000 {
        records.add_provider(record(key, local, later)).expect("accepted");
    }
    assert_eq!(records.provided().count(), 300_000);
    assert!(records.provided().all(|record| record.provider == local));
    let slots = records.own.capacity() * (size_of_val(records.own.iter().next().expect("some")) + 1);
    let bytes = slots + records.own.iter().map(|key| key.len()).sum::<usize>();
    assert!(bytes / 300_000 < 64, "{} bytes for each", bytes / 300_000);
}

#[test]
fn records_are_limited_for_each_peer_and_for_each_key() {
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let later = Instant::now() + Duration::from_secs(60);
    let greedy = PeerId::random();
    let accepted =
        (0..300_000).filter(|key| records.add_provider(record(*key, greedy, later)).is_ok()).count();
    assert_eq!(accepted, PER_PEER);
    for _ in 0..100 {
        records.add_provider(record(1 << 30, PeerId::random(), later)).expect("accepted");
    }
    assert_eq!(records.providers(&record(1 << 30, greedy, later).key).len(), PER_KEY);
}

fn host(n: u8) -> Option<Host> {
    Host::of(&format!("/ip4/192.0.2.{n}/tcp/1").parse().expect("a multiaddr"))
}

#[test]
fn one_host_with_many_identities_does_not_hide_the_other_providers_of_a_root() {
    let (mut records, start) =
        (ProviderRecords::new(PeerId::random(), DeliveredPeers::default()), Instant::now());
    let at = |seconds: u64| start + Duration::from_secs(1000 + seconds);
    let (honest, friend) = (PeerId::random(), PeerId::random());
    records.delivered.add(friend);
    records.add(record(1, friend, at(0)), host(1)).expect("accepted");
    records.add(record(1, honest, at(1)), host(2)).expect("accepted");
    for n in 2..200 {
        records.add(record(1, PeerId::random(), at(n)), host(3)).expect("accepted");
    }
    let listed = |records: &ProviderRecords| -> Vec<PeerId> {
        records.providers(&record(1, honest, start).key).into_iter().map(|record| record.provider).collect()
    };
    assert_eq!(listed(&records).len(), 2 + PER_KEY_AND_HOST);
    assert!(listed(&records).contains(&honest));
    assert_eq!(listed(&records)[0], friend, "the one that has delivered is listed first");
    // Even with many hosts, a provider is accepted, and one that has delivered stays.
    for n in 200..1000 {
        let other = host(u8::try_from(n % 50 + 100).expect("small"));
        records.add(record(1, PeerId::random(), at(n)), other).expect("accepted");
    }
    assert_eq!(listed(&records).len(), PER_KEY);
    assert_eq!(listed(&records)[0], friend);
    records.add(record(1, honest, at(1000)), host(2)).expect("accepted");
    assert!(listed(&records).contains(&honest));
}

#[test]
fn in_a_full_store_many_identities_of_one_host_make_room_for_others() {
    let mut records = ProviderRecords {
        max_total: 3000,
        ..ProviderRecords::new(PeerId::random(), DeliveredPeers::default())
    };
    let later = Instant::now() + Duration::from_secs(60);
    let honest = PeerId::random();
    let mut add = |key, provider, n| records.add(record(key, provider, later), host(n)).is_ok();
    assert!((0..500).all(|key| add(key, honest, 1)));
    // Each identity has fewer records than the honest peer.
    assert!((0..2500).all(|n| add(10_000 + n, PeerId::random(), 2)));
    assert!(!(0..100).any(|n| add(20_000 + n, PeerId::random(), 2)));
    assert!((0..100).all(|n| add(30_000 + n, PeerId::random(), 3)));
    assert_eq!(records.providers[&honest].records, 500);
}

#[test]
fn in_a_full_store_the_peer_with_the_most_records_makes_room_for_peers_with_few() {
    let mut records = ProviderRecords {
        max_total: 3000,
        ..ProviderRecords::new(PeerId::random(), DeliveredPeers::default())
    };
    let later = Instant::now() + Duration::from_secs(60);
    let mut add = |provider, keys: std::ops::Range<u32>| {
        keys.filter(|key| records.add_provider(record(*key, provider, later)).is_ok()).count()
    };
    let greedy: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
    for (n, peer) in (0..).zip(&greedy) {
        assert_eq!(add(*peer, n * 10_000..n * 10_000 + 1000), 1000);
    }
    // Peers with equally many cannot displace each other. A peer with few records is accepted.
    assert_eq!(add(greedy[0], 50_000..51_000), 0);
    for n in 0..100 {
        let honest = PeerId::random();
        assert_eq!(add(honest, 100_000 + n * 10..100_000 + n * 10 + 10), 10);
    }
    assert_eq!(records.providers.len(), 103);
    assert!((2970..=3000).contains(&records.total), "{}", records.total);
    let counted: usize = records.providers.values().map(|provider| provider.records).sum();
    let held: usize = records.others.values().map(Vec::len).sum();
    assert_eq!((counted, held), (records.total, records.total));
}

#[test]
fn the_provider_that_announced_last_is_listed_first() {
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let later = Instant::now() + Duration::from_secs(60);
    let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
    for peer in [0, 1, 2, 3, 4, 3] {
        records.add_provider(record(1, peers[peer], later)).expect("accepted");
    }
    let listed = records.providers(&record(1, peers[0], later).key).into_iter().map(|record| record.provider);
    assert_eq!(listed.collect::<Vec<_>>(), [3, 0, 1, 2, 4].map(|peer| peers[peer]));
}

#[test]
fn records_expire_survive_a_restart_and_can_be_withdrawn() {
    let now = Instant::now();
    let (local, other) = (PeerId::random(), PeerId::random());
    let mut records = ProviderRecords::new(local, DeliveredPeers::default());
    records.add_provider(record(1, other, now + Duration::from_secs(100))).expect("accepted");
    records.add_provider(record(2, other, now + Duration::from_secs(10))).expect("accepted");
    records.expire(now + Duration::from_secs(50));
    assert_eq!(records.total, 1);
    let mut restored = ProviderRecords::new(local, DeliveredPeers::default());
    restored.restore(&records.snapshot(now), now);
    let key = record(1, other, now).key;
    assert_eq!(restored.providers(&key).len(), 1);
    restored.remove_provider(&key, &other);
    assert_eq!((restored.providers(&key).len(), restored.total, restored.providers.len()), (0, 0, 0));
    restored.restore(b"not a snapshot", now);
}

#[test]
fn addresses_of_providers_survive_a_restart() {
    let (now, provider) = (Instant::now(), PeerId::random());
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let with =
        |addresses| ProviderRecord { addresses, ..record(1, provider, now + Duration::from_secs(100)) };
    records.add_provider(with(vec![addr(1, 1), addr(1, 2)])).expect("accepted");
    let mut restored = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    restored.restore(&records.snapshot(now), now);
    let key = with(Vec::new()).key;
    assert_eq!(restored.providers(&key)[0].addresses, [addr(1, 1), addr(1, 2)]);
    assert_eq!(restored.address_bytes, records.address_bytes);
}

#[test]
fn the_version_changes_with_each_change_and_nothing_else() {
    let (now, other) = (Instant::now(), PeerId::random());
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let mut last = records.version();
    let mut changed =
        |records: &ProviderRecords| std::mem::replace(&mut last, records.version()) != records.version();
    let one =
        ProviderRecord { addresses: vec![addr(1, 1)], ..record(1, other, now + Duration::from_secs(9)) };
    records.add_provider(one.clone()).expect("accepted");
    assert!(changed(&records));
    records.expire(now);
    records.snapshot(now);
    records.set_addresses(&other, &[addr(1, 1)]);
    records.set_addresses(&PeerId::random(), &[addr(1, 1)]);
    assert!(!changed(&records));
    records.set_addresses(&other, &[addr(1, 2)]);
    assert!(changed(&records));
    records.add_provider(one.clone()).expect("accepted");
    assert!(changed(&records), "it expires later");
    records.remove_provider(&one.key, &other);
    assert!(changed(&records));
}

fn addr(peer: usize, n: usize) -> Multiaddr {
    format!("/ip4/192.0.2.{}/tcp/{}", peer % 250, 1000 + n).parse().expect("a multiaddr")
}

#[test]
fn a_provider_has_a_few_short_addresses_whatever_it_reports() {
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let later = Instant::now() + Duration::from_secs(60);
    let long: Multiaddr = format!("/dns4/{}/tcp/1", "x".repeat(MAX_ADDR_LEN)).parse().expect("a multiaddr");
    let greedy = PeerId::random();
    for key in 0..1000 {
        let addresses = [vec![long.clone()], (0..500).map(|n| addr(1, n)).collect()].concat();
        records.add_provider(ProviderRecord { addresses, ..record(key, greedy, later) }).expect("accepted");
    }
    let found = records.providers(&record(7, greedy, later).key);
    assert_eq!(found[0].addresses, (0..MAX_SHARED).map(|n| addr(1, n)).collect::<Vec<_>>());
    assert!(records.address_bytes <= MAX_SHARED * MAX_ADDR_LEN, "{}", records.address_bytes);
    // The last addresses count for all its records. A record without addresses does not change them.
    let moved = ProviderRecord { addresses: vec![addr(2, 9)], ..record(5, greedy, later) };
    records.add_provider(moved).expect("accepted");
    records.add_provider(record(6, greedy, later)).expect("accepted");
    assert_eq!(records.providers(&record(7, greedy, later).key)[0].addresses, [addr(2, 9)]);
    for key in 0..1000 {
        records.remove_provider(&record(key, greedy, later).key, &greedy);
    }
    assert_eq!((records.address_bytes, records.providers.len()), (0, 0));
}

#[test]
fn addresses_of_many_providers_stay_within_their_budget() {
    let mut records = ProviderRecords::new(PeerId::random(), DeliveredPeers::default());
    let later = Instant::now() + Duration::from_secs(60);
    let long: Vec<Multiaddr> = (0..MAX_SHARED)
        .map(|n| format!("/dns4/{}/tcp/{n}", "x".repeat(MAX_ADDR_LEN - 10)).parse().expect("a multiaddr"))
        .collect();
    let peers = ADDRESS_BYTES / len(&long) + 100;
    for key in 0..u32::try_from(peers).expect("few") {
        let addresses = long.clone();
        records
            .add_provider(ProviderRecord { addresses, ..record(key, PeerId::random(), later) })
            .expect("accepted");
    }
    assert_eq!(records.total, peers);
    assert!(records.address_bytes <= ADDRESS_BYTES && records.address_bytes > ADDRESS_BYTES / 2);
}
