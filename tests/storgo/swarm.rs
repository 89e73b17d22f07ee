//! Nodes in the test process, over loopback.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use libp2p::Multiaddr;
use storgo::node::{
    ErrorCode, Node, NodeError, NodeOptions, PutOptions, Reference,
    report::{Event, FileKind, PutReport},
};
use tempfile::TempDir;

use super::binary::blocks_in;

/// Maximum duration of one step of a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A node and its data directory.
pub struct TestNode {
    pub node: Node,
    pub dir: TempDir,
}

impl std::ops::Deref for TestNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

pub fn tcp() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")
}

pub async fn start_with(change: impl FnOnce(&mut NodeOptions)) -> TestNode {
    let dir = TempDir::new().expect("a folder");
    let mut options =
        NodeOptions { listen: vec![tcp()], mdns: false, timeout: DEADLINE, ..NodeOptions::new(dir.path()) };
    options.store.grace = Duration::ZERO;
    change(&mut options);
    TestNode { node: Node::start(options).await.expect("starts"), dir }
}

/// A node that knows the first address of `other`.
pub async fn start_knowing(other: &Node) -> TestNode {
    let addr = addr_of(other).await;
    start_with(|options| options.bootstrap = vec![addr]).await
}

pub async fn addr_of(node: &Node) -> Multiaddr {
    node.status().await.expect("status").listen[0].parse().expect("a multiaddr")
}

/// Bytes that look random and are the same every time.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub async fn put(node: &Node, bytes: &[u8]) -> PutReport {
    node.put(bytes, PutOptions::named("a file")).await.expect("stored")
}

pub async fn get(node: &Node, link: &str) -> Result<Vec<u8>, NodeError> {
    let opened = node.open(&Reference::from(link), Some(DEADLINE)).await?;
    let pieces: Vec<_> = opened.read(None).try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stored_on_one_node_is_read_on_another_through_the_dht() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let bytes = noise(1, 10 << 20);
    let report = put(&writer, &bytes).await;
    let placement = writer.placement(&report.link.as_str().into(), DEADLINE).await.expect("placed");
    assert!(placement.done && placement.announced_to >= 1);
    let reader = start_knowing(&hub).await;
    assert!(get(&reader, &report.link).await.expect("read") == bytes);
    let range = reader.open(&report.link.as_str().into(), None).await.expect("opened");
    let part: Vec<_> = range.read(Some(3_000_000..3_000_100)).try_collect().await.expect("read");
    assert!(part.concat() == bytes[3_000_000..3_000_100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_boundary_sizes_are_read_back() {
    let (writer, reader) = (start_with(|_| {}).await, start_with(|_| {}).await);
    reader.connect(addr_of(&writer).await).await.expect("connected");
    let edges = [256 << 10, 1 << 20, (2 << 20) - (64 << 10)];
    let sizes = [0, 1, 15, 16, 17, 16 << 10, (16 << 10) + 1];
    for size in edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).chain(sizes) {
        let bytes = noise(size.try_into().expect("small"), size);
        for public in [false, true] {
            let options = PutOptions { public, ..PutOptions::named("x") };
            let report = writer.put(&bytes[..], options).await.expect("stored");
            assert_eq!(report.size, size as u64);
            assert!(
                get(&reader, &report.link).await.expect("read") == bytes,
                "{size} bytes, public: {public}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_chunks_are_stored_once_on_a_node_and_not_shared_between_nodes() {
    let (a, b) = (start_with(|_| {}).await, start_with(|_| {}).await);
    let bytes = noise(2, 5 << 20);
    let first = put(&a, &bytes).await;
    assert!(first.new_blocks == first.blocks && first.blocks > 3);
    let again = put(&a, &bytes).await;
    assert_eq!((again.new_blocks, again.cid), (0, first.cid));
    assert_ne!(put(&b, &bytes).await.cid, first.cid);
    let apart =
        a.put(&bytes[..], PutOptions { dedup: false, ..PutOptions::named("a file") }).await.expect("stored");
    assert_eq!(apart.new_blocks, apart.blocks);
    let mut longer = vec![1];
    longer.extend_from_slice(&noise(3, 64 << 20));
    put(&a, &longer[1..]).await;
    let shifted = put(&a, &longer).await;
    assert!(shifted.new_blocks <= 4, "{} of {}", shifted.new_blocks, shifted.blocks);
}

#[tokio::test(flavor = "multi_thread")]
async fn colliding_files_are_read_back_when_sealed_and_refused_when_public() {
    let node = start_with(|_| {}).await;
    let a = include_bytes!("../vectors/shattered-a.bin");
    let b = include_bytes!("../vectors/shattered-b.bin");
    let (one, two) = (put(&node, a).await, put(&node, b).await);
    assert_ne!(one.cid, two.cid);
    assert!(
        get(&node, &one.link).await.expect("read") == a && get(&node, &two.link).await.expect("read") == b
    );
    let public = PutOptions { public: true, ..PutOptions::default() };
    let before = node.status().await.expect("status").blocks;
    let refused = node.put(&b[..], public).await.expect_err("refused");
    assert_eq!(refused.code, ErrorCode::Collision);
    assert_eq!(node.status().await.expect("status").blocks, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_even_if_its_uploader_disconnects_at_the_end() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let mut events = writer.subscribe();
    let ended = AtomicBool::new(false);
    let bytes = std::iter::once(io::Result::Ok(noise(9, 3 << 20).into()));
    let input = futures::stream::iter(bytes).chain(futures::stream::poll_fn(|_| {
        ended.store(true, Ordering::Relaxed);
        Poll::Ready(None)
    }));
    let mut put = Box::pin(writer.put_stream(input, PutOptions::named("left"), FileKind::File));
    // The end of the file has been read, and nobody waits for the answer.
    std::future::poll_fn(|cx| match put.as_mut().poll(cx) {
        Poll::Pending if !ended.load(Ordering::Relaxed) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    drop(put);
    let stored = async {
        loop {
            if let Event::Stored { cid, .. } = events.recv().await.expect("an event") {
                return cid.to_string();
            }
        }
    };
    let cid = tokio::time::timeout(DEADLINE, stored).await.expect("a stored event");
    let placement = writer.placement(&cid.as_str().into(), DEADLINE).await.expect("placed");
    assert!(placement.done && placement.announced_to > 0, "{placement:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_fetched_from_a_provider_or_reported() {
    let key = crate::cluster::random_key();
    let writer = start_with(|options| options.cluster = Some(key.clone())).await;
    let addr = addr_of(&writer).await;
    let second = start_with(|options| {
        options.cluster = Some(key.clone());
        options.bootstrap = vec![addr];
    })
    .await;
    let bytes = noise(4, 3 << 20);
    let report = put(&writer, &bytes).await;
    assert_eq!(put(&second, &bytes).await.cid, report.cid, "one cluster, one CID");
    second.connect(addr_of(&writer).await).await.expect("connected");
    let damaged = damage_a_block(&writer);
    assert!(get(&writer, &report.link).await.expect("repaired from the other node") == bytes);
    let verified = writer.verify(None).await.expect("verified");
    assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
    assert_eq!(writer.status().await.expect("status").quarantined, 1);

    // Without a provider, it cannot be repaired.
    let alone = start_with(|options| options.timeout = Duration::from_secs(1)).await;
    let report = put(&alone, &bytes).await;
    let damaged_alone = damage_a_block(&alone);
    assert_ne!(damaged, damaged_alone);
    let verified = alone.verify(Some(&report.link.as_str().into())).await.expect("verified");
    assert_eq!(verified.bad.len(), 1);
    let error = get(&alone, &report.link).await.expect_err("no good copy");
    assert!(error.message.contains(&verified.bad[0].to_string()), "{error}");
}

/// Flips a bit of the longest block file. Returns the file name.
pub fn damage_a_block(node: &TestNode) -> String {
    let file = blocks_in(node.dir.path()).remove(0);
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[12345] ^= 4;
    std::fs::write(&file, bytes).expect("written");
    file.file_name().expect("a name").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_is_not_listed() {
    let node = start_with(|_| {}).await;
    let broken = futures::stream::iter([
        Ok(bytes::Bytes::from(noise(5, 3 << 20))),
        Err(std::io::Error::other("the cable was pulled")),
    ]);
    let kind = storgo::node::report::FileKind::File;
    let error = node.put_stream(broken, PutOptions::default(), kind).await.expect_err("half a file");
    assert!(error.message.contains("cable"), "{error}");
    assert!(
        node.list(storgo::node::ListOptions { limit: 10, ..Default::default() })
            .await
            .expect("listed")
            .files
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_provider_is_replaced_and_without_any_the_read_times_out() {
    let key = crate::cluster::random_key();
    let member = |options: &mut NodeOptions| {
        options.cluster = Some(key.clone());
        options.upload_limit = Some(8 << 20);
    };
    let (a, b) = (start_with(member).await, start_with(member).await);
    let bytes = noise(6, 24 << 20);
    let report = put(&a, &bytes).await;
    put(&b, &bytes).await;
    let reader = start_with(|options| options.cluster = Some(key.clone())).await;
    for other in [&a, &b] {
        reader.connect(addr_of(other).await).await.expect("connected");
    }
    let opened = reader.open(&report.link.as_str().into(), Some(DEADLINE)).await.expect("opened");
    let mut stream = std::pin::pin!(opened.read(None));
    let mut got = Vec::new();
    while let Some(piece) = stream.try_next().await.expect("read") {
        if got.is_empty() {
            a.shutdown().await;
        }
        got.extend_from_slice(&piece);
    }
    assert!(got == bytes);

    let other = noise(7, 24 << 20);
    let report = put(&b, &other).await;
    let opened =
        reader.open(&report.link.as_str().into(), Some(Duration::from_secs(2))).await.expect("opened");
    let mut stream = std::pin::pin!(opened.read(None));
    stream.try_next().await.expect("read").expect("some bytes");
    b.shutdown().await;
    let started = std::time::Instant::now();
    let error = loop {
        match stream.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the file cannot be complete"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::Timeout);
    assert!(started.elapsed() < DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetched_blocks_are_not_fetched_again() {
    let writer = start_with(|_| {}).await;
    let reader = start_knowing(&writer).await;
    let bytes = noise(8, 8 << 20);
    let report = put(&writer, &bytes).await;
    let opened = reader.open(&report.link.as_str().into(), None).await.expect("opened");
    let mut stream = Box::pin(opened.read(None));
    for _ in 0..3 {
        stream.try_next().await.expect("read").expect("a piece");
    }
    drop(stream);
    assert!(get(&reader, &report.link).await.expect("read") == bytes);
    let status = reader.status().await.expect("status");
    assert!(status.received_bytes < (9 << 20), "{} bytes", status.received_bytes);
    assert!(get(&reader, &report.link).await.expect("read") == bytes);
    assert_eq!(reader.status().await.expect("status").received_bytes, status.received_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_is_withdrawn_and_its_blocks_are_collected() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let report = put(&writer, &noise(9, 2 << 20)).await;
    let reference = Reference::from(report.link.as_str());
    writer.placement(&reference, DEADLINE).await.expect("placed");
    let providers = hub.info(&reference, true).await.expect("known").providers.expect("asked");
    assert_eq!(providers, [writer.peer_id().to_string()]);
    let removed = writer.remove(&reference).await.expect("removed");
    assert_eq!(removed.withdrawn_from, 1);
    writer.collect().await.expect("collected");
    assert_eq!(writer.status().await.expect("status").blocks, 0);
    assert_eq!(writer.remove(&reference).await.expect_err("gone").code, ErrorCode::NotFound);
    let fresh = start_knowing(&hub).await;
    assert_eq!(get(&fresh, &report.link).await.expect_err("gone").code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_has_its_files_and_rejoins_through_remembered_peers() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let bytes = noise(10, 1 << 20);
    let report = put(&writer, &bytes).await;
    writer.placement(&report.link.as_str().into(), DEADLINE).await.expect("placed");
    writer.shutdown().await;
    let TestNode { node, dir } = writer;
    drop(node);
    // No bootstrap address this time.
    let options = NodeOptions { listen: vec![tcp()], mdns: false, ..NodeOptions::new(dir.path()) };
    let again = reopen(options).await;
    assert!(get(&again, &report.link).await.expect("read") == bytes);
    let placement = again.placement(&report.link.as_str().into(), DEADLINE).await.expect("placed");
    assert!(placement.announced_to >= 1, "announced to the remembered hub");
}

/// Starts a node on a directory that another node is about to release.
pub async fn reopen(options: NodeOptions) -> Node {
    tokio::time::timeout(DEADLINE, async {
        loop {
            match Node::start(options.clone()).await {
                Err(error) if error.code == ErrorCode::Locked => tokio::task::yield_now().await,
                started => return started.expect("starts"),
            }
        }
    })
    .await
    .expect("in time")
}
