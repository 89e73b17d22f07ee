//! The index on a simulated disk with I/O errors and power cuts: no acknowledged change is lost, no change is half made.

use std::{
    io,
    sync::{Arc, Mutex},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::StorageBackend;

use super::*;
use crate::{content::cid::Codec, store::schema::Arrival};

/// Bytes that a disk writes atomically: a write cut short by a power cut ends at a multiple.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Op {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                to.resize(to.len().max(at + bytes.len()), 0);
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(len) => to.resize(*len, 0),
        }
    }
}

/// A file on a disk: its bytes as programs see them, and as a power cut leaves them.
#[derive(Debug)]
struct Disk {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Operations that are seen and not durable yet, in order.
    unsynced: Vec<Op>,
    /// Number of operations until one fails.
    fails_in: Option<u32>,
    /// Whether that failure is a power cut: all later operations then fail, too.
    is_cut: bool,
    rng: StdRng,
}

#[derive(Debug, Clone)]
struct Handle(Arc<Mutex<Disk>>);

impl Handle {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            seen: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
            fails_in: None,
            is_cut: false,
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    fn open(&self) -> Result<Index, StoreError> {
        let handle = self.clone();
        // A cache so small that redb writes pages before the commit.
        Index::open_with(&Observers::new(), OnDamage::Refuse, move || {
            let db = Database::builder().set_cache_size(64 << 10).create_with_backend(handle.clone());
            db.map_err(|e| index_file::cannot_open(Path::new("index"), e))
        })
    }

    fn plan(&self, is_cut: bool, within: u32) {
        let mut disk = self.0.lock().expect("no panic");
        disk.fails_in = Some(disk.rng.random_range(0..within));
        disk.is_cut = is_cut;
    }

    /// Whether a planned failure has not happened yet.
    fn fails(&self) -> bool {
        self.0.lock().expect("no panic").fails_in.is_some()
    }

    /// Restores power. Any part of the unsynced operations may have been written.
    fn power_cycle(&self) {
        let disk = &mut *self.0.lock().expect("no panic");
        let mut unsynced = std::mem::take(&mut disk.unsynced);
        unsynced.retain(|_| disk.rng.random());
        for op in &mut unsynced {
            if let Op::Write(_, bytes) = op
                && disk.rng.random()
            {
                bytes.truncate(disk.rng.random_range(0..=bytes.len()) / SECTOR * SECTOR);
            }
        }
        for op in &unsynced {
            op.apply(&mut disk.durable);
        }
        disk.seen = disk.durable.clone();
        (disk.fails_in, disk.is_cut) = (None, false);
    }
}

impl Disk {
    fn strike(&mut self) -> io::Result<()> {
        match &mut self.fails_in {
            Some(0) => {
                if !self.is_cut {
                    self.fails_in = None;
                }
                let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
                Err(kinds[usize::from(self.rng.random::<bool>())].into())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn make(&mut self, op: Op) {
        op.apply(&mut self.seen);
        self.unsynced.push(op);
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("no panic").seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        disk.strike()?;
        let at = usize::try_from(offset).expect("small");
        let bytes = disk.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        disk.strike()?;
        disk.make(Op::SetLen(usize::try_from(len).expect("small")));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        let struck = disk.strike();
        let unsynced = std::mem::take(&mut disk.unsynced);
        if struck.is_ok() {
            for op in &unsynced {
                op.apply(&mut disk.durable);
            }
        } else if disk.is_cut {
            disk.unsynced = unsynced;
        } else {
            // As on Linux: pages that could not be written count as clean, and no later sync writes them.
            let lens = unsynced.into_iter().filter(|op| matches!(op, Op::SetLen(_)));
            disk.unsynced = lens.collect();
        }
        struck
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().expect("no panic");
        let at = usize::try_from(offset).expect("small");
        let struck = disk.strike();
        let len = if struck.is_ok() { data.len() } else { disk.rng.random_range(0..=data.len()) };
        disk.make(Op::Write(at, data[..len].to_vec()));
        struck
    }
}

fn digest(n: u32) -> [u8; 20] {
    blake3::hash(&n.to_le_bytes()).as_bytes()[..20].try_into().expect("long enough")
}

/// Returns the bytes of block `n`.
fn bytes(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(n as usize * 37 % 2000)
}

/// Makes change number `n`: adds block `n`, removes the block of change `n - 30` if `n` is a multiple of three, and notes `n`.
fn change(index: &Index, n: u32, durability: Durability) -> Result<(), StoreError> {
    let len = u32::try_from(bytes(n).len()).expect("short");
    let arrival = Arrival { digest: digest(n), codec: Codec::Raw, len, inline: Some(bytes(n).into()) };
    index.write(durability, |tables| {
        tables.arrive(&arrival, false, u64::from(n))?;
        if n > 30 && n.is_multiple_of(3) {
            tables.drop_unneeded(&digest(n - 30))?;
        }
        tables.set_meta("n", &n.to_le_bytes())
    })?;
    Ok(())
}

/// Returns the number of the last change in the index; fails if an earlier change is missing.
fn check(index: &Index) -> u32 {
    let last = index.meta("n").expect("readable");
    let last = last.map_or(0, |n| u32::from_le_bytes(n.try_into().expect("four bytes")));
    let kept = (1..=last).filter(|n| !(n.is_multiple_of(3) && n + 30 <= last));
    let mut blocks = 0;
    for n in kept {
        assert!(index.inline(&digest(n)).expect("readable") == Some(bytes(n)), "block {n} of {last}");
        blocks += 1;
    }
    assert_eq!(index.usage().blocks, blocks);
    last
}

#[test]
fn a_power_cut_at_any_moment_loses_no_acknowledged_change() {
    let disk = Handle::new(1);
    let mut acknowledged = 0;
    for _ in 0..150 {
        let index = disk.open().expect("opens after a power cut");
        let last = check(&index);
        assert!((acknowledged..=acknowledged + 1).contains(&last), "{last} after {acknowledged}");
        acknowledged = last;
        disk.plan(true, 120);
        while change(&index, acknowledged + 1, Durability::Immediate).is_ok() {
            acknowledged += 1;
        }
        drop(index);
        disk.power_cycle();
    }
    assert!(acknowledged > 150, "{acknowledged}");
}

#[test]
fn the_index_recovers_from_io_errors_and_a_later_power_cut_loses_no_acknowledged_change() {
    let disk = Handle::new(2);
    let (mut acknowledged, mut errors) = (0, 0);
    for _ in 0..30 {
        let index = disk.open().expect("opens after a power cut");
        assert_eq!(check(&index), acknowledged);
        for _ in 0..10 {
            disk.plan(false, 60);
            // redb may survive an error in an operation that it can do without: then no change fails.
            while disk.fails() {
                match change(&index, acknowledged + 1, Durability::Immediate) {
                    Ok(()) => acknowledged += 1,
                    Err(_) => errors += 1,
                }
            }
            let last = check(&index);
            // A change that failed may have been made.
            assert!((acknowledged..=acknowledged + 1).contains(&last), "{last} after {acknowledged}");
            acknowledged = last + 1;
            change(&index, acknowledged, Durability::Immediate).expect("the next change works");
        }
        // The power is cut before closing writes anything.
        disk.plan(true, 1);
        drop(index);
        disk.power_cycle();
    }
    assert!(errors > 100 && acknowledged > 300, "{errors} errors, {acknowledged} changes");
}

#[test]
fn a_read_succeeds_in_spite_of_an_io_error() {
    let disk = Handle::new(3);
    let index = disk.open().expect("made");
    (1..200).for_each(|n| change(&index, n, Durability::Immediate).expect("made"));
    for _ in 0..50 {
        disk.plan(false, 20);
        assert_eq!(check(&index), 199);
    }
}

#[test]
fn a_panic_inside_redb_is_damage_for_good_and_changes_nothing() {
    let disk = Handle::new(4);
    let index = disk.open().expect("made");
    change(&index, 1, Durability::Immediate).expect("made");
    let panicked = index.snapshot(|_| -> Result<(), StoreError> { panic!("page type 7") });
    assert!(matches!(panicked, Err(StoreError::IndexCorrupt(what)) if what == "page type 7"));
    for _ in 0..2 {
        assert!(matches!(index.meta("n"), Err(StoreError::IndexCorrupt(_))));
        assert!(matches!(change(&index, 2, Durability::Immediate), Err(StoreError::IndexCorrupt(_))));
    }
    drop(index);
    assert_eq!(check(&disk.open().expect("opens again")), 1);
}

#[test]
fn a_check_finds_a_damaged_page_that_redb_reads_without_a_word() {
    let disk = Handle::new(5);
    let index = disk.open().expect("made");
    (1..100).for_each(|n| change(&index, n, Durability::Immediate).expect("made"));
    index.check().expect("sound");
    {
        let seen = &mut disk.0.lock().expect("no panic").seen;
        let block = bytes(53);
        let found: Vec<usize> =
            (0..seen.len() - block.len()).filter(|at| seen[*at..].starts_with(&block)).collect();
        assert!(!found.is_empty());
        for at in found {
            seen[at + 1] ^= 1;
        }
    }
    for _ in 0..2 {
        assert!(matches!(index.check(), Err(StoreError::IndexCorrupt(_))));
    }
    assert!(matches!(index.meta("n"), Err(StoreError::IndexCorrupt(_))));
}

#[test]
fn a_block_is_removed_only_if_its_row_and_the_table_of_unneeded_blocks_agree() {
    let disk = Handle::new(6);
    let index = disk.open().expect("made");
    (1..=3).for_each(|n| change(&index, n, Durability::Immediate).expect("made"));
    index.check_rows().expect("sound");
    let since = index.row(&digest(2)).expect("read").expect("listed").since;
    let damage = |db: &Database| {
        index_file::write(db, Durability::Immediate, |write| {
            write.open_table(UNREFERENCED)?.remove((since, &digest(2)))?;
            Ok(())
        })
    };
    index.file.with(damage).expect("changed");
    for (n, is_dropped) in [(1, true), (2, false)] {
        let mut dropped = None;
        let drop_row = |tables: &mut Tables<'_>| {
            dropped = tables.drop_unneeded(&digest(n))?;
            Ok(())
        };
        index.write(Durability::Immediate, drop_row).expect("written");
        assert_eq!(dropped.is_some(), is_dropped, "block {n}");
    }
}

#[test]
fn a_row_that_cannot_be_found_is_damage() {
    let disk = Handle::new(7);
    let index = disk.open().expect("made");
    (1..=3).for_each(|n| change(&index, n, Durability::Immediate).expect("made"));
    index.check_rows().expect("sound");
    let damage = |db: &Database| {
        index_file::write(db, Durability::Immediate, |write| {
            write.open_table(BLOCKS)?.remove(&digest(2))?;
            Ok(())
        })
    };
    index.file.with(damage).expect("changed");
    assert!(matches!(index.check_rows(), Err(StoreError::IndexCorrupt(_))));
}
