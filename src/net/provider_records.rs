//! The provider records that this node holds for the DHT.
//!
//! Own records are unlimited: a node may announce all its files. Records of other peers are limited for each key, for each
//! peer and in all, and expire. DHT values are refused.
//!
//! Identities are free, so a limit that refused new records would let one host hide all other providers of a root. Records
//! are therefore counted by host too, and above a limit the oldest record of the host with the most goes. Records of peers
//! that have delivered blocks to this node stay, and are listed first.
//!
//! Answers name a provider's addresses, so that a peer can reach a provider that it never met. The provider chooses them,
//! so only a few short ones are stored, once for each provider and not for each record.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
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

use super::{
    address_ranking,
    delivered::DeliveredPeers,
    host::{Group, Host, oldest_of_largest},
};
use crate::content::cid::Cid;

/// Maximum providers of one key.
const PER_KEY: usize = 64;
/// Maximum providers of one key from one host.
const PER_KEY_AND_HOST: usize = 8;
/// Maximum records of one peer.
const PER_PEER: usize = 200_000;
/// Maximum records of other peers. One takes about 150 bytes.
const TOTAL: usize = 500_000;
/// Divisor of the maximum: at most this part is dropped at once to make room.
const MAKE_ROOM_PART: usize = 100;
/// Maximum key length in bytes. A multihash of storgo has 22.
const MAX_KEY: usize = 64;
/// Maximum bytes of addresses. Above it, a provider is found only through the routing table.
const ADDRESS_BYTES: usize = 4 << 20;

/// The store.
pub(super) struct ProviderRecords {
    local: PeerId,
    /// Keys only: they have the same provider and do not expire.
    own: HashSet<Box<[u8]>>,
    others: HashMap<RecordKey, Vec<StoredRecord>>,
    providers: HashMap<Arc<PeerId>, ProviderInfo>,
    delivered: DeliveredPeers,
    total: usize,
    /// Maximum of `total`.
    max_total: usize,
    address_bytes: usize,
    /// Grows with each change of the records of other peers.
    version: u64,
}

/// A record of another peer.
struct StoredRecord {
    provider: Arc<PeerId>,
    expires: Option<Instant>,
}

/// A peer that has records here.
#[derive(Default)]
struct ProviderInfo {
    records: usize,
    /// The host that announced last.
    host: Option<Host>,
    /// The addresses that it reported last.
    addresses: Vec<Multiaddr>,
}

/// A saved record: its key, its provider, and the seconds until it expires.
#[derive(Serialize, Deserialize)]
struct Saved(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] Vec<u8>, u64);

/// A saved provider: its id, its addresses and its host.
#[derive(Serialize, Deserialize)]
struct SavedProvider(#[serde(with = "serde_bytes")] Vec<u8>, Vec<Multiaddr>, Option<Host>);

/// A snapshot.
#[derive(Serialize, Deserialize)]
struct SavedRecords {
    records: Vec<Saved>,
    providers: Vec<SavedProvider>,
}

impl StoredRecord {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl ProviderRecords {
    pub(super) fn new(local: PeerId, delivered: DeliveredPeers) -> Self {
        Self {
            local,
            own: HashSet::new(),
            others: HashMap::new(),
            providers: HashMap::new(),
            delivered,
            total: 0,
            max_total: TOTAL,
            address_bytes: 0,
            version: 0,
        }
    }

    /// Returns a number that changes with each change of the records of other peers.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Updates the counts after a record of this peer was removed.
    fn record_removed(&mut self, peer: &PeerId) {
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

    /// Sets the addresses that a peer reports of itself, if it is a provider. Addresses above the limit are left out.
    pub(super) fn set_addresses(&mut self, peer: &PeerId, reported: &[Multiaddr]) {
        let Some(provider) = self.providers.get_mut(peer) else { return };
        let mut addresses = address_ranking::select(reported, &provider.addresses, |_| false);
        if addresses.is_empty() || addresses == provider.addresses {
            return;
        }
        self.address_bytes -= len(&provider.addresses);
        if self.address_bytes + len(&addresses) > ADDRESS_BYTES {
            addresses = Vec::new();
        }
        self.address_bytes += len(&addresses);
        provider.addresses = addresses;
        self.version += 1;
    }

    /// Adds or renews the record of a peer, which comes from `host`.
    pub(super) fn add(&mut self, record: ProviderRecord, host: Option<Host>) -> Result<()> {
        let ProviderRecord { key, provider, expires, addresses } = record;
        if key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        if let Some(held) = self.others.get_mut(&key)
            && let Some(at) = held.iter().position(|held| *held.provider == provider)
        {
            // Kademlia answers with the first few providers: those that announced last.
            held[..=at].rotate_right(1);
            held[0].expires = expires;
            self.version += 1;
            self.set_addresses(&provider, &addresses);
            return Ok(());
        }
        let of_peer = self.providers.get(&provider).map_or(0, |known| known.records);
        if of_peer >= PER_PEER
            || (self.total >= self.max_total && !self.make_room(&provider, host))
            || !self.make_room_at(&key, host)
        {
            return Err(Error::MaxProvidedKeys);
        }
        let known = self.providers.get_key_value(&provider).map(|(peer, _)| Arc::clone(peer));
        let peer = known.unwrap_or_else(|| Arc::new(provider));
        let info = self.providers.entry(Arc::clone(&peer)).or_default();
        (info.records, info.host) = (info.records + 1, host.or(info.host));
        self.set_addresses(&provider, &addresses);
        self.total += 1;
        self.version += 1;
        let held = self.others.entry(RecordKey::from(key.to_vec())).or_default();
        // Most keys never get a second provider.
        held.reserve_exact(1);
        held.push(StoredRecord { provider: peer, expires });
        Ok(())
    }

    /// Makes room for one more provider of a key: above the limit of the host the oldest of its records goes, above the
    /// limit of the key the oldest of the host with the most. Returns whether there is room.
    fn make_room_at(&mut self, key: &RecordKey, host: Option<Host>) -> bool {
        let Some(held) = self.others.get(key) else { return true };
        let host_of = |held: &StoredRecord| self.providers.get(&held.provider).and_then(|known| known.host);
        let same_host = |held: &StoredRecord| host.is_some() && host_of(held) == host;
        let host_full = held.iter().filter(|held| same_host(held)).count() >= PER_KEY_AND_HOST;
        if held.len() < PER_KEY && !host_full {
            return true;
        }
        let now = Instant::now();
        let unproven = held.iter().filter(|held| !self.delivered.contains(&held.provider)).map(|held| {
            // The record that expires first is the oldest.
            let left = held.expires.map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            let age = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            (host_of(held), age, &*held.provider)
        });
        let oldest = |(_, age, _): &(Option<Host>, u64, &PeerId)| *age;
        let dropped = if host_full {
            unproven.filter(|(of, ..)| *of == host).min_by_key(oldest).map(|(.., peer)| peer)
        } else {
            oldest_of_largest(unproven.clone(), host)
                .or_else(|| unproven.min_by_key(oldest).map(|(.., peer)| peer))
        };
        let Some(dropped) = dropped.copied() else { return false };
        self.remove_provider(key, &dropped);
        true
    }

    fn group(&self, peer: &PeerId) -> Group {
        let host = self.providers.get(peer).and_then(|known| known.host);
        host.map_or(Group::Peer(*peer), Group::Host)
    }

    /// Drops some records of the host with the most. Returns whether there is room for one more of this provider.
    fn make_room(&mut self, provider: &PeerId, host: Option<Host>) -> bool {
        let mut groups: HashMap<Group, usize> = HashMap::new();
        for (peer, known) in &self.providers {
            *groups.entry(self.group(peer)).or_default() += known.records;
        }
        let own = host.map_or(Group::Peer(*provider), Group::Host);
        let count = groups.get(&own).copied().unwrap_or_default();
        let Some((largest, records)) = groups.into_iter().max_by_key(|(_, records)| *records) else {
            return false;
        };
        if records <= count + 1 {
            return false;
        }
        let of_largest: HashSet<Arc<PeerId>> =
            self.providers.keys().filter(|peer| self.group(peer) == largest).cloned().collect();
        // Many are dropped at once, because this visits all records.
        let mut left = ((records - count) / 2).clamp(1, self.max_total.div_ceil(MAKE_ROOM_PART));
        let mut dropped = Vec::new();
        self.others.retain(|_, records| {
            records.retain(|held| {
                let drop = left > 0 && of_largest.contains(&held.provider);
                if drop {
                    left -= 1;
                    dropped.push(Arc::clone(&held.provider));
                }
                !drop
            });
            !records.is_empty()
        });
        for peer in &dropped {
            self.record_removed(peer);
        }
        !dropped.is_empty()
    }

    /// Drops expired records.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut expired = Vec::new();
        self.others.retain(|_, records| {
            records.retain(|held| {
                let live = !held.is_expired(now);
                if !live {
                    expired.push(Arc::clone(&held.provider));
                }
                live
            });
            !records.is_empty()
        });
        for peer in expired {
            self.record_removed(&peer);
        }
    }

    /// Encodes the records of other peers for [`ProviderRecords::restore`] after a restart.
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
        let providers = self.providers.iter().map(|(peer, provider)| {
            SavedProvider(peer.to_bytes(), provider.addresses.clone(), provider.host)
        });
        let saved = SavedRecords { records, providers: providers.collect() };
        serde_ipld_dagcbor::to_vec(&saved).unwrap_or_default()
    }

    /// Restores a snapshot, unless it is damaged. The time for which the node was down does not count: an outdated record
    /// costs a reader one request.
    pub(super) fn restore(&mut self, snapshot: &[u8], now: Instant) {
        let Ok(SavedRecords { records, providers }) = serde_ipld_dagcbor::from_slice(snapshot) else {
            return;
        };
        let hosts: HashMap<&[u8], Host> =
            providers.iter().filter_map(|SavedProvider(peer, _, host)| Some((&peer[..], (*host)?))).collect();
        for Saved(key, peer, left) in records {
            let Ok(provider) = PeerId::from_bytes(&peer) else {
                continue;
            };
            let expires = now.checked_add(Duration::from_secs(left));
            let record =
                ProviderRecord { key: RecordKey::from(key), provider, expires, addresses: Vec::new() };
            drop(self.add(record, hosts.get(&peer[..]).copied()));
        }
        for SavedProvider(peer, addresses, _) in providers {
            if let Ok(peer) = PeerId::from_bytes(&peer) {
                self.set_addresses(&peer, &addresses);
            }
        }
    }
}

/// Returns the total length of addresses in bytes.
fn len(addresses: &[Multiaddr]) -> usize {
    addresses.iter().map(Multiaddr::len).sum()
}

/// Returns the DHT key of a root: its multihash.
pub(super) fn key(root: &Cid) -> RecordKey {
    RecordKey::new(&root.multihash())
}

/// Returns a record of this node.
fn own(key: &[u8], local: PeerId) -> ProviderRecord {
    ProviderRecord {
        key: RecordKey::from(key.to_vec()),
        provider: local,
        expires: None,
        addresses: Vec::new(),
    }
}

impl RecordStore for ProviderRecords {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Box<dyn Iterator<Item = Cow<'a, ProviderRecord>> + 'a>;

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
        if record.provider != self.local {
            return self.add(record, None);
        }
        self.own.insert(record.key.as_ref().into());
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        let live = self.others.get(key).into_iter().flatten().filter(|held| !held.is_expired(now));
        let mut live: Vec<&StoredRecord> = live.collect();
        live.sort_by_cached_key(|held| !self.delivered.contains(&held.provider));
        let others = live.into_iter().map(|held| ProviderRecord {
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
        Box::new(self.own.iter().map(|key| Cow::Owned(own(key, self.local))))
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
        (0..removed).for_each(|_| self.record_removed(peer));
    }
}

#[cfg(test)]
mod tests;
