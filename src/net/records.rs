//! The provider records that this node holds for the DHT.
//!
//! Own records are without limit: a node may announce as many files as it has. Records of others are bounded per key,
//! per peer and in all, and expire. Values are not taken: storgo's DHT says who has a file, and nothing else.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};
use serde::{Deserialize, Serialize};

/// Providers of one key that are kept.
const PER_KEY: usize = 64;
/// Records of one peer that are kept.
const PER_PEER: usize = 200_000;
/// Records of others that are kept in all. Some 100 bytes each.
const TOTAL: usize = 500_000;
/// Longest key that is taken, in bytes: a multihash of ours is 22 long.
const MAX_KEY: usize = 64;

/// The store.
pub(super) struct Records {
    local: PeerId,
    own: HashMap<RecordKey, ProviderRecord>,
    others: HashMap<RecordKey, Vec<ProviderRecord>>,
    per_peer: HashMap<PeerId, usize>,
    total: usize,
}

/// A record as it is saved.
#[derive(Serialize, Deserialize)]
struct Saved(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] Vec<u8>, u64);

impl Records {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, own: HashMap::new(), others: HashMap::new(), per_peer: HashMap::new(), total: 0 }
    }

    fn forget(&mut self, peer: &PeerId) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.per_peer.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(peer);
            }
        }
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.others.retain(|_, records| {
            records.retain(|record| {
                let live = !record.is_expired(now);
                if !live {
                    gone.push(record.provider);
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
        let saved: Vec<Saved> = self
            .others
            .values()
            .flatten()
            .filter_map(|record| {
                let left = record.expires?.checked_duration_since(now)?;
                Some(Saved(record.key.to_vec(), record.provider.to_bytes(), left.as_secs()))
            })
            .collect();
        serde_ipld_dagcbor::to_vec(&saved).unwrap_or_default()
    }

    /// Takes a snapshot back. Time that passed while the node was down does not count: a record that is out of date
    /// costs a reader one question.
    pub(super) fn restore(&mut self, snapshot: &[u8], now: Instant) {
        let saved: Vec<Saved> = serde_ipld_dagcbor::from_slice(snapshot).unwrap_or_default();
        for Saved(key, peer, left) in saved {
            let Ok(provider) = PeerId::from_bytes(&peer) else {
                continue;
            };
            let expires = now.checked_add(Duration::from_secs(left));
            let record =
                ProviderRecord { key: RecordKey::from(key), provider, expires, addresses: Vec::new() };
            drop(self.add_provider(record));
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Map<
        std::collections::hash_map::Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

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
        if record.provider == self.local {
            self.own.insert(record.key.clone(), record);
            return Ok(());
        }
        if record.key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        let records = self.others.entry(record.key.clone()).or_default();
        if let Some(known) = records.iter_mut().find(|known| known.provider == record.provider) {
            *known = record;
            return Ok(());
        }
        let of_peer = self.per_peer.get(&record.provider).copied().unwrap_or(0);
        if records.len() >= PER_KEY || of_peer >= PER_PEER || self.total >= TOTAL {
            if records.is_empty() {
                self.others.remove(&record.key);
            }
            return Err(Error::MaxProvidedKeys);
        }
        *self.per_peer.entry(record.provider).or_default() += 1;
        self.total += 1;
        records.push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        let others = self.others.get(key).into_iter().flatten().filter(|record| !record.is_expired(now));
        self.own.get(key).into_iter().chain(others).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.own.remove(key);
            return;
        }
        let Some(records) = self.others.get_mut(key) else {
            return;
        };
        let before = records.len();
        records.retain(|record| record.provider != *peer);
        let removed = before - records.len();
        if records.is_empty() {
            self.others.remove(key);
        }
        (0..removed).for_each(|_| self.forget(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((again.providers(&key).len(), again.total, again.per_peer.len()), (0, 0, 0));
        again.restore(b"not a snapshot", now);
    }
}
