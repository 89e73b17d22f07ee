//! Peers that lie, stall or flood: each costs one try, and the bytes come from others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Stream, identity::Keypair};
use storgo::{
    content::cid::{Cid, Codec},
    fetch::{FetchError, Fetcher},
    net::{IncomingStreams, Net, NetOptions, Protocols},
    store::{Store, StoreOptions},
    transfer::{self, Counters, Limiter, ServeOptions, Transfers},
    wire::{Message, PREFIX_LEN, Request, Response},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::swarm::{noise, tcp};

pub const BLOCK_LEN: usize = 256 << 10;

/// A peer with a store: it serves, and it can fetch.
pub struct Peer {
    pub net: Net,
    pub store: Store,
    pub fetcher: Fetcher,
    pub counters: Arc<Counters>,
    _serving: AbortOnDropHandle<()>,
    _dir: TempDir,
}

async fn start_net() -> (Net, IncomingStreams) {
    let options = NetOptions { listen: vec![tcp()], ..NetOptions::new(Keypair::generate_ed25519()) };
    let mut protocols = Protocols::default();
    let incoming = protocols.accept(transfer::PROTOCOL);
    (Net::start(options, protocols).await.expect("starts"), incoming)
}

impl Peer {
    pub async fn start(bytes_per_s: Option<u64>) -> Self {
        let dir = TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("a store");
        let (net, incoming) = start_net().await;
        let counters = Arc::new(Counters::default());
        let limit = bytes_per_s.map(|rate| Arc::new(Limiter::new(rate)));
        let options = ServeOptions { limit, ..ServeOptions::default() };
        let stop = CancellationToken::new();
        let serving =
            transfer::serve(net.clone(), incoming, store.clone(), options, Arc::clone(&counters), stop);
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let fetcher = Fetcher::new(store.clone(), Transfers::new(net.clone(), Arc::clone(&counters)));
        Self { net, store, fetcher, counters, _serving: serving, _dir: dir }
    }

    pub fn keep(&self, blocks: &[Vec<u8>]) {
        for block in blocks {
            self.store.put_cached(&Cid::of(Codec::Raw, block), block).expect("stored");
        }
    }

    pub async fn knows(&self, other: &Net) {
        self.net.connect(other.listen_addrs().remove(0)).await.expect("connected");
    }
}

/// Blocks that are the same every time.
pub fn blocks(seed: u32, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(seed * 1000 + n, BLOCK_LEN)).collect()
}

pub fn root() -> Cid {
    Cid::of(Codec::DagCbor, b"a root")
}

/// What a hostile peer does with a stream after it was asked for these blocks.
type Deed = fn(&[Cid]) -> Script;

struct Script {
    bytes: Vec<u8>,
    /// Sent again and again, until nobody takes it.
    endlessly: bool,
}

/// A peer that does one bad thing to everybody who asks.
pub struct Hostile {
    pub net: Net,
    /// How often it was asked.
    asked: watch::Sender<u32>,
    /// It answers once this is cancelled.
    may_answer: CancellationToken,
    /// Bytes that others took from it.
    taken: Arc<AtomicU32>,
    _answering: AbortOnDropHandle<()>,
}

impl Hostile {
    async fn start(deed: Deed) -> Self {
        let (net, mut incoming) = start_net().await;
        let (asked, taken) = (watch::Sender::new(0), Arc::new(AtomicU32::new(0)));
        let may_answer = CancellationToken::new();
        let (asked_now, taken_now, start_now) = (asked.clone(), Arc::clone(&taken), may_answer.clone());
        let answering = async move {
            while let Some((_, stream)) = incoming.recv().await {
                let (asked, taken, start) = (asked_now.clone(), Arc::clone(&taken_now), start_now.clone());
                tokio::spawn(async move { answer(stream, deed, &asked, &taken, &start).await });
            }
        };
        let answering = AbortOnDropHandle::new(tokio::spawn(answering));
        Self { net, asked, may_answer, taken, _answering: answering }
    }
}

/// A peer that takes every question and answers none.
pub async fn silent() -> Hostile {
    let peer = Hostile::start(nothing).await;
    peer.may_answer.cancel();
    peer
}

/// Ends when the other side has had enough.
async fn answer(
    mut stream: Stream,
    deed: Deed,
    asked: &watch::Sender<u32>,
    taken: &AtomicU32,
    may_answer: &CancellationToken,
) -> Option<()> {
    loop {
        let mut prefix = [0; PREFIX_LEN];
        stream.read_exact(&mut prefix).await.ok()?;
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut body).await.ok()?;
        let Ok(Request::Get { cids }) = Request::decode(&body) else {
            return None;
        };
        asked.send_modify(|count| *count += 1);
        may_answer.cancelled().await;
        let script = deed(&cids);
        loop {
            for part in script.bytes.chunks(64 << 10) {
                stream.write_all(part).await.ok()?;
                taken.fetch_add(u32::try_from(part.len()).expect("64 KiB"), Ordering::Relaxed);
            }
            stream.flush().await.ok()?;
            if !script.endlessly {
                break;
            }
        }
    }
}

fn once(bytes: Vec<u8>) -> Script {
    Script { bytes, endlessly: false }
}

fn header(cid: Cid, len: usize) -> Vec<u8> {
    Response::Block { cid, len: u32::try_from(len).expect("short") }.encode().expect("encoded")
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat()
}

fn wrong_bytes(cids: &[Cid]) -> Script {
    once(cids.iter().flat_map(|cid| [header(*cid, BLOCK_LEN), vec![7; BLOCK_LEN]].concat()).collect())
}

fn too_long(cids: &[Cid]) -> Script {
    once([header(cids[0], BLOCK_LEN + 1), vec![7; BLOCK_LEN + 1]].concat())
}

fn too_short(cids: &[Cid]) -> Script {
    once([header(cids[0], BLOCK_LEN - 1), vec![7; BLOCK_LEN - 1]].concat())
}

fn another_block(_: &[Cid]) -> Script {
    let block = vec![7; BLOCK_LEN];
    once([header(Cid::of(Codec::Raw, &block), BLOCK_LEN), block].concat())
}

fn endless(cids: &[Cid]) -> Script {
    // A good start, and then bytes without end.
    Script { bytes: [header(cids[0], BLOCK_LEN), vec![7; 4 * BLOCK_LEN]].concat(), endlessly: true }
}

fn endless_answers(cids: &[Cid]) -> Script {
    Script { bytes: Response::Missing { cid: cids[0] }.encode().expect("encoded"), endlessly: true }
}

fn nothing(_: &[Cid]) -> Script {
    once(Vec::new())
}

fn half_a_block(cids: &[Cid]) -> Script {
    once([header(cids[0], BLOCK_LEN), vec![7; BLOCK_LEN / 2]].concat())
}

fn malformed(_: &[Cid]) -> Script {
    once(frame(b"\xff\xfe\xfd"))
}

fn oversized(_: &[Cid]) -> Script {
    Script { bytes: [&u32::MAX.to_be_bytes()[..], &vec![0; 1 << 20]].concat(), endlessly: true }
}

fn nested(_: &[Cid]) -> Script {
    once(frame(&vec![0x81; 1_000_000]))
}

/// Reads blocks that an honest and a hostile peer are asked for; answers what it took from the hostile one.
async fn survives(what: &str, deed: Deed) {
    let (honest, reader) = (Peer::start(None).await, Peer::start(None).await);
    let hostile = Hostile::start(deed).await;
    let blocks = blocks(1, 24);
    honest.keep(&blocks);
    reader.knows(&hostile.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(20));
    let wanted = blocks.iter().map(|block| {
        let (session, block) = (session.clone(), block.clone());
        async move {
            let cid = Cid::of(Codec::Raw, &block);
            let got = session.block(&cid, Some(u32::try_from(BLOCK_LEN).expect("short"))).await;
            assert_eq!(got.expect("the block"), block);
        }
    });
    // A peer that has served a block is preferred to an untried one, so the honest peer connects only after the
    // hostile one was asked.
    let honest_joins = async {
        let mut asked = hostile.asked.subscribe();
        let was_asked = timeout(Duration::from_secs(20), asked.wait_for(|count| *count > 0)).await;
        assert!(matches!(was_asked, Ok(Ok(_))), "{what}: the hostile peer was not asked within 20 s");
        reader.knows(&honest.net).await;
        hostile.may_answer.cancel();
        Instant::now()
    };
    let (_, start) = futures::join!(futures::future::join_all(wanted), honest_joins);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{what}: it cost {took:?}");
    // What the network's own windows hold, and no more.
    let taken = hostile.taken.load(Ordering::Relaxed);
    assert!(taken < 40 << 20, "{what}: {taken} bytes were taken");
    // Who broke the rules is not asked again in this session.
    let late = noise(9999, BLOCK_LEN);
    honest.keep(std::slice::from_ref(&late));
    let got = session.block(&Cid::of(Codec::Raw, &late), None).await;
    assert_eq!(got.expect("the block"), late, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_other_bytes_than_asked_for_is_dropped_and_others_serve() {
    survives("wrong bytes", wrong_bytes).await;
    survives("too long", too_long).await;
    survives("too short", too_short).await;
    survives("another block", another_block).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_without_end_is_dropped_and_others_serve() {
    survives("endless", endless).await;
    survives("endless answers", endless_answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_nothing_is_passed_over_and_others_serve() {
    survives("nothing", nothing).await;
    survives("half a block", half_a_block).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_nonsense_is_dropped_and_others_serve() {
    survives("malformed", malformed).await;
    survives("oversized", oversized).await;
    survives("a million nested arrays", nested).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_liars_alone_there_is_an_error_and_no_hang() {
    for deed in [wrong_bytes, malformed] as [Deed; 2] {
        let (hostile, reader) = (Hostile::start(deed).await, Peer::start(None).await);
        hostile.may_answer.cancel();
        reader.knows(&hostile.net).await;
        let session = reader.fetcher.session(root(), Duration::from_secs(3));
        let block = noise(1, BLOCK_LEN);
        let start = Instant::now();
        let got =
            session.block(&Cid::of(Codec::Raw, &block), Some(u32::try_from(BLOCK_LEN).expect("short"))).await;
        assert!(
            matches!(
                got,
                Err(FetchError::Timeout { .. } | FetchError::Corrupt { .. } | FetchError::NotFound { .. })
            ),
            "{:?}",
            got.map(|block| block.len())
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(reader.store.usage().blocks, 0, "nothing bad is kept");
    }
}
