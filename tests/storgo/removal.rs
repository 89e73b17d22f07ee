//! Removing a file withdraws its provider record from the peers that hold it, also from those that are away.

use libp2p::{Multiaddr, identity::Keypair};
use storgo::node::{Node, NodeOptions, Reference};
use tempfile::TempDir;

use super::{
    net::{found, joined, providers, start, within},
    swarm::{DEADLINE, TestNode, addr_of, noise, put, reopen, start_knowing, start_with, tcp},
};

/// Stops a node and returns its directory.
async fn stop(TestNode { node, dir }: TestNode) -> TempDir {
    node.shutdown().await;
    dir
}

fn options(dir: &TempDir) -> NodeOptions {
    NodeOptions { listen: vec![tcp()], mdns: false, ..NodeOptions::new(dir.path()) }
}

/// Waits until no peer known to `hub` returns this peer as a provider.
async fn wait_until_withdrawn(hub: Multiaddr, report: &storgo::node::report::PutReport, writer: &Node) {
    let asker = start(|options| options.bootstrap = vec![hub]).await;
    within("joined", joined(&asker.net)).await;
    let withdrawn = async {
        while providers(&asker.net, report.cid).await.contains(&writer.peer_id()) {
            tokio::task::yield_now().await;
        }
    };
    within("withdrawn", withdrawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_removed_offline_is_withdrawn_at_the_next_start() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let report = put(&writer, &noise(1, 1 << 20)).await;
    let reference = Reference::from(report.link.as_str());
    writer.placement(&reference, DEADLINE).await.expect("placed");
    let addr = addr_of(&hub).await;
    let asker = start(|options| options.bootstrap = vec![addr.clone()]).await;
    within("joined", joined(&asker.net)).await;
    let peer = writer.peer_id();
    assert_eq!(found(&asker.net, report.cid).await, [peer]);
    let dir = stop(writer).await;

    let offline = reopen(NodeOptions { offline: true, ..options(&dir) }).await;
    let removed = offline.remove(&reference).await.expect("removed");
    assert_eq!((removed.withdrawn_from, removed.withdrawal_pending), (0, true));
    offline.shutdown().await;
    drop(offline);
    assert_eq!(providers(&asker.net, report.cid).await, [peer], "the record is still there");

    let again = reopen(options(&dir)).await;
    wait_until_withdrawn(addr, &report, &again).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_away_during_a_removal_drops_the_record_on_its_return() {
    let hub = start_with(|_| {}).await;
    let mut addr = addr_of(&hub).await;
    let writer = start_knowing(&hub).await;
    let report = put(&writer, &noise(2, 1 << 20)).await;
    let reference = Reference::from(report.link.as_str());
    writer.placement(&reference, DEADLINE).await.expect("placed");
    let dir = stop(hub).await;
    let gone = async {
        while !writer.peers().await.expect("asked").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("gone", gone).await;
    let removed = writer.remove(&reference).await.expect("removed");
    assert_eq!((removed.withdrawn_from, removed.withdrawal_pending), (0, true));

    addr.pop();
    let hub = reopen(NodeOptions { listen: vec![addr.clone()], ..options(&dir) }).await;
    let met = async {
        while !hub.peers().await.expect("asked").iter().any(|peer| peer.dht) {
            tokio::task::yield_now().await;
        }
    };
    within("met again", met).await;
    wait_until_withdrawn(addr, &report, &writer).await;
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_arrives_after_its_withdrawal_does_not_stay() {
    let hub = start_with(|_| {}).await;
    let addr = addr_of(&hub).await;
    let writer = start_knowing(&hub).await;
    let report = put(&writer, &noise(3, 1 << 20)).await;
    let reference = Reference::from(report.link.as_str());
    writer.placement(&reference, DEADLINE).await.expect("placed");
    let removed = writer.remove(&reference).await.expect("removed");
    assert!(removed.withdrawn_from > 0 && !removed.withdrawal_pending, "{removed:?}");
    // A second node with the same identity sends the late announcement.
    let identity = std::fs::read(writer.dir.path().join("identity.key")).expect("an identity");
    let late = start(|options| {
        options.keypair = Keypair::from_protobuf_encoding(&identity).expect("a key pair");
        options.bootstrap = vec![addr.clone()];
    })
    .await;
    late.net.provide(report.cid).await;
    assert!(within("announced", late.net.announced(report.cid)).await.expect("announced") > 0);
    late.net.shutdown().await;
    wait_until_withdrawn(addr, &report, &writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stored_again_during_the_withdrawal_of_its_record_is_announced_again() {
    // The hub accepts streams and never answers, so the withdrawal takes longer than `rm` waits.
    let hub = start(|options| options.listen = vec![tcp()]).await;
    let writer = start_with(|options| options.bootstrap = hub.net.listen_addrs()).await;
    let report = put(&writer, &noise(4, 1 << 20)).await;
    let reference = Reference::from(report.link.as_str());
    writer.placement(&reference, DEADLINE).await.expect("placed");
    found(&hub.net, report.cid).await;
    let removed = writer.remove(&reference).await.expect("removed");
    assert!(removed.withdrawal_pending);
    hub.net.drop_provider(report.cid, writer.peer_id()).await;

    put(&writer, &noise(4, 1 << 20)).await;
    found(&hub.net, report.cid).await;
    // The hub applies the withdrawal after the new announcement and does not answer.
    hub.net.drop_provider(report.cid, writer.peer_id()).await;
    assert_eq!(found(&hub.net, report.cid).await, [writer.peer_id()]);
}
