//! Reads from several providers, some of which are slow, silent or lost.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use storgo::{
    content::cid::{Cid, Codec},
    fetch::{FetchError, READ_AHEAD, Session},
};

use super::{
    swarm::noise,
    transfer_hostile::{BLOCK_LEN, Hostile, Peer, blocks, root},
};

/// Reads blocks in order, like a file. Returns the longest wait between two of them.
async fn read(
    session: &Session,
    blocks: &[Vec<u8>],
    mut each: impl FnMut(usize),
) -> Result<Duration, FetchError> {
    let mut arriving = stream::iter(blocks.to_vec())
        .map(|block| {
            let session = session.clone();
            async move {
                let cid = Cid::of(Codec::Raw, &block);
                let got = session.block(&cid, Some(u32::try_from(block.len()).expect("short"))).await?;
                assert_eq!(got, block);
                Ok::<(), FetchError>(())
            }
        })
        .buffered(READ_AHEAD);
    let (mut longest, mut last, mut count) = (Duration::ZERO, Instant::now(), 0);
    while let Some(done) = arriving.next().await {
        done?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        count += 1;
        each(count);
    }
    Ok(longest)
}

/// Starts providers of blocks that send this many bytes per second, and connects the reader to them.
async fn providers(reader: &Peer, count: usize, bytes_per_s: u64, blocks: &[Vec<u8>]) -> Vec<Peer> {
    let mut providers = Vec::new();
    for _ in 0..count {
        let provider = Peer::start(Some(bytes_per_s)).await;
        provider.keep(blocks);
        reader.connect(&provider.net).await;
        providers.push(provider);
    }
    providers
}

/// Connects a reader to peers that send no answer at all, like suspended machines, and then to one provider.
async fn among_silent(count: usize, blocks: &[Vec<u8>]) -> (Peer, Peer, Vec<Hostile>) {
    let (reader, provider) = (Peer::start(None).await, Peer::start(None).await);
    let mut silent = Vec::new();
    for _ in 0..count {
        let peer = super::transfer_hostile::silent().await;
        reader.connect(&peer.net).await;
        silent.push(peer);
    }
    reader.connect(&provider.net).await;
    provider.keep(blocks);
    (reader, provider, silent)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_providers_share_the_work_evenly() {
    let blocks = blocks(2, 160);
    let all = (blocks.len() * BLOCK_LEN) as u64;
    let reader = Peer::start(None).await;
    let providers = providers(&reader, 3, 8 << 20, &blocks).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(20));
    read(&session, &blocks, |_| {}).await.expect("all blocks");
    // No provider is idle. The benchmark measures their rate.
    let sent = providers.iter().map(|provider| provider.counters.sent.load(Ordering::Relaxed));
    let sent: Vec<u64> = sent.collect();
    assert!(sent.iter().all(|sent| *sent > all / 5), "{sent:?} of {all}");
    // Few bytes are sent twice.
    let doubled = sent.iter().sum::<u64>().saturating_sub(all);
    assert!(doubled < 4 << 20, "{doubled} bytes came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_slow_links_few_blocks_are_sent_twice() {
    // A queued block takes several seconds, which is no reason to request it from another provider.
    let blocks = blocks(7, 24);
    let reader = Peer::start(None).await;
    let providers = providers(&reader, 3, BLOCK_LEN as u64, &blocks).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(60));
    read(&session, &blocks, |_| {}).await.expect("all blocks");
    let sent: u64 = providers.iter().map(|provider| provider.counters.sent.load(Ordering::Relaxed)).sum();
    let doubled = sent.saturating_sub((blocks.len() * BLOCK_LEN) as u64) / BLOCK_LEN as u64;
    assert!(doubled <= 3, "{doubled} of 24 blocks came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_dies_in_the_middle_costs_less_than_two_seconds() {
    let blocks = blocks(3, 80);
    let reader = Peer::start(None).await;
    let mut providers = providers(&reader, 2, 8 << 20, &blocks).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(20));
    let longest = read(&session, &blocks, |count| {
        if count == 20 {
            // Ends its tasks and sockets.
            let dead = providers.pop().expect("alive");
            tokio::spawn(async move { dead.net.shutdown().await });
        }
    });
    let longest = longest.await.expect("all blocks");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_providers_are_lost_the_read_times_out_and_keeps_its_blocks() {
    let blocks = blocks(4, 40);
    let (provider, reader) = (Peer::start(Some(4 << 20)).await, Peer::start(None).await);
    provider.keep(&blocks);
    reader.connect(&provider.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(2));
    let (mut provider, mut arrived, mut lost_at) = (Some(provider), 0, Instant::now());
    let read = read(&session, &blocks, |count| {
        arrived = count;
        if count == 10 {
            lost_at = Instant::now();
            let dead = provider.take().expect("alive");
            tokio::spawn(async move { dead.net.shutdown().await });
        }
    });
    let error = read.await.expect_err("nobody is left");
    assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
    assert!(lost_at.elapsed() < Duration::from_secs(5), "{:?}", lost_at.elapsed());
    for block in &blocks[..arrived] {
        assert!(reader.store.has(&Cid::of(Codec::Raw, block)).expect("an answer"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_peer_of_many_that_has_a_file_is_found_at_once() {
    let reader = Peer::start(None).await;
    let block = noise(77, 1000);
    let root = Cid::of(Codec::Raw, &block);
    let mut peers = Vec::new();
    for n in 0..20 {
        let peer = Peer::start(None).await;
        reader.connect(&peer.net).await;
        if n == 13 {
            peer.keep(std::slice::from_ref(&block));
        }
        peers.push(peer);
    }
    let session = reader.fetcher.session(root, Duration::from_secs(20));
    let start = Instant::now();
    let got = session.block(&root, None).await.expect("the block");
    println!("first byte from one of twenty: {:?}", start.elapsed());
    assert_eq!(got, block);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_block_does_not_wait_behind_silent_peers() {
    let block = noise(78, 1000);
    let root = Cid::of(Codec::Raw, &block);
    let (reader, _provider, _silent) = among_silent(4, std::slice::from_ref(&block)).await;
    let session = reader.fetcher.session(root, Duration::from_secs(20));
    let start = Instant::now();
    let got = session.block(&root, None).await.expect("the block");
    println!("first byte beside four silent peers: {:?}", start.elapsed());
    assert_eq!(got, block);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_silent_peers_do_not_stop_a_reader() {
    let blocks = blocks(79, 48);
    let (reader, _provider, _silent) = among_silent(24, &blocks).await;
    let first = Cid::of(Codec::Raw, &blocks[0]);
    // Less than the stall deadline of a stream.
    let session = reader.fetcher.session(first, Duration::from_secs(12));
    let longest = read(&session, &blocks, |_| {}).await.expect("all blocks");
    println!("longest wait among 24 silent peers: {longest:?}");
}
