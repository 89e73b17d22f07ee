//! Which files are kept, written down beside the index: should that be lost, blocks alone do not say it. A file that was
//! stored by itself and in a folder looks as if the folder alone had it, and one whose root is damaged is not seen at all.
//!
//! `roots` has a line for each change: `+` or `-`, and a CID. It is not synced each time; a power cut may take its end,
//! and after a kill it may lack a change. So it is made anew from the index whenever it does not say that it was closed.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{Inner, Store, StoreError, private};
use crate::content::cid::Cid;

const RECORD: &str = "roots";
/// The last line of a record that was closed in order.
const CLOSED: &str = ".\n";
/// A record that has so many lines more than there are files twice is made anew.
const SLACK: u64 = 4096;
/// Roots read at a time.
const PAGE: usize = 256;

/// The record of a store that is open.
pub(super) struct Kept {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    /// A change could not be written down: the record is not closed, and made anew by the next process.
    lacks: bool,
}

impl Kept {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join(RECORD), state: Mutex::default() }
    }
}

impl State {
    /// Appends a line; before the first one of this process, an empty one, so that what a kill has cut stays by itself.
    fn append(&mut self, path: &Path, line: &str) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = private::open(path)?;
            file.seek(SeekFrom::End(0))?;
            // Not closed any more, whatever a power cut takes of what follows.
            file.write_all(b"\n")?;
            file.sync_data()?;
            self.file = Some(file);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))
    }
}

/// The files that are kept, by the record in a data directory; none where there is no record.
pub(super) fn on_record(dir: &Path) -> HashSet<Cid> {
    let mut kept = HashSet::new();
    let text = fs::read(dir.join(RECORD)).unwrap_or_default();
    // A line that was cut, or damaged, is passed over.
    for line in String::from_utf8_lossy(&text).lines() {
        match (line.get(..1), line.get(1..).and_then(|cid| cid.parse().ok())) {
            (Some("+"), Some(cid)) => drop(kept.insert(cid)),
            (Some("-"), Some(cid)) => drop(kept.remove(&cid)),
            _ => {}
        }
    }
    kept
}

/// Has the next process that opens the store make its record anew.
pub(super) fn reopen(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(RECORD);
    let written = State::default().append(&path, "").and_then(|()| private::sync_folder(&path));
    written.map_err(|e| StoreError::io("write down which files are kept", e))
}

impl Store {
    /// Makes the record anew where it is not sure to be right.
    fn restore_kept(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let fail = |e| StoreError::io("write down which files are kept", e);
        // An older index would say less than the record.
        if self.is_index_behind() {
            return Ok(());
        }
        let text = match fs::read(&inner.kept.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text.map_err(fail)?,
        };
        let lines = text.split(|byte| *byte == b'\n').count() as u64;
        if text.ends_with(CLOSED.as_bytes()) && lines <= 2 * self.usage().roots + SLACK {
            return Ok(());
        }
        let (mut lines, mut after) = (String::new(), None);
        loop {
            let page = self.roots(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.cid);
            for record in page.iter().filter(|record| record.pinned) {
                let _ = writeln!(lines, "+{}", record.cid);
            }
        }
        // Nothing has changed yet: it is closed.
        lines.push_str(CLOSED);
        private::replace(&inner.kept.path, lines.as_bytes()).map_err(fail)
    }

    /// As [`Store::restore_kept`]; a store whose record cannot be made is as good as any, until its index is lost.
    pub(super) fn try_to_restore_kept(&self) {
        if let Err(error) = self.restore_kept() {
            self.inner.kept.state.lock().unwrap_or_else(PoisonError::into_inner).lacks = true;
            tracing::warn!("{error}");
        }
    }

    /// Writes down whether a file is kept by now.
    pub(super) fn note_kept(&self, cid: &Cid) {
        let kept = &self.inner.kept;
        let mut state = kept.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked with the record in hand: of two changes, the later one is written down last.
        let noted = self.root(cid).and_then(|record| {
            let sign = if record.is_some_and(|record| record.pinned) { '+' } else { '-' };
            let written = state.append(&kept.path, &format!("{sign}{cid}\n"));
            written.map_err(|e| StoreError::io("write down which files are kept", e))
        });
        if let Err(error) = noted {
            // A part of the line may be there: the next one begins by itself.
            (state.lacks, state.file) = (true, None);
            tracing::warn!("{error}");
        }
    }
}

impl Inner {
    /// Says that the record is whole.
    pub(super) fn close_kept(&mut self) {
        let state = self.kept.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let lacks = state.lacks || self.newest.is_behind();
        if let Some(file) = state.file.as_mut().filter(|_| !lacks) {
            // What it says is durable before it says that it is all.
            let closed = file.sync_data().and_then(|()| file.write_all(CLOSED.as_bytes()));
            if let Err(error) = closed.and_then(|()| file.sync_data()) {
                tracing::warn!("the record of files that are kept is not closed: {error}");
            }
        }
    }
}
