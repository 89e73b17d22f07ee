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
        let epoch = journal::replay(store.dir()).0.epoch;
        assert_eq!(epoch, Some(store.inner.index.next_number().expect("read")));
    }
}

#[test]
fn a_rebuild_that_is_killed_before_its_end_leaves_the_old_index_valid() {
    let dir = TempDir::new().expect("a folder");
    store_all(&open(&dir), &[block(1, LONG), block(2, LONG)]);
    let (lock, disk) = Store::enter(&options(&dir), version::check).expect("entered");
    let new = Store::open_index(options(&dir), "index.redb.new", disk, lock).expect("opened");
    let numbered = new.inner.writer.run(|tables| {
        tables.totals.next_number = 100;
        Ok(())
    });
    numbered.and_then(|()| new.inner.journal.invalidate()).expect("written");
    drop(new);
    assert!(!open(&dir).is_index_behind());
}

#[test]
fn a_rebuild_that_is_killed_leaves_an_older_index_recognised() {
    let dir = TempDir::new().expect("a folder");
    let [a, b] = [1, 2].map(|n| block(n, LONG));
    set_back(&dir, &a, &b);
    fs::remove_file(dir.path().join("data/journal")).expect("removed");
    fs::remove_dir_all(dir.path().join("data/blocks/epoch")).expect("removed");
    let (lock, disk) = Store::enter(&options(&dir), version::check).expect("entered");
    let new = Store::open_index(options(&dir), "index.redb.new", disk, lock).expect("opened");
    let upload = new.listing();
    put(&upload, &b);
    upload.keep().expect("listed");
    drop((upload, new));
    assert!(open(&dir).is_index_behind());
}

/// Copies the small files of a data directory, as a backup of them does.
fn copy_small_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for item in fs::read_dir(from).expect("listed") {
        let path = item.expect("listed").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("named"))).expect("copied");
        }
    }
}

/// Copies a whole data directory over another.
fn copy_over(from: &Path, to: &Path) {
    copy_small_files(from, to);
    for item in fs::read_dir(from).expect("listed") {
        let path = item.expect("listed").path();
        if path.is_dir() {
            copy_over(&path, &to.join(path.file_name().expect("named")));
        }
    }
}

type Loss = fn(journal: &Path, backup: &Path);

#[test]
fn an_older_index_is_recognised_and_removes_nothing_whatever_became_of_journal_and_mark() {
    let losses: [(&str, Loss); 7] = [
        ("newer", |_, _| {}),
        ("older, too", |journal, backup| {
            assert!(fs::copy(backup.join("journal"), journal).expect("copied") > 0);
        }),
        ("gone", |journal, _| fs::remove_file(journal).expect("removed")),
        ("empty", |journal, _| fs::write(journal, b"").expect("emptied")),
        ("garbage", |journal, _| fs::write(journal, [0x5a; 1000]).expect("overwritten")),
        ("NUL bytes", |journal, _| fs::write(journal, [0; 320]).expect("overwritten")),
        ("a folder", |journal, _| {
            fs::remove_file(journal).and_then(|()| fs::create_dir(journal)).expect("made");
        }),
    ];
    // The mark among the blocks is there, or the whole backup was copied over it, or it is lost as well: a program that copies
    // no empty folders has made the backup, say.
    for (mark, (name, lose)) in
        ["kept", "copied over", "lost"].into_iter().flat_map(|mark| losses.map(|loss| (mark, loss)))
    {
        let state = format!("journal {name}, mark {mark}");
        let (dir, backup) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let data = dir.path().join("data");
        let [a, b, c] = [1, 2, 3].map(|n| block(n, LONG));
        // `c` is stored and not needed: the older index calls it unreferenced.
        store_all(&open(&dir), &[a.clone(), c.clone()]);
        open(&dir).remove_root(&a.0).expect("removed");
        store_all(&open(&dir), std::slice::from_ref(&a));
        copy_over(&data, backup.path());
        store_all(&open(&dir), &[b.clone(), c.clone()]);
        match mark {
            "copied over" => {
                let journal = fs::read(data.join("journal")).expect("read");
                copy_over(backup.path(), &data);
                fs::write(data.join("journal"), journal).expect("written");
            }
            "lost" => fs::remove_dir_all(data.join("blocks/epoch")).expect("removed"),
            _ => {}
        }
        fs::copy(backup.path().join("index.redb"), data.join("index.redb")).expect("copied");
        lose(&data.join("journal"), backup.path());
        assert!(matches!(Store::inspect(&data), Err(StoreError::IndexBehind)), "{state}");
        for again in [false, true] {
            let store = open(&dir);
            assert!(store.is_index_behind(), "{state}, again: {again}");
            for refused in [Store::collect, Store::sweep, Store::purge] {
                assert!(matches!(refused(&store), Err(StoreError::IndexBehind)), "{state}");
            }
            assert_here(&store, &[a.clone(), c.clone()]);
            assert!(file_of(&store, &b.0).exists(), "{state}");
            // It reaches the epoch of the lost index, and still does not know the newer blocks.
            store_all(&store, &[block(4 + u32::from(again), LONG)]);
        }
        let (store, _) = Store::rebuild(options(&dir)).expect("rebuilt");
        assert!(!store.is_index_behind(), "{state}");
        let blocks = [a, b, c];
        assert_here(&store, &blocks);
        drop(store);
        let store = open(&dir);
        assert!(!store.is_index_behind(), "{state}");
        if name == "newer" {
            // The journal names all roots. `c` belonged to a list that is lost.
            store.purge().expect("purged");
            assert_here(&store, &blocks[..2]);
        }
        drop(store);
        assert_eq!(Store::inspect(&data).expect("sound"), None, "{state}");
    }
}

#[test]
fn a_lost_or_damaged_journal_beside_the_newest_index_is_made_again_and_named_once() {
    let losses: [fn(&Path); 5] = [
        |journal| fs::remove_file(journal).expect("removed"),
        |journal| fs::write(journal, b"").expect("emptied"),
        |journal| fs::write(journal, [0; 320]).expect("overwritten"),
        |journal| flip(journal),
        |journal| fs::remove_file(journal).and_then(|()| fs::create_dir(journal)).expect("a folder"),
    ];
    for (n, lose) in losses.into_iter().enumerate() {
        let dir = TempDir::new().expect("a folder");
        let journal = dir.path().join("data/journal");
        let (a, b) = (block(1, LONG), block(2, LONG));
        store_all(&open(&dir), std::slice::from_ref(&a));
        let before = fs::read(&journal).expect("read");
        lose(&journal);
        assert!(Store::inspect(&dir.path().join("data")).expect("usable").is_some(), "{n}");
        let store = open(&dir);
        assert!(store.journal_damage().is_some() && !store.is_index_behind(), "{n}");
        store_all(&store, std::slice::from_ref(&b));
        store.purge().expect("purged");
        assert_here(&store, &[a.clone(), b]);
        drop(store);
        assert_eq!(open(&dir).journal_damage(), None, "{n}");
        let (recorded, _) = journal::replay(&dir.path().join("data"));
        assert_eq!(
            (recorded.pinned.len(), recorded.epoch),
            (2, Some(2)),
            "{n}: {} bytes before",
            before.len()
        );
    }
}

#[test]
fn a_new_directory_is_neither_damaged_nor_older() {
    let dir = TempDir::new().expect("a folder");
    assert_eq!(Store::inspect(&dir.path().join("data")).expect("not there"), None);
    let store = open(&dir);
    assert_eq!((store.is_index_behind(), store.journal_damage()), (false, None));
    drop(store);
    assert_eq!(Store::inspect(&dir.path().join("data")).expect("sound"), None);
    // Not even if it is killed while it is made.
    let is_marked =
        || fs::read_dir(dir.path().join("data/blocks/epoch")).is_ok_and(|marks| marks.count() == 1);
    assert!(is_marked());
    fs::remove_dir_all(dir.path().join("data/blocks/epoch")).expect("removed");
    fs::remove_file(dir.path().join("data/journal")).expect("removed");
    let store = open(&dir);
    assert_eq!((store.is_index_behind(), store.journal_damage(), is_marked()), (false, None, true));
}

#[test]
fn a_rebuild_without_an_index_does_not_bring_back_removed_files() {
    for killed in [false, true] {
        let dir = TempDir::new().expect("a folder");
        let [kept, removed, stored_again] = [1, 2, 3].map(|n| block(n, LONG));
        let store = open(&dir);
        for file in [&kept, &removed, &stored_again] {
            store_all(&store, std::slice::from_ref(file));
        }
        store.remove_root(&removed.0).expect("removed");
        store.remove_root(&stored_again.0).expect("removed");
        store_all(&store, std::slice::from_ref(&stored_again));
        let copy = if killed { Some(orphans::as_killed(&dir)) } else { None };
        drop(store);
        let dir = copy.unwrap_or(dir);
        fs::remove_file(dir.path().join("data/index.redb")).expect("removed");
        let (store, found) = Store::rebuild(options(&dir)).expect("rebuilt");
        assert_eq!((found.roots, found.blocks), (2, 3), "killed: {killed}");
        store.purge().expect("purged");
        assert_here(&store, &[kept, stored_again]);
        assert!(!store.has(&removed.0).expect("asked"));
    }
}
