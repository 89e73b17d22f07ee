//! Uploads that share blocks, in any order of what may happen to them.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt};

use proptest::prelude::*;

use super::{block_stage::Stage, *};

/// A change of an upload, by its number. The first use of a number begins it.
#[derive(Debug, Clone)]
enum Op {
    /// It puts a block. An operation of this kind fails, if there is one.
    Put(usize, usize, Fails),
    /// The quota is too small for its next block.
    Refuse(usize),
    Commit(usize, Fails),
    Drop(usize, Fails),
    Collect,
}

type Fails = Option<&'static str>;

const UPLOADS: usize = 3;
/// Two long blocks, two short files, and a block that lives in the index.
const LENS: [usize; 5] = [LONG, LONG + 1, 100, 101, 102];

fn op() -> impl Strategy<Value = Op> {
    let write_fails = prop::option::weighted(0.1, Just("write"));
    let sync_fails = || prop::option::weighted(0.3, prop::sample::select(&["folder", "short"][..]));
    prop_oneof![
        12 => (0..UPLOADS, 0..LENS.len(), write_fails).prop_map(|(upload, block, fails)| Op::Put(upload, block, fails)),
        1 => (0..UPLOADS).prop_map(Op::Refuse),
        4 => (0..UPLOADS, sync_fails()).prop_map(|(upload, fails)| Op::Commit(upload, fails)),
        4 => (0..UPLOADS, sync_fails()).prop_map(|(upload, fails)| Op::Drop(upload, fails)),
        1 => Just(Op::Collect),
    ]
}

/// A store, and what must be true of it.
struct World {
    store: Store,
    blocks: [(Cid, Vec<u8>); LENS.len()],
    /// Each upload with the blocks that it has put.
    uploads: [Option<(Upload, BTreeSet<usize>)>; UPLOADS],
    /// Blocks of files that are listed.
    kept: BTreeSet<usize>,
    /// Files that were not listed when a sync failed, by their inodes.
    doubtful: [Option<u64>; LENS.len()],
}

impl World {
    fn is_file(block: usize) -> bool {
        block + 1 < LENS.len()
    }

    fn file(&self, block: usize) -> Option<u64> {
        fs::metadata(file_of(&self.store, &self.blocks[block].0)).ok().map(|meta| meta.ino())
    }

    fn is_listed(&self, block: usize) -> bool {
        self.store.has(&self.blocks[block].0).expect("asked")
    }

    fn run(&mut self, op: &Op) {
        let (n, fails) = match *op {
            Op::Put(n, _, fails) | Op::Commit(n, fails) | Op::Drop(n, fails) => (n, fails),
            Op::Refuse(n) => (n, None),
            Op::Collect => {
                self.store.collect().expect("collected");
                return;
            }
        };
        let (upload, put) = self.uploads[n].get_or_insert_with(|| (self.store.upload(), BTreeSet::new()));
        let faults = &self.store.inner.disk.faults;
        if let Some(kind) = fails {
            faults.plan_loss(kind);
        }
        match *op {
            Op::Put(_, block, _) => {
                let (cid, bytes) = &self.blocks[block];
                let as_file = if Self::is_file(block) { Upload::put_last } else { Upload::put };
                let done = as_file(upload, cid, bytes, PutMode::Compare);
                assert_eq!(done.is_err(), fails.is_some() && faults.cancel(), "{done:?}");
                put.insert(block);
            }
            Op::Refuse(_) => {
                let (cid, bytes) = block(9, 11 * LONG);
                let refused = upload.put(&cid, &bytes, PutMode::Compare);
                assert!(matches!(refused, Err(StoreError::OverCapacity(_))), "{refused:?}");
            }
            Op::Commit(..) => {
                let root = put.first().map_or(block(9, LONG).0, |first| self.blocks[*first].0);
                if upload.commit(record(&root)).is_ok() {
                    self.kept.extend(&*put);
                }
            }
            _ => self.uploads[n] = None,
        }
        if fails.is_some() && !matches!(op, Op::Put(..)) && self.store.inner.disk.faults.cancel() {
            for block in 0..LENS.len() {
                if !self.is_listed(block) {
                    self.doubtful[block] = self.file(block);
                }
            }
        }
    }

    fn check(&mut self) {
        let in_hand: BTreeSet<usize> =
            self.uploads.iter().flatten().flat_map(|(_, put)| put).copied().collect();
        let mut pending = 0;
        for (block, len) in LENS.into_iter().enumerate() {
            let (is_listed, file) = (self.is_listed(block), self.file(block));
            let stage = self.store.inner.in_flight.look(self.blocks[block].0.digest(), |held| held.stage);
            self.doubtful[block] = self.doubtful[block].filter(|inode| file == Some(*inode));
            assert!(!is_listed || self.doubtful[block].is_none(), "block {block} may never reach the disk");
            assert!(is_listed || !self.kept.contains(&block), "block {block} is lost");
            let is_waiting = in_hand.contains(&block) && !is_listed;
            pending += if is_waiting { len as u64 } else { 0 };
            // The write of an unsound block may have failed.
            if stage != Some(Stage::Unsound) {
                let is_written = is_waiting && stage != Some(Stage::Reserved);
                assert_eq!(
                    file.is_some(),
                    Self::is_file(block) && (is_listed || is_written),
                    "block {block}"
                );
            }
            assert_eq!(
                self.store.inner.in_flight.contains(self.blocks[block].0.digest()),
                in_hand.contains(&block)
            );
        }
        assert_eq!(self.store.usage().pending_bytes, pending);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shared_blocks_are_never_lost_left_behind_or_listed_without_a_sync(
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let dir = TempDir::new().expect("a folder");
        let limits = StoreOptions { capacity: Some(10 * LONG as u64), ..options(&dir) };
        let mut world = World {
            store: Store::open(limits).expect("opens"),
            blocks: LENS.map(|len| block(0, len)),
            uploads: Default::default(),
            kept: BTreeSet::new(),
            doubtful: [None; LENS.len()],
        };
        let drops = (0..UPLOADS).map(|upload| Op::Drop(upload, None));
        for op in ops.into_iter().chain(drops) {
            world.run(&op);
            world.check();
        }
        for block in &world.kept {
            assert_here(&world.store, std::slice::from_ref(&world.blocks[*block]));
        }
        let verified = world.store.verify(None, &mut |_| true).expect("verified");
        prop_assert!(verified.bad.is_empty() && verified.missing.is_empty());
    }
}
