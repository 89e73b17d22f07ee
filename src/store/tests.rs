//! The store on real files.

use std::{
    fs, io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;

use super::*;
use crate::content::cid::Codec;

#[path = "tests/cached.rs"]
mod cached;
#[path = "tests/incomplete.rs"]
mod incomplete;
#[path = "tests/journal.rs"]
mod journal;
#[path = "tests/mending.rs"]
mod mending;
#[path = "tests/old_index.rs"]
mod old_index;
#[path = "tests/orphans.rs"]
mod orphans;
#[path = "tests/salvage.rs"]
mod salvage;
#[path = "tests/shared_blocks.rs"]
mod shared_blocks;
#[path = "tests/short_blocks.rs"]
mod short_blocks;
#[path = "tests/syncs.rs"]
mod syncs;

/// Makes the n-th file operation of a kind fail.
#[derive(Default)]
pub(super) struct Faults(Mutex<Option<(&'static str, u32, io::ErrorKind)>>);

impl Faults {
    fn plan(&self, what: &'static str, after: u32) {
        *self.0.lock().expect("no panic") = Some((what, after, io::ErrorKind::StorageFull));
    }

    /// The next one fails as on a device that has lost the bytes.
    fn plan_loss(&self, what: &'static str) {
        *self.0.lock().expect("no panic") = Some((what, 0, io::ErrorKind::Other));
    }

    /// Ends the plan; returns whether the operation has failed.
    fn cancel(&self) -> bool {
        self.0.lock().expect("no panic").take().is_none()
    }

    pub(super) fn strike(&self, what: &str) -> io::Result<()> {
        let mut plan = self.0.lock().expect("no panic");
        match &mut *plan {
            Some((planned, 0, kind)) if *planned == what => {
                let error = io::Error::from(*kind);
                *plan = None;
                Err(error)
            }
            Some((planned, left, _)) if *planned == what => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn options(dir: &TempDir) -> StoreOptions {
    StoreOptions { grace: Duration::ZERO, ..StoreOptions::new(dir.path().join("data")) }
}

fn open(dir: &TempDir) -> Store {
    Store::open(options(dir)).expect("opens")
}

/// An empty store.
fn opened() -> (TempDir, Store) {
    let dir = TempDir::new().expect("a folder");
    let store = open(&dir);
    (dir, store)
}

/// Checks that the store returns these blocks.
fn assert_here(store: &Store, blocks: &[(Cid, Vec<u8>)]) {
    for (cid, bytes) in blocks {
        assert!(store.get(cid).expect("read").as_ref() == Some(bytes));
    }
}

/// A block that is long enough for a file of its own, unless `len` says otherwise.
fn block(n: u32, len: usize) -> (Cid, Vec<u8>) {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&n.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    (Cid::of(Codec::Raw, &bytes), bytes)
}

fn record(root: &Cid) -> RootRecord {
    RootRecord {
        cid: *root,
        key: None,
        kind: RootKind::File,
        name: Some("a name".into()),
        size: 1,
        blocks: 1,
        stored_len: 1,
        media_type: None,
        created: 1,
        pinned: true,
        owner: vec![1, 2],
        public: false,
    }
}

fn store_all(store: &Store, blocks: &[(Cid, Vec<u8>)]) -> Vec<Put> {
    let upload = store.upload();
    let puts = blocks.iter().map(|block| put(&upload, block)).collect();
    upload.commit(record(&blocks[0].0)).expect("committed");
    puts
}

fn file_of(store: &Store, cid: &Cid) -> PathBuf {
    store.inner.disk.path(cid.digest())
}

/// Damages a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    bytes[10] ^= 1;
    fs::write(path, bytes).expect("written");
}

/// Damages to a block file. The last one leaves none.
const DAMAGES: [fn(&Path); 6] = [
    flip,
    |path| fs::write(path, vec![0; LONG]).expect("zeros"),
    |path| fs::write(path, [fs::read(path).expect("read"), vec![0]].concat()).expect("longer"),
    |path| fs::write(path, &fs::read(path).expect("read")[..100]).expect("cut"),
    |path| fs::write(path, []).expect("emptied"),
    |path| fs::remove_file(path).expect("removed"),
];

fn put(upload: &Upload, (cid, bytes): &(Cid, Vec<u8>)) -> Put {
    upload.put(cid, bytes, PutMode::Sealed).expect("put")
}

/// Checks that there is no room for a block.
fn assert_no_space(upload: &Upload, (cid, bytes): &(Cid, Vec<u8>)) {
    assert!(matches!(upload.put(cid, bytes, PutMode::Sealed), Err(StoreError::OverCapacity(_))));
}

/// Waits until changes that nobody waits for are made.
fn settle(store: &Store) {
    store.set_meta("settled", &[]).expect("set");
}

const LONG: usize = 40_000;

#[test]
fn committed_files_are_there_after_a_restart() {
    let dir = TempDir::new().expect("a folder");
    let blocks = [block(1, LONG), block(2, 10), block(3, 0), block(4, INLINE_MAX), block(5, INLINE_MAX + 1)];
    assert_eq!(store_all(&open(&dir), &blocks), [Put::New; 5]);
    let store = open(&dir);
    assert_here(&store, &blocks);
    assert_eq!(store.roots(None, 10).expect("listed"), [record(&blocks[0].0)]);
    assert_eq!((store.usage().blocks, store.usage().roots), (5, 1));
    assert_eq!(store_all(&store, &blocks), [Put::Known; 5]);
    assert_eq!(store.verify(None, &mut |_| true).expect("verified").checked, 5);
}

#[test]
fn files_that_are_only_known_are_counted_separately() {
    let (_dir, store) = opened();
    let counts = || (store.usage().roots, store.usage().known);
    let known = |n| RootRecord { pinned: false, ..record(&block(n, LONG).0) };
    store.add_root(known(1)).expect("learned");
    store.add_root(known(2)).expect("learned");
    store.add_root(known(2)).expect("learned again");
    assert_eq!(counts(), (2, 2));
    store_all(&store, &[block(1, LONG)]);
    store.add_root(known(1)).expect("kept all the same");
    assert_eq!(counts(), (2, 1));
    for (n, left) in [(1, (1, 1)), (2, (0, 0))] {
        store.remove_root(&block(n, LONG).0).expect("removed");
        assert_eq!(counts(), left);
    }
}

#[test]
fn damage_is_found_quarantined_and_repaired() {
    for (n, damage) in DAMAGES.into_iter().enumerate() {
        let is_gone = n + 1 == DAMAGES.len();
        let (_dir, store) = opened();
        let blocks = [block(1, LONG), block(2, LONG)];
        store_all(&store, &blocks);
        let (cid, bytes) = &blocks[1];
        damage(&file_of(&store, cid));
        match store.get(cid) {
            Err(StoreError::Corrupt { cid: named }) => assert_eq!((named, is_gone), (*cid, false)),
            other => assert!(is_gone && matches!(other, Ok(None)), "{n}: {other:?}"),
        }
        assert!(matches!(store.get(cid), Ok(None)), "never served again");
        assert_eq!(store.verify(None, &mut |_| true).expect("verified").missing, [*cid]);
        assert_eq!(store.usage().quarantined, u64::from(!is_gone));
        store.put_cached(cid, bytes).expect("replaced");
        assert!(store.get(cid).expect("read").as_ref() == Some(bytes));
        let verified = store.verify(Some(&blocks[0].0), &mut |_| true).expect("verified");
        assert_eq!((verified.checked, verified.missing.len()), (2, 0));
        assert_eq!(store.usage().cached_bytes, 0, "a repaired block is kept, not cached");
    }
}

#[test]
fn removed_files_are_collected_and_shared_blocks_stay() {
    let (_dir, store) = opened();
    let (a, b, shared) = (block(1, LONG), block(2, LONG), block(3, LONG));
    store_all(&store, &[a.clone(), shared.clone()]);
    store_all(&store, &[b.clone(), shared.clone()]);
    assert!(store.remove_root(&a.0).expect("removed"));
    assert!(!store.remove_root(&a.0).expect("not twice"));
    assert_eq!(store.collect().expect("collected"), Collected { blocks: 1, bytes: LONG as u64 });
    assert!(!store.has(&a.0).expect("asked") && !file_of(&store, &a.0).exists());
    assert!(store.get(&shared.0).expect("read") == Some(shared.1));
    store.remove_root(&b.0).expect("removed");
    assert_eq!(store.collect().expect("collected").blocks, 2);
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn blocks_of_a_running_upload_are_not_collected() {
    let (_dir, store) = opened();
    let a = block(1, LONG);
    store_all(&store, std::slice::from_ref(&a));
    let upload = store.upload();
    assert_eq!(put(&upload, &a), Put::Known);
    store.remove_root(&a.0).expect("removed");
    assert_eq!(store.collect().expect("collected").blocks, 0);
    upload.commit(record(&a.0)).expect("committed");
    drop(upload);
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert!(store.get(&a.0).expect("read") == Some(a.1));
}

#[test]
fn blocks_of_an_upload_without_commit_are_found_by_the_next_and_collected_otherwise() {
    let (_dir, store) = opened();
    let a = block(1, LONG);
    let upload = store.upload();
    assert_eq!(put(&upload, &a), Put::New);
    drop(upload);
    let upload = store.upload();
    assert_eq!(put(&upload, &a), Put::Known);
    drop(upload);
    assert_eq!(store.collect().expect("collected").blocks, 1);
    assert_eq!(store.sweep().expect("swept").blocks, 0);
}

#[test]
fn a_purge_ignores_the_grace_period_and_spares_running_uploads() {
    let dir = TempDir::new().expect("a folder");
    let grace = Duration::from_secs(3600);
    let store = Store::open(StoreOptions { grace, ..options(&dir) }).expect("opened");
    let [kept, removed, given_up, left, flying] = [1, 2, 3, 4, 5].map(|n| block(n, LONG));
    store_all(&store, std::slice::from_ref(&kept));
    put(&store.upload(), &given_up);
    store_all(&store, std::slice::from_ref(&removed));
    store.remove_root(&removed.0).expect("removed");
    store.inner.disk.write(left.0.digest(), &left.1, disk::Durability::Synced).expect("written");
    let upload = store.upload();
    put(&upload, &flying);
    assert_eq!(store.collect().expect("collected").blocks + store.sweep().expect("swept").blocks, 0);
    assert_eq!(store.purge().expect("purged"), Collected { blocks: 3, bytes: 3 * LONG as u64 });
    upload.commit(record(&flying.0)).expect("committed");
    for (cid, bytes) in [kept, flying] {
        assert!(store.get(&cid).expect("read") == Some(bytes));
    }
}

#[test]
fn block_files_that_a_killed_upload_left_are_adopted_or_swept() {
    let (_dir, store) = opened();
    let (a, b) = (block(1, LONG), block(2, LONG));
    for (cid, bytes) in [&a, &b] {
        store.inner.disk.write(cid.digest(), bytes, disk::Durability::Synced).expect("written");
    }
    assert_eq!(store_all(&store, std::slice::from_ref(&a)), [Put::Known]);
    assert_eq!(store.sweep().expect("swept").blocks, 1);
    assert!(file_of(&store, &a.0).exists() && !file_of(&store, &b.0).exists());
}

#[test]
fn colliding_public_blocks_are_refused_and_nothing_changes() {
    let (_dir, store) = opened();
    let a = include_bytes!("../../tests/vectors/shattered-a.bin");
    let b = include_bytes!("../../tests/vectors/shattered-b.bin");
    for tail in [0, LONG] {
        let long = |head: &[u8]| [head, &vec![0; tail]].concat();
        let (a, b) = (long(a), long(b));
        let cid = Cid::of(Codec::Raw, &a);
        assert!(cid.matches(&b) && a != b);
        let upload = store.upload();
        upload.put(&cid, &a, PutMode::Compare).expect("the first");
        assert!(
            matches!(upload.put(&cid, &b, PutMode::Compare), Err(StoreError::Collision { .. })),
            "in one upload"
        );
        upload.commit(record(&cid)).expect("committed");
        let other = store.upload();
        assert!(matches!(other.put(&cid, &b, PutMode::Compare), Err(StoreError::Collision { .. })));
        assert!(store.get(&cid).expect("read") == Some(a));
    }
}

#[test]
fn cached_blocks_are_evicted_for_other_blocks() {
    let dir = TempDir::new().expect("a folder");
    let len = LONG as u64;
    let limits = StoreOptions { cache_size: 3 * len, capacity: Some(5 * len), ..options(&dir) };
    let store = Store::open(limits).expect("opens");
    let kept = block(0, LONG);
    store_all(&store, std::slice::from_ref(&kept));
    for n in 1..10 {
        let (cid, bytes) = block(n, LONG);
        store.put_cached(&cid, &bytes).expect("cached");
        settle(&store);
        assert!(store.get(&cid).expect("read") == Some(bytes));
    }
    assert_eq!(store.usage().cached_bytes, 3 * len);
    let more: Vec<_> = (20..24).map(|n| block(n, LONG)).collect();
    store_all(&store, &more);
    assert_eq!((store.usage().bytes, store.usage().cached_bytes), (5 * len, 0));
    assert_no_space(&store.upload(), &block(30, LONG));
    assert!(store.get(&kept.0).expect("read").is_some());
}

#[test]
fn a_cached_block_that_a_crash_truncated_counts_as_missing() {
    let (_dir, store) = opened();
    let (cid, bytes) = block(1, LONG);
    store.put_cached(&cid, &bytes).expect("cached");
    settle(&store);
    fs::write(file_of(&store, &cid), []).expect("emptied");
    assert!(matches!(store.get(&cid), Ok(None)));
    assert_eq!((store.usage().cached_bytes, store.usage().quarantined), (0, 0));
    // An upload does not rely on a cached copy.
    store.put_cached(&cid, &bytes).expect("cached");
    settle(&store);
    fs::write(file_of(&store, &cid), []).expect("emptied");
    store_all(&store, &[(cid, bytes.clone())]);
    assert!(store.get(&cid).expect("read") == Some(bytes));
}

#[test]
fn every_failed_write_leaves_the_store_as_it_was() {
    for what in ["write", "sync", "folder"] {
        let (dir, store) = opened();
        let kept = block(0, LONG);
        store_all(&store, std::slice::from_ref(&kept));
        store.inner.disk.faults.plan(what, 0);
        let (cid, bytes) = block(1, LONG);
        let upload = store.upload();
        let failed = upload.put(&cid, &bytes, PutMode::Sealed).and_then(|_| upload.commit(record(&cid)));
        assert!(matches!(failed, Err(StoreError::NoSpace(_))), "{what}: {failed:?}");
        drop(upload);
        assert_eq!(store.root(&cid).expect("asked"), None);
        assert!(store.get(&kept.0).expect("read").as_ref() == Some(&kept.1));
        assert_eq!(fs::read_dir(dir.path().join("data/blocks/tmp")).expect("read").count(), 0);
        assert_eq!(store_all(&store, &[(cid, bytes)]).len(), 1, "and the next try works");
    }
}

#[test]
fn a_second_process_learns_which_process_has_the_store() {
    let (dir, store) = opened();
    store.set_lock_note("127.0.0.1:1").expect("noted");
    let second = Store::open(options(&dir)).err().expect("refused");
    assert!(
        matches!(second, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{second}"
    );
    let note = read_lock(store.dir()).expect("held");
    assert_eq!(note.http.as_deref(), Some("127.0.0.1:1"));
    let data = store.dir().to_owned();
    drop(store);
    assert_eq!(read_lock(&data), None);
}

#[test]
fn another_format_is_refused() {
    let dir = TempDir::new().expect("a folder");
    drop(open(&dir));
    for other in [1, 3] {
        fs::write(dir.path().join("data/version"), format!("{other}\n")).expect("written");
        let refused = Store::open(options(&dir));
        assert!(matches!(refused, Err(StoreError::OtherVersion { found, known: 2 }) if found == other));
    }
}

#[test]
fn a_lost_index_is_rebuilt_from_the_blocks() {
    let dir = TempDir::new().expect("a folder");
    let blocks = [block(1, LONG), block(2, LONG)];
    store_all(&open(&dir), &blocks);
    let index = dir.path().join("data/index.redb");
    for state in ["garbage", "gone", "empty", "empty, and the journal gone"] {
        match state {
            "garbage" => fs::write(&index, vec![7; 10_000]).expect("overwritten"),
            "gone" => fs::remove_file(&index).expect("removed"),
            _ => fs::write(&index, b"").expect("emptied"),
        }
        if state.ends_with("journal gone") {
            fs::remove_file(dir.path().join("data/journal")).expect("removed");
        }
        match Store::open(options(&dir)).err() {
            Some(StoreError::IndexCorrupt(_)) if state == "garbage" => {}
            Some(StoreError::IndexLost) if state != "garbage" => {}
            other => panic!("{state}: {other:?}"),
        }
        let (store, found) = Store::rebuild(options(&dir)).expect("rebuilt");
        assert_eq!(found.blocks, 2);
        assert_here(&store, &blocks);
    }
}

#[test]
fn collecting_never_removes_blocks_that_an_upload_needs() {
    let (_dir, store) = opened();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.collect().expect("collected");
            }
        });
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..60 {
                        // All workers share one block, which keeps losing its last reference.
                        let own = block(100 + worker * 1000 + round, LONG);
                        let blocks = [own, block(7, LONG)];
                        store_all(store, &blocks);
                        assert_here(store, &blocks);
                        store.remove_root(&blocks[0].0).expect("removed");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no panic");
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.collect().expect("collected");
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn a_long_index_is_checked_after_an_unclean_end_and_not_by_a_collection() {
    let (dir, store) = opened();
    let blocks: Vec<_> = (0..1200).map(|n| block(n, INLINE_MAX)).collect();
    store_all(&store, &blocks);
    drop(store);
    let index = dir.path().join("data/index.redb");
    let mut bytes = fs::read(&index).expect("read");
    assert!(bytes.len() > 16 << 20, "{}", bytes.len());
    let (_, last) = &blocks[1199];
    let found: Vec<usize> =
        (0..bytes.len() - 64).filter(|at| bytes[*at..].starts_with(&last[..64])).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at + 100] ^= 1;
    }
    fs::write(&index, bytes).expect("damaged");
    let store = open(&dir);
    assert_eq!(store.collect().expect("not checked"), Collected::default());
    assert_eq!(store.sweep().expect("the rows are whole"), Collected::default());
    drop(store);
    fs::remove_file(dir.path().join("data/journal")).expect("removed");
    assert!(matches!(Store::open(options(&dir)), Err(StoreError::IndexCorrupt(_))));
}
