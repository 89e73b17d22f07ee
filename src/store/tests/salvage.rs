//! A rebuild from an index with damaged pages.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// Long enough that a page holds few of them.
fn name(n: u32) -> String {
    format!("{n:04} {}", "n".repeat(300))
}

/// Overwrites all pages of an index that contain these bytes; returns how many.
fn damage(index: &Path, marker: &[u8]) -> usize {
    let mut bytes = fs::read(index).expect("read");
    let pages = bytes.chunks_mut(4096).filter(|page| page.windows(marker.len()).any(|part| part == marker));
    let damaged = pages.map(|page| page.fill(0xff)).count();
    fs::write(index, bytes).expect("damaged");
    damaged
}

#[test]
fn a_damaged_page_costs_a_rebuild_only_the_rows_on_that_page() {
    let (dir, store) = opened();
    let index = dir.path().join("data/index.redb");
    let files: Vec<_> = (0..200).map(|n| block(n, 1000)).collect();
    let upload = store.upload();
    for (n, file) in (0..).zip(&files) {
        put(&upload, file);
        let root = RootRecord { name: Some(name(n)), ..record(&file.0) };
        upload.commit(root).expect("committed");
    }
    drop(upload);
    store.set_meta("peers", b"some peers").expect("set");
    drop(store);
    // A page of names, and one of short blocks.
    assert!(damage(&index, name(123).as_bytes()) > 0 && damage(&index, &files[171].1[..100]) > 0);
    assert!(matches!(Store::open(options(&dir)), Err(StoreError::IndexCorrupt(_))));
    let (store, found) = Store::rebuild(options(&dir)).expect("rebuilt");
    let has_name = |n: &u32| {
        let root = store.root(&files[*n as usize].0).expect("read");
        root.expect("the journal names all").name == Some(name(*n))
    };
    let named = (0..200).filter(has_name).count();
    let here =
        files.iter().filter(|(cid, bytes)| store.get(cid).expect("read").as_ref() == Some(bytes)).count();
    assert!((180..200).contains(&named) && (190..200).contains(&here), "{named} names, {here} blocks");
    assert_eq!((found.roots, found.known), (200, named as u64));
    assert_eq!(store.meta("peers").expect("read").as_deref(), Some(&b"some peers"[..]));
    assert_eq!(store.usage().missing, 200 - here as u64);
}

#[test]
fn an_index_that_has_lost_its_totals_keeps_all_names() {
    let (dir, store) = opened();
    let file = block(1, LONG);
    store_all(&store, std::slice::from_ref(&file));
    drop(store);
    assert!(damage(&dir.path().join("data/index.redb"), b"totals") > 0);
    let (store, _) = Store::rebuild(options(&dir)).expect("rebuilt");
    assert_eq!(store.root(&file.0).expect("read"), Some(record(&file.0)));
}

#[test]
fn no_random_damage_makes_anything_panic_or_loses_a_file() {
    let (dir, store) = opened();
    let files: Vec<_> = (0..40).map(|n| block(n, if n % 4 == 0 { LONG } else { 1000 })).collect();
    for file in &files {
        store_all(&store, std::slice::from_ref(file));
    }
    drop(store);
    let (data, index) = (dir.path().join("data"), dir.path().join("data/index.redb"));
    let whole = fs::read(&index).expect("read");
    for round in 0..24 {
        let mut rng = StdRng::seed_from_u64(round);
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..20) {
            let at = rng.random_range(0..bytes.len());
            let end = (at + rng.random_range(1..200)).min(bytes.len());
            rng.fill(&mut bytes[at..end]);
        }
        fs::write(&index, bytes).expect("damaged");
        drop(Store::peek_meta(&data, "peer"));
        let is_sound = Store::inspect(&data).is_ok();
        assert!(Store::open(options(&dir)).is_ok() || !is_sound, "{round}");
        let (store, found) = Store::rebuild(options(&dir)).expect("rebuilt");
        assert_eq!(found.roots, 40, "{round}");
        for (cid, bytes) in files.iter().step_by(4) {
            assert!(store.get(cid).expect("read").as_ref() == Some(bytes), "{round}");
        }
        drop(store);
        fs::remove_file(data.join("index.redb.old")).expect("removed");
    }
}
