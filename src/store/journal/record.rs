//! Format of the journal, without I/O.
//!
//! A record has 32 bytes: its kind, 24 bytes for a CID or a number (little endian), and the first 7 bytes of the BLAKE3
//! hash of those. Damage to one record costs no other, as each has a fixed position and its own checksum.

use std::collections::HashSet;

use crate::content::cid::Cid;

/// Length of a record in bytes.
pub(super) const LEN: usize = 32;
const HASHED: usize = 1 + Cid::LEN;

/// An entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// A root is pinned: this store keeps its blocks.
    Pinned(Cid),
    /// A root is not pinned any more.
    Unpinned(Cid),
    /// The number that the index gives to its next list of blocks.
    Epoch(u64),
    /// From this time on (milliseconds since 1970), uploads write block files that the index does not list yet.
    WritesBegun(u64),
    /// The index lists all block files written so far.
    WritesListed,
    /// As the last record: the pins are those of the index.
    Closed,
    /// The journal is not closed any more.
    Opened,
}

impl Record {
    pub(super) fn encode(self) -> [u8; LEN] {
        let (kind, number) = match self {
            Self::Pinned(_) => (b'+', 0),
            Self::Unpinned(_) => (b'-', 0),
            Self::Epoch(epoch) => (b'e', epoch),
            Self::WritesBegun(at_ms) => (b'w', at_ms),
            Self::WritesListed => (b'l', 0),
            Self::Closed => (b'c', 0),
            Self::Opened => (b'o', 0),
        };
        let mut out = [0; LEN];
        out[0] = kind;
        out[1..9].copy_from_slice(&number.to_le_bytes());
        if let Self::Pinned(cid) | Self::Unpinned(cid) = self {
            out[1..HASHED].copy_from_slice(&cid.to_bytes());
        }
        let hash = blake3::hash(&out[..HASHED]);
        out[HASHED..].copy_from_slice(&hash.as_bytes()[..LEN - HASHED]);
        out
    }

    /// Returns `None` for a damaged record.
    fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        let cid = || Cid::from_bytes(&bytes[1..HASHED]).ok();
        let number = bytes[1..9].try_into().map(u64::from_le_bytes).ok()?;
        let record = match bytes[0] {
            b'+' => Self::Pinned(cid()?),
            b'-' => Self::Unpinned(cid()?),
            b'e' => Self::Epoch(number),
            b'w' => Self::WritesBegun(number),
            b'l' => Self::WritesListed,
            b'c' => Self::Closed,
            b'o' => Self::Opened,
            _ => return None,
        };
        (record.encode() == *bytes).then_some(record)
    }
}

/// The state that the records of a journal add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Replayed {
    /// Roots that are pinned.
    pub(in crate::store) pinned: HashSet<Cid>,
    /// Roots that were pinned and are not any more.
    pub(super) unpinned: HashSet<Cid>,
    /// The highest epoch of the index; `None` means that no record says it.
    pub(in crate::store) epoch: Option<u64>,
    /// Whether the blocks have a mark of the epoch, too.
    pub(super) is_marked: bool,
    /// Since when block files may exist that the index does not list, in milliseconds since 1970.
    pub(in crate::store) writes_begun: Option<u64>,
    /// Number of damaged records, without a torn one at the end.
    pub(super) damaged: u64,
    /// Whether `pinned` is complete: the journal was closed, and nothing is damaged.
    pub(super) is_complete: bool,
}

impl Replayed {
    /// Notes that later records are lost: what the journal says of removed roots may be out of date.
    pub(in crate::store) fn lacks_later_records(&mut self) {
        self.is_complete = false;
        self.unpinned.clear();
    }

    /// Whether this store kept the root once and does not any more. In a complete journal, a root without a record counts as removed.
    pub(in crate::store) fn was_removed(&self, root: &Cid) -> bool {
        self.unpinned.contains(root) || self.is_complete && !self.pinned.contains(root)
    }
}

/// Reads all records that are intact. A damaged record may have been one of writes that began at any time.
pub(super) fn replay(bytes: &[u8]) -> Replayed {
    let (records, torn) = bytes.as_chunks::<LEN>();
    let mut replayed = Replayed::default();
    let mut is_closed = false;
    for record in records.iter().map(Record::decode) {
        is_closed = record == Some(Record::Closed);
        match record {
            Some(Record::Pinned(cid)) => {
                replayed.pinned.insert(cid);
                replayed.unpinned.remove(&cid);
            }
            Some(Record::Unpinned(cid)) => {
                replayed.pinned.remove(&cid);
                replayed.unpinned.insert(cid);
            }
            Some(Record::Epoch(epoch)) => replayed.epoch = replayed.epoch.max(Some(epoch)),
            // Files of an earlier process may still be unlisted: the first time counts.
            Some(Record::WritesBegun(at_ms)) => drop(replayed.writes_begun.get_or_insert(at_ms)),
            Some(Record::WritesListed) => replayed.writes_begun = None,
            Some(Record::Closed | Record::Opened) => {}
            None => {
                replayed.damaged += 1;
                replayed.writes_begun = Some(0);
            }
        }
    }
    replayed.is_complete = is_closed && replayed.damaged == 0 && torn.is_empty();
    replayed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::cid::Codec;

    fn record() -> impl Strategy<Value = Record> {
        let cid = any::<[u8; 20]>().prop_map(|digest| Cid::new(Codec::DagCbor, digest));
        prop_oneof![
            cid.clone().prop_map(Record::Pinned),
            cid.prop_map(Record::Unpinned),
            any::<u64>().prop_map(Record::Epoch),
            any::<u64>().prop_map(Record::WritesBegun),
            Just(Record::WritesListed),
            Just(Record::Closed),
            Just(Record::Opened),
        ]
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.encode()).collect()
    }

    proptest! {
        #[test]
        fn a_journal_cut_at_any_byte_says_what_its_whole_records_say(
            records in prop::collection::vec(record(), 0..10),
        ) {
            let bytes = encode(&records);
            for record in &records {
                prop_assert_eq!(Record::decode(&record.encode()), Some(*record));
            }
            for cut in 0..=bytes.len() {
                let mut expected = replay(&encode(&records[..cut / LEN]));
                expected.is_complete &= cut.is_multiple_of(LEN);
                prop_assert_eq!(replay(&bytes[..cut]), expected);
            }
        }

        #[test]
        fn a_damaged_record_costs_no_other_and_counts_as_writes_begun(
            records in prop::collection::vec(record(), 1..10), bit in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&records);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut others = records.clone();
            others[bit / 8 / LEN] = Record::WritesBegun(0);
            let found = replay(&bytes);
            let expected = replay(&encode(&others));
            prop_assert_eq!((found.damaged, found.is_complete), (1, false));
            prop_assert_eq!((found.pinned, found.unpinned), (expected.pinned, expected.unpinned));
            prop_assert_eq!(found.epoch, expected.epoch);
            prop_assert_eq!(found.writes_begun.is_some(), expected.writes_begun.is_some());
        }
    }

    #[test]
    fn garbage_and_an_empty_journal_pin_nothing() {
        assert_eq!(replay(&[]), Replayed::default());
        let expected = Replayed { writes_begun: Some(0), damaged: 3, ..Replayed::default() };
        assert_eq!(replay(&[0x2b; 3 * LEN + 5]), expected);
    }
}
