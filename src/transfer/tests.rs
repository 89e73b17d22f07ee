//! Both ends of the protocol, over pipes: an honest server, and peers that are not.

use std::sync::{Arc, atomic::Ordering};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, stream};
use libp2p::PeerId;
use tempfile::TempDir;
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};
use tokio_util::{
    compat::{Compat, TokioAsyncReadCompatExt},
    sync::CancellationToken,
};

use super::{
    Counters, Limiter, ServeOptions, TransferError,
    lane::{Answer, Ask, Lane},
    server::{Bounds, Server},
};
use crate::{
    content::cid::{Cid, Codec},
    store::{Store, StoreOptions},
    wire::{MAX_MESSAGE, Message, PREFIX_LEN, Request, Response},
};

type Pipe = Compat<DuplexStream>;

/// A store with blocks, and a server of it.
struct Provider {
    dir: TempDir,
    store: Store,
    counters: Arc<Counters>,
    stop: CancellationToken,
    streams: mpsc::Sender<(PeerId, Pipe)>,
    peer: PeerId,
}

impl Provider {
    fn start() -> Self {
        Self::with(ServeOptions::default(), Bounds::default())
    }

    fn with(options: ServeOptions, bounds: Bounds) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(StoreOptions::new(dir.path())).expect("a store");
        let counters = Arc::new(Counters::default());
        let server = Server::new(None, store.clone(), options, bounds, Arc::clone(&counters));
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

    fn put(&self, bytes: &[u8]) -> Ask {
        let cid = Cid::of(Codec::Raw, bytes);
        self.store.put_cached(&cid, bytes).expect("stored");
        settle(&self.store);
        Ask { cid, len: Some(u32::try_from(bytes.len()).expect("short")) }
    }

    async fn pipe(&self) -> Pipe {
        self.pipe_of(self.peer).await
    }

    async fn pipe_of(&self, peer: PeerId) -> Pipe {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        self.streams.send((peer, theirs.compat())).await.expect("the server runs");
        ours.compat()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks for blocks on a lane, and collects what comes.
async fn converse(lane: &mut Lane<Pipe>, asks: Vec<Ask>) -> (Vec<Answer>, Result<(), TransferError>) {
    let (more, mut queue) = mpsc::channel(1);
    more.send(asks).await.expect("there is room");
    drop(more);
    let (answers, collected) = mpsc::channel(1);
    let collecting: JoinHandle<Vec<Answer>> =
        tokio::spawn(stream::unfold(collected, |mut c| async { Some((c.recv().await?, c)) }).collect());
    let done = lane.converse(&mut queue, &answers).await;
    drop(answers);
    (collecting.await.expect("collected"), done)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

#[tokio::test]
async fn blocks_come_in_the_order_in_which_they_were_asked_for() {
    let provider = Provider::start();
    let blocks: Vec<Vec<u8>> = (0..8).map(|i| bytes(i, 1000 + usize::from(i) * 250_000)).collect();
    let mut asks: Vec<Ask> = blocks.iter().map(|block| provider.put(block)).collect();
    asks.insert(3, Ask { cid: Cid::of(Codec::Raw, b"nowhere"), len: Some(7) });
    let mut lane = Lane::new(provider.pipe().await);
    // And again, on the same stream.
    for _ in 0..2 {
        let (mut answers, done) = converse(&mut lane, asks.clone()).await;
        assert!(matches!(answers.remove(3), Answer::Missing));
        for (answer, block) in answers.into_iter().zip(&blocks) {
            assert!(matches!(answer, Answer::Block(bytes) if bytes == *block));
        }
        assert!(done.is_ok());
    }
}

#[tokio::test]
async fn thousands_of_small_blocks_are_pipelined() {
    let provider = Provider::start();
    let ask = provider.put(b"small");
    let (answers, done) = converse(&mut Lane::new(provider.pipe().await), vec![ask; 3000]).await;
    assert_eq!(answers.len(), 3000);
    assert!(done.is_ok());
    assert_eq!(provider.sent(), 3000 * 5);
}

#[tokio::test]
async fn a_block_that_is_damaged_on_disk_is_missing() {
    let provider = Provider::start();
    let mut block = bytes(1, 100_000);
    let cid = Cid::of(Codec::Raw, &block);
    let upload = provider.store.upload();
    upload.put(&cid, &block, crate::store::PutMode::Sealed).expect("stored");
    block[50_000] ^= 1;
    let path = find(provider.dir.path(), 100_000);
    std::fs::write(path, &block).expect("damaged");
    let ask = Ask { cid, len: Some(100_000) };
    let (answers, _) = converse(&mut Lane::new(provider.pipe().await), vec![ask]).await;
    assert!(matches!(answers[..], [Answer::Missing]), "{answers:?}");
    assert!(!provider.store.has(&cid).expect("an answer"));
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
async fn have_tells_what_is_here_as_far_as_it_can_see() {
    use crate::content::{
        encoder::FileEncoder,
        seal::{Sealing, seal_chunk},
        secret::{ConvergenceSecret, Key},
    };

    let provider = Provider::start();
    let sealing = Sealing::Secret(ConvergenceSecret::new(Key::new([1; 32])));
    let mut encoder = FileEncoder::new(sealing.clone());
    for i in 0..10 {
        let sealed = seal_chunk(&sealing, bytes(i, 1000)).expect("sealed");
        if i % 3 == 0 {
            provider.store.put_cached(&sealed.entry.cid, &sealed.block).expect("stored");
        }
        assert_eq!(encoder.push(sealed.entry).expect("pushed"), []);
    }
    let metadata = crate::content::encoder::Metadata { size: 10_000, ..Default::default() };
    let finished = encoder.finish(metadata).expect("finished");
    let root = finished.link.cid;
    for block in finished.blocks {
        provider.store.put_cached(&block.cid, &block.bytes).expect("stored");
    }
    settle(&provider.store);
    let mut lane = Lane::new(provider.pipe().await);
    let have = lane.call(&Request::Have { root }).await.expect("an answer");
    // The root, then 0, 3, 6 and 9 of ten.
    let bitmap = vec![0b1100_1001, 0b0010_0000].into();
    assert_eq!(have, Response::Have { blocks: 11, bitmap });
    // A block that is cut short is no more here than one that is gone, whatever the index says.
    let upload = provider.store.upload();
    let mut encoder = FileEncoder::new(sealing.clone());
    for i in 0..4 {
        let sealed = seal_chunk(&sealing, bytes(20 + i, 20_000 + usize::from(i))).expect("sealed");
        upload.put(&sealed.entry.cid, &sealed.block, crate::store::PutMode::Sealed).expect("stored");
        assert_eq!(encoder.push(sealed.entry).expect("pushed"), []);
    }
    let metadata = crate::content::encoder::Metadata { size: 80_006, ..Default::default() };
    let finished = encoder.finish(metadata).expect("finished");
    for block in &finished.blocks {
        upload.put(&block.cid, &block.bytes, crate::store::PutMode::Sealed).expect("stored");
    }
    drop(upload);
    std::fs::remove_file(find(provider.dir.path(), 20_001)).expect("removed");
    let cut = std::fs::File::options().write(true).open(find(provider.dir.path(), 20_002)).expect("there");
    cut.set_len(20_000).expect("cut");
    let have = lane.call(&Request::Have { root: finished.link.cid }).await.expect("an answer");
    assert_eq!(have, Response::Have { blocks: 5, bitmap: vec![0b1100_1000].into() });
    let absent = Cid::of(Codec::DagCbor, b"absent");
    let have = lane.call(&Request::Have { root: absent }).await.expect("an answer");
    assert_eq!(have, Response::Have { blocks: 1, bitmap: vec![0].into() });
}

#[tokio::test]
async fn what_a_node_does_not_do_is_refused_and_the_stream_goes_on() {
    let provider = Provider::with(
        ServeOptions { region: Some("attic".into()), ..ServeOptions::default() },
        Bounds::default(),
    );
    let mut pipe = provider.pipe().await;
    let cid = Cid::of(Codec::Raw, b"hello");
    let put = Request::Put { root: cid, blocks: vec![crate::wire::PutBlock { cid, len: 5 }], ticket: None };
    pipe.write_all(&put.encode().expect("encoded")).await.expect("written");
    pipe.write_all(b"hello").await.expect("written");
    let sing = serde_cbor_frame();
    pipe.write_all(&sing).await.expect("written");
    pipe.write_all(&Request::Status {}.encode().expect("encoded")).await.expect("written");
    let reason = |response| match response {
        Response::Refused { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(read_response(&mut pipe).await).contains("strangers"));
    assert!(reason(read_response(&mut pipe).await).contains("sing"));
    match read_response(&mut pipe).await {
        Response::Status { region, version, free, .. } => {
            assert_eq!((region.as_deref(), version.as_str()), (Some("attic"), env!("CARGO_PKG_VERSION")));
            assert!(free.is_some_and(|free| free > 0));
        }
        other => panic!("{other:?}"),
    }
    assert!(!provider.store.has(&cid).expect("an answer"));
}

/// `{"sing": {}}`, a message that no version knows.
fn serde_cbor_frame() -> Vec<u8> {
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
async fn a_stream_too_many_hears_that_we_are_busy() {
    let bounds = Bounds { streams_per_peer: 1, ..Bounds::default() };
    let provider = Provider::with(ServeOptions::default(), bounds);
    let ask = provider.put(b"block");
    let mut first = Lane::new(provider.pipe().await);
    let (answers, _) = converse(&mut first, vec![ask]).await;
    assert!(matches!(answers[..], [Answer::Block(_)]), "{answers:?}");
    let (answers, _) = converse(&mut Lane::new(provider.pipe().await), vec![ask, ask]).await;
    assert!(matches!(answers[..], [Answer::Busy, Answer::Busy]), "{answers:?}");
    drop(first);
}

#[tokio::test]
async fn one_who_asks_too_much_or_nonsense_is_dropped() {
    let provider = Provider::start();
    let ask = provider.put(&bytes(1, 1 << 20));
    let get = Request::Get { cids: vec![ask.cid; 1024] }.encode().expect("encoded");
    // It never reads, so nothing is answered, and the fifth request is too much.
    let endless = [get.as_slice(); 5].concat();
    let oversized = (u32::try_from(MAX_MESSAGE).expect("short") + 1).to_be_bytes().to_vec();
    let garbage = [&4_u32.to_be_bytes()[..], b"\xff\xff\xff\xff"].concat();
    let nested = [&1000_u32.to_be_bytes()[..], &[0x81; 1000]].concat();
    for nonsense in [endless, oversized, garbage, nested] {
        let mut pipe = provider.pipe().await;
        // Part of it may be refused already.
        drop(pipe.write_all(&nonsense).await);
        let mut rest = Vec::new();
        drop(pipe.read_to_end(&mut rest).await);
        assert!(rest.len() < 8 << 20, "{} bytes", rest.len());
    }
}

#[tokio::test]
async fn peers_that_do_not_read_cannot_take_all_memory_nor_starve_others() {
    let bounds = Bounds { memory: 8 << 20, memory_per_peer: 4 << 20, ..Bounds::default() };
    let provider = Provider::with(ServeOptions::default(), bounds);
    let ask = provider.put(&bytes(1, 1 << 20));
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let mut pipe = provider.pipe().await;
        let get = Request::Get { cids: vec![ask.cid; 100] }.encode().expect("encoded");
        pipe.write_all(&get).await.expect("written");
        deaf.push(pipe);
    }
    let mut lane = Lane::new(provider.pipe_of(PeerId::random()).await);
    let (answers, done) = converse(&mut lane, vec![ask; 10]).await;
    assert_eq!(answers.len(), 10);
    assert!(done.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_peers_that_read_slowly_cannot_stop_a_node_from_serving() {
    let provider = Provider::start();
    let ask = provider.put(&bytes(1, (2 << 20) - 1));
    let get = Request::Get { cids: vec![ask.cid; 100] }.encode().expect("encoded");
    let mut slow = Vec::new();
    // More than enough for all the memory there is, each with a name of its own and never quite silent.
    for n in 0..20 {
        if n == 2 {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            assert!(slow.iter().all(|reader: &JoinHandle<()>| !reader.is_finished()), "nobody else waits");
        }
        let mut pipe = provider.pipe_of(PeerId::random()).await;
        pipe.write_all(&get).await.expect("written");
        slow.push(tokio::spawn(async move {
            let mut taken = vec![0; 4 << 10];
            while pipe.read_exact(&mut taken).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }));
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    let mut lane = Lane::new(provider.pipe_of(PeerId::random()).await);
    let (answers, done) = converse(&mut lane, vec![ask; 10]).await;
    let took = start.elapsed();
    assert!(done.is_ok() && answers.len() == 10, "{done:?}");
    assert!(took.as_secs() < 30, "it waited {took:?}");
    slow.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn uploads_keep_to_their_limit() {
    let provider = Provider::with(
        ServeOptions { limit: Some(Arc::new(Limiter::new(4 << 20))), ..ServeOptions::default() },
        Bounds::default(),
    );
    let ask = provider.put(&bytes(1, 1 << 20));
    let start = std::time::Instant::now();
    let (mut a, mut b) = (Lane::new(provider.pipe().await), Lane::new(provider.pipe().await));
    let (a, b) = futures::join!(converse(&mut a, vec![ask]), converse(&mut b, vec![ask]));
    assert_eq!(a.0.len() + b.0.len(), 2);
    let took = start.elapsed().as_secs_f64();
    assert!((0.45..1.0).contains(&took), "2 MiB at 4 MiB/s took {took} s");
}

/// What a lane says to a peer that answers one request for `abc` with these bytes, and then says nothing.
async fn answered_with(script: Vec<u8>) -> TransferError {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let mut theirs = theirs.compat();
    let peer = tokio::spawn(async move {
        // It may be cut off in the middle of it.
        drop(theirs.write_all(&script).await);
        theirs
    });
    let ask = Ask { cid: Cid::of(Codec::Raw, b"abc"), len: Some(3) };
    // More could be asked for, so the lane watches what comes.
    let (more, mut queue) = mpsc::channel(1);
    more.send(vec![ask]).await.expect("there is room");
    let (answers, _collected) = mpsc::channel(16);
    let error = Lane::new(ours.compat()).converse(&mut queue, &answers).await.expect_err("it was believed");
    drop((more, peer));
    error
}

fn block(cid: Cid, len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut script = Response::Block { cid, len }.encode().expect("encoded");
    script.extend_from_slice(bytes);
    script
}

#[tokio::test]
async fn hostile_answers_are_told_apart() {
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
async fn silence_ends_after_its_time() {
    let abc = Cid::of(Codec::Raw, b"abc");
    for script in [vec![], block(abc, 3, b"ab"), vec![0, 0]] {
        let start = tokio::time::Instant::now();
        let error = answered_with(script).await;
        assert!(matches!(error, TransferError::Stalled), "{error}");
        assert!(start.elapsed() < super::frames::STALL * 2);
    }
}

#[tokio::test]
async fn an_abandoned_conversation_leaves_nothing_behind() {
    let provider = Provider::start();
    let ask = provider.put(&bytes(1, 1 << 20));
    let mut lane = Lane::new(provider.pipe().await);
    let talking = tokio::spawn(async move { converse(&mut lane, vec![ask; 500]).await });
    while provider.sent() == 0 {
        tokio::task::yield_now().await;
    }
    talking.abort();
    drop(talking.await);
    // All its memory is free again: the same peer gets more than would fit beside it.
    let (answers, _) = converse(&mut Lane::new(provider.pipe().await), vec![ask; 40]).await;
    assert_eq!(answers.len(), 40);
}

/// Waits until the index knows what was put into the cache: nobody waits for that otherwise.
fn settle(store: &Store) {
    store.set_meta("settled", &[]).expect("set");
}
