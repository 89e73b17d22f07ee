//! Uploads of many short blocks.

use super::*;
use crate::store::upload::FLUSH_BYTES;

/// Enough to be listed in several turns.
const MANY: u32 = 1000;

#[test]
fn many_short_blocks_take_bounded_memory_and_are_safe_until_their_root_is_listed() {
    let (_dir, store) = opened();
    let upload = store.upload();
    for n in 0..MANY {
        assert_eq!(put(&upload, &block(n, INLINE_MAX)), Put::New);
        assert!(upload.held_bytes() < FLUSH_BYTES, "{} bytes after {n} blocks", upload.held_bytes());
    }
    assert!(store.usage().blocks > 0, "listed on the way");
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert_eq!(store.root(&block(0, INLINE_MAX).0).expect("asked"), None);
    upload.commit(record(&block(0, INLINE_MAX).0)).expect("committed");
    drop(upload);
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert_eq!((store.usage().blocks, store.usage().unreferenced), (u64::from(MANY), 0));
    (0..MANY).for_each(|n| assert_here(&store, &[block(n, INLINE_MAX)]));
    store.remove_root(&block(0, INLINE_MAX).0).expect("removed");
    assert_eq!(store.collect().expect("collected").blocks, u64::from(MANY));
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn short_blocks_of_an_upload_that_ends_early_are_found_by_the_next_and_collected_otherwise() {
    let (_dir, store) = opened();
    for put in [Put::New, Put::Known] {
        let upload = store.upload();
        for n in 0..MANY {
            let (cid, bytes) = block(n, INLINE_MAX);
            assert_eq!(upload.put(&cid, &bytes, PutMode::Compare).expect("put"), put);
        }
    }
    assert_eq!(store.collect().expect("collected").blocks, u64::from(MANY));
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn a_quota_is_used_to_the_last_byte_and_no_further() {
    let dir = TempDir::new().expect("a folder");
    let capacity = u64::from(MANY) * INLINE_MAX as u64;
    let store = Store::open(StoreOptions { capacity: Some(capacity), ..options(&dir) }).expect("opens");
    let upload = store.upload();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let upload = &upload;
            scope.spawn(move || {
                for n in (worker..MANY).step_by(4) {
                    put(upload, &block(n, INLINE_MAX));
                }
            });
        }
    });
    let one = block(MANY, 1);
    assert_no_space(&upload, &one);
    upload.commit(record(&block(0, INLINE_MAX).0)).expect_err("a block of it could not be stored");
    assert_eq!(store.usage().bytes + store.usage().pending_bytes, capacity);
    drop(upload);
    assert_eq!(store.usage(), Usage::default(), "what it wrote went with it");
    store_all(&store, &[one]);
}

#[test]
fn a_collision_with_a_short_block_is_seen_in_memory_and_in_the_index() {
    let (_dir, store) = opened();
    let a = include_bytes!("../../../tests/vectors/shattered-a.bin");
    let b = include_bytes!("../../../tests/vectors/shattered-b.bin");
    let cid = Cid::of(Codec::Raw, a);
    let upload = store.upload();
    upload.put(&cid, a, PutMode::Compare).expect("the first");
    for n in 0..300 {
        assert!(matches!(upload.put(&cid, b, PutMode::Compare), Err(StoreError::Collision { .. })), "{n}");
        let (cid, bytes) = block(n, INLINE_MAX);
        upload.put(&cid, &bytes, PutMode::Compare).expect("put");
    }
    assert!(store.has(&cid).expect("asked"), "listed by now");
}
