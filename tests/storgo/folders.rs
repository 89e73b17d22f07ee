//! Folders as tar streams: nested as deep as a path allows, with names too long, and that lie about their size.

use storgo::{
    content::{
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

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_more_than_its_entry_says_is_left_out() {
    let node = start_with(|options| options.offline = true).await;
    let tar = tower(1);
    let options = PutOptions { public: true, ..PutOptions::named("inner") };
    let inner = node.put_stream(ReaderStream::new(&tar[..]), options, FileKind::Dir);
    let inner = inner.await.expect("stored");
    let link: Link = inner.link.parse().expect("a link");
    let root_len = u32::try_from(node.block(&link.cid).await.expect("here").len()).expect("short");
    let TestNode { node, dir } = node;
    node.shutdown().await;
    // The last handle has the lock.
    drop(node);

    let mut encoder = DirEncoder::new(Sealing::Public);
    for (name, size) in [("honest", inner.size), ("liar", 0)] {
        let (kind, link) = (EntryKind::Dir, link.clone());
        let entry = DirEntry { name: name.into(), link, root_len, kind, size, mtime: None, mode: None };
        assert!(encoder.push(entry).expect("encoded").is_empty());
    }
    let outer = encoder.finish(Metadata { size: inner.size, ..Metadata::default() }).expect("encoded");
    let options = StoreOptions { observers: storgo::catalogue::observers(), ..StoreOptions::new(dir.path()) };
    let store = Store::open(options.clone()).expect("opened");
    let upload = store.upload();
    for block in &outer.blocks {
        upload.put(&block.cid, &block.bytes, PutMode::Compare).expect("written");
    }
    upload.commit(RootRecord { kind: RootKind::Dir, ..record(outer.link.cid) }).expect("listed");
    drop((upload, store));

    let again = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
    let again = Node::start(again).await.expect("started");
    let stream = read(&again, &outer.link.to_string()).await;
    let mut archive = tar::Archive::new(&stream[..]);
    let names = archive
        .entries()
        .expect("entries")
        .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string());
    let report = format!("storgo-left-out-{}.json", outer.link.cid);
    assert_eq!(names.collect::<Vec<_>>(), ["honest/", "honest/d/", "honest/d/f", &report]);
    again.shutdown().await;
}
