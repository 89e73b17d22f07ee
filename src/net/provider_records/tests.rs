//! What the store keeps, whom it refuses, and what it takes up.

use super::{
    super::address_ranking::{LONGEST, TOLD},
    *,
};

fn record(key: u32, provider: PeerId, expires: Instant) -> ProviderRecord {
    let key = RecordKey::from(key.to_be_bytes().to_vec());
    ProviderRecord { key, provider, expires: Some(expires), addresses: Vec::new() }
}

#[test]
fn own_records_know_no_limit() {
    let local = PeerId::random();
    let mut records = ProviderRecords::new(local);
    let later = Instant::now() + Duration::from_secs(60);
    for key in 0..300_000 {
        records.add_provider(record(key, local, later)).expect("taken");
    }
    assert_eq!(records.provided().count(), 300_000);
    assert!(records.provided().all(|record| record.provider == local));
    let slots = records.own.capacity() * (size_of_val(records.own.iter().next().expect("some")) + 1);
    let bytes = slots + records.own.iter().map(|key| key.len()).sum::<usize>();
    assert!(bytes / 300_000 < 64, "{} bytes for each", bytes / 300_000);
}

#[test]
fn one_peer_cannot_fill_the_store_and_one_key_cannot_grow_for_ever() {
    let mut records = ProviderRecords::new(PeerId::random());
    let later = Instant::now() + Duration::from_secs(60);
    let greedy = PeerId::random();
    let taken = (0..300_000).filter(|key| records.add_provider(record(*key, greedy, later)).is_ok()).count();
    assert_eq!(taken, PER_PEER);
    let many =
        (0..100).filter(|_| records.add_provider(record(1 << 30, PeerId::random(), later)).is_ok()).count();
    assert_eq!(many, PER_KEY);
}

#[test]
fn where_the_store_is_full_whoever_has_most_makes_room_for_those_who_have_few() {
    let mut records = ProviderRecords { most: 3000, ..ProviderRecords::new(PeerId::random()) };
    let later = Instant::now() + Duration::from_secs(60);
    let mut take = |provider, keys: std::ops::Range<u32>| {
        keys.filter(|key| records.add_provider(record(*key, provider, later)).is_ok()).count()
    };
    let greedy: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
    for (n, peer) in (0..).zip(&greedy) {
        assert_eq!(take(*peer, n * 10_000..n * 10_000 + 1000), 1000);
    }
    // None of them can take from the others, and who comes with few has a place.
    assert_eq!(take(greedy[0], 50_000..51_000), 0);
    for n in 0..100 {
        let honest = PeerId::random();
        assert_eq!(take(honest, 100_000 + n * 10..100_000 + n * 10 + 10), 10);
    }
    assert!(records.total <= 3000 && records.providers.len() == 103);
    let counted: usize = records.providers.values().map(|provider| provider.records).sum();
    let held: usize = records.others.values().map(Vec::len).sum();
    assert_eq!((counted, held), (records.total, records.total));
}

#[test]
fn whoever_was_announced_last_is_named_first() {
    let mut records = ProviderRecords::new(PeerId::random());
    let later = Instant::now() + Duration::from_secs(60);
    let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
    for peer in [0, 1, 2, 3, 4, 3] {
        records.add_provider(record(1, peers[peer], later)).expect("taken");
    }
    let named = records.providers(&record(1, peers[0], later).key).into_iter().map(|record| record.provider);
    assert_eq!(named.collect::<Vec<_>>(), [3, 0, 1, 2, 4].map(|peer| peers[peer]));
}

#[test]
fn records_expire_survive_a_restart_and_can_be_withdrawn() {
    let now = Instant::now();
    let (local, other) = (PeerId::random(), PeerId::random());
    let mut records = ProviderRecords::new(local);
    records.add_provider(record(1, other, now + Duration::from_secs(100))).expect("taken");
    records.add_provider(record(2, other, now + Duration::from_secs(10))).expect("taken");
    records.expire(now + Duration::from_secs(50));
    assert_eq!(records.total, 1);
    let mut again = ProviderRecords::new(local);
    again.restore(&records.snapshot(now), now);
    let key = record(1, other, now).key;
    assert_eq!(again.providers(&key).len(), 1);
    again.remove_provider(&key, &other);
    assert_eq!((again.providers(&key).len(), again.total, again.providers.len()), (0, 0, 0));
    again.restore(b"not a snapshot", now);
}

#[test]
fn after_a_restart_it_is_still_known_where_a_provider_is() {
    let (now, provider) = (Instant::now(), PeerId::random());
    let mut records = ProviderRecords::new(PeerId::random());
    let said =
        |addresses| ProviderRecord { addresses, ..record(1, provider, now + Duration::from_secs(100)) };
    records.add_provider(said(vec![addr(1, 1), addr(1, 2)])).expect("taken");
    let mut again = ProviderRecords::new(PeerId::random());
    again.restore(&records.snapshot(now), now);
    let key = said(Vec::new()).key;
    assert_eq!(again.providers(&key)[0].addresses, [addr(1, 1), addr(1, 2)]);
    assert_eq!(again.address_bytes, records.address_bytes);
    // The form without addresses is read as well.
    let old = vec![Saved(key.to_vec(), provider.to_bytes(), 100)];
    let mut again = ProviderRecords::new(PeerId::random());
    again.restore(&serde_ipld_dagcbor::to_vec(&old).expect("encoded"), now);
    assert_eq!(again.providers(&key).len(), 1);
}

#[test]
fn each_change_and_nothing_else_is_a_new_version() {
    let (now, other) = (Instant::now(), PeerId::random());
    let mut records = ProviderRecords::new(PeerId::random());
    let mut last = records.version();
    let mut changed =
        |records: &ProviderRecords| std::mem::replace(&mut last, records.version()) != records.version();
    let one =
        ProviderRecord { addresses: vec![addr(1, 1)], ..record(1, other, now + Duration::from_secs(9)) };
    records.add_provider(one.clone()).expect("taken");
    assert!(changed(&records));
    records.expire(now);
    records.snapshot(now);
    records.note_addresses(&other, &[addr(1, 1)]);
    records.note_addresses(&PeerId::random(), &[addr(1, 1)]);
    assert!(!changed(&records));
    records.note_addresses(&other, &[addr(1, 2)]);
    assert!(changed(&records));
    records.add_provider(one.clone()).expect("taken");
    assert!(changed(&records), "it lives longer");
    records.remove_provider(&one.key, &other);
    assert!(changed(&records));
}

fn addr(peer: usize, n: usize) -> Multiaddr {
    format!("/ip4/192.0.2.{}/tcp/{}", peer % 250, 1000 + n).parse().expect("a multiaddr")
}

#[test]
fn a_provider_is_found_by_its_addresses_and_they_take_little_room_whatever_it_says() {
    let mut records = ProviderRecords::new(PeerId::random());
    let later = Instant::now() + Duration::from_secs(60);
    let long: Multiaddr = format!("/dns4/{}/tcp/1", "x".repeat(LONGEST)).parse().expect("a multiaddr");
    let greedy = PeerId::random();
    for key in 0..1000 {
        let addresses = [vec![long.clone()], (0..500).map(|n| addr(1, n)).collect()].concat();
        records.add_provider(ProviderRecord { addresses, ..record(key, greedy, later) }).expect("taken");
    }
    let found = records.providers(&record(7, greedy, later).key);
    assert_eq!(found[0].addresses, (0..TOLD).map(|n| addr(1, n)).collect::<Vec<_>>());
    assert!(records.address_bytes <= TOLD * LONGEST, "{}", records.address_bytes);
    // What it says last counts, for all its records, and saying nothing takes nothing back.
    let moved = ProviderRecord { addresses: vec![addr(2, 9)], ..record(5, greedy, later) };
    records.add_provider(moved).expect("taken");
    records.add_provider(record(6, greedy, later)).expect("taken");
    assert_eq!(records.providers(&record(7, greedy, later).key)[0].addresses, [addr(2, 9)]);
    for key in 0..1000 {
        records.remove_provider(&record(key, greedy, later).key, &greedy);
    }
    assert_eq!((records.address_bytes, records.providers.len()), (0, 0));
}

#[test]
fn addresses_of_many_providers_keep_within_their_budget() {
    let mut records = ProviderRecords::new(PeerId::random());
    let later = Instant::now() + Duration::from_secs(60);
    let long: Vec<Multiaddr> = (0..TOLD)
        .map(|n| format!("/dns4/{}/tcp/{n}", "x".repeat(LONGEST - 10)).parse().expect("a multiaddr"))
        .collect();
    let peers = ADDRESS_BYTES / len(&long) + 100;
    for key in 0..u32::try_from(peers).expect("few") {
        let addresses = long.clone();
        records
            .add_provider(ProviderRecord { addresses, ..record(key, PeerId::random(), later) })
            .expect("taken");
    }
    assert_eq!(records.total, peers);
    assert!(records.address_bytes <= ADDRESS_BYTES && records.address_bytes > ADDRESS_BYTES / 2);
}
