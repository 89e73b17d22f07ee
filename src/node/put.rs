//! Storing one stream of bytes: cut, seal, write, and list in node blocks.
//!
//! ```text
//! input ─ read + cut (this thread) ─▶ pool: seal, hash, write, sync ─▶ entries, back in order ─▶ encoder
//! ```
//! At most [`IN_FLIGHT`] chunks of one upload exist at a time, so memory is bounded whatever the size.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use super::{
    error::{NodeError, Reason},
    pool::Pool,
};
use crate::{
    content::{
        chunk::{Chunker, Cutter},
        encoder::{Block, FileEncoder, Finished, Metadata},
        seal::{Entry, Sealing, seal_chunk},
        secret::ConvergenceSecret,
    },
    store::{Put, PutMode, Upload},
};

/// Chunks of one upload in memory at a time.
const IN_FLIGHT: usize = 16;

/// How one upload is cut and sealed.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) sealing: Sealing,
    pub(super) chunker: Chunker,
    pub(super) secret: ConvergenceSecret,
}

impl Recipe {
    fn mode(&self) -> PutMode {
        match self.sealing {
            Sealing::Public => PutMode::Compare,
            Sealing::Secret(_) => PutMode::Sealed,
        }
    }
}

/// Counts of what an upload did, over all its files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) new_blocks: u64,
    pub(super) blocks: u64,
    pub(super) stored_len: u64,
}

/// One upload: where its blocks go and what has been counted.
pub(super) struct Sealer {
    pub(super) recipe: Recipe,
    pub(super) upload: Arc<Upload>,
    pub(super) pool: Pool,
    pub(super) tally: Tally,
}

type Sealed = Result<(Entry, bool), NodeError>;

impl Sealer {
    /// Stores all of `input` and answers with its root. Nothing is durable before the upload is committed.
    pub(super) fn file(&mut self, input: &mut dyn Read, metadata: Metadata) -> Result<Finished, NodeError> {
        let (done, results) = mpsc::sync_channel::<(u64, Sealed)>(IN_FLIGHT);
        let stored = self.file_through(done, &results, input, metadata);
        // Where that failed, blocks may still be on their way to the disk: the upload ends after them.
        while results.recv().is_ok() {}
        stored
    }

    #[allow(clippy::needless_pass_by_value)] // Gone when this returns: who waits for its clones waits for nothing else.
    fn file_through(
        &mut self,
        done: mpsc::SyncSender<(u64, Sealed)>,
        results: &mpsc::Receiver<(u64, Sealed)>,
        input: &mut dyn Read,
        metadata: Metadata,
    ) -> Result<Finished, NodeError> {
        let cutter = Cutter::new(self.recipe.chunker, &self.recipe.secret);
        let mut encoder = FileEncoder::new(self.recipe.sealing.clone());
        let mut chunks = Chunks { input, cutter, buf: Vec::new(), last: false };
        let mut waiting: BTreeMap<u64, (Entry, bool)> = BTreeMap::new();
        let (mut sent, mut received, mut next) = (0_u64, 0_u64, 0_u64);
        loop {
            let chunk = chunks.next().map_err(|e| read_error(&e))?;
            let more = chunk.is_some();
            if let Some(chunk) = chunk {
                if sent == 0 && chunks.is_done() {
                    // A file of one chunk is not worth another thread.
                    let (entry, new) = seal_and_write(&self.recipe, &self.upload, chunk, false)?;
                    self.count(u64::from(entry.len), new);
                    self.write_nodes(encoder.push(entry)?)?;
                    break;
                }
                let (recipe, upload, done) = (self.recipe.clone(), Arc::clone(&self.upload), done.clone());
                let (index, is_last) = (sent, chunks.is_done());
                self.pool.submit(move || {
                    let job = AssertUnwindSafe(|| seal_and_write(&recipe, &upload, chunk, is_last));
                    let sealed = catch_unwind(job).unwrap_or_else(|_| Err(NodeError::lost_worker()));
                    // Let go of before the answer: whoever has all answers is the last one to hold the upload.
                    drop(upload);
                    // The receiver may be gone: then the upload has failed already.
                    drop(done.send((index, sealed)));
                });
                sent += 1;
            }
            while received < sent && (!more || sent - next >= IN_FLIGHT as u64) {
                let (index, sealed) = results.recv().map_err(|_| NodeError::lost_worker())?;
                received += 1;
                waiting.insert(index, sealed?);
                while let Some((entry, new)) = waiting.remove(&next) {
                    next += 1;
                    self.count(u64::from(entry.len), new);
                    self.write_nodes(encoder.push(entry)?)?;
                }
            }
            if !more {
                break;
            }
        }
        let mut finished = encoder.finish(metadata)?;
        self.write_nodes(std::mem::take(&mut finished.blocks))?;
        Ok(finished)
    }

    /// Writes node blocks, in the order given.
    pub(super) fn write_nodes(&mut self, blocks: Vec<Block>) -> Result<(), NodeError> {
        for block in blocks {
            let new = self.upload.put(&block.cid, &block.bytes, self.recipe.mode())? == Put::New;
            self.count(block.bytes.len() as u64, new);
        }
        Ok(())
    }

    fn count(&mut self, len: u64, new: bool) {
        self.tally.blocks += 1;
        self.tally.stored_len += len;
        self.tally.new_blocks += u64::from(new);
    }
}

/// `is_last`: it ends a file of several chunks.
fn seal_and_write(recipe: &Recipe, upload: &Upload, chunk: Vec<u8>, is_last: bool) -> Sealed {
    let sealed = seal_chunk(&recipe.sealing, chunk)?;
    let put = if is_last { Upload::put_last } else { Upload::put };
    let put = put(upload, &sealed.entry.cid, &sealed.block, recipe.mode())?;
    Ok((sealed.entry, put == Put::New))
}

fn read_error(e: &io::Error) -> NodeError {
    NodeError::new(super::ErrorCode::Other, format!("the input could not be read to its end: {e}"))
        .reason(Reason::InputFailed)
}

/// Cuts a reader into chunks.
struct Chunks<'a> {
    input: &'a mut dyn Read,
    cutter: Cutter,
    buf: Vec<u8>,
    last: bool,
}

impl Chunks<'_> {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let want = self.cutter.max_len().saturating_sub(self.buf.len());
            if !self.last && want > 0 {
                // `read_to_end` on a bounded reader fills spare capacity without clearing it first.
                self.buf.reserve_exact(want);
                let got = (&mut *self.input).take(want as u64).read_to_end(&mut self.buf)?;
                self.last = got < want;
            }
            if self.buf.is_empty() {
                return Ok(None);
            }
            if let Some(len) = self.cutter.cut(&self.buf, self.last) {
                let rest = self.buf.split_off(len);
                return Ok(Some(std::mem::replace(&mut self.buf, rest)));
            }
        }
    }

    fn is_done(&self) -> bool {
        self.last && self.buf.is_empty()
    }
}
