//! Seven blocks that stand for 10^18 files: the cost of listing them and of their health depends on the blocks alone.

use serde_json::{Value, json};
use storgo::{
    content::{
        cid::Cid,
        encoder::{DirEncoder, DirEntry, EntryKind, FileEncoder, Finished, Metadata},
        seal::Sealing,
    },
    store::{PutMode, RootKind, RootRecord, Store, StoreOptions, Upload},
};

use super::{api::Api, binary::Machine, store_sample::record};

/// Entries of each folder, and levels of folders.
const WIDTH: u64 = 1000;
const LEVELS: u32 = 6;

fn put(upload: &Upload, finished: &mut Finished, more: Vec<storgo::content::encoder::Block>) {
    for block in more.into_iter().chain(std::mem::take(&mut finished.blocks)) {
        upload.put(&block.cid, &block.bytes, PutMode::Sealed).expect("put");
    }
}

/// Stores folders that each list the one below a thousand times, and an empty file at the end: seven blocks that stand for
/// 10^18 files.
fn bomb(upload: &Upload) -> Cid {
    let mut below = FileEncoder::new(Sealing::Public).finish(Metadata::default()).expect("a file");
    put(upload, &mut below, Vec::new());
    for level in 0..LEVELS {
        let mut folder = DirEncoder::new(Sealing::Public);
        let mut blocks = Vec::new();
        for name in 0..WIDTH {
            let kind = if level == 0 { EntryKind::File } else { EntryKind::Dir };
            let entry = DirEntry {
                name: format!("{name:04}"),
                link: below.link.clone(),
                root_len: below.root_len,
                kind,
                size: 0,
                mtime: None,
                mode: None,
            };
            blocks.extend(folder.push(entry).expect("an entry"));
        }
        below = folder.finish(Metadata::default()).expect("a folder");
        put(upload, &mut below, blocks);
    }
    below.link.cid
}

/// A machine that keeps the outermost folder.
fn with_bomb() -> (Machine, Cid) {
    let machine = Machine::new();
    let options =
        StoreOptions { observers: storgo::catalogue::observers(), ..StoreOptions::new(machine.data()) };
    let store = Store::open(options).expect("opened");
    let upload = store.upload();
    let root = bomb(&upload);
    upload.commit(RootRecord { kind: RootKind::Dir, ..record(root) }).expect("listed");
    (machine, root)
}

#[test]
fn seven_blocks_that_stand_for_more_places_than_a_walk_can_visit_are_listed_and_checked_at_once() {
    let (machine, root) = with_bomb();
    let node = machine.start::<&str>([]);
    let other = Machine::new();
    let second = other.start(["--bootstrap", &node.addr()]);
    let api = Api::of(&machine, &node);
    super::binary::eventually("they are connected", || api.get("/api/v1/status").json()["peers"] == 1);
    let all = (0..=LEVELS).map(|level| WIDTH.pow(level)).sum::<u64>();
    let page = |query: &str| api.get(&format!("/api/v1/files/{root}/blocks?{query}")).is(200).json();
    let count = |page: &Value| page["blocks"].as_array().map(Vec::len);
    for holders in ["false", "true"] {
        let first = page(&format!("limit=8&holders={holders}"));
        assert_eq!((count(&first), &first["next"]), (Some(8), &json!("8")));
        let last = page(&format!("limit=1000&holders={holders}&cursor={}", all - 3));
        assert_eq!((count(&last), &last["next"]), (Some(3), &Value::Null));
        assert_eq!(last["blocks"][2]["cid"], first["blocks"][7]["cid"], "the empty file");
        assert_eq!(count(&page(&format!("holders={holders}&cursor={}", u64::MAX))), Some(0));
    }
    let health = api.get(&format!("/api/v1/files/{root}/health")).is(200).json();
    assert_eq!((&health["blocks"], &health["here"], &health["copies"]), (&json!(7), &json!(7), &json!(1)));
    // The other node asks this one, which has all of them.
    let away = Api::of(&other, &second).get(&format!("/api/v1/files/{root}/health")).is(200).json();
    assert_eq!((&away["blocks"], &away["holders"][0]["blocks"]), (&json!(7), &json!(7)));
    assert_eq!(away["holders"][0]["whole"], true);
}
