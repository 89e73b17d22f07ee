//! The journal: what it says when the index is lost.

use std::collections::HashSet;

use super::{
    incomplete::{assert_whole, folder, rebuild, removed},
    orphans::as_killed,
    *,
};
use crate::store::journal::replay;

fn roots(store: &Store) -> Vec<Cid> {
    store.roots(None, 100).expect("listed").into_iter().map(|record| record.cid).collect()
}

/// The pins in the journal of a data directory.
fn pinned(dir: &TempDir) -> HashSet<Cid> {
    replay(&dir.path().join("data")).0.pinned
}

fn journal(dir: &TempDir) -> PathBuf {
    dir.path().join("data/journal")
}

#[test]
fn a_file_that_was_stored_by_itself_and_in_a_folder_outlives_the_folder_without_an_index() {
    for is_removed in [false, true] {
        let dir = TempDir::new().expect("a folder");
        let (store, blocks) = (open(&dir), folder());
        store_all(&store, &blocks[1..]);
        store_all(&store, &blocks);
        if is_removed {
            store.remove_root(&blocks[1].0).expect("removed");
        }
        let store = rebuild(&dir, store, true);
        assert_eq!(roots(&store).contains(&blocks[1].0), !is_removed);
        store.remove_root(&blocks[0].0).expect("removed");
        if is_removed {
            assert_eq!((removed(&store), store.usage().blocks), (5, 0));
        } else {
            assert_eq!(removed(&store), 1);
            assert_whole(&store, &blocks[1..]);
        }
    }
}

#[test]
fn a_file_with_a_damaged_root_is_listed_and_loses_no_block() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks) = (open(&dir), folder());
    store_all(&store, &blocks[1..]);
    flip(&file_of(&store, &blocks[1].0));
    let store = rebuild(&dir, store, true);
    assert_eq!(store.lacks(&blocks[1].0, 10).expect("looked"), [blocks[1].0]);
    assert_eq!((store.usage().incomplete, removed(&store)), (1, 0));
    store.put_cached(&blocks[1].0, &blocks[1].1).expect("replaced");
    assert_whole(&store, &blocks[1..]);
    assert_eq!((store.usage().incomplete, removed(&store)), (0, 0));
}

#[test]
fn a_file_stored_after_an_older_index_was_made_is_pinned_by_the_journal() {
    let dir = TempDir::new().expect("a folder");
    let (index, copy) = (dir.path().join("data/index.redb"), dir.path().join("copy"));
    let (store, blocks) = (open(&dir), folder());
    store_all(&store, &[block(99, LONG)]);
    store.add_root(record(&blocks[1].0)).expect("known");
    drop(store);
    fs::copy(&index, &copy).expect("copied");
    store_all(&open(&dir), &blocks[1..]);
    fs::copy(&copy, &index).expect("copied");
    let store = open(&dir);
    assert!(store.is_index_behind());
    let store = rebuild(&dir, store, false);
    assert!(store.root(&blocks[1].0).expect("asked").is_some_and(|record| record.pinned));
    assert_eq!((removed(&store), store.usage().roots), (0, 2));
    assert_whole(&store, &blocks[1..]);
}

#[test]
fn pins_are_known_without_the_index_after_a_kill_a_torn_write_and_a_lost_journal() {
    let dir = TempDir::new().expect("a folder");
    let [a, b, c, d] = [1, 2, 3, 4].map(|n| block(n, LONG));
    let store = open(&dir);
    store_all(&store, std::slice::from_ref(&a));
    let len_with_a = fs::metadata(journal(&dir)).expect("a journal").len();
    store_all(&store, std::slice::from_ref(&b));
    store.add_root(record(&d.0)).expect("known, not pinned");
    store.remove_root(&a.0).expect("removed");
    assert_eq!(pinned(&dir), HashSet::from([b.0]));
    // Killed between a change of the index and its record, or with a part of that.
    for torn in [0, 10, 31] {
        let killed = as_killed(&dir);
        let file = fs::File::options().write(true).open(journal(&killed)).expect("opened");
        file.set_len(len_with_a + torn).expect("cut");
        assert_eq!(pinned(&killed), HashSet::from([a.0]));
        let store = open(&killed);
        assert_eq!(pinned(&killed), HashSet::from([b.0]), "written anew from the index");
        store_all(&store, std::slice::from_ref(&c));
        assert_eq!(pinned(&killed), HashSet::from([b.0, c.0]));
    }
    drop(store);
    fs::remove_file(journal(&dir)).expect("removed");
    drop(open(&dir));
    assert_eq!(pinned(&dir), HashSet::from([b.0]));
}

#[test]
fn a_journal_that_was_closed_is_left_as_it_is() {
    let dir = TempDir::new().expect("a folder");
    store_all(&open(&dir), &[block(1, LONG)]);
    let closed = fs::read(journal(&dir)).expect("read");
    drop(open(&dir));
    assert!(fs::read(journal(&dir)).expect("read") == closed);
    // The content of a damaged record is unknown.
    let mut damaged = closed.clone();
    damaged[40] ^= 1;
    fs::write(journal(&dir), &damaged).expect("written");
    drop(open(&dir));
    let written = fs::read(journal(&dir)).expect("read");
    assert!(written.len() < closed.len() && pinned(&dir) == HashSet::from([block(1, LONG).0]));
    // An older one lacks later pins.
    let older = written;
    store_all(&open(&dir), &[block(2, LONG)]);
    fs::write(journal(&dir), &older).expect("written");
    drop(open(&dir));
    assert_eq!(pinned(&dir), HashSet::from([1, 2].map(|n| block(n, LONG).0)));
}

#[test]
fn the_journal_does_not_grow_with_removed_files() {
    let dir = TempDir::new().expect("a folder");
    let (kept, removed) = (block(1, LONG), block(2, LONG));
    let store = open(&dir);
    store_all(&store, std::slice::from_ref(&kept));
    for _ in 0..2100 {
        store.inner.journal.record_pin(&kept.0);
        store.inner.journal.record_pin(&removed.0);
    }
    assert_eq!(pinned(&dir), HashSet::from([kept.0]));
    drop(store);
    drop(open(&dir));
    assert_eq!(pinned(&dir), HashSet::from([kept.0]));
    assert_eq!(fs::metadata(journal(&dir)).expect("a journal").len(), 3 * 32);
}
