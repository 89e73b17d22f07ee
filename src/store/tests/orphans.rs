//! Uploads that end early: which of their blocks stay, which are removed, and which count.

use super::*;
use crate::store::journal::replay;

fn limited(dir: &TempDir, blocks: usize) -> Store {
    let capacity = Some((blocks * LONG) as u64);
    let grace = Duration::from_secs(3600);
    Store::open(StoreOptions { capacity, grace, ..options(dir) }).expect("opens")
}

/// All block files.
fn files(store: &Store) -> usize {
    let mut count = 0;
    let walked = store.inner.disk.walk(&mut |_| {
        count += 1;
        Ok(true)
    });
    walked.map(|()| count).expect("walked")
}

#[test]
fn an_upload_without_enough_quota_removes_its_own_blocks_only() {
    let dir = TempDir::new().expect("a folder");
    let store = limited(&dir, 4);
    let kept = block(0, LONG);
    store_all(&store, std::slice::from_ref(&kept));
    for _ in 0..3 {
        let upload = store.upload();
        assert_eq!(put(&upload, &kept), Put::Known);
        for block in [block(1, LONG), block(2, LONG), block(3, 100)] {
            assert_eq!(put(&upload, &block), Put::New);
        }
        assert_eq!(store.usage().pending_bytes, 2 * LONG as u64 + 100);
        assert_no_space(&upload, &block(99, 10 * LONG));
        drop(upload);
        assert_eq!((files(&store), store.usage().blocks, store.usage().pending_bytes), (1, 1, 0));
    }
    assert!(store.get(&kept.0).expect("read") == Some(kept.1));
    store_all(&store, &[block(1, LONG), block(2, LONG), block(4, LONG)]);
    assert_eq!(store.usage().bytes, 4 * LONG as u64);
}

#[test]
fn an_upload_that_fails_removes_no_block_that_another_upload_shares() {
    for both_fail in [false, true] {
        let dir = TempDir::new().expect("a folder");
        let store = limited(&dir, 5);
        let shared = block(1, LONG);
        let (first, second) = (store.upload(), store.upload());
        assert_eq!(put(&first, &shared), Put::New);
        put(&second, &shared);
        assert_no_space(&first, &block(99, 10 * LONG));
        drop(first);
        assert!(file_of(&store, &shared.0).exists());
        assert!(store.usage().pending_bytes >= LONG as u64, "it counts for the one that is left");
        if both_fail {
            assert_no_space(&second, &block(99, 10 * LONG));
            drop(second);
            assert_eq!((files(&store), store.usage()), (0, Usage::default()));
        } else {
            second.commit(record(&shared.0)).expect("committed");
            drop(second);
            assert!(store.get(&shared.0).expect("read").as_ref() == Some(&shared.1));
            assert_eq!((store.usage().bytes, store.usage().pending_bytes), (LONG as u64, 0));
        }
    }
}

#[test]
fn concurrent_uploads_that_fail_never_remove_blocks_of_those_that_succeed() {
    let dir = TempDir::new().expect("a folder");
    let store = limited(&dir, 60);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..40 {
                    let blocks = [block(1000 + worker * 100 + round, 10), block(round, LONG), block(7, LONG)];
                    if worker % 2 == 0 {
                        let upload = store.upload();
                        for block in &blocks {
                            put(&upload, block);
                        }
                        assert_no_space(&upload, &block(99, 70 * LONG));
                    } else {
                        store_all(store, &blocks);
                        assert_here(store, &blocks);
                    }
                }
            });
        }
    });
    let verified = store.verify(None, &mut |_| true).expect("verified");
    assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
    assert_eq!(files(&store), 40, "only committed blocks are left");
    assert_eq!(store.usage().pending_bytes, 0);
}

#[test]
fn blocks_of_an_upload_that_ended_early_count_and_are_found_by_the_next() {
    let dir = TempDir::new().expect("a folder");
    let store = limited(&dir, 3);
    let (a, b) = (block(1, LONG), block(2, LONG));
    let upload = store.upload();
    put(&upload, &a);
    put(&upload, &b);
    drop(upload);
    assert_eq!((store.usage().bytes, store.usage().pending_bytes), (2 * LONG as u64, 0));
    assert_eq!(store_all(&store, &[a, b, block(3, LONG)]), [Put::Known, Put::Known, Put::New]);
}

/// Returns a copy of the data directory, as a kill at this moment would leave it.
pub(super) fn as_killed(dir: &TempDir) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        let mut items: Vec<PathBuf> =
            fs::read_dir(from).expect("listed").map(|item| item.expect("read").path()).collect();
        // The journal first: it is older than what it stands for.
        items.sort_by_key(|path| path.is_dir());
        for path in items {
            let to = to.join(path.file_name().expect("a name"));
            if path.is_dir() {
                copy(&path, &to);
            } else {
                fs::copy(&path, &to).expect("copied");
            }
        }
    }
    let killed = TempDir::new().expect("a folder");
    copy(&dir.path().join("data"), &killed.path().join("data"));
    killed
}

#[test]
fn blocks_of_a_killed_upload_count_from_the_next_start_on() {
    for layout in [Layout::Sharded, Layout::Segments, Layout::Flat] {
        let dir = TempDir::new().expect("a folder");
        let with = |dir: &TempDir| StoreOptions {
            layout,
            capacity: Some(3 * LONG as u64),
            grace: Duration::from_secs(3600),
            ..options(dir)
        };
        let store = Store::open(with(&dir)).expect("opens");
        let (a, b) = (block(1, LONG), block(2, LONG));
        let upload = store.upload();
        put(&upload, &a);
        put(&upload, &b);
        let killed = as_killed(&dir);
        drop(upload);
        let store = Store::open(with(&killed)).expect("opens");
        assert_eq!((store.usage().bytes, store.usage().unreferenced), (2 * LONG as u64, 2), "{layout}");
        let upload = store.upload();
        put(&upload, &block(3, LONG));
        let (cid, bytes) = block(4, LONG);
        let full = upload.put(&cid, &bytes, PutMode::Sealed).expect_err("a hard limit").to_string();
        assert!(
            full.contains(&format!(
                "capacity is {} bytes; files, and removed files that are not collected yet, take {}",
                3 * LONG,
                2 * LONG
            )),
            "{full}"
        );
        drop(upload);
        assert_eq!(store_all(&store, &[a, b]), [Put::Known; 2]);
    }
}

/// Whether a process that opens the directory now would look for orphans.
fn looks_for_orphans(dir: &TempDir) -> bool {
    replay(&dir.path().join("data")).0.writes_begun.is_some()
}

#[test]
fn no_process_looks_for_orphans_after_a_store_was_closed_in_order() {
    let dir = TempDir::new().expect("a folder");
    for n in 0..2 {
        let store = open(&dir);
        let upload = store.upload();
        put(&upload, &block(n, LONG));
        assert!(looks_for_orphans(&dir));
        drop(upload);
        assert!(looks_for_orphans(&dir), "recorded once, and not for each upload");
        drop(store);
        assert!(!looks_for_orphans(&dir));
    }
}

#[test]
fn orphans_of_an_earlier_kill_are_looked_for_until_they_are_listed() {
    let (dir, store) = opened();
    let upload = store.upload();
    put(&upload, &block(1, LONG));
    let killed = as_killed(&dir);
    // Killed once more before it has listed them.
    let again = as_killed(&killed);
    assert!(looks_for_orphans(&again));
    assert_eq!(open(&killed).usage().unreferenced, 1);
    assert!(!looks_for_orphans(&killed));
    // A damaged record may have been the one that says so.
    let journal = again.path().join("data/journal");
    let bytes = fs::read(&journal).expect("read").into_iter().map(|byte| byte ^ 1);
    fs::write(&journal, bytes.collect::<Vec<u8>>()).expect("written");
    assert_eq!(open(&again).usage().unreferenced, 1);
}

#[test]
fn missing_blocks_are_counted_for_each_file_until_they_are_replaced() {
    let (_dir, store) = opened();
    let [a, b, shared] = [1, 2, 3].map(|n| block(n, LONG));
    store_all(&store, &[a.clone(), shared.clone()]);
    store_all(&store, &[b.clone(), shared.clone()]);
    let both = [a.0, b.0];
    for (lost, counts) in [(&shared, [1, 1]), (&a, [1, 0])] {
        assert_eq!(store.missing(&both).expect("asked"), [0, 0]);
        fs::remove_file(file_of(&store, &lost.0)).expect("removed");
        store.verify(None, &mut |_| true).expect("verified");
        assert_eq!((store.missing(&both).expect("asked"), store.usage().missing), (counts.to_vec(), 1));
        store.put_cached(&lost.0, &lost.1).expect("replaced");
    }
    // A missing block whose file is removed does not count.
    fs::remove_file(file_of(&store, &b.0)).expect("removed");
    assert!(store.get(&b.0).expect("read").is_none());
    assert_eq!(store.usage().missing, 1);
    store.remove_root(&b.0).expect("removed");
    assert_eq!((store.missing(&both).expect("asked"), store.usage().missing), (vec![0, 0], 0));
}

#[test]
fn a_collection_records_that_no_upload_is_under_way() {
    let (dir, store) = opened();
    for n in 0..2 {
        let upload = store.upload();
        let block = block(n, LONG);
        put(&upload, &block);
        store.collect().expect("collected");
        assert!(looks_for_orphans(&dir), "an upload is under way");
        upload.commit(record(&block.0)).expect("committed");
        store.collect().expect("collected");
        assert!(!looks_for_orphans(&dir));
    }
}

#[test]
fn a_cached_block_does_not_replace_the_file_of_an_upload() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, store) = opened();
    let block = block(1, LONG);
    let upload = store.upload();
    put(&upload, &block);
    let number = || fs::metadata(file_of(&store, &block.0)).expect("a file").ino();
    let synced = number();
    // By now it has no row.
    store.put_cached(&block.0, &block.1).expect("passed over");
    settle(&store);
    assert_eq!(number(), synced);
    upload.commit(record(&block.0)).expect("committed");
    assert_eq!(store.get(&block.0).expect("read").as_deref(), Some(&*block.1));
}

#[test]
fn an_interrupted_removal_is_finished_at_the_next_start() {
    let dir = TempDir::new().expect("a folder");
    // More than two parts of a list.
    let blocks: Vec<_> = (0..3000).map(|n| block(n, 20)).collect();
    let root = blocks[0].0;
    let store = open(&dir);
    store_all(&store, &blocks);
    store.inner.writer.free_space(move |tables| tables.remove_root(&root)).expect("removed");
    let number = store.inner.index.dying().expect("read").expect("it is to be dropped");
    store.inner.writer.free_space(move |tables| tables.drop_part(number, unix_ms())).expect("dropped");
    assert_eq!(store.inner.index.dying().expect("read"), Some(number), "there is more to drop");
    drop(store);
    let store = open(&dir);
    assert_eq!(store.inner.index.dying().expect("read"), None);
    assert_eq!(store.collect().expect("collected").blocks, 3000);
}
