//! Peers that have left: one question may learn it the slow way, none waits for them twice.

use std::time::{Duration, Instant};

use futures::future::join_all;
use storgo::node::{ErrorCode, Reference, report::PutReport};

use super::swarm::{DEADLINE, TestNode, addr_of, get, noise, put, start_with, tcp};

/// How long a question may take that waits for nobody who has left: dials over QUIC alone take five seconds to fail.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A node that can be dialled in two ways, one of which says nothing when nobody is there.
async fn start(hub: Option<&TestNode>) -> TestNode {
    let known = match hub {
        Some(hub) => vec![addr_of(hub).await],
        None => Vec::new(),
    };
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a multiaddr");
    start_with(|options| {
        options.listen = vec![tcp(), quic];
        options.bootstrap = known;
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
async fn a_second_question_does_not_wait_for_those_who_have_left() {
    let hub = start(None).await;
    let leaving = join_all((0..4).map(|_| start(Some(&hub)))).await;
    let reports = join_all(leaving.iter().zip(1..).map(|(node, seed)| provided(node, seed))).await;
    // One that knew them all while they were there, and one that only hears of them.
    let old = start(Some(&hub)).await;
    provided(&old, 10).await;
    join_all(leaving.iter().map(|node| node.shutdown())).await;
    let new = start(Some(&hub)).await;
    let stored = provided(&new, 11).await;

    for reader in [&old, &new] {
        let error = get(reader, &reports[0].link).await.expect_err("nobody has it");
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
        // The same one, one that another of them had, and one that nobody ever had.
        let elsewhere = start_with(|options| options.offline = true).await;
        let unknown = put(&elsewhere, &noise(99, 1000)).await;
        for link in [&reports[0].link, &reports[0].link, &unknown.link] {
            let asked = Instant::now();
            let error = get(reader, link).await.expect_err("nobody has it");
            assert_eq!(error.code, ErrorCode::NotFound, "{error}");
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        }
    }
    let asked = Instant::now();
    let info = new.info(&Reference::from(stored.link.as_str()), true).await.expect("known");
    assert!(info.providers.is_some() && asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let asked = Instant::now();
    let removed = new.remove(&Reference::from(stored.link.as_str())).await.expect("removed");
    assert!(removed.withdrawn_from > 0 && asked.elapsed() < AT_ONCE, "{removed:?} {:?}", asked.elapsed());
}
