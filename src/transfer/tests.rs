//! Client and server over pipes, with honest and hostile peers.

use std::sync::{Arc, atomic::Ordering};

use futures::{AsyncReadExt, AsyncWriteExt, stream};
use libp2p::PeerId;
use tempfile::TempDir;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{
    compat::{Compat, TokioAsyncReadCompatExt},
    sync::CancellationToken,
};

use super::{
    Counters, Failure, RateLimiter, ServeOptions, TransferError,
    peer_limits::Limits,
    request_stream::{BlockRequest, RequestStream},
    server::Server,
};
use crate::{
    content::cid::{Cid, Codec},
    store::{Store, StoreOptions},
    wire::{MAX_MESSAGE, Message, PREFIX_LEN, Request, Response},
};

type Pipe = Compat<DuplexStream>;

/// A store and its server.
struct TestServer {
    dir: TempDir,
    store: Store,
    counters: Arc<Counters>,
    stop: CancellationToken,
    streams: mpsc::Sender<(PeerId, Pipe)>,
    peer: PeerId,
}

impl TestServer {
    fn start() -> Self {
        Self::with(ServeOptions::default(), Limits::default())
    }

    fn with(options: ServeOptions, limits: Limits) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(StoreOptions::new(dir.path())).expect("a store");
        let counters = Arc::new(Counters::default());
        let server = Server::new(None, store.clone(), options, limits, Arc::clone(&counters));
        let stop = CancellationToken::new();
        let (streams, mut incoming) = mpsc::channel(16);
        let incoming = stream::poll_fn(move |cx| incoming.poll_recv(cx));
        let stopped = stop.clone();
        tokio::spawn(async move { server.run(incoming, stopped).await });
        Self { dir, store, counters, stop, streams, peer: PeerId::random() }
    }

    fn sent(&self) -> u64 {
        self.counters.sent.load(Ordering::Relaxed)
    }

    fn put(&self, bytes: &[u8]) -> Wanted {
        let cid = Cid::of(Codec::Raw, bytes);
        self.store.put_cached(&cid, bytes).expect("stored");
        settle(&self.store);
        Wanted { cid, len: Some(u32::try_from(bytes.len()).expect("short")) }
    }

    async fn pipe(&self) -> Pipe {
        self.pipe_of(self.peer).await
    }

    async fn pipe_of(&self, peer: PeerId) -> Pipe {
        let (local, remote) = tokio::io::duplex(64 << 10);
        self.streams.send((peer, remote.compat())).await.expect("the server runs");
        local.compat()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A block to request.
#[derive(Clone, Copy)]
struct Wanted {
    cid: Cid,
    len: Option<u32>,
}

type Answer = Result<Vec<u8>, Failure>;

/// Queues requests. Returns the queue and the receivers of the answers.
fn requests(
    blocks: Vec<Wanted>,
) -> (mpsc::Sender<BlockRequest>, mpsc::Receiver<BlockRequest>, Vec<oneshot::Receiver<Answer>>) {
    let (sender, queue) = mpsc::channel(blocks.len());
    let request = |block: Wanted| {
        let (reply, answer) = oneshot::channel();
        let request = BlockRequest { cid: block.cid, len: block.len, reply };
        sender.try_send(request).map(|()| answer).expect("room")
    };
    let answers = blocks.into_iter().map(request).collect();
    (sender, queue, answers)
}

/// Requests blocks, and collects the answers.
async fn get(
    client: &mut RequestStream<Pipe>,
    blocks: Vec<Wanted>,
) -> (Vec<Answer>, Result<(), TransferError>) {
    let (sender, queue, mut answers) = requests(blocks);
    drop(sender);
    let done = client.get(queue, |_| {}).await;
    (answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect(), done)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

#[tokio::test]
async fn blocks_arrive_in_the_order_of_the_requests() {
    let server = TestServer::start();
    let blocks: Vec<Vec<u8>> = (0..8).map(|i| bytes(i, 1000 + usize::from(i) * 250_000)).collect();
    let mut requests: Vec<Wanted> = blocks.iter().map(|block| server.put(block)).collect();
    requests.insert(3, Wanted { cid: Cid::of(Codec::Raw, b"nowhere"), len: Some(7) });
    let mut client = RequestStream::new(server.pipe().await);
    // Twice on one stream.
    for _ in 0..2 {
        let (mut answers, done) = get(&mut client, requests.clone()).await;
        assert_eq!(answers.remove(3), Err(Failure::Missing));
        for (answer, block) in answers.into_iter().zip(&blocks) {
            assert!(answer.as_ref() == Ok(block));
        }
        assert!(done.is_ok());
    }
}

#[tokio::test]
async fn thousands_of_small_blocks_are_pipelined() {
    let server = TestServer::start();
    let block = server.put(b"small");
    let (answers, done) = get(&mut RequestStream::new(server.pipe().await), vec![block; 3000]).await;
    assert_eq!(answers.len(), 3000);
    assert!(done.is_ok());
    assert_eq!(server.sent(), 3000 * 5);
}

#[tokio::test]
async fn a_block_that_is_damaged_on_disk_is_reported_as_missing() {
    let server = TestServer::start();
    let mut block = bytes(1, 100_000);
    let cid = Cid::of(Codec::Raw, &block);
    let upload = server.store.upload();
    upload.put(&cid, &block, crate::store::PutMode::Sealed).expect("stored");
    block[50_000] ^= 1;
    let path = find(server.dir.path(), 100_000);
    std::fs::write(path, &block).expect("damaged");
    let block = Wanted { cid, len: Some(100_000) };
    let (answers, _) = get(&mut RequestStream::new(server.pipe().await), vec![block]).await;
    assert_eq!(answers, [Err(Failure::Missing)]);
    assert!(!server.store.has(&cid).expect("an answer"));
}

fn find(dir: &std::path::Path, len: u64) -> std::path::PathBuf {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.metadata().expect("metadata");
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.len() == len {
                return path;
            }
        }
    }
    panic!("no file of {len} bytes");
}

#[tokio::test]
async fn have_lists_the_blocks_that_are_here_as_far_as_node_blocks_are_here() {
    use crate::content::{
        encoder::FileEncoder,
        seal::{Sealing, seal_chunk},
        secret::{ConvergenceSecret, Key},
    };

    let server = TestServer::start();
    let sealing = Sealing::Secret(ConvergenceSecret::new(Key::new([1; 32])));
    let mut encoder = FileEncoder::new(sealing.clone());
    for i in 0..10 {
        let sealed = seal_chunk(&sealing, bytes(i, 1000), false).expect("sealed");
        if i % 3 == 0 {
            server.store.put_cached(&sealed.entry.cid, &sealed.block).expect("stored");
        }
        assert_eq!(encoder.push(sealed.entry).expect("pushed"), []);
    }
    let metadata = crate::content::encoder::Metadata { size: 10_000, ..Default::default() };
    let finished = encoder.finish(metadata).expect("finished");
    let root = finished.link.cid;
    for block in finished.blocks {
        server.store.put_cached(&block.cid, &block.bytes).expect("stored");
    }
    settle(&server.store);
    let mut client = RequestStream::new(server.pipe().await);
    let have = client.call(&Request::Have { root }).await.expect("an answer");
    // The root, then 0, 3, 6 and 9 of ten.
    let bitmap = vec![0b1100_1001, 0b0010_0000].into();
    assert_eq!(have, Response::Have { blocks: 11, bitmap });
    // A truncated block counts as missing, like a removed one, whatever the index says.
    let upload = server.store.upload();
    let mut encoder = FileEncoder::new(sealing.clone());
    for i in 0..4 {
        let sealed = seal_chunk(&sealing, bytes(20 + i, 20_000 + usize::from(i)), false).expect("sealed");
        upload.put(&sealed.entry.cid, &sealed.block, crate::store::PutMode::Sealed).expect("stored");
        assert_eq!(encoder.push(sealed.entry).expect("pushed"), []);
    }
    let metadata = crate::content::encoder::Metadata { size: 80_006, ..Default::default() };
    let finished = encoder.finish(metadata).expect("finished");
    for block in &finished.blocks {
        upload.put(&block.cid, &block.bytes, crate::store::PutMode::Sealed).expect("stored");
    }
    drop(upload);
    std::fs::remove_file(find(server.dir.path(), 20_001)).expect("removed");
    let truncated =
        std::fs::File::options().write(true).open(find(server.dir.path(), 20_002)).expect("there");
    truncated.set_len(20_000).expect("truncated");
    let have = client.call(&Request::Have { root: finished.link.cid }).await.expect("an answer");
    assert_eq!(have, Response::Have { blocks: 5, bitmap: vec![0b1100_1000].into() });
    let absent = Cid::of(Codec::DagCbor, b"absent");
    let have = client.call(&Request::Have { root: absent }).await.expect("an answer");
    assert_eq!(have, Response::Have { blocks: 1, bitmap: vec![0].into() });
}

#[tokio::test]
async fn an_unsupported_request_is_refused_and_the_stream_continues() {
    let server = TestServer::with(
        ServeOptions { region: Some("attic".into()), ..ServeOptions::default() },
        Limits::default(),
    );
    let mut pipe = server.pipe().await;
    let cid = Cid::of(Codec::Raw, b"hello");
    let put = Request::Put { root: cid, blocks: vec![crate::wire::PutBlock { cid, len: 5 }], ticket: None };
    pipe.write_all(&put.encode().expect("encoded")).await.expect("written");
    pipe.write_all(b"hello").await.expect("written");
    pipe.write_all(&unknown_message()).await.expect("written");
    pipe.write_all(&Request::Status {}.encode().expect("encoded")).await.expect("written");
    let reason = |response| match response {
        Response::Refused { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(read_response(&mut pipe).await).contains("other nodes"));
    assert!(reason(read_response(&mut pipe).await).contains("sing"));
    match read_response(&mut pipe).await {
        Response::Status { region, version, free, .. } => {
            assert_eq!((region.as_deref(), version.as_str()), (Some("attic"), env!("CARGO_PKG_VERSION")));
            assert!(free.is_some_and(|free| free > 0));
        }
        other => panic!("{other:?}"),
    }
    assert!(!server.store.has(&cid).expect("an answer"));
}

/// `{"sing": {}}`, a message that no version knows.
fn unknown_message() -> Vec<u8> {
    [&7_u32.to_be_bytes()[..], b"\xa1\x64sing\xa0"].concat()
}

async fn read_response(pipe: &mut Pipe) -> Response {
    let mut prefix = [0; PREFIX_LEN];
    pipe.read_exact(&mut prefix).await.expect("a prefix");
    let mut body = vec![0; crate::wire::body_len(prefix, MAX_MESSAGE).expect("a length")];
    pipe.read_exact(&mut body).await.expect("a body");
    Response::decode(&body).expect("a response")
}

#[tokio::test]
async fn a_stream_above_the_limit_gets_busy_answers() {
    let limits = Limits { streams_per_peer: 1, ..Limits::default() };
    let server = TestServer::with(ServeOptions::default(), limits);
    let block = server.put(b"block");
    let mut first = RequestStream::new(server.pipe().await);
    let (answers, _) = get(&mut first, vec![block]).await;
    assert_eq!(answers, [Ok(b"block".to_vec())]);
    let (answers, _) = get(&mut RequestStream::new(server.pipe().await), vec![block, block]).await;
    assert_eq!(answers, [Err(Failure::Busy), Err(Failure::Busy)]);
    drop(first);
}

#[tokio::test]
async fn too_many_or_malformed_requests_end_the_stream() {
    let server = TestServer::start();
    let block = server.put(&bytes(1, 1 << 20));
    let get = Request::Get { cids: vec![block.cid; 1024] }.encode().expect("encoded");
    // It never reads, so no answer is sent, and the fifth request is above the limit.
    let too_many = [get.as_slice(); 5].concat();
    let oversized = (u32::try_from(MAX_MESSAGE).expect("short") + 1).to_be_bytes().to_vec();
    let garbage = [&4_u32.to_be_bytes()[..], b"\xff\xff\xff\xff"].concat();
    let nested = [&1000_u32.to_be_bytes()[..], &[0x81; 1000]].concat();
    // Of the first block, a part may be sent.
    for (requests, max) in [(too_many, (1 << 20) - 1), (oversized, 0), (garbage, 0), (nested, 0)] {
        let mut pipe = server.pipe().await;
        // The stream may end before all is written.
        drop(pipe.write_all(&requests).await);
        let mut answers = Vec::new();
        drop(pipe.read_to_end(&mut answers).await);
        assert!(answers.len() <= max, "{} bytes", answers.len());
    }
}

#[tokio::test]
async fn peers_that_do_not_read_do_not_take_all_memory() {
    let mut limits = Limits::default();
    (limits.all.blocks, limits.per_peer.blocks) = (8 << 20, 4 << 20);
    let server = TestServer::with(ServeOptions::default(), limits);
    let block = server.put(&bytes(1, 1 << 20));
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut pipe = server.pipe().await;
        let get = Request::Get { cids: vec![block.cid; 100] }.encode().expect("encoded");
        pipe.write_all(&get).await.expect("written");
        silent.push(pipe);
    }
    let mut client = RequestStream::new(server.pipe_of(PeerId::random()).await);
    let (answers, done) = get(&mut client, vec![block; 10]).await;
    assert_eq!(answers.len(), 10);
    assert!(done.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_slow_readers_do_not_stop_a_node_from_serving() {
    let server = TestServer::start();
    let block = server.put(&bytes(1, (2 << 20) - 1));
    let request = Request::Get { cids: vec![block.cid; 100] }.encode().expect("encoded");
    let mut slow = Vec::new();
    // More than all memory holds, each with its own peer id and a little progress.
    for n in 0..20 {
        if n == 2 {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            assert!(
                slow.iter().all(|reader: &JoinHandle<()>| !reader.is_finished()),
                "nobody waits for memory yet"
            );
        }
        let mut pipe = server.pipe_of(PeerId::random()).await;
        pipe.write_all(&request).await.expect("written");
        slow.push(tokio::spawn(async move {
            let mut part = vec![0; 4 << 10];
            while pipe.read_exact(&mut part).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }));
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    let mut client = RequestStream::new(server.pipe_of(PeerId::random()).await);
    let (answers, done) = get(&mut client, vec![block; 10]).await;
    let took = start.elapsed();
    assert!(done.is_ok() && answers.len() == 10, "{done:?}");
    assert!(took.as_secs() < 30, "it waited {took:?}");
    slow.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn sent_bytes_obey_the_rate_limit() {
    let server = TestServer::with(
        ServeOptions { limit: Some(Arc::new(RateLimiter::new(4 << 20))), ..ServeOptions::default() },
        Limits::default(),
    );
    let block = server.put(&bytes(1, 1 << 20));
    let start = std::time::Instant::now();
    let (mut a, mut b) = (RequestStream::new(server.pipe().await), RequestStream::new(server.pipe().await));
    let (a, b) = futures::join!(get(&mut a, vec![block]), get(&mut b, vec![block]));
    assert_eq!(a.0.len() + b.0.len(), 2);
    let took = start.elapsed().as_secs_f64();
    // No upper bound: other load slows the test down.
    assert!(took >= 0.45, "2 MiB at 4 MiB/s took {took} s");
}

/// Returns the error of a client whose peer answers one request for `abc` with these bytes and then sends nothing.
async fn answered_with(script: Vec<u8>) -> TransferError {
    let (local, remote) = tokio::io::duplex(64 << 10);
    let mut remote = remote.compat();
    let peer = tokio::spawn(async move {
        // The client may close the stream before the end.
        drop(remote.write_all(&script).await);
        remote
    });
    let block = Wanted { cid: Cid::of(Codec::Raw, b"abc"), len: Some(3) };
    // The queue stays open, so the client waits for more answers.
    let (sender, queue, _answers) = requests(vec![block]);
    let error =
        RequestStream::new(local.compat()).get(queue, |_| {}).await.expect_err("hostile bytes were accepted");
    drop((sender, peer));
    error
}

fn block(cid: Cid, len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut script = Response::Block { cid, len }.encode().expect("encoded");
    script.extend_from_slice(bytes);
    script
}

#[tokio::test]
async fn hostile_answers_are_violations() {
    let abc = Cid::of(Codec::Raw, b"abc");
    let other = Cid::of(Codec::Raw, b"other");
    let frame = |body: &[u8]| [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat();
    let scripts = [
        ("a longer block", block(abc, 4, b"abcd")),
        ("a shorter block", block(abc, 2, b"ab")),
        ("a block of 4 GiB", block(abc, u32::MAX, b"")),
        ("another block", block(other, 3, b"abc")),
        ("another block missing", Response::Missing { cid: other }.encode().expect("encoded")),
        ("a second answer", [block(abc, 3, b"abc"), block(abc, 3, b"abc")].concat()),
        ("an endless tail", [block(abc, 3, b"abc"), vec![0x20; 4 << 20]].concat()),
        ("another kind", Response::Stored {}.encode().expect("encoded")),
        ("malformed CBOR", frame(b"\xff\xff\xff")),
        ("an empty frame", frame(b"")),
        ("an oversized frame", u32::MAX.to_be_bytes().to_vec()),
        ("nested arrays", frame(&[0x81; 4000])),
        ("a million nested arrays", frame(&vec![0x81; 1_000_000])),
    ];
    for (what, script) in scripts {
        let error = answered_with(script).await;
        assert!(error.is_hostile(), "{what}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_has_stalled_after_the_deadline() {
    let abc = Cid::of(Codec::Raw, b"abc");
    for script in [vec![], block(abc, 3, b"ab"), vec![0, 0]] {
        let start = tokio::time::Instant::now();
        let error = answered_with(script).await;
        assert!(matches!(error, TransferError::Stalled), "{error}");
        assert_eq!(start.elapsed().as_secs(), super::frames::STALL.as_secs());
    }
}

#[tokio::test]
async fn an_abandoned_stream_releases_its_memory() {
    let server = TestServer::start();
    let block = server.put(&bytes(1, 1 << 20));
    let mut client = RequestStream::new(server.pipe().await);
    let receiving = tokio::spawn(async move { get(&mut client, vec![block; 500]).await });
    while server.sent() == 0 {
        tokio::task::yield_now().await;
    }
    receiving.abort();
    drop(receiving.await);
    // The peer gets more blocks than would fit beside the memory of the abandoned stream.
    let (answers, _) = get(&mut RequestStream::new(server.pipe().await), vec![block; 40]).await;
    assert_eq!(answers.len(), 40);
}

/// Waits until cached blocks are in the index.
fn settle(store: &Store) {
    store.set_meta("settled", &[]).expect("set");
}
