//! Damage to block files: no wrong byte is read, and a new copy repairs it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use storgo::store::{Layout, Store, StoreError, StoreOptions};
use tempfile::TempDir;

use crate::store_sample::{assert_readable, file, store};

const FILES: u64 = 8;

type Damage = fn(&Path, &mut StdRng);

const DAMAGES: [(&str, Damage); 8] = [
    ("one bit flipped", |path, rng| {
        let mut bytes = fs::read(path).expect("read");
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        fs::write(path, bytes).expect("written");
    }),
    ("cut short", |path, rng| {
        let len = rng.random_range(1..fs::metadata(path).expect("there").len());
        fs::File::options().write(true).open(path).and_then(|file| file.set_len(len)).expect("cut");
    }),
    ("emptied", |path, _| fs::write(path, []).expect("emptied")),
    ("removed", |path, _| fs::remove_file(path).expect("removed")),
    ("longer than it was", |path, rng| {
        let bytes = [fs::read(path).expect("read"), vec![0; rng.random_range(1..100_000)]].concat();
        fs::write(path, bytes).expect("written");
    }),
    ("zeros", |path, _| {
        let zeros = vec![0; fs::read(path).expect("read").len()];
        fs::write(path, zeros).expect("written");
    }),
    ("the bytes of another", |path, _| {
        let other = fs::read_dir(path.parent().expect("in a folder")).expect("listed");
        let mut others = other.map(|item| item.expect("listed").path()).filter(|other| other != path);
        let bytes = others.find_map(|other| fs::read(other).ok()).unwrap_or_else(|| vec![7; 40_000]);
        fs::write(path, bytes).expect("written");
    }),
    ("a folder", |path, _| {
        fs::remove_file(path).and_then(|()| fs::create_dir(path)).expect("replaced");
    }),
];

fn block_files(below: &Path, into: &mut Vec<PathBuf>) {
    for item in fs::read_dir(below).expect("listed") {
        let path = item.expect("listed").path();
        if path.is_dir() {
            block_files(&path, into);
        } else {
            into.push(path);
        }
    }
    into.sort();
}

#[test]
fn no_damaged_block_file_is_ever_read_as_its_bytes() {
    let mut rng = StdRng::seed_from_u64(7);
    for (layout, restart) in [(Layout::Sharded, false), (Layout::Flat, true), (Layout::Segments, false)] {
        let dir = TempDir::new().expect("a folder");
        let options =
            || StoreOptions { layout, grace: Duration::ZERO, ..StoreOptions::new(dir.path().join("data")) };
        let open = Store::open(options()).expect("opens");
        for n in 0..FILES {
            store(&open, &file(n)).expect("stored");
        }
        let mut files = Vec::new();
        block_files(&dir.path().join("data/blocks"), &mut files);
        assert!(files.len() as u64 > 2 * FILES, "{}", files.len());
        let open = (!restart).then_some(open);
        for (n, path) in files.iter().enumerate() {
            // Two of three: a damaged block harms no other.
            if n % 3 != 2 {
                DAMAGES[n % DAMAGES.len()].1(path, &mut rng);
            }
        }
        let open = open.unwrap_or_else(|| Store::open(options()).expect("opens on damaged blocks"));
        let damaged = files.len() - files.len() / 3;
        let mut lost = std::collections::BTreeSet::new();
        for (cid, bytes) in (0..FILES).flat_map(file) {
            match open.get(&cid) {
                Ok(Some(read)) => assert!(read == bytes, "{cid}: wrong bytes"),
                Ok(None) => drop(lost.insert(cid)),
                Err(StoreError::Corrupt { cid: named }) if named == cid => drop(lost.insert(cid)),
                Err(error) => panic!("{cid}: {error:?}"),
            }
        }
        assert_eq!(lost.len(), damaged, "{:?}", DAMAGES.map(|(name, _)| name));
        for cid in &lost {
            assert!(matches!(open.get(cid), Ok(None)), "damage is reported once, then the block is missing");
        }
        let verified = open.verify(None, &mut |_| true).expect("verified");
        assert_eq!((verified.bad.len(), verified.missing.len()), (0, damaged));
        // Storing the files again repairs them.
        for n in 0..FILES {
            store(&open, &file(n)).expect("stored again");
            assert_readable(&open, &file(n));
        }
        let verified = open.verify(None, &mut |_| true).expect("verified");
        assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
    }
}
