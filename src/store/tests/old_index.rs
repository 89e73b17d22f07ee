//! An index that is older than the blocks beside it.

use super::*;
use crate::store::journal;

/// A store that lists `a`, an index of which is put back after `b` was stored.
fn set_back(dir: &TempDir, a: &(Cid, Vec<u8>), b: &(Cid, Vec<u8>)) {
    let (index, copy) = (dir.path().join("data/index.redb"), dir.path().join("copy"));
    store_all(&open(dir), std::slice::from_ref(a));
    fs::copy(&index, &copy).expect("copied");
    store_all(&open(dir), std::slice::from_ref(b));
    fs::copy(&copy, &index).expect("copied");
}

#[test]
fn an_older_index_is_recognised_and_removes_nothing_until_it_is_rebuilt() {
    let dir = TempDir::new().expect("a folder");
    let [a, b, c] = [1, 2, 3].map(|n| block(n, LONG));
    set_back(&dir, &a, &b);
    for again in [false, true] {
        let store = open(&dir);
        assert!(store.is_index_behind(), "{again}");
        for refused in [Store::collect, Store::sweep, Store::purge] {
            assert!(matches!(refused(&store), Err(StoreError::IndexBehind)));
        }
        assert!(file_of(&store, &b.0).exists());
        assert!(store.get(&a.0).expect("read").as_ref() == Some(&a.1));
        // It reaches the epoch of the lost index, and still does not know the newer blocks.
        store_all(&store, &[c.clone(), block(4, LONG)]);
    }
    let (store, _) = Store::rebuild(options(&dir)).expect("rebuilt");
    assert!(!store.is_index_behind());
    for (cid, bytes) in [&a, &b, &c] {
        assert!(store.get(cid).expect("read").as_ref() == Some(bytes));
    }
    drop(store);
    let store = open(&dir);
    assert!(!store.is_index_behind());
    store.purge().expect("purged");
    assert!(store.get(&c.0).expect("read") == Some(c.1));
}

#[test]
fn an_index_from_before_a_rebuild_is_recognised_as_older() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (block(1, LONG), block(2, LONG));
    set_back(&dir, &a, &b);
    drop(Store::rebuild(options(&dir)).expect("rebuilt"));
    fs::copy(dir.path().join("copy"), dir.path().join("data/index.redb")).expect("copied");
    assert!(open(&dir).is_index_behind());
}

#[test]
fn no_index_counts_as_older_after_a_restart_or_a_kill() {
    let dir = TempDir::new().expect("a folder");
    for n in 0..3 {
        let store = open(&dir);
        assert!(!store.is_index_behind());
        store_all(&store, &[block(n, LONG)]);
        // A kill leaves this number, and an index that is at least as far.
        let epoch = journal::replay(store.dir()).epoch;
        assert_eq!(epoch, store.inner.index.next_number().expect("read"));
    }
}

#[test]
fn a_rebuild_that_is_killed_before_its_end_leaves_the_old_index_valid() {
    let dir = TempDir::new().expect("a folder");
    store_all(&open(&dir), &[block(1, LONG), block(2, LONG)]);
    let (lock, disk) = Store::enter(&options(&dir)).expect("entered");
    let new = Store::open_index(options(&dir), "index.redb.new", disk, lock).expect("opened");
    let numbered = new.inner.writer.run(|tables| {
        tables.totals.next_number = 100;
        Ok(())
    });
    numbered.and_then(|()| new.inner.journal.invalidate()).expect("written");
    drop(new);
    assert!(!open(&dir).is_index_behind());
}
