//! Storing one stream of bytes: cut, seal, write, and list in node blocks.
//!
//! ```text
//! input ─ read + cut (this thread) ─▶ pool: seal, hash, write, sync ─▶ entries, back in order ─▶ encoder
//! ```
//! At most [`IN_FLIGHT`] chunks of one upload are in memory at a time, whatever its size.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use super::pool::Pool;
use crate::{
    content::{
        chunk::{Chunker, Cutter},
        encoder::{Block, FileEncoder, Finished, Metadata},
        seal::{Entry, Sealing, seal_chunk},
        secret::ConvergenceSecret,
    },
    node::error::{ErrorCode, NodeError, Reason},
    store::{Put, PutMode, Upload},
};

/// Maximum number of chunks of one upload in memory.
const IN_FLIGHT: usize = 16;

/// How one upload is cut and sealed.
#[derive(Clone)]
pub(super) struct SealOptions {
    pub(super) sealing: Sealing,
    pub(super) chunker: Chunker,
    pub(super) secret: ConvergenceSecret,
}

impl SealOptions {
    fn mode(&self) -> PutMode {
        match self.sealing {
            Sealing::Public => PutMode::Compare,
            Sealing::Secret(_) => PutMode::Sealed,
        }
    }
}

/// Counts over all files of an upload.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UploadCounts {
    /// Blocks that were not stored before.
    pub(super) new_blocks: u64,
    pub(super) blocks: u64,
    /// Bytes of all blocks.
    pub(super) stored_len: u64,
}

/// Seals and writes the files of one upload.
pub(super) struct Sealer {
    pub(super) options: SealOptions,
    pub(super) upload: Arc<Upload>,
    pub(super) pool: Pool,
    pub(super) counts: UploadCounts,
}

type Sealed = Result<(Entry, bool), NodeError>;

impl Sealer {
    /// Stores all of `input` and returns its root. Nothing is durable before the upload is committed.
    pub(super) fn file(&mut self, input: &mut dyn Read, metadata: Metadata) -> Result<Finished, NodeError> {
        let (done, results) = mpsc::sync_channel::<(u64, Sealed)>(IN_FLIGHT);
        let stored = self.seal_file(done, &results, input, metadata);
        // After an error, sealing threads may still write blocks: wait for them, so that the upload ends last.
        while results.recv().is_ok() {}
        stored
    }

    #[allow(clippy::needless_pass_by_value)] // Dropped on return, so that only its clones keep the channel open.
    fn seal_file(
        &mut self,
        done: mpsc::SyncSender<(u64, Sealed)>,
        results: &mpsc::Receiver<(u64, Sealed)>,
        input: &mut dyn Read,
        metadata: Metadata,
    ) -> Result<Finished, NodeError> {
        let cutter = Cutter::new(self.options.chunker, &self.options.secret);
        let mut encoder = FileEncoder::new(self.options.sealing.clone());
        let mut chunks = Chunks { input, cutter, buf: Vec::new(), last: false };
        let mut waiting: BTreeMap<u64, (Entry, bool)> = BTreeMap::new();
        let (mut sent, mut received, mut next) = (0_u64, 0_u64, 0_u64);
        loop {
            let chunk = chunks.next().map_err(|e| read_error(&e))?;
            let more = chunk.is_some();
            if let Some(chunk) = chunk {
                if sent == 0 && chunks.is_done() {
                    // Handing over the only chunk of a file to another thread would take longer.
                    let (entry, new) = seal_and_write(&self.options, &self.upload, chunk, Position::Only)?;
                    self.count(u64::from(entry.len), new);
                    self.write_nodes(encoder.push(entry)?)?;
                    break;
                }
                let (options, upload, done) = (self.options.clone(), Arc::clone(&self.upload), done.clone());
                let index = sent;
                let position = if chunks.is_done() { Position::Last } else { Position::Inside };
                self.pool.submit(move || {
                    let job = AssertUnwindSafe(|| seal_and_write(&options, &upload, chunk, position));
                    let sealed = catch_unwind(job).unwrap_or_else(|_| Err(NodeError::worker_failed()));
                    // Dropped before the result is sent: the receiver of the last result is the last owner of the upload.
                    drop(upload);
                    // Without a receiver, the upload has failed already.
                    drop(done.send((index, sealed)));
                });
                sent += 1;
            }
            while received < sent && (!more || sent - next >= IN_FLIGHT as u64) {
                let (index, sealed) = results.recv().map_err(|_| NodeError::worker_failed())?;
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
            let new = self.upload.put(&block.cid, &block.bytes, self.options.mode())? == Put::New;
            self.count(block.bytes.len() as u64, new);
        }
        Ok(())
    }

    fn count(&mut self, len: u64, new: bool) {
        self.counts.blocks += 1;
        self.counts.stored_len += len;
        self.counts.new_blocks += u64::from(new);
    }
}

/// Which of a file's chunks one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Only,
    Inside,
    Last,
}

/// Seals and writes one chunk.
fn seal_and_write(options: &SealOptions, upload: &Upload, chunk: Vec<u8>, position: Position) -> Sealed {
    let sealed = seal_chunk(&options.sealing, chunk, position != Position::Inside)?;
    let put = if position == Position::Last { Upload::put_last } else { Upload::put };
    let put = put(upload, &sealed.entry.cid, &sealed.block, options.mode())?;
    Ok((sealed.entry, put == Put::New))
}

pub(super) fn read_error(e: &io::Error) -> NodeError {
    NodeError::new(ErrorCode::Other, format!("cannot read the input: {e}")).reason(Reason::InputFailed)
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
