//! Hostile peers: each costs one request, and the bytes come from honest ones.

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
    transfer::{self, Counters, RateLimiter, ServeOptions, Transfers},
    wire::{Message, PREFIX_LEN, Request, Response},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::swarm::{noise, tcp};

pub const BLOCK_LEN: usize = 256 << 10;

/// A peer that serves and fetches.
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
        let limit = bytes_per_s.map(|rate| Arc::new(RateLimiter::new(rate)));
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

    pub async fn connect(&self, other: &Net) {
        self.net.connect(other.listen_addrs().remove(0)).await.expect("connected");
    }
}

/// Returns blocks that are the same in every run.
pub fn blocks(seed: u32, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(seed * 1000 + n, BLOCK_LEN)).collect()
}

pub fn root() -> Cid {
    Cid::of(Codec::DagCbor, b"a root")
}

/// Returns what a hostile peer sends after a request for these blocks.
type Attack = fn(&[Cid]) -> Script;

struct Script {
    bytes: Vec<u8>,
    /// Whether to repeat the bytes until the stream ends.
    endlessly: bool,
}

/// A peer that answers every request with the same attack.
pub struct Hostile {
    pub net: Net,
    /// Number of requests.
    requests: watch::Sender<u32>,
    /// It answers when this is cancelled.
    may_answer: CancellationToken,
    /// Bytes that it has sent.
    sent: Arc<AtomicU32>,
    _answering: AbortOnDropHandle<()>,
}

impl Hostile {
    async fn start(attack: Attack) -> Self {
        let (net, mut incoming) = start_net().await;
        let (requests, sent) = (watch::Sender::new(0), Arc::new(AtomicU32::new(0)));
        let may_answer = CancellationToken::new();
        let (counter, bytes, start) = (requests.clone(), Arc::clone(&sent), may_answer.clone());
        let answering = async move {
            while let Some((_, stream)) = incoming.recv().await {
                let (requests, sent, start) = (counter.clone(), Arc::clone(&bytes), start.clone());
                tokio::spawn(async move { answer(stream, attack, &requests, &sent, &start).await });
            }
        };
        let answering = AbortOnDropHandle::new(tokio::spawn(answering));
        Self { net, requests, may_answer, sent, _answering: answering }
    }
}

/// A peer that accepts requests and answers none.
pub async fn silent() -> Hostile {
    let peer = Hostile::start(nothing).await;
    peer.may_answer.cancel();
    peer
}

/// Answers until the stream ends.
async fn answer(
    mut stream: Stream,
    attack: Attack,
    requests: &watch::Sender<u32>,
    sent: &AtomicU32,
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
        requests.send_modify(|count| *count += 1);
        may_answer.cancelled().await;
        let script = attack(&cids);
        loop {
            for part in script.bytes.chunks(64 << 10) {
                stream.write_all(part).await.ok()?;
                sent.fetch_add(u32::try_from(part.len()).expect("64 KiB"), Ordering::Relaxed);
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

fn endless(cids: &[Cid]) -> Script {
    // A valid start, then endless bytes.
    Script { bytes: [header(cids[0], BLOCK_LEN), vec![7; 4 * BLOCK_LEN]].concat(), endlessly: true }
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

/// Reads blocks from an honest peer beside a hostile one.
async fn read_beside(what: &str, attack: Attack) {
    let (honest, reader) = (Peer::start(None).await, Peer::start(None).await);
    let hostile = Hostile::start(attack).await;
    let blocks = blocks(1, 24);
    honest.keep(&blocks);
    reader.connect(&hostile.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(20));
    let wanted = blocks.iter().map(|block| {
        let (session, block) = (session.clone(), block.clone());
        async move {
            let cid = Cid::of(Codec::Raw, &block);
            let got = session.block(&cid, Some(u32::try_from(BLOCK_LEN).expect("short"))).await;
            assert_eq!(got.expect("the block"), block);
        }
    });
    // A peer that has served a block is preferred, so the honest peer connects after the request to the hostile one.
    let honest_joins = async {
        let mut requests = hostile.requests.subscribe();
        let requested = timeout(Duration::from_secs(20), requests.wait_for(|count| *count > 0)).await;
        assert!(matches!(requested, Ok(Ok(_))), "{what}: the hostile peer got no request within 20 s");
        reader.connect(&honest.net).await;
        hostile.may_answer.cancel();
        Instant::now()
    };
    let (_, start) = futures::join!(futures::future::join_all(wanted), honest_joins);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{what}: it took {took:?}");
    // Bounded by the buffers of the network.
    let sent = hostile.sent.load(Ordering::Relaxed);
    assert!(sent < 40 << 20, "{what}: {sent} bytes were sent");
    // The session does not depend on the hostile peer any more.
    let late = noise(9999, BLOCK_LEN);
    honest.keep(std::slice::from_ref(&late));
    let got = session.block(&Cid::of(Codec::Raw, &late), None).await;
    assert_eq!(got.expect("the block"), late, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_beside_a_peer_that_sends_wrong_bytes() {
    read_beside("wrong bytes", wrong_bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_beside_a_peer_that_sends_without_end() {
    read_beside("endless", endless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_beside_a_peer_that_stalls() {
    read_beside("nothing", nothing).await;
    read_beside("half a block", half_a_block).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_beside_a_peer_that_sends_malformed_messages() {
    read_beside("malformed", malformed).await;
    read_beside("oversized", oversized).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_from_hostile_peers_alone_fails_in_time() {
    for attack in [wrong_bytes, malformed] as [Attack; 2] {
        let (hostile, reader) = (Hostile::start(attack).await, Peer::start(None).await);
        hostile.may_answer.cancel();
        reader.connect(&hostile.net).await;
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
        assert_eq!(reader.store.usage().blocks, 0, "no bad block is stored");
    }
}
