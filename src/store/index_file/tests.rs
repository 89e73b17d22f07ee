//! The index on a disk that fails, and whose power is cut: what was acknowledged is there, and what is there is whole.

use std::{
    io,
    sync::{Arc, Mutex},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::StorageBackend;

use super::*;
use crate::{
    content::cid::Codec,
    store::{index::INLINE, tables::Arrival},
};

/// What a power cut writes of, or a torn write ends at a multiple of: bytes.
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

/// A file on a disk: what programs see of it, and what a power cut leaves.
#[derive(Debug)]
struct Disk {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Seen and not durable yet, in order.
    unsynced: Vec<Op>,
    /// Operations until one fails.
    fails_in: Option<u32>,
    /// Whether that is a power cut: nothing works after it.
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

    fn open(&self) -> Result<IndexFile, StoreError> {
        let handle = self.clone();
        // So few pages in memory that changes are written before they are committed.
        IndexFile::open_with(Box::new(move || {
            Database::builder().set_cache_size(64 << 10).create_with_backend(handle.clone())
        }))
    }

    fn plan(&self, is_cut: bool, within: u32) {
        let mut disk = self.0.lock().expect("no panic");
        disk.fails_in = Some(disk.rng.random_range(0..within));
        disk.is_cut = is_cut;
    }

    /// Whether something is still to fail.
    fn fails(&self) -> bool {
        self.0.lock().expect("no panic").fails_in.is_some()
    }

    /// Power again: of what was not synced, any part may have been written, in any order.
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
            // As Linux does it: pages that could not be written count as clean, and no later sync writes them.
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

/// The bytes of block `n`.
fn bytes(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(n as usize * 37 % 2000)
}

/// Change number `n`: its block arrives, every third one goes later, and its number is noted.
fn change(index: &IndexFile, n: u32, durability: Durability) -> Result<(), StoreError> {
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

/// The last change that is there; fails where an earlier one is not.
fn check(index: &IndexFile) -> u32 {
    let last = index.read(|read| {
        let meta = read.open_table(crate::store::index::META).map_err(StoreError::index)?;
        let n = meta.get("n").map_err(StoreError::index)?;
        Ok(n.map_or(0, |n| u32::from_le_bytes(n.value().try_into().expect("four"))))
    });
    let last = last.expect("readable");
    let kept = (1..=last).filter(|n| !(n.is_multiple_of(3) && n + 30 <= last));
    let mut blocks = 0;
    for n in kept {
        let found = index.read(|read| {
            let inline = read.open_table(INLINE).map_err(StoreError::index)?;
            let found = inline.get(&digest(n)).map_err(StoreError::index)?;
            Ok(found.map(|found| found.value().to_vec()))
        });
        assert!(found.expect("readable") == Some(bytes(n)), "block {n} of {last}");
        blocks += 1;
    }
    assert_eq!(index.usage().blocks, blocks);
    last
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
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
fn after_an_io_error_the_index_goes_on_and_a_power_cut_then_loses_nothing_acknowledged() {
    let disk = Handle::new(2);
    let (mut acknowledged, mut errors) = (0, 0);
    for _ in 0..30 {
        let index = disk.open().expect("opens after a power cut");
        assert_eq!(check(&index), acknowledged);
        for _ in 0..10 {
            disk.plan(false, 60);
            // An error may also strike where redb can do without: then no change fails.
            while disk.fails() {
                match change(&index, acknowledged + 1, Durability::Immediate) {
                    Ok(()) => acknowledged += 1,
                    Err(_) => errors += 1,
                }
            }
            let last = check(&index);
            // An answer that was lost on its way: the change may be made.
            assert!((acknowledged..=acknowledged + 1).contains(&last), "{last} after {acknowledged}");
            acknowledged = last + 1;
            change(&index, acknowledged, Durability::Immediate).expect("the next change works");
        }
        // Cut where it stands: what closing would write is lost, too.
        disk.plan(true, 1);
        drop(index);
        disk.power_cycle();
    }
    assert!(errors > 100 && acknowledged > 300, "{errors} errors, {acknowledged} changes");
}

#[test]
fn a_reader_that_meets_an_io_error_gets_its_answer_all_the_same() {
    let disk = Handle::new(3);
    let index = disk.open().expect("made");
    (1..200).for_each(|n| change(&index, n, Durability::Immediate).expect("made"));
    for _ in 0..50 {
        disk.plan(false, 20);
        assert_eq!(check(&index), 199);
    }
}
