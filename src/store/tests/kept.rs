//! The record of files that are kept, and what it is worth when the index is lost.

use super::{
    incomplete::{assert_whole, flip, folder, rebuild, removed},
    unfinished::as_killed,
    *,
};
use crate::store::kept::on_record;

fn roots(store: &Store) -> Vec<Cid> {
    store.roots(None, 100).expect("listed").into_iter().map(|record| record.cid).collect()
}

fn text(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("data/roots")).expect("a record")
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
fn a_file_without_a_root_that_can_be_read_is_listed_and_loses_nothing() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks) = (open(&dir), folder());
    store_all(&store, &blocks[1..]);
    flip(&store, &blocks[1].0);
    let store = rebuild(&dir, store, true);
    assert_eq!(store.lacks(&blocks[1].0, 10).expect("looked"), [blocks[1].0]);
    assert_eq!((store.usage().incomplete, removed(&store)), (1, 0));
    store.put_cached(&blocks[1].0, &blocks[1].1).expect("mended");
    assert_whole(&store, &blocks[1..]);
    assert_eq!((store.usage().incomplete, removed(&store)), (0, 0));
}

#[test]
fn a_file_stored_since_an_older_index_is_kept_although_that_knew_its_link() {
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
fn the_record_says_what_is_kept_whatever_came_between() {
    let dir = TempDir::new().expect("a folder");
    let [a, b, c, d] = [1, 2, 3, 4].map(|n| block(n, LONG));
    let is = |dir: &TempDir, expected: &[&Cid]| {
        assert_eq!(on_record(&dir.path().join("data")), expected.iter().map(|cid| **cid).collect());
    };
    let store = open(&dir);
    store_all(&store, std::slice::from_ref(&a));
    store_all(&store, std::slice::from_ref(&b));
    store.add_root(record(&d.0)).expect("known");
    store.remove_root(&a.0).expect("removed");
    is(&dir, &[&b.0]);
    // Killed between a change and its line, or with a part of a line.
    for tail in ["", "+bafy", "\u{fffd}\n"] {
        let killed = as_killed(&dir);
        let path = killed.path().join("data/roots");
        let lines = text(&killed);
        let (before, _) = lines.split_once(&format!("+{}", b.0)).expect("stored after the other");
        fs::write(&path, format!("{before}{tail}")).expect("written");
        is(&killed, &[&a.0]);
        let store = open(&killed);
        is(&killed, &[&b.0]);
        store_all(&store, std::slice::from_ref(&c));
        is(&killed, &[&b.0, &c.0]);
    }
    assert!(text(&dir).starts_with(".\n\n"), "a power cut that takes the rest does not leave it closed");
    drop(store);
    is(&dir, &[&b.0]);
    assert!(text(&dir).ends_with(".\n"), "closed in order");
    // One of an earlier version has none.
    fs::remove_file(dir.path().join("data/roots")).expect("removed");
    drop(open(&dir));
    is(&dir, &[&b.0]);
    let store = open(&dir);
    for _ in 0..2100 {
        store.note_kept(&b.0);
        store.note_kept(&a.0);
    }
    is(&dir, &[&b.0]);
    drop(store);
    drop(open(&dir));
    is(&dir, &[&b.0]);
    assert_eq!(text(&dir).lines().count(), 2, "it does not grow with what has come and gone");
}
