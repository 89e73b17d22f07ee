//! Peers that have left: only the first request waits for them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use storgo::node::{ErrorCode, Reference, report::PutReport};

use super::swarm::{DEADLINE, TestNode, addr_of, get, noise, put, start_with, tcp};

/// Maximum duration of a request that does not wait for them. A failing dial over QUIC takes five seconds.
const SHORT: Duration = Duration::from_secs(4);

/// Starts a node on TCP and QUIC. A dial over QUIC gets no answer after the node has left.
async fn start(hub: Option<&TestNode>) -> TestNode {
    let bootstrap = match hub {
        Some(hub) => vec![addr_of(hub).await],
        None => Vec::new(),
    };
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a multiaddr");
    start_with(|options| {
        options.listen = vec![tcp(), quic];
        options.bootstrap = bootstrap;
    })
    .await
}

async fn provided(node: &TestNode, seed: u32) -> PutReport {
    let report = put(node, &noise(seed, 100_000)).await;
    let placed = node.placement(&Reference::from(report.link.as_str()), DEADLINE).await.expect("placed");
    assert!(placed.announced_to > 0);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_does_not_wait_for_peers_that_have_left() {
    let hub = start(None).await;
    let leaving = join_all((0..4).map(|_| start(Some(&hub)))).await;
    let reports = join_all(leaving.iter().zip(1..).map(|(node, seed)| provided(node, seed))).await;
    // One node that was connected to all of them, and one that only learns of them from the hub.
    let old = start(Some(&hub)).await;
    provided(&old, 10).await;
    join_all(leaving.iter().map(|node| node.shutdown())).await;
    let new = start(Some(&hub)).await;
    let stored = provided(&new, 11).await;

    for reader in [&old, &new] {
        let error = get(reader, &reports[0].link).await.expect_err("nobody has it");
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
        // The same file twice, and one that no node ever had.
        let elsewhere = start_with(|options| options.offline = true).await;
        let unknown = put(&elsewhere, &noise(99, 1000)).await;
        for link in [&reports[0].link, &reports[0].link, &unknown.link] {
            let start = Instant::now();
            let error = get(reader, link).await.expect_err("nobody has it");
            assert_eq!(error.code, ErrorCode::NotFound, "{error}");
            assert!(start.elapsed() < SHORT, "{:?}", start.elapsed());
        }
    }
    let start = Instant::now();
    let info = new.info(&Reference::from(stored.link.as_str()), true).await.expect("known");
    assert!(info.providers.is_some() && start.elapsed() < SHORT, "{:?}", start.elapsed());
    let start = Instant::now();
    let removed = new.remove(&Reference::from(stored.link.as_str())).await.expect("removed");
    assert!(removed.withdrawn_from > 0 && start.elapsed() < SHORT, "{removed:?} {:?}", start.elapsed());
}
