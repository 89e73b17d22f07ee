//! Guarantees for readers: order of blocks, progress on slow links, memory beside paused readers, and harmless wrong
//! links.

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use storgo::{
    content::cid::{Cid, Codec},
    fetch::{READ_AHEAD, Session},
    store::PutMode,
};

use super::{
    store_sample::record,
    transfer_hostile::{Peer, blocks, root},
};

fn name(block: &[u8]) -> Cid {
    Cid::of(Codec::Raw, block)
}

async fn get(session: &Session, block: &[u8]) {
    let got =
        session.block(&name(block), Some(u32::try_from(block.len()).expect("short"))).await.expect("a block");
    assert!(got == block);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_arrive_in_the_order_of_the_requests() {
    let blocks = blocks(21, 30);
    let (provider, reader) = (Peer::start(Some(2 << 20)).await, Peer::start(None).await);
    provider.keep(&blocks);
    reader.connect(&provider.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(20));
    let arriving = stream::iter(0..blocks.len()).map(|n| {
        let (session, blocks) = (&session, &blocks);
        async move {
            get(session, &blocks[n]).await;
            n
        }
    });
    let order: Vec<usize> = arriving.buffer_unordered(READ_AHEAD).collect().await;
    // Neighbours may change places between the stream and this line.
    let moved = (0..).zip(&order).map(|(at, n): (usize, _)| at.abs_diff(*n)).max();
    assert!(moved.is_some_and(|moved| moved <= 3), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_reader_of_a_local_block_does_not_stop_later_blocks() {
    let blocks = blocks(23, 2);
    let (provider, reader) = (Peer::start(None).await, Peer::start(None).await);
    provider.keep(&blocks);
    reader.keep(&blocks[..1]);
    reader.connect(&provider.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(2));
    let mut paused = std::pin::pin!(get(&session, &blocks[0]));
    // Polled once, like a stream whose reader pauses.
    let early = futures::poll!(&mut paused);
    get(&session, &blocks[1]).await;
    if early.is_pending() {
        paused.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_may_take_longer_than_the_timeout_while_bytes_arrive() {
    let blocks = blocks(22, 2);
    let (provider, reader) = (Peer::start(Some(64 << 10)).await, Peer::start(None).await);
    provider.keep(&blocks);
    reader.connect(&provider.net).await;
    let session = reader.fetcher.session(root(), Duration::from_secs(3));
    get(&session, &blocks[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_readers_do_not_stop_others() {
    let peer = Peer::start(None).await;
    let pausing: Vec<Session> =
        (0..4).map(|_| peer.fetcher.session(root(), Duration::from_secs(5))).collect();
    let mut held = Vec::new();
    for session in &pausing {
        while let Some(Some(room)) = session.reserve_memory(2_000_000).now_or_never() {
            held.push(room);
            assert!(held.len() < 1000, "there is no bound");
        }
    }
    let another = peer.fetcher.session(root(), Duration::from_secs(5));
    assert!(
        another.reserve_memory(2_000_000).now_or_never().flatten().is_some(),
        "beside {} blocks held",
        held.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_block_is_removed_only_if_no_file_has_it_and_fetched_from_another_peer() {
    let blocks = blocks(23, 3);
    let (provider, reader) = (Peer::start(None).await, Peer::start(None).await);
    provider.keep(&blocks);
    reader.connect(&provider.net).await;
    let keep = |block: &[u8]| {
        let upload = reader.store.upload();
        upload.put(&name(block), block, PutMode::Sealed).expect("stored");
        upload.commit(record(name(block))).expect("listed");
    };
    let has = |block: &[u8]| reader.store.has(&name(block)).expect("an answer");
    let session = reader.fetcher.session(root(), Duration::from_secs(5));

    keep(&blocks[0]);
    get(&session, &blocks[0]).await;
    assert!(!session.reject(&name(&blocks[0])).await && has(&blocks[0]), "it was here before");

    get(&session, &blocks[1]).await;
    keep(&blocks[1]);
    assert!(!session.reject(&name(&blocks[1])).await && has(&blocks[1]), "a file has it by now");

    get(&session, &blocks[2]).await;
    assert!(session.reject(&name(&blocks[2])).await && !has(&blocks[2]));
    let other = Peer::start(None).await;
    other.keep(&blocks[2..]);
    reader.connect(&other.net).await;
    get(&session, &blocks[2]).await;
}
