//! Rebuilds with missing node blocks: the blocks below them are not lost.

use super::*;
use crate::content::{
    encoder::{DirEncoder, DirEntry, EntryKind, FileEncoder, Finished, Metadata},
    link::Link,
    seal::{Entry, Sealing},
};

/// A folder of one file of three blocks: the folder's root first, then the file's, then its data.
pub(super) fn folder() -> Vec<(Cid, Vec<u8>)> {
    folder_of(&[("file", 1)])
}

/// A folder of files of three blocks each: its root first, then for each file its root and its data.
fn folder_of(files: &[(&str, u32)]) -> Vec<(Cid, Vec<u8>)> {
    let mut dir = DirEncoder::new(Sealing::Public);
    let mut all = Vec::new();
    for (name, n) in files {
        let data = [0, 1, 2].map(|part| block(n * 10 + part, LONG));
        let mut file = FileEncoder::new(Sealing::Public);
        for (cid, bytes) in &data {
            let len = u32::try_from(bytes.len()).expect("short");
            let entry = Entry { cid: *cid, len, size: len, key: None, hash: *blake3::hash(bytes).as_bytes() };
            assert!(file.push(entry).expect("listed").is_empty());
        }
        let Finished { blocks, link, root_len, size } = file.finish(Metadata::default()).expect("finished");
        all.extend(blocks.into_iter().map(|block| (block.cid, block.bytes)));
        all.extend(data);
        let entry = DirEntry {
            name: (*name).into(),
            link: Link { cid: link.cid, key: None },
            root_len,
            kind: EntryKind::File,
            size,
            mtime: None,
            mode: None,
        };
        assert!(dir.push(entry).expect("listed").is_empty());
    }
    let root = dir.finish(Metadata::default()).expect("finished").blocks.pop().expect("a root");
    all.insert(0, (root.cid, root.bytes));
    all
}

/// Rebuilds the index of a store; with the old one, or after that was lost.
pub(super) fn rebuild(dir: &TempDir, store: Store, lost: bool) -> Store {
    let index = store.dir().join(INDEX);
    drop(store);
    if lost {
        fs::remove_file(index).expect("removed");
    }
    Store::rebuild(options(dir)).expect("rebuilt").0
}

pub(super) fn assert_whole(store: &Store, blocks: &[(Cid, Vec<u8>)]) {
    let verified = store.verify(Some(&blocks[0].0), &mut |_| true).expect("verified");
    assert_eq!((verified.checked, verified.bad.len(), verified.missing.len()), (blocks.len() as u64, 0, 0));
    assert_eq!(store.lacks(&blocks[0].0, 10).expect("looked"), []);
}

pub(super) fn removed(store: &Store) -> u64 {
    store.collect().expect("collected").blocks + store.purge().expect("purged").blocks
}

#[test]
fn blocks_below_a_damaged_node_block_stay_if_the_old_index_lists_them() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks) = (open(&dir), folder());
    store_all(&store, &blocks);
    flip(&file_of(&store, &blocks[1].0));
    let store = rebuild(&dir, store, false);
    assert_eq!(store.lacks(&blocks[0].0, 10).expect("looked"), [blocks[1].0]);
    assert_eq!((store.usage().blocks, store.usage().unreferenced, removed(&store)), (4, 0, 0));
    store.put_cached(&blocks[1].0, &blocks[1].1).expect("replaced");
    assert_whole(&store, &blocks);
    assert_eq!((store.usage().incomplete, removed(&store)), (0, 0));
    store.remove_root(&blocks[0].0).expect("removed");
    assert_eq!((removed(&store), store.usage()), (5, Usage { quarantined: 1, ..Usage::default() }));
}

#[test]
fn blocks_that_may_be_below_a_missing_node_block_stay_until_it_is_back() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks, unneeded) = (open(&dir), folder(), block(99, LONG));
    store_all(&store, &blocks);
    put(&store.upload(), &unneeded);
    flip(&file_of(&store, &blocks[1].0));
    fs::remove_file(file_of(&store, &blocks[4].0)).expect("removed");
    let mut store = rebuild(&dir, store, true);
    for _ in 0..2 {
        assert_eq!((store.usage().incomplete, store.usage().unreferenced, removed(&store)), (1, 3, 0));
        assert!(!store.drop_cached(&blocks[2].0).expect("asked"), "it may be needed");
        drop(store);
        store = open(&dir);
    }
    store.put_cached(&blocks[1].0, &blocks[1].1).expect("replaced");
    assert_eq!(store.lacks(&blocks[0].0, 10).expect("looked"), [blocks[4].0], "known by now");
    assert_eq!((store.usage().incomplete, removed(&store)), (0, 1), "the block that no file needs");
    assert!(!store.has(&unneeded.0).expect("asked"));
    store.put_cached(&blocks[4].0, &blocks[4].1).expect("replaced");
    assert_whole(&store, &blocks);
    assert_eq!(removed(&store), 0);
    store.remove_root(&blocks[0].0).expect("removed");
    assert_eq!((removed(&store), store.usage().bytes, store.usage().missing), (5, 0, 0));
}

#[test]
fn an_incomplete_folder_is_completed_when_its_node_block_comes_back() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks) = (open(&dir), folder_of(&[("a", 1), ("b", 2)]));
    store_all(&store, &blocks);
    flip(&file_of(&store, &blocks[1].0));
    flip(&file_of(&store, &blocks[5].0));
    let store = rebuild(&dir, store, true);
    assert_eq!((store.usage().incomplete, store.usage().unreferenced), (2, 6));
    // One of its files is stored by itself.
    store_all(&store, &blocks[1..5]);
    assert_eq!((store.usage().incomplete, store.usage().unreferenced, removed(&store)), (1, 3, 0));
    store.remove_root(&blocks[1].0).expect("removed");
    assert_eq!(removed(&store), 0, "the folder needs it, too");
    // The root of the other came with an upload that ended early, in a process that was killed before it completed the list.
    let digest = *blocks[5].0.digest();
    let len = u32::try_from(blocks[5].1.len()).expect("short");
    store.inner.disk.write(&digest, &blocks[5].1, disk::Durability::Synced).expect("written");
    let arrival = schema::Arrival { digest, codec: Codec::DagCbor, len, inline: None };
    store.inner.writer.run(move |tables| tables.arrive(&arrival, false, 1)).expect("listed");
    assert_eq!((store.usage().incomplete, removed(&store)), (1, 0));
    drop(store);
    let store = open(&dir);
    assert_eq!((store.usage().incomplete, store.usage().unreferenced, removed(&store)), (0, 0, 0));
    assert_whole(&store, &blocks);
}

#[test]
fn an_incomplete_folder_that_is_removed_holds_no_blocks() {
    let dir = TempDir::new().expect("a folder");
    let (store, blocks) = (open(&dir), folder());
    store_all(&store, &blocks);
    flip(&file_of(&store, &blocks[1].0));
    let store = rebuild(&dir, store, true);
    assert_eq!((store.usage().incomplete, removed(&store)), (1, 0));
    store.remove_root(&blocks[0].0).expect("removed");
    assert_eq!((store.usage().incomplete, removed(&store)), (0, 4));
    let usage = store.usage();
    assert_eq!((usage.blocks, usage.unreferenced, usage.missing), (0, 0, 0));
}
