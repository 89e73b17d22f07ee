//! A new index, from the blocks and from what can still be read of the old one.
//!
//! Blocks say what they are: data, or node blocks that list others. A file's root is a node block that no other one
//! lists. Names and keys are in the index only: where the old one cannot be read, files come back under their CIDs, and
//! their links still open them.
//!
//! The new index is made beside the old one and takes its place when it is complete, so that a rebuild may be
//! interrupted at any moment.

use std::{
    cell::Cell,
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    INDEX, PutMode, RootKind, RootRecord, Store, StoreError, StoreOptions, disk,
    index::{Index, Place, Root, Row},
    kept,
    newest::{self, META_BEHIND},
    private, relocate,
    tables::{Arrival, STATS},
    unix_ms,
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
    node_block::{self, NodeKind, Visible},
};

/// Rows looked up at a time.
const PAGE: usize = 256;
/// The name of an index that is being made.
const NEW_INDEX: &str = "index.redb.new";

/// What a rebuild found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Blocks listed anew.
    pub blocks: u64,
    /// Files and folders found.
    pub roots: u64,
    /// Those of them whose names and keys the old index still knew.
    pub known: u64,
    /// Blocks that were damaged and are set aside.
    pub damaged: u64,
    /// Blocks that were laid out in another way, and were moved.
    pub moved: u64,
}

impl Store {
    /// Makes a new index from the blocks, and moves the blocks where the layout wants them. Names, keys and blocks that
    /// lived in the old index itself, most of those of 16 KiB and less, are taken from it where it can be read. It stays,
    /// as `index.redb.old` or, where there is one, with a number behind that.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn rebuild(options: StoreOptions) -> Result<(Self, Rebuilt), StoreError> {
        let dir = options.dir.clone();
        let (lock, disk) = Self::enter(&options)?;
        let moved = relocate::settle(&dir, &disk, options.layout)?;
        // What an interrupted rebuild has left.
        remove(&dir.join(NEW_INDEX))?;
        let old = OldIndex::open(&dir.join(INDEX))?;
        let newest = newest::on_record(&dir);
        if old.is_behind(newest) {
            // It knew of what came later as little as one that cannot be read.
            old.is_damaged.set(true);
        }
        let new = Self::open_index(options.clone(), NEW_INDEX, disk, Arc::clone(&lock))?;
        let mut found = Rebuilt { moved, ..Rebuilt::default() };
        found.blocks = new.take_small_blocks(&old)? + new.adopt_unknown()?;
        found.damaged = new.usage().quarantined;
        for (name, value) in old.meta() {
            new.set_meta(&name, &value)?;
        }
        // Goes on counting where the lost one was: an old index that is put in its place later is known as such.
        new.inner.writer.run(move |tables| {
            tables.stats.next_number = tables.stats.next_number.max(newest);
            Ok(())
        })?;
        found.known = new.take_roots(&old)?;
        found.roots = found.known + new.find_roots(&old)?;
        new.hold_unlisted()?;
        drop((new, old));
        // It is made anew from the new index, also should this end here.
        kept::reopen(&dir)?;
        replace_index(&dir)?;
        let disk = disk::Disk::open(&dir, options.layout)?;
        let store = Self::open_index(options, INDEX, disk, lock)?;
        store.try_to_restore_kept();
        Ok((store, found))
    }

    /// Stores the small blocks of an old index; answers how many.
    fn take_small_blocks(&self, old: &OldIndex) -> Result<u64, StoreError> {
        let upload = self.listing();
        let (mut taken, mut after) = (0, None);
        loop {
            let page = old.blocks(after);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (digest, row) in page.into_iter().filter(|(_, row)| row.place == Place::Inline) {
                let cid = Cid::new(row.codec, digest);
                if let Some(bytes) = old.inline(&digest).filter(|bytes| cid.matches(bytes)) {
                    upload.put(&cid, &bytes, PutMode::Sealed)?;
                    taken += 1;
                }
            }
        }
        upload.keep()?;
        Ok(taken)
    }

    /// Lists the roots of an old index; answers how many.
    fn take_roots(&self, old: &OldIndex) -> Result<u64, StoreError> {
        let (mut taken, mut after) = (0, None);
        loop {
            let page = old.roots(after);
            let Some(last) = page.last() else { return Ok(taken) };
            after = Some(last.record.cid);
            for Root { number, record } in page {
                taken += 1;
                if record.pinned {
                    self.list_again(record, old, Some(number))?;
                } else {
                    self.add_root(record)?;
                }
            }
        }
    }

    /// Lists roots that the old index did not know; answers how many. What it knew and did not list was removed.
    fn find_roots(&self, old: &OldIndex) -> Result<u64, StoreError> {
        let (mut tops, mut listed) = (Vec::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self.inner.index.blocks(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (digest, row) in page.into_iter().filter(|(_, row)| row.codec == Codec::DagCbor) {
                let cid = Cid::new(row.codec, digest);
                let Some(visible) = self.node(&cid)? else { continue };
                listed.extend(visible.links.into_iter().filter(|link| link.codec() == Codec::DagCbor));
                match visible.kind {
                    NodeKind::File => tops.push((cid, RootKind::File)),
                    NodeKind::Dir => tops.push((cid, RootKind::Dir)),
                    NodeKind::List => {}
                }
            }
        }
        tops.retain(|(cid, _)| !listed.contains(cid) && !old.knew(cid.digest()));
        let mut found = self.list_recorded(old)?;
        for (cid, kind) in tops {
            if self.root(&cid)?.is_none() {
                self.list_again(nameless(cid, kind), old, None)?;
                found += 1;
            }
        }
        Ok(found)
    }

    /// Lists what was kept by the record beside the index, where the index itself cannot say it: also what is in a folder
    /// as well, and what has no root that can be read. Answers how many roots are new.
    fn list_recorded(&self, old: &OldIndex) -> Result<u64, StoreError> {
        let mut found = 0;
        if !old.is_damaged.get() {
            return Ok(found);
        }
        for cid in kept::on_record(self.dir()) {
            match self.root(&cid)? {
                Some(listed) if listed.pinned => {}
                // Stored after an older index was made.
                Some(known) => self.list_again(RootRecord { pinned: true, ..known }, old, None)?,
                None => {
                    let is_dir = self.node(&cid)?.is_some_and(|node| node.kind == NodeKind::Dir);
                    let kind = if is_dir { RootKind::Dir } else { RootKind::File };
                    self.list_again(nameless(cid, kind), old, None)?;
                    found += 1;
                }
            }
        }
        Ok(found)
    }

    fn node(&self, cid: &Cid) -> Result<Option<Visible>, StoreError> {
        match self.get(cid) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| node_block::visible(&bytes).ok())),
            Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists a root with all blocks below it, also those that are not here: they are missing, and that can be seen. Where
    /// a node block is missing, the old list says what is below.
    fn list_again(
        &self,
        mut record: RootRecord,
        old: &OldIndex,
        number: Option<u64>,
    ) -> Result<(), StoreError> {
        let mut walked = self.walk(record.cid)?;
        if record.blocks == 0 && walked.torn.is_empty() {
            record.blocks = walked.blocks.len() as u64;
            record.stored_len = walked.blocks.iter().map(|block| u64::from(block.len)).sum();
        }
        let found: HashSet<Digest> = walked.blocks.iter().map(|block| block.digest).collect();
        for digest in number.map(|number| old.list(number)).unwrap_or_default() {
            let row = match old.row(&digest) {
                None => self.inner.index.row(&digest)?,
                row => row,
            };
            // Of what neither knows, the old index is damaged.
            if let Some(Row { codec, len, .. }) = row.filter(|_| !found.contains(&digest)) {
                walked.blocks.push(Arrival { digest, codec, len, inline: None });
            }
        }
        self.inner.writer.run(move |tables| tables.add_walked(&record, &walked, unix_ms()))
    }
}

/// What is known of a root from its block alone.
fn nameless(cid: Cid, kind: RootKind) -> RootRecord {
    RootRecord {
        cid,
        key: None,
        kind,
        name: None,
        size: 0,
        blocks: 0,
        stored_len: 0,
        media_type: None,
        created: i64::try_from(unix_ms()).unwrap_or(0) * 1000,
        pinned: true,
        owner: Vec::new(),
        public: false,
    }
}

/// As much of an old index as can be read: damage may show at any point, also as a panic of the database.
struct OldIndex {
    index: Option<Index>,
    /// Something could not be read: what is not found in it may have been there.
    is_damaged: Cell<bool>,
}

impl OldIndex {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let with = |index: Option<Index>| Self { is_damaged: Cell::new(index.is_none()), index };
        if !path.exists() {
            return Ok(with(None));
        }
        let opened = catch_unwind(|| Index::open(path));
        match opened.unwrap_or_else(|_| Err(StoreError::IndexCorrupt("reading it failed".into()))) {
            Ok(index) => Ok(with(Some(index))),
            Err(StoreError::IndexCorrupt(_) | StoreError::Index(_)) => Ok(with(None)),
            Err(error) => Err(error),
        }
    }

    fn read<T: Default>(&self, look: impl FnOnce(&Index) -> Result<T, StoreError>) -> T {
        let Some(index) = &self.index else { return T::default() };
        match catch_unwind(AssertUnwindSafe(|| look(index))) {
            Ok(Ok(found)) => return found,
            Ok(Err(error)) => tracing::warn!("a part of the old index cannot be read: {error}"),
            Err(_) => tracing::warn!("a part of the old index cannot be read"),
        }
        self.is_damaged.set(true);
        T::default()
    }

    fn blocks(&self, after: Option<Digest>) -> Vec<(Digest, Row)> {
        self.read(|index| index.blocks(after, PAGE))
    }

    fn inline(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.read(|index| index.inline(digest))
    }

    fn row(&self, digest: &Digest) -> Option<Row> {
        self.read(|index| index.row(digest))
    }

    /// Whether it had not come as far as the number on record.
    fn is_behind(&self, newest: u64) -> bool {
        self.read(|index| Ok(index.meta(META_BEHIND)?.is_some() || index.next_number()? < newest))
    }

    /// Whether it is sure to have known this block.
    fn knew(&self, digest: &Digest) -> bool {
        !self.is_damaged.get() && self.row(digest).is_some()
    }

    fn roots(&self, after: Option<Cid>) -> Vec<Root> {
        self.read(|index| index.roots(after, PAGE))
    }

    /// The blocks of a root, as far as its list can be read.
    fn list(&self, number: u64) -> Vec<Digest> {
        (0..).map_while(|part| self.read(|index| index.list(number, part))).flatten().collect()
    }

    /// All small named values but the totals.
    fn meta(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = self.read(Index::all_meta);
        all.retain(|(name, _)| name != STATS && name != META_BEHIND);
        all
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Puts the new index in the place of the old one, which stays under another name.
fn replace_index(dir: &Path) -> Result<(), StoreError> {
    let fail = |e| StoreError::io("put the new index in place", e);
    let (index, new) = (dir.join(INDEX), dir.join(NEW_INDEX));
    if index.exists() {
        let numbered = (2..).map(|n| dir.join(format!("{INDEX}.old.{n}")));
        let mut names = std::iter::once(dir.join(format!("{INDEX}.old"))).chain(numbered);
        let free: Option<PathBuf> = names.find(|name| !name.exists());
        let free = free.unwrap_or_default();
        // By a second name where the file system has such: then there is an index at every moment.
        if fs::hard_link(&index, &free).is_err() {
            disk::rename(&index, &free).map_err(fail)?;
        }
    }
    disk::rename(&new, &index).map_err(fail)?;
    private::sync_folder(&index).map_err(fail)
}
