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

use super::address_ranking;
use crate::content::cid::Cid;

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
pub(super) struct ProviderRecords {
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

impl ProviderRecords {
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
        let mut kept = address_ranking::choose(said, &provider.addresses, |_| false);
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

    /// Records of others, to be read again by [`ProviderRecords::restore`] after a restart.
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

/// Returns the DHT key of a root: its multihash.
pub(super) fn key(root: &Cid) -> RecordKey {
    RecordKey::new(&root.multihash())
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

impl RecordStore for ProviderRecords {
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
mod tests;
