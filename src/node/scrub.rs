//! Reading all stored blocks again, slowly, for as many days as it takes: a stop keeps the place, and what is bad is mended when
//! it is found, not when all has been read.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Node, error::NodeError, report::VerifyReport};
use crate::content::hash::Digest;

/// Where a round that is not at its end is noted.
const META_ROUND: &str = "scrub-round";
/// Blocks that are read between two looks at what was found.
const PAGE: usize = 64;
/// How often the place is noted.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// One reading of all blocks.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    /// The last block that was read.
    after: Option<Digest>,
    checked: u64,
    bad: u64,
    missing: u64,
    repaired: u64,
}

impl Round {
    fn add(&mut self, report: &VerifyReport) {
        self.checked += report.checked;
        self.bad += report.bad.len() as u64;
        self.missing += report.missing.len() as u64;
        self.repaired += report.repaired.len() as u64;
    }
}

impl Node {
    /// Reads all blocks again at this rate, in bytes per second, from where the last round was broken off; what is bad is
    /// repaired from peers.
    pub(super) async fn scrub(&self, rate: u64) {
        match self.read_all_again(rate).await {
            Ok(Round { checked, bad: 0, missing: 0, .. }) => {
                tracing::info!(blocks = checked, "all stored blocks are good");
            }
            Ok(Round { bad, missing, repaired, .. }) => {
                tracing::warn!(bad, missing, repaired, "stored blocks were damaged");
            }
            Err(error) => tracing::warn!("stored blocks cannot be checked: {error}"),
        }
    }

    async fn read_all_again(&self, rate: u64) -> Result<Round, NodeError> {
        let noted = self.meta(META_ROUND).await?;
        let mut round: Round =
            noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let mut written = Instant::now();
        loop {
            let page = self.read_page_again(round.after, rate).await;
            let (report, last) = match page {
                Ok(page) => page,
                Err(error) => {
                    // The next round begins anew, and not at what cannot be read.
                    self.note_round(&Round::default()).await;
                    return Err(error);
                }
            };
            round.add(&report);
            let Some(last) = last else { break };
            round.after = Some(last);
            if written.elapsed() >= NOTE_EVERY {
                self.note_round(&round).await;
                written = Instant::now();
            }
        }
        self.note_round(&Round::default()).await;
        Ok(round)
    }

    async fn read_page_again(
        &self,
        after: Option<Digest>,
        rate: u64,
    ) -> Result<(VerifyReport, Option<Digest>), NodeError> {
        let stop = self.stopping();
        let (found, last) = self
            .blocking(move |store| {
                Ok(store.verify_page(after, PAGE, &mut |bytes| {
                    std::thread::sleep(Duration::from_secs_f64(as_f64(bytes) / as_f64(rate)));
                    !stop.is_cancelled()
                })?)
            })
            .await?;
        Ok((self.settle(None, found).await?, last))
    }

    async fn note_round(&self, round: &Round) {
        // Without a note it costs a longer way the next time, and nothing else.
        if let Err(error) = self.set_meta(META_ROUND, serde_json::to_vec(round).unwrap_or_default()).await {
            tracing::warn!("how far stored blocks have been checked cannot be noted: {error}");
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::hash,
        node::{NodeOptions, PutOptions, report::Event},
    };

    /// Flips a bit in the file of a block.
    fn damage(dir: &std::path::Path, digest: &Digest) {
        let mut folders = vec![dir.join("blocks")];
        while let Some(folder) = folders.pop() {
            for item in std::fs::read_dir(folder).expect("listed") {
                let path = item.expect("listed").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mut bytes = std::fs::read(&path).expect("read");
                if hash::sha1(&bytes) == *digest {
                    bytes[0] ^= 1;
                    return std::fs::write(path, bytes).expect("written");
                }
            }
        }
        panic!("no file of this block");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_round_goes_on_where_a_stop_broke_it_off_and_the_next_one_begins_anew() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let mut bytes = vec![0; 6 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        node.put(&bytes[..], PutOptions::default()).await.expect("stored");
        let store = &node.inner.store;
        let all: Vec<Digest> = std::iter::successors(Some(None), |after| {
            let (_, last) = store.verify_page(*after, 1, &mut |_| true).expect("read");
            last.map(Some)
        })
        .flatten()
        .collect();
        assert_eq!(all.len() as u64, store.usage().blocks);
        assert!(all.len() > 3 && all.is_sorted(), "{all:?}");
        let [first, .., end] = all[..] else { unreachable!("more than three") };
        damage(dir.path(), &first);
        damage(dir.path(), &end);
        let mut events = node.subscribe();
        let mut found = || match events.try_recv() {
            Ok(Event::BadBlock { cid, .. }) => Some(*cid.digest()),
            _ => None,
        };
        // The first one had been read when the node was stopped.
        node.note_round(&Round { after: Some(first), checked: 1, ..Round::default() }).await;
        let round = node.read_all_again(u64::MAX).await.expect("read");
        assert_eq!((round.checked, round.bad), (all.len() as u64, 1));
        assert_eq!((found(), found()), (Some(end), None));
        let round = node.read_all_again(u64::MAX).await.expect("read");
        assert_eq!((round.checked, round.bad, round.missing), (all.len() as u64 - 1, 1, 1));
        assert_eq!((found(), found()), (Some(first), None));
        node.shutdown().await;
    }
}
