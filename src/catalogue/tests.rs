//! Listings of many files in a store on disk.

use super::*;
use crate::{
    content::cid::Codec,
    store::{RootKind, StoreOptions},
};

const FILES: u64 = 100_000;

fn file(number: u64, name: Option<String>) -> RootRecord {
    RootRecord {
        cid: Cid::of(Codec::DagCbor, &number.to_le_bytes()),
        key: None,
        kind: RootKind::File,
        name,
        size: 1,
        blocks: 1,
        stored_len: 1,
        media_type: None,
        created: i64::try_from(number).expect("small"),
        pinned: false,
        owner: Vec::new(),
        public: false,
    }
}

fn open(dir: &tempfile::TempDir) -> Store {
    let options = StoreOptions { observers: observers(), ..StoreOptions::new(dir.path()) };
    Store::open(options).expect("opened")
}

#[test]
fn a_page_of_a_hundred_thousand_files_reads_one_page_of_records() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let store = open(&dir);
    let scattered = |number: u64| {
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let name = format!("File {:05}.{}", scattered % FILES, number % 7);
        let created = i64::try_from(scattered >> 20).expect("small");
        let size = scattered % 1000;
        RootRecord { size, created, ..file(number, (!number.is_multiple_of(10)).then_some(name)) }
    };
    let mut files: Vec<RootRecord> = (0..FILES).map(scattered).collect();
    store.add_roots(files.clone());
    // A file that is listed again under another name keeps one position.
    files[7].name = Some("renamed".into());
    store.add_roots(vec![files[7].clone()]);
    store.remove_root(&files[8].cid).expect("removed");
    files.remove(8);
    let catalogue = Catalogue::new(&store);
    for sort in [Sort::Cid, Sort::Name, Sort::Size, Sort::Created] {
        files.sort_by_key(|file| SortKey::of(file, sort));
        for descending in [false, true] {
            let mut query = Query { limit: 100, sort, descending, ..Query::default() };
            let in_order = |at: usize| &files[if descending { files.len() - 1 - at } else { at }];
            for first in [0, 100, 200] {
                let before = store.records_read();
                let page = catalogue.page(&query).expect("a page");
                assert_eq!(store.records_read() - before, 101, "{sort:?}");
                assert_eq!((page.total, page.records.len()), (FILES - 1, 100));
                for (at, found) in page.records.iter().enumerate() {
                    assert_eq!(found.cid, in_order(first + at).cid, "{sort:?} {descending} {at}");
                }
                query.after = page.next;
            }
            query.after = Some(SortKey::of(in_order(50_000), sort));
            let page = catalogue.page(&query).expect("a page");
            assert_eq!(page.records[0].cid, in_order(50_001).cid, "{sort:?} {descending}");
            // A search reads each matching record twice at most.
            (query.name, query.after) = ("012".into(), None);
            let matches = |file: &&RootRecord| file.name.as_deref().unwrap_or_default().contains("012");
            let mut wanted: Vec<_> = files.iter().filter(matches).map(|file| file.cid).collect();
            let matching = wanted.len() as u64;
            let before = store.records_read();
            let page = catalogue.page(&query).expect("a page");
            assert!(matching > 20 && page.total == matching, "{matching}");
            assert!(store.records_read() - before <= 2 * matching);
            if descending {
                wanted.reverse();
            }
            wanted.truncate(100);
            assert_eq!(page.records.iter().map(|file| file.cid).collect::<Vec<_>>(), wanted);
        }
    }
}

#[test]
fn a_name_is_found_by_its_exact_spelling_without_reading_other_records() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let store = open(&dir);
    let spelt = |number: u64| match number % 10 {
        0 => "Same Name".into(),
        1 => "same name".into(),
        _ => format!("another {number}"),
    };
    store.add_roots((0..5_000).map(|number| file(number, Some(spelt(number)))).collect());
    let catalogue = Catalogue::new(&store);
    let before = store.records_read();
    let named = catalogue.named("Same Name").expect("found");
    let created: Vec<i64> = named.iter().map(|record| record.created).collect();
    assert_eq!(created, (0..500).rev().map(|tens| tens * 10).collect::<Vec<i64>>());
    assert_eq!(store.records_read() - before, 1_000, "the records of both spellings");
    for unknown in ["SAME NAME", "same nam", "same namf", ""] {
        assert!(catalogue.named(unknown).expect("looked up").is_empty(), "{unknown}");
    }
    assert_eq!(catalogue.named("another 4999").expect("found").len(), 1);
}

#[test]
fn numbers_in_names_are_ordered_by_their_value() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let store = open(&dir);
    let ordered = [
        "",
        "a.txt",
        "IMG 0.jpg",
        "img 001.jpg",
        "img 1.jpg",
        "IMG 2.jpg",
        "img 2b.jpg",
        "img 12.jpg",
        "img 99999999.jpg",
        "img 100000000.jpg",
        "img 123456789012345678901234567890.jpg",
        "img a.jpg",
        "v1.2",
        "v1.10",
        "v2",
    ];
    let files =
        (0..).zip(ordered).map(|(number, name)| file(number, (!name.is_empty()).then(|| name.into())));
    store.add_roots(files.collect());
    let catalogue = Catalogue::new(&store);
    let names = |query: &Query<'_>| -> Vec<String> {
        let page = catalogue.page(query).expect("a page");
        page.records.into_iter().map(|record| record.name.unwrap_or_default()).collect()
    };
    let query = Query { sort: Sort::Name, limit: 100, ..Query::default() };
    assert_eq!(names(&query), ordered);
    // A search sees the name alone, not the text by which it is ordered.
    assert_eq!(names(&Query { name: "G 2".into(), ..query }), ["IMG 2.jpg", "img 2b.jpg"]);
    let query = Query { sort: Sort::Name, limit: 100, name: "12".into(), ..Query::default() };
    assert_eq!(names(&query), ["img 12.jpg", "img 123456789012345678901234567890.jpg"]);
    assert_eq!(catalogue.named("img 001.jpg").expect("found").len(), 1);
}

#[test]
fn an_index_that_lacks_a_table_is_completed_when_it_is_opened() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let store = open(&dir);
    store.add_roots((1..=12).map(|number| file(number, Some(format!("photo {number}")))).collect());
    drop(store);
    let db = redb::Database::open(dir.path().join("index.redb")).expect("an index");
    let names = redb::TableDefinition::<(&str, &CidBytes), ()>::new("roots_by_natural_name");
    let write = db.begin_write().expect("begun");
    assert!(write.delete_table(names).expect("deleted"));
    write.commit().expect("committed");
    drop(db);
    for _ in 0..2 {
        let store = open(&dir);
        let catalogue = Catalogue::new(&store);
        assert_eq!(catalogue.named("photo 2").expect("looked up"), [file(2, Some("photo 2".into()))]);
        let query = Query { limit: 100, sort: Sort::Name, ..Query::default() };
        let names = catalogue.page(&query).expect("a page").records.into_iter().filter_map(|file| file.name);
        assert!(names.eq((1..=12).map(|number| format!("photo {number}"))));
    }
}
