//! Syncs that fail, and files that must not lose theirs.

use std::os::unix::fs::MetadataExt;

use super::{block_stage::Event, *};

/// The file that a block has at this moment.
fn number(store: &Store, cid: &Cid) -> u64 {
    fs::metadata(file_of(store, cid)).expect("a file").ino()
}

fn put_file(upload: &Upload, (cid, bytes): &(Cid, Vec<u8>)) -> Put {
    upload.put_last(cid, bytes, PutMode::Sealed).expect("put")
}

fn refused(upload: &Upload, cid: &Cid) {
    assert!(matches!(upload.commit(record(cid)), Err(StoreError::Io { .. })));
}

#[test]
fn after_a_failed_sync_unlisted_blocks_are_written_again() {
    for (what, len) in [("folder", LONG), ("short", 100)] {
        let (_dir, store) = opened();
        let [file, beside] = [block(1, len), block(2, len)];
        // The second upload runs at the same time, and finds the block that the first wrote.
        let (first, second) = (store.upload(), store.upload());
        assert_eq!(put_file(&first, &file), Put::New);
        put_file(&second, &file);
        put_file(&second, &beside);
        let lost = number(&store, &file.0);
        store.inner.disk.faults.plan_loss(what);
        refused(&first, &file.0);
        refused(&first, &file.0);
        // A third begins later, while the bytes can still be read.
        let third = store.upload();
        assert_eq!(put_file(&third, &file), Put::New, "{what}");
        assert_ne!(number(&store, &file.0), lost, "{what}");
        drop(first);
        third.commit(record(&file.0)).expect("committed");
        refused(&second, &beside.0);
        drop((second, third));
        assert!(!file_of(&store, &beside.0).exists(), "it may never reach the disk");
        assert!(store.get(&file.0).expect("read").as_ref() == Some(&file.1));
        let again = store.upload();
        assert_eq!((put_file(&again, &file), put_file(&again, &beside)), (Put::Known, Put::New));
        again.commit(record(&beside.0)).expect("committed");
        assert_eq!(store.usage().pending_bytes, 0);
    }
}

#[test]
fn a_replaced_block_that_did_not_reach_the_disk_is_missing_again() {
    let (_dir, store) = opened();
    let file = block(1, LONG);
    store_all(&store, std::slice::from_ref(&file));
    fs::write(file_of(&store, &file.0), b"damaged").expect("written");
    let upload = store.upload();
    assert_eq!(put_file(&upload, &file), Put::New);
    store.inner.disk.faults.plan_loss("folder");
    refused(&upload, &file.0);
    drop(upload);
    assert_eq!((store.usage().missing, file_of(&store, &file.0).exists()), (1, false));
    assert_eq!(store_all(&store, std::slice::from_ref(&file)), [Put::New]);
    assert_eq!(store.usage().missing, 0);
    assert!(store.get(&file.0).expect("read") == Some(file.1));
}

#[test]
fn an_unsynced_file_does_not_replace_an_acknowledged_one() {
    let (_dir, store) = opened();
    let file = block(1, 100);
    let (first, second) = (store.upload(), store.upload());
    put_file(&first, &file);
    first.commit(record(&file.0)).expect("committed");
    let synced = number(&store, &file.0);
    // As if it had checked before the first one wrote.
    assert_eq!(second.write(&file.0, &file.1).expect("there"), Event::Written);
    assert_eq!(number(&store, &file.0), synced);
    // A file with wrong bytes is replaced.
    fs::write(file_of(&store, &file.0), b"cut").expect("written");
    assert_eq!(second.write(&file.0, &file.1).expect("written"), Event::Replaced);
    assert!(fs::read(file_of(&store, &file.0)).expect("read") == file.1);
}
