//! Cached blocks beside uploads, a quota and power cuts.

use super::{incomplete::folder, *};

fn cache(store: &Store, blocks: &[(Cid, Vec<u8>)]) {
    for (cid, bytes) in blocks {
        store.put_cached(cid, bytes).expect("cached");
        settle(store);
    }
}

/// `count` blocks, the first of them number `first`.
fn blocks(first: u32, count: u32) -> Vec<(Cid, Vec<u8>)> {
    (first..first + count).map(|n| block(n, LONG)).collect()
}

fn limited(dir: &TempDir, blocks: u64) -> Store {
    Store::open(StoreOptions { capacity: Some(blocks * LONG as u64), ..options(dir) }).expect("opens")
}

#[test]
fn cached_blocks_of_a_running_upload_are_evicted_last() {
    let dir = TempDir::new().expect("a folder");
    let store = limited(&dir, 10);
    let (mut file, others) = (blocks(0, 4), blocks(10, 6));
    // The blocks of the file are the least recently used.
    cache(&store, &file);
    cache(&store, &others);
    file.extend(blocks(20, 5));
    store_all(&store, &file);
    assert_eq!((store.usage().bytes, store.usage().cached_bytes), (10 * LONG as u64, LONG as u64));
    let left = others.iter().filter(|(cid, _)| store.has(cid).expect("asked"));
    assert_eq!(left.count(), 1, "no more goes than is needed");
    assert_here(&store, &file);
    assert_eq!(store.usage().pending_bytes, 0);
}

#[test]
fn a_cached_file_that_fills_the_quota_can_be_kept() {
    let dir = TempDir::new().expect("a folder");
    let store = limited(&dir, 5);
    let file = blocks(0, 5);
    cache(&store, &file);
    let upload = store.upload();
    assert!(file.iter().all(|block| put(&upload, block) == Put::Known), "its quota is its own");
    assert_no_space(&upload, &block(9, 1));
    drop(upload);
    store_all(&store, &file);
    let usage = store.usage();
    assert_eq!((usage.bytes, usage.cached_bytes, usage.pending_bytes), (5 * LONG as u64, 0, 0));
}

#[test]
fn a_block_file_that_a_power_cut_truncated_is_cached_again() {
    let (_dir, store) = opened();
    let (cid, bytes) = block(1, LONG);
    for left in [&bytes[..100], &[], &bytes] {
        let path = file_of(&store, &cid);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(&path, left).expect("left");
        assert!(!store.has(&cid).expect("asked"));
        cache(&store, &[(cid, bytes.clone())]);
        assert!(store.has(&cid).expect("asked"), "{} bytes were there", left.len());
        assert!(store.get(&cid).expect("read").as_ref() == Some(&bytes));
        assert!(store.drop_cached(&cid).expect("dropped"));
    }
}

#[test]
fn the_cache_is_freed_on_request_and_when_its_size_is_lowered_and_kept_blocks_stay() {
    let dir = TempDir::new().expect("a folder");
    let store = open(&dir);
    let (kept, read) = (folder(), [block(50, LONG), block(51, 100)]);
    store_all(&store, &kept);
    let cache = |store: &Store| {
        for (cid, bytes) in &read {
            store.put_cached(cid, bytes).expect("cached");
        }
    };
    cache(&store);
    let freed = store.drop_cache().expect("freed");
    assert_eq!((freed.blocks, freed.bytes), (2, LONG as u64 + 100));
    assert_eq!((store.usage().cached_bytes, store.drop_cache().expect("nothing left").blocks), (0, 0));
    cache(&store);
    assert_eq!(store.drop_cached_file(&read[0].0).expect("freed").blocks, 1);
    assert_eq!(store.drop_cached_file(&kept[0].0).expect("kept").blocks, 0);
    assert_eq!(store.usage().cached_bytes, 100);
    cache(&store);
    settle(&store);
    drop(store);
    let store = Store::open(StoreOptions { cache_size: 0, ..options(&dir) }).expect("opens");
    assert_eq!(store.collect().expect("collected").blocks, 2);
    assert_eq!(store.usage().cached_bytes, 0);
    assert_here(&store, &kept);
}
