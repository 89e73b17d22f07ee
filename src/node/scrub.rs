//! Scrubbing: reading all stored blocks again in the background, slowly. A round may take days: its position survives a
//! restart, and damage is repaired when it is found, not at the end of the round.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{error::NodeError, repair::Repairs, report::VerifyReport};
use crate::content::hash::Digest;

/// Store key of the round under way.
const META_ROUND: &str = "scrub-round";
/// Blocks verified before their damage is repaired.
const PAGE: usize = 64;
/// How often the position is stored.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Scrubs the store.
pub(super) struct Scrub {
    pub(super) repairs: Repairs,
    pub(super) rate_bytes_per_s: u64,
}

/// The position and the counts of one round.
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

impl Scrub {
    /// Whether a rate is configured.
    pub(super) const fn is_enabled(&self) -> bool {
        self.rate_bytes_per_s > 0
    }

    /// Finishes the round that was interrupted last, or runs a new one, and logs the result.
    pub(super) async fn run(&self) {
        match self.round().await {
            Ok(Round { checked, bad: 0, missing: 0, .. }) => {
                tracing::info!(blocks = checked, "scrub found no damaged blocks");
            }
            Ok(Round { bad, missing, repaired, .. }) => {
                tracing::warn!(bad, missing, repaired, "scrub found damaged blocks");
            }
            Err(error) => tracing::warn!("scrub failed: {error}"),
        }
    }

    async fn round(&self) -> Result<Round, NodeError> {
        let saved = self.repairs.store.meta(META_ROUND).await?;
        let mut round: Round =
            saved.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let mut last_save = Instant::now();
        loop {
            let (report, last) = match self.page(round.after).await {
                Ok(page) => page,
                Err(error) => {
                    // Start over next time instead of at the block that cannot be read.
                    self.save(&Round::default()).await;
                    return Err(error);
                }
            };
            round.add(&report);
            let Some(last) = last else { break };
            round.after = Some(last);
            if last_save.elapsed() >= SAVE_EVERY {
                self.save(&round).await;
                last_save = Instant::now();
            }
        }
        self.save(&Round::default()).await;
        Ok(round)
    }

    /// Verifies the blocks after `after` at the configured rate. Returns the last one, or `None` at the end of the round.
    async fn page(&self, after: Option<Digest>) -> Result<(VerifyReport, Option<Digest>), NodeError> {
        let (stop, rate) = (self.repairs.tasks.stop.clone(), self.rate_bytes_per_s);
        let (verified, last) = self
            .repairs
            .store
            .run(move |store| {
                Ok(store.verify_page(after, PAGE, &mut |bytes| {
                    std::thread::sleep(Duration::from_secs_f64(as_f64(bytes) / as_f64(rate)));
                    !stop.is_cancelled()
                })?)
            })
            .await?;
        Ok((self.repairs.repair_verified(None, verified).await, last))
    }

    async fn save(&self, round: &Round) {
        // If this fails, the next round only starts further back.
        let json = serde_json::to_vec(round).unwrap_or_default();
        if let Err(error) = self.repairs.store.set_meta(META_ROUND, json).await {
            tracing::warn!("cannot store the position of the scrub: {error}");
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
        node::{Node, NodeOptions, PutOptions, report::Event},
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
        panic!("no file holds this block");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_interrupted_round_resumes_and_the_next_one_starts_over() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, scrub_rate: u64::MAX, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let mut bytes = vec![0; 6 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        node.put(&bytes[..], PutOptions::default()).await.expect("stored");
        let (store, scrub) = (&node.services.store.0, &node.services.scrub);
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
        // The first block was read before the node was stopped.
        scrub.save(&Round { after: Some(first), checked: 1, ..Round::default() }).await;
        let round = scrub.round().await.expect("read");
        assert_eq!((round.checked, round.bad), (all.len() as u64, 1));
        assert_eq!((found(), found()), (Some(end), None));
        let round = scrub.round().await.expect("read");
        assert_eq!((round.checked, round.bad, round.missing), (all.len() as u64 - 1, 1, 1));
        assert_eq!((found(), found()), (Some(first), None));
        node.shutdown().await;
    }
}
