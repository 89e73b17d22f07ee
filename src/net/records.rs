//! The provider records that this node holds for the DHT.
//!
//! Own records are without limit: a node may announce as many files as it has. Records of others are bounded per key,
//! per peer and in all, and expire. Values are not taken: storgo's DHT says who has a file, and nothing else.
//!
//! Whoever asks is told where a provider is, or it could not reach one that it never met. Those addresses are the
//! provider's choice, so few and short ones are kept, once for each provider and not once for each record.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, hash_set},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};
use serde::{Deserialize, Serialize};

use super::reach;

/// Providers of one key that are kept.
const PER_KEY: usize = 64;
/// Records of one peer that are kept.
const PER_PEER: usize = 200_000;
/// Records of others that are kept in all. Some 150 bytes each.
const TOTAL: usize = 500_000;
/// Where they are full, this part of them is dropped at most to make room: of the peer that has most.
const ROOM: usize = 100;
/// Longest key that is taken, in bytes: a multihash of ours is 22 long.
const MAX_KEY: usize = 64;
/// Bytes of addresses that are kept in all. Beyond it, a provider is found only by way of the routing table.
const ADDRESS_BYTES: usize = 4 << 20;

/// The store.
pub(super) struct Records {
    local: PeerId,
    /// Keys alone: all of them have the same provider, and none expires.
    own: HashSet<Box<[u8]>>,
    others: HashMap<RecordKey, Vec<Held>>,
    providers: HashMap<Arc<PeerId>, Provider>,
    total: usize,
    /// Records of others that are kept in all.
    most: usize,
    address_bytes: usize,
    /// Grows with each change of what others have here.
    version: u64,
}

/// A record of another peer.
struct Held {
    provider: Arc<PeerId>,
    expires: Option<Instant>,
}

/// What is kept of a peer that has records here.
#[derive(Default)]
struct Provider {
    records: usize,
    /// As it said last.
    addresses: Vec<Multiaddr>,
}

/// A record as it is saved: its key, its provider, and the seconds that are left to it.
#[derive(Serialize, Deserialize)]
struct Saved(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] Vec<u8>, u64);

/// A provider as it is saved: its id, and where it is.
#[derive(Serialize, Deserialize)]
struct SavedProvider(#[serde(with = "serde_bytes")] Vec<u8>, Vec<Multiaddr>);

/// All that is saved.
#[derive(Serialize, Deserialize)]
struct SavedRecords {
    records: Vec<Saved>,
    providers: Vec<SavedProvider>,
}

impl Held {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl Records {
    pub(super) fn new(local: PeerId) -> Self {
        Self {
            local,
            own: HashSet::new(),
            others: HashMap::new(),
            providers: HashMap::new(),
            total: 0,
            most: TOTAL,
            address_bytes: 0,
            version: 0,
        }
    }

    /// Another number after each change of what others have here.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    fn forget(&mut self, peer: &PeerId) {
        self.version += 1;
        self.total = self.total.saturating_sub(1);
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.records -= 1;
            if provider.records == 0 {
                self.address_bytes -= len(&provider.addresses);
                self.providers.remove(peer);
            }
        }
    }

    /// Notes where a provider, if this peer is one, says that it is; what does not fit is left out.
    pub(super) fn note_addresses(&mut self, peer: &PeerId, said: &[Multiaddr]) {
        let Some(provider) = self.providers.get_mut(peer) else { return };
        let mut kept = reach::choose(said, &provider.addresses, |_| false);
        if kept.is_empty() || kept == provider.addresses {
            return;
        }
        self.address_bytes -= len(&provider.addresses);
        if self.address_bytes + len(&kept) > ADDRESS_BYTES {
            kept = Vec::new();
        }
        self.address_bytes += len(&kept);
        provider.addresses = kept;
        self.version += 1;
    }

    /// Drops some records of whoever has most here, for one that has so `few`; answers whether there is room now.
    fn make_room(&mut self, few: usize) -> bool {
        let by_records = self.providers.iter().max_by_key(|(_, provider)| provider.records);
        let Some((greatest, records)) = by_records.map(|(peer, known)| (Arc::clone(peer), known.records))
        else {
            return false;
        };
        if records <= few + 1 {
            return false;
        }
        // All records are looked through for it, so that many are dropped at once.
        let mut left = ((records - few) / 2).clamp(1, self.most.div_ceil(ROOM));
        let mut dropped = 0;
        self.others.retain(|_, records| {
            records.retain(|held| {
                let goes = left > 0 && held.provider == greatest;
                left -= usize::from(goes);
                dropped += usize::from(goes);
                !goes
            });
            !records.is_empty()
        });
        (0..dropped).for_each(|_| self.forget(&greatest));
        dropped > 0
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.others.retain(|_, records| {
            records.retain(|held| {
                let live = !held.is_expired(now);
                if !live {
                    gone.push(Arc::clone(&held.provider));
                }
                live
            });
            !records.is_empty()
        });
        for peer in gone {
            self.forget(&peer);
        }
    }

    /// Records of others, to be read again by [`Records::restore`] after a restart.
    pub(super) fn snapshot(&self, now: Instant) -> Vec<u8> {
        let records: Vec<Saved> = self
            .others
            .iter()
            .flat_map(|(key, records)| records.iter().map(move |held| (key, held)))
            .filter_map(|(key, held)| {
                let left = held.expires?.checked_duration_since(now)?;
                Some(Saved(key.to_vec(), held.provider.to_bytes(), left.as_secs()))
            })
            .collect();
        let addressed = self.providers.iter().filter(|(_, provider)| !provider.addresses.is_empty());
        let providers =
            addressed.map(|(peer, provider)| SavedProvider(peer.to_bytes(), provider.addresses.clone()));
        let saved = SavedRecords { records, providers: providers.collect() };
        serde_ipld_dagcbor::to_vec(&saved).unwrap_or_default()
    }

    /// Takes a snapshot back. Time that passed while the node was down does not count: a record that is out of date
    /// costs a reader one question.
    pub(super) fn restore(&mut self, snapshot: &[u8], now: Instant) {
        let SavedRecords { records, providers } =
            serde_ipld_dagcbor::from_slice(snapshot).unwrap_or_else(|_| SavedRecords {
                // As it was before addresses were kept.
                records: serde_ipld_dagcbor::from_slice(snapshot).unwrap_or_default(),
                providers: Vec::new(),
            });
        for Saved(key, peer, left) in records {
            let Ok(provider) = PeerId::from_bytes(&peer) else {
                continue;
            };
            let expires = now.checked_add(Duration::from_secs(left));
            let record =
                ProviderRecord { key: RecordKey::from(key), provider, expires, addresses: Vec::new() };
            drop(self.add_provider(record));
        }
        for SavedProvider(peer, addresses) in providers {
            if let Ok(peer) = PeerId::from_bytes(&peer) {
                self.note_addresses(&peer, &addresses);
            }
        }
    }
}

/// Bytes of all these addresses.
fn len(addresses: &[Multiaddr]) -> usize {
    addresses.iter().map(Multiaddr::len).sum()
}

/// A record of this node.
fn own(key: &[u8], local: PeerId) -> ProviderRecord {
    ProviderRecord {
        key: RecordKey::from(key.to_vec()),
        provider: local,
        expires: None,
        addresses: Vec::new(),
    }
}

/// The records of this node, each made when it is asked for.
pub(super) struct Provided<'a> {
    keys: hash_set::Iter<'a, Box<[u8]>>,
    local: PeerId,
}

impl<'a> Iterator for Provided<'a> {
    type Item = Cow<'a, ProviderRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.keys.next().map(|key| Cow::Owned(own(key, self.local)))
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Provided<'a>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let ProviderRecord { key, provider, expires, addresses } = record;
        if provider == self.local {
            self.own.insert(key.as_ref().into());
            return Ok(());
        }
        if key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        if let Some(held) = self.others.get_mut(&key)
            && let Some(place) = held.iter().position(|held| *held.provider == provider)
        {
            // Kademlia names the first few of a key: those that were announced last.
            held[..=place].rotate_right(1);
            held[0].expires = expires;
            self.version += 1;
            self.note_addresses(&provider, &addresses);
            return Ok(());
        }
        let of_key = self.others.get(&key).map_or(0, Vec::len);
        let of_peer = self.providers.get(&provider).map_or(0, |known| known.records);
        if of_key >= PER_KEY || of_peer >= PER_PEER || (self.total >= self.most && !self.make_room(of_peer)) {
            return Err(Error::MaxProvidedKeys);
        }
        let known = self.providers.get_key_value(&provider).map(|(peer, _)| Arc::clone(peer));
        let peer = known.unwrap_or_else(|| Arc::new(provider));
        self.providers.entry(Arc::clone(&peer)).or_default().records += 1;
        self.note_addresses(&provider, &addresses);
        self.total += 1;
        self.version += 1;
        let held = self.others.entry(RecordKey::from(key.to_vec())).or_default();
        // Most keys have one provider for ever: room for more is made when they come.
        held.reserve_exact(1);
        held.push(Held { provider: peer, expires });
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        let others = self.others.get(key).into_iter().flatten().filter(|held| !held.is_expired(now));
        let others = others.map(|held| ProviderRecord {
            key: key.clone(),
            provider: *held.provider,
            expires: held.expires,
            addresses: self
                .providers
                .get(&held.provider)
                .map_or_else(Vec::new, |provider| provider.addresses.clone()),
        });
        let own = self.own.get(key.as_ref()).map(|key| own(key, self.local));
        own.into_iter().chain(others).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        Provided { keys: self.own.iter(), local: self.local }
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.own.remove(key.as_ref());
            return;
        }
        let Some(records) = self.others.get_mut(key) else {
            return;
        };
        let before = records.len();
        records.retain(|held| *held.provider != *peer);
        let removed = before - records.len();
        if records.is_empty() {
            self.others.remove(key);
        }
        (0..removed).for_each(|_| self.forget(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        reach::{LONGEST, TOLD},
        *,
    };

    fn record(key: u32, provider: PeerId, expires: Instant) -> ProviderRecord {
        let key = RecordKey::from(key.to_be_bytes().to_vec());
        ProviderRecord { key, provider, expires: Some(expires), addresses: Vec::new() }
    }

    #[test]
    fn own_records_know_no_limit() {
        let local = PeerId::random();
        let mut records = Records::new(local);
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
        let mut records = Records::new(PeerId::random());
        let later = Instant::now() + Duration::from_secs(60);
        let greedy = PeerId::random();
        let taken =
            (0..300_000).filter(|key| records.add_provider(record(*key, greedy, later)).is_ok()).count();
        assert_eq!(taken, PER_PEER);
        let many = (0..100)
            .filter(|_| records.add_provider(record(1 << 30, PeerId::random(), later)).is_ok())
            .count();
        assert_eq!(many, PER_KEY);
    }

    #[test]
    fn where_the_store_is_full_whoever_has_most_makes_room_for_those_who_have_few() {
        let mut records = Records { most: 3000, ..Records::new(PeerId::random()) };
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
        let mut records = Records::new(PeerId::random());
        let later = Instant::now() + Duration::from_secs(60);
        let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        for peer in [0, 1, 2, 3, 4, 3] {
            records.add_provider(record(1, peers[peer], later)).expect("taken");
        }
        let named =
            records.providers(&record(1, peers[0], later).key).into_iter().map(|record| record.provider);
        assert_eq!(named.collect::<Vec<_>>(), [3, 0, 1, 2, 4].map(|peer| peers[peer]));
    }

    #[test]
    fn records_expire_survive_a_restart_and_can_be_withdrawn() {
        let now = Instant::now();
        let (local, other) = (PeerId::random(), PeerId::random());
        let mut records = Records::new(local);
        records.add_provider(record(1, other, now + Duration::from_secs(100))).expect("taken");
        records.add_provider(record(2, other, now + Duration::from_secs(10))).expect("taken");
        records.expire(now + Duration::from_secs(50));
        assert_eq!(records.total, 1);
        let mut again = Records::new(local);
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
        let mut records = Records::new(PeerId::random());
        let said =
            |addresses| ProviderRecord { addresses, ..record(1, provider, now + Duration::from_secs(100)) };
        records.add_provider(said(vec![addr(1, 1), addr(1, 2)])).expect("taken");
        let mut again = Records::new(PeerId::random());
        again.restore(&records.snapshot(now), now);
        let key = said(Vec::new()).key;
        assert_eq!(again.providers(&key)[0].addresses, [addr(1, 1), addr(1, 2)]);
        assert_eq!(again.address_bytes, records.address_bytes);
        // The form without addresses is read as well.
        let old = vec![Saved(key.to_vec(), provider.to_bytes(), 100)];
        let mut again = Records::new(PeerId::random());
        again.restore(&serde_ipld_dagcbor::to_vec(&old).expect("encoded"), now);
        assert_eq!(again.providers(&key).len(), 1);
    }

    #[test]
    fn each_change_and_nothing_else_is_a_new_version() {
        let (now, other) = (Instant::now(), PeerId::random());
        let mut records = Records::new(PeerId::random());
        let mut last = records.version();
        let mut changed =
            |records: &Records| std::mem::replace(&mut last, records.version()) != records.version();
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
        let mut records = Records::new(PeerId::random());
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
        let mut records = Records::new(PeerId::random());
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
}
