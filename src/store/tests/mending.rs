//! Damage that is found while files are stored, and uploads that end early.

use super::*;

#[test]
fn storing_a_file_again_replaces_its_damaged_blocks() {
    let as_folder: fn(&Path) =
        |path| fs::remove_file(path).and_then(|()| fs::create_dir(path)).expect("a folder");
    for damage in DAMAGES.into_iter().chain([as_folder]) {
        let (_dir, store) = opened();
        let blocks = [block(1, LONG), block(2, LONG)];
        store_all(&store, &blocks);
        damage(&file_of(&store, &blocks[1].0));
        assert_eq!(store_all(&store, &blocks), [Put::Known, Put::New]);
        assert!(store.get(&blocks[1].0).expect("read").as_ref() == Some(&blocks[1].1));
        assert_eq!((store.usage().blocks, store.usage().roots), (2, 1));
        let verified = store.verify(None, &mut |_| true).expect("verified");
        assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
    }
}

#[test]
fn a_damaged_block_of_a_running_upload_is_not_quarantined() {
    let (_dir, store) = opened();
    let (cid, bytes) = block(1, LONG);
    store_all(&store, &[(cid, bytes.clone())]);
    let upload = store.upload();
    assert_eq!(upload.put(&cid, &bytes, PutMode::Sealed).expect("put"), Put::Known);
    flip(&file_of(&store, &cid));
    assert!(matches!(store.get(&cid), Err(StoreError::Corrupt { .. })));
    assert!(store.has(&cid).expect("asked") && file_of(&store, &cid).exists());
    store_all(&store, &[(cid, bytes.clone())]);
    assert!(store.get(&cid).expect("read").as_ref() == Some(&bytes));
    flip(&file_of(&store, &cid));
    drop(upload);
    assert!(matches!(store.get(&cid), Err(StoreError::Corrupt { .. })));
    assert!(!store.has(&cid).expect("asked"), "no upload had it pinned");
}

#[test]
fn a_block_that_was_replaced_since_it_was_read_is_not_quarantined() {
    let (_dir, store) = opened();
    let (cid, bytes) = block(1, LONG);
    store_all(&store, &[(cid, bytes.clone())]);
    assert!(store.give_up(&cid).expect("looked at again").as_ref() == Some(&bytes));
    assert!(store.get(&cid).expect("read") == Some(bytes));
    assert_eq!(store.usage().quarantined, 0);
}

#[test]
fn blocks_of_an_upload_that_ended_early_are_listed_only_once_their_folders_are_synced() {
    let (_dir, store) = opened();
    let (cid, bytes) = block(1, LONG);
    for fails in [true, false] {
        let upload = store.upload();
        upload.put(&cid, &bytes, PutMode::Sealed).expect("put");
        if fails {
            store.inner.disk.faults.plan("folder", 0);
        }
        drop(upload);
        assert_eq!(store.has(&cid).expect("asked"), !fails);
    }
}

#[test]
fn storing_a_root_again_completes_its_list_of_blocks() {
    let (_dir, store) = opened();
    let (root, lost, more) = (block(1, LONG), block(2, LONG), block(3, 100));
    store_all(&store, std::slice::from_ref(&root));
    store_all(&store, &[root.clone(), lost.clone(), more.clone()]);
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert_eq!(store.usage().unreferenced, 0);
    for (cid, bytes) in [&root, &lost, &more] {
        assert!(store.get(cid).expect("read").as_ref() == Some(bytes));
    }
    // A shorter list removes no block.
    store_all(&store, std::slice::from_ref(&root));
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert_eq!(store.verify(Some(&root.0), &mut |_| true).expect("verified").checked, 3);
    store.remove_root(&root.0).expect("removed");
    assert_eq!(store.collect().expect("collected").blocks, 3);
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn the_short_end_of_a_long_file_is_a_file() {
    let (dir, store) = opened();
    let (root, end) = (block(1, LONG), block(2, 100));
    for expected in [Put::New, Put::Known] {
        let upload = store.upload();
        put(&upload, &root);
        assert_eq!(upload.put_last(&end.0, &end.1, PutMode::Sealed).expect("put"), expected);
        upload.commit(record(&root.0)).expect("committed");
    }
    drop(store);
    fs::remove_file(dir.path().join("data/index.redb")).expect("removed");
    let (store, found) = Store::rebuild(options(&dir)).expect("rebuilt");
    assert_eq!(found.blocks, 2);
    assert!(store.get(&end.0).expect("read") == Some(end.1));
}

#[test]
fn a_file_whose_key_was_lost_gets_it_back_and_stays_kept() {
    let (_dir, store) = opened();
    let blocks = [block(1, LONG), block(2, LONG)];
    store_all(&store, &blocks);
    let key = Some(crate::content::secret::Key::new([7; 32]));
    let opened =
        RootRecord { key: key.clone(), pinned: false, blocks: 0, created: 9, ..record(&blocks[0].0) };
    store.add_root(opened.clone()).expect("learned");
    let known = store.root(&blocks[0].0).expect("asked").expect("listed");
    assert_eq!(known, RootRecord { key, ..record(&blocks[0].0) });
    store.add_root(RootRecord { name: None, ..opened }).expect("nothing to learn");
    assert_eq!(store.root(&blocks[0].0).expect("asked"), Some(known));
    assert_eq!(store.collect().expect("collected").blocks, 0);
    assert_eq!(store.verify(Some(&blocks[0].0), &mut |_| true).expect("verified").checked, 2);
}

#[test]
fn a_file_that_is_stored_while_its_link_is_opened_stays_kept() {
    let (_dir, store) = opened();
    let blocks = [block(1, LONG), block(2, LONG)];
    // Its link was opened twice: neither call found it pinned.
    let opened = RootRecord { pinned: false, blocks: 0, name: None, ..record(&blocks[0].0) };
    store.add_root(opened.clone()).expect("learned");
    assert_eq!(store.root(&blocks[0].0).expect("asked").as_ref(), Some(&opened));
    store_all(&store, &blocks);
    store.inner.writer.run(move |tables| tables.learn_root(&opened, 1)).expect("nothing to learn");
    assert_eq!(store.root(&blocks[0].0).expect("asked"), Some(record(&blocks[0].0)));
    store.remove_root(&blocks[0].0).expect("removed");
    assert_eq!(store.collect().expect("collected").blocks, 2);
}

#[test]
fn a_missing_block_is_counted_once_however_often_it_is_read() {
    let (_dir, store) = opened();
    let blocks: Vec<_> = (0..4).map(|n| block(n, LONG)).collect();
    store_all(&store, &blocks);
    for (cid, _) in blocks[1..].iter().chain(&blocks[1..]) {
        drop(fs::remove_file(file_of(&store, cid)));
        assert!(store.get(cid).expect("looked for").is_none());
    }
    settle(&store);
    assert_eq!(store.usage().missing, 3);
    store_all(&store, &blocks[..2]);
    assert_eq!(store.usage().missing, 2);
}
