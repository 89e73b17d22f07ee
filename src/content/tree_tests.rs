//! Encoder and decoder together.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::content::{
    cid::{Cid, Codec},
    decoder::{Root, Step, Tree, open_root},
    secret::{ConvergenceSecret, Key},
};

fn sealing() -> Sealing {
    Sealing::Secret(ConvergenceSecret::new(Key::new([5; 32])))
}

fn entry(n: u32, size: u32) -> Entry {
    let cid = Cid::of(Codec::Raw, &n.to_be_bytes());
    Entry { cid, len: size, size, key: Some(Key::new([1; 32])), hash: [2; 32] }
}

/// Entries of these sizes. The last one is padded.
fn entries(sizes: &[u32]) -> Vec<Entry> {
    let mut all: Vec<Entry> = sizes.iter().zip(0..).map(|(size, n)| entry(n, *size)).collect();
    if let Some(last) = all.last_mut() {
        last.len = last.padded_len(true);
    }
    all
}

fn name(name: &str) -> DirEntry {
    let link = Link { cid: Cid::of(Codec::DagCbor, name.as_bytes()), key: Some(Key::new([3; 32])) };
    DirEntry {
        name: name.into(),
        link,
        root_len: 9,
        kind: EntryKind::File,
        size: 4,
        mtime: None,
        mode: Some(0o644),
    }
}

/// Encodes with small nodes, so that trees are deep.
fn encode<I: ListItem>(items: &[I], limit: usize) -> (HashMap<Cid, Vec<u8>>, Finished) {
    let mut encoder = Encoder::with_limit(sealing(), limit);
    let mut blocks = Vec::new();
    for item in items {
        blocks.extend(encoder.push(item.clone()).expect("pushed"));
    }
    let finished = encoder.finish(Metadata::default()).expect("finished");
    blocks.extend(finished.blocks.clone());
    (blocks.into_iter().map(|block| (block.cid, block.bytes)).collect(), finished)
}

/// Returns the remaining items of a tree, and how many list nodes it needed.
fn walk<I: ListItem>(
    mut tree: Tree<I>,
    blocks: &HashMap<Cid, Vec<u8>>,
) -> Result<(Vec<(u64, I)>, usize), ContentError> {
    let (mut found, mut fed) = (Vec::new(), 0);
    loop {
        match tree.step()? {
            Step::Item(placed) => found.push((placed.offset, placed.item)),
            Step::Need { cid, len } => {
                let block = &blocks[&cid];
                assert_eq!(block.len(), len as usize);
                tree.feed(block)?;
                fed += 1;
            }
            Step::End => return Ok((found, fed)),
        }
    }
}

fn file(link: &Link, block: &[u8]) -> Tree<Entry> {
    match open_root(link, block).expect("opens") {
        Root::File(tree) => tree,
        Root::Dir(_) => panic!("a file was encoded"),
    }
}

proptest! {
    #[test]
    fn a_file_of_any_depth_is_read_from_any_offset(
        lens in proptest::collection::vec(1_u32..1000, 0..200),
        limit in 300_usize..3000,
        seek: prop::sample::Index,
    ) {
        let items = entries(&lens);
        let (blocks, finished) = encode(&items, limit);
        let total: u64 = lens.iter().map(|len| u64::from(*len)).sum();
        prop_assert_eq!(finished.size, total);
        let root = &blocks[&finished.link.cid];
        let (all, _) = walk(file(&finished.link, root), &blocks).expect("walked");
        prop_assert_eq!(all.iter().map(|(_, item)| item.clone()).collect::<Vec<_>>(), items);
        if total > 0 {
            let at = seek.index(usize::try_from(total).expect("small")) as u64;
            let mut tree = file(&finished.link, root);
            tree.seek(at);
            let (rest, fed) = walk(tree, &blocks).expect("walked");
            let (offset, first) = rest.first().expect("an item");
            prop_assert!(*offset <= at && at < offset + u64::from(first.size));
            prop_assert!(fed < blocks.len());
        }
    }

    #[test]
    fn a_flipped_bit_in_any_block_is_an_error(
        lens in proptest::collection::vec(1_u32..1000, 1..60),
        pick: prop::sample::Index,
        at: prop::sample::Index,
        bit in 0_u32..8,
    ) {
        let items = entries(&lens);
        let (mut blocks, finished) = encode(&items, 700);
        let mut cids: Vec<Cid> = blocks.keys().copied().collect();
        cids.sort();
        let bytes = blocks.get_mut(pick.get(&cids)).expect("a block");
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let walked = match open_root(&finished.link, &blocks[&finished.link.cid]) {
            Ok(Root::File(tree)) => walk(tree, &blocks),
            Ok(Root::Dir(_)) => Err(ContentError::Malformed("now a folder")),
            Err(error) => Err(error),
        };
        prop_assert!(walked.is_err());
    }
}

#[test]
fn a_folder_round_trips_and_its_names_are_checked() {
    let items: Vec<DirEntry> = (0..300).map(|n| name(&format!("name {n:04} ü"))).collect();
    let (blocks, finished) = encode(&items, 2000);
    let Root::Dir(tree) = open_root(&finished.link, &blocks[&finished.link.cid]).expect("opens") else {
        panic!("a folder was encoded")
    };
    assert_eq!(tree.items(), 300);
    let (found, whole) = walk(tree, &blocks).expect("walked");
    assert_eq!(found.into_iter().map(|(_, item)| item).collect::<Vec<_>>(), items);
    for skip in [1, 7, 150, 299, 300, 1000] {
        let Root::Dir(mut tree) = open_root(&finished.link, &blocks[&finished.link.cid]).expect("opens")
        else {
            panic!("a folder was encoded")
        };
        tree.skip_items(skip as u64);
        let (found, fed) = walk(tree, &blocks).expect("walked");
        let rest = found.into_iter().map(|(_, item)| item).collect::<Vec<_>>();
        assert_eq!(rest, items[skip.min(300)..], "{skip}");
        assert!(skip < 150 || fed < whole, "skipped list nodes are not read: {fed} of {whole}");
    }

    for bad in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        assert_eq!(
            DirEncoder::new(sealing()).push(name(bad)),
            Err(ContentError::BadName(bad.chars().take(255).collect()))
        );
    }
    let mut encoder = DirEncoder::new(sealing());
    encoder.push(name("b")).expect("first");
    assert_eq!(encoder.push(name("b")), Err(ContentError::Unordered("b".into())));
    assert_eq!(encoder.push(name("a")), Err(ContentError::Unordered("a".into())));
}

#[test]
fn only_the_last_chunk_is_padded_and_always() {
    let walked = |change: fn(&mut [Entry])| {
        let mut items = entries(&[1000, 1001]);
        change(&mut items);
        let (blocks, finished) = encode(&items, 3000);
        walk(file(&finished.link, &blocks[&finished.link.cid]), &blocks).map(|(found, _)| found.len())
    };
    assert_eq!(walked(|_| {}), Ok(2));
    let refused = Err(ContentError::Malformed("a chunk has a wrong padding"));
    assert_eq!(walked(|items| items[0].len = 1024), refused);
    assert_eq!(walked(|items| items[1].len = 1001), refused);
    assert_eq!(walked(|items| items[1].len = 1088), refused);
    assert_eq!(walked(|items| items[1].size = 1025), refused);
}

#[test]
fn full_nodes_are_just_below_one_mebibyte() {
    let mut encoder = FileEncoder::new(sealing());
    let mut longest = 0;
    for n in 0..20_000 {
        for block in encoder.push(entry(n, 1 << 20)).expect("pushed") {
            longest = longest.max(block.bytes.len());
        }
    }
    assert!((MAX_NODE_LEN * 9 / 10..=MAX_NODE_LEN).contains(&longest), "{longest}");
}
