//! Folders as tar streams: nested as deep as a path allows, with names too long, that lie about their size, and with
//! names out of order.

use storgo::{
    content::{
        cid::{Cid, Codec},
        encoder::{DirEncoder, DirEntry, EntryKind, Metadata},
        link::Link,
        seal::Sealing,
    },
    node::{ErrorCode, Node, NodeOptions, PutOptions, Reason, Reference, report::FileKind},
    store::{PutMode, RootKind, RootRecord, Store, StoreOptions},
};
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;

use super::{
    store_sample::record,
    swarm::{TestNode, start_with},
};

/// A tar stream with a file below this many folders.
fn tower(folders: usize) -> Vec<u8> {
    let mut records = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    records.append_data(&mut header, format!("{}f", "d/".repeat(folders)), &b"abc"[..]).expect("appended");
    records.into_inner().expect("a stream")
}

async fn read(node: &Node, link: &str) -> Vec<u8> {
    let opened = node.open(&Reference::from(link), None).await.expect("opened");
    let mut pieces = std::pin::pin!(opened.read(None));
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.expect("read"));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_path_is_stored_and_comes_back_and_a_deeper_one_is_refused() {
    let node = start_with(|options| options.offline = true).await;
    // Two bytes each; Linux limits paths to 4096 bytes.
    let put = async |bytes: &[u8]| {
        let options = PutOptions::named("tower");
        node.put_stream(ReaderStream::new(bytes), options, FileKind::Dir).await
    };
    let report = put(&tower(2047)).await.expect("stored");
    let stream = read(&node, &report.link).await;
    let mut archive = tar::Archive::new(&stream[..]);
    let deepest = archive.entries().expect("entries").map(|entry| entry.expect("an entry")).last();
    let path = deepest.expect("a file").path().expect("a path").into_owned();
    assert_eq!(path.components().count(), 2048);

    // Refused by its path; dropping what was read before needs no deep stack either.
    let error = put(&tower(2048)).await.expect_err("too deep");
    assert_eq!(error.code, ErrorCode::BadRequest);
    let mut broken = tower(2047);
    broken.truncate(broken.len() - 1024);
    broken.extend_from_slice(&[0xff; 512]);
    assert_eq!(put(&broken).await.expect_err("broken").code, ErrorCode::BadRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_too_long_is_an_error_of_the_input() {
    let node = start_with(|options| options.offline = true).await;
    let mut archive = tar::Builder::new(Vec::new());
    let path = format!("folder/{}", "n".repeat(256));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, path, &b""[..]).expect("appended");
    let bytes = archive.into_inner().expect("written");
    let stream = ReaderStream::new(&bytes[..]);
    let error =
        node.put_stream(stream, PutOptions::named("long"), FileKind::Dir).await.expect_err("too long");
    assert_eq!((error.code, error.reason), (ErrorCode::BadRequest, Some(Reason::PathInvalid)));
    assert!(error.message.contains("longer than 255 bytes"), "{}", error.message);
}

/// The entry of a folder for something that is stored here.
async fn entry(node: &Node, name: &str, kind: EntryKind, link: &Link, size: u64) -> DirEntry {
    let root_len = u32::try_from(node.block(&link.cid).await.expect("here").len()).expect("short");
    DirEntry { name: name.into(), link: link.clone(), root_len, kind, size, mtime: None, mode: None }
}

/// Encodes a public folder that fits into its root block.
fn folder(entries: Vec<DirEntry>, size: u64) -> (Cid, Vec<u8>) {
    let mut encoder = DirEncoder::new(Sealing::Public);
    for entry in entries {
        assert!(encoder.push(entry).expect("encoded").is_empty());
    }
    let folder = encoder.finish(Metadata { size, ..Metadata::default() }).expect("encoded");
    assert_eq!(folder.blocks.len(), 1);
    (folder.link.cid, folder.blocks[0].bytes.clone())
}

/// Stops the node and stores a folder that no node would make: its root is the first block. Returns the names of the entries
/// of its tar stream.
async fn names_of(node: TestNode, blocks: &[(Cid, Vec<u8>)]) -> Vec<String> {
    let TestNode { node, dir } = node;
    node.shutdown().await;
    // The last handle has the lock.
    drop(node);
    let options = StoreOptions { observers: storgo::catalogue::observers(), ..StoreOptions::new(dir.path()) };
    let store = Store::open(options).expect("opened");
    let upload = store.upload();
    for (cid, bytes) in blocks {
        upload.put(cid, bytes, PutMode::Compare).expect("written");
    }
    let root = blocks[0].0;
    upload.commit(RootRecord { kind: RootKind::Dir, ..record(root) }).expect("listed");
    drop((upload, store));

    let again = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
    let again = Node::start(again).await.expect("started");
    let stream = read(&again, &Link { cid: root, key: None }.to_string()).await;
    again.shutdown().await;
    let mut archive = tar::Archive::new(&stream[..]);
    let entries = archive.entries().expect("entries").map(|entry| entry.expect("an entry"));
    entries.map(|entry| entry.path().expect("a path").display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_more_than_its_entry_says_is_left_out() {
    let node = start_with(|options| options.offline = true).await;
    let tar = tower(1);
    let options = PutOptions { public: true, ..PutOptions::named("inner") };
    let inner = node.put_stream(ReaderStream::new(&tar[..]), options, FileKind::Dir);
    let inner = inner.await.expect("stored");
    let link: Link = inner.link.parse().expect("a link");
    let honest = entry(&node, "honest", EntryKind::Dir, &link, inner.size).await;
    let liar = DirEntry { name: "liar".into(), size: 0, ..honest.clone() };
    let outer = folder(vec![honest, liar], inner.size);
    let report = format!("storgo-left-out-{}.json", outer.0);
    assert_eq!(names_of(node, &[outer]).await, ["honest/", "honest/d/", "honest/d/f", &report]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_names_are_not_ordered_ends_at_the_first_of_them() {
    let node = start_with(|options| options.offline = true).await;
    let options = PutOptions { public: true, ..PutOptions::named("file") };
    let file = node.put(&b"abc"[..], options).await.expect("stored");
    let link: Link = file.link.parse().expect("a link");
    let file = entry(&node, "name 1", EntryKind::File, &link, 3).await;
    let named = |name: &str| DirEntry { name: name.into(), ..file.clone() };
    let (_, mut bytes) = folder(vec![named("name 1"), named("name 2"), named("name 3")], 9);
    let at = bytes.windows(6).position(|text| text == b"name 2").expect("its name");
    bytes[at + 5] = b'0';
    let unordered = Cid::of(Codec::DagCbor, &bytes);
    let inner = DirEntry {
        name: "inner".into(),
        link: Link { cid: unordered, key: None },
        root_len: u32::try_from(bytes.len()).expect("short"),
        kind: EntryKind::Dir,
        size: 9,
        ..file.clone()
    };
    let outer = folder(vec![inner, named("later")], 12);
    let report = format!("storgo-left-out-{}.json", outer.0);
    let listed = names_of(node, &[outer, (unordered, bytes)]).await;
    assert_eq!(listed, ["inner/", "inner/name 1", "later", &report]);
}
