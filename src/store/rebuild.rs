//! Makes a new index from the blocks, and from the readable parts of the old index.
//!
//! A block file shows what it is: data, or a node block that lists others. A node block that no other one lists is the root
//! of a file. Only the index has names and keys: where the old one cannot be read, files come back under their CIDs, and
//! their links still open them.
//!
//! The new index is made beside the old one and replaces it when it is complete, so that a rebuild may be interrupted at
//! any moment.

use std::{cell::Cell, collections::HashSet, fs, path::Path, sync::Arc};

use super::{
    INDEX, PutMode, RootKind, RootRecord, Store, StoreError, StoreOptions, disk,
    epoch_mark::EpochMark,
    index::Index,
    journal::{self, META_BEHIND, Replayed},
    private, relocate,
    salvage::OldIndex,
    schema::{Arrival, Root, Row, unix_ms},
    version,
};
use crate::content::{
    cid::{Cid, Codec},
    hash::{self, Digest},
    node_block::{self, NodeKind, Visible},
};

/// Rows read at a time.
const PAGE: usize = 256;
/// File name of the index that is being made.
const NEW_INDEX: &str = "index.redb.new";

/// Result of [`Store::rebuild`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Blocks listed in the new index.
    pub blocks: u64,
    /// Files and folders found.
    pub roots: u64,
    /// Files and folders among them that came from the old index, with their names and keys.
    pub known: u64,
    /// Damaged blocks that were moved to quarantine.
    pub damaged: u64,
    /// Blocks that were moved from another layout.
    pub moved: u64,
}

impl Store {
    /// Makes a new index from the blocks, and moves the blocks to the layout of `options`. Names, keys and blocks that
    /// live in the index itself (most blocks of up to 16 KiB) are taken from the old index if it can be read. The old
    /// index stays as `index.redb.old`, with a number behind that if the name is taken.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn rebuild(options: StoreOptions) -> Result<(Self, Rebuilt), StoreError> {
        let dir = options.dir.clone();
        let (lock, disk) = Self::enter(&options, version::refuse_other)?;
        let moved = relocate::settle(&dir, &disk, options.layout)?;
        // Left by an interrupted rebuild.
        remove(&dir.join(NEW_INDEX))?;
        let old = OldIndex::open(&dir)?;
        let (mut recorded, _) = journal::replay(&dir);
        let next_number = old.read(Index::next_number);
        if Some(next_number) > recorded.epoch {
            recorded.lacks_later_records();
        }
        let is_marked = old.read(|index| Ok(index.meta(META_BEHIND)?.is_some()));
        if is_marked || journal::is_behind(next_number, &recorded, &disk)? {
            // It knows as little of newer blocks as an index that cannot be read.
            old.is_damaged.set(true);
        }
        let new = Self::open_index(options.clone(), NEW_INDEX, disk, Arc::clone(&lock))?;
        let rebuild = Rebuild { new, old, recorded, known: Cell::new(0) };
        let found = Rebuilt { moved, ..rebuild.run()? };
        // The journal is written anew from the new index, also if the process ends here.
        rebuild.new.inner.journal.invalidate()?;
        let epoch = rebuild.new.inner.index.next_number()?;
        drop(rebuild);
        replace_index(&dir)?;
        EpochMark::open(&dir).raise(epoch)?;
        let disk = disk::Disk::open(&dir, options.layout)?;
        let store = Self::open_index(options, INDEX, disk, lock)?;
        store.inner.journal.refresh();
        Ok((store, found))
    }
}

/// A rebuild under way.
struct Rebuild {
    new: Store,
    old: OldIndex,
    recorded: Replayed,
    /// Roots that came from the old index.
    known: Cell<u64>,
}

impl Rebuild {
    fn run(&self) -> Result<Rebuilt, StoreError> {
        let blocks = self.take_short_blocks()? + self.take_block_files()?;
        let damaged = self.new.usage().quarantined;
        for (name, value) in self.old.meta() {
            self.new.set_meta(&name, &value)?;
        }
        // Numbers continue where the lost index stopped, so that an old index put in its place later is recognised.
        let epoch = self.recorded.epoch.unwrap_or(0);
        self.new.inner.writer.run(move |tables| {
            tables.totals.next_number = tables.totals.next_number.max(epoch);
            Ok(())
        })?;
        self.take_roots()?;
        self.find_roots()?;
        self.new.hold_unlisted()?;
        let (roots, known) = (self.new.usage().roots, self.known.get());
        Ok(Rebuilt { blocks, roots, known, damaged, moved: 0 })
    }

    /// Stores the short blocks of the old index; returns their number.
    fn take_short_blocks(&self) -> Result<u64, StoreError> {
        let upload = self.new.listing();
        let mut taken = 0;
        self.old.each_short_block(|digest, bytes| {
            let row = self.old.read(|index| index.row(&digest));
            let cid = Cid::new(row.map_or_else(|| codec_of(&bytes), |row| row.codec), digest);
            if cid.matches(&bytes) {
                upload.put(&cid, &bytes, PutMode::Sealed)?;
                taken += 1;
            }
            Ok(())
        })?;
        upload.keep()?;
        Ok(taken)
    }

    /// Lists all block files; returns their number. Each is read and hashed; damaged ones are moved to quarantine.
    fn take_block_files(&self) -> Result<u64, StoreError> {
        let (upload, inner) = (self.new.listing(), &self.new.inner);
        let mut taken = 0;
        inner.disk.walk(&mut |file| {
            let digest = file.digest;
            if inner.index.row(&digest)?.is_some() {
                return Ok(true);
            }
            let len = inner.disk.len(&digest).and_then(|len| u32::try_from(len).ok()).unwrap_or(u32::MAX);
            let Some(bytes) = inner.disk.read(&digest, len)? else {
                return Ok(true);
            };
            if hash::sha1(&bytes) != digest {
                inner.disk.quarantine(&digest)?;
                inner.writer.run(|tables| {
                    tables.totals.usage.quarantined += 1;
                    Ok(())
                })?;
                return Ok(true);
            }
            upload.put(&Cid::new(codec_of(&bytes), digest), &bytes, PutMode::Sealed)?;
            taken += 1;
            Ok(true)
        })?;
        upload.keep()?;
        Ok(taken)
    }

    /// Lists the roots of the old index, without those that were removed since.
    fn take_roots(&self) -> Result<(), StoreError> {
        self.old.each_root(|Root { number, record }| {
            if record.pinned && self.old.is_damaged.get() && self.recorded.was_removed(&record.cid) {
                return Ok(());
            }
            self.known.update(|known| known + 1);
            if record.pinned { self.list(record, Some(number)) } else { self.new.add_root(record) }
        })
    }

    /// Lists roots that the old index did not know. A root whose block the old index knew and that
    /// it did not list was removed, and so was a root of which the journal says so if the old index cannot be read.
    fn find_roots(&self) -> Result<(), StoreError> {
        let (mut tops, mut listed) = (Vec::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self.new.inner.index.blocks(after, PAGE)?;
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
        let was_removed = |cid: &Cid| {
            if self.old.is_damaged.get() {
                self.recorded.was_removed(cid)
            } else {
                self.old.knew(cid.digest())
            }
        };
        tops.retain(|(cid, _)| !listed.contains(cid) && !was_removed(cid));
        self.list_pinned()?;
        for (cid, kind) in tops {
            if self.new.root(&cid)?.is_none() {
                self.list_found(cid, kind)?;
            }
        }
        Ok(())
    }

    /// If the old index is damaged, lists the roots that are pinned in the journal: also those that are part of a folder,
    /// and those whose root block cannot be read.
    fn list_pinned(&self) -> Result<(), StoreError> {
        if !self.old.is_damaged.get() {
            return Ok(());
        }
        for &cid in &self.recorded.pinned {
            match self.new.root(&cid)? {
                Some(listed) if listed.pinned => {}
                // It was stored after this older index was made.
                Some(known) => self.list(RootRecord { pinned: true, ..known }, None)?,
                None => {
                    let is_dir = self.node(&cid)?.is_some_and(|node| node.kind == NodeKind::Dir);
                    self.list_found(cid, if is_dir { RootKind::Dir } else { RootKind::File })?;
                }
            }
        }
        Ok(())
    }

    /// Lists a root that the blocks or the journal name. A single row of the old index may be readable in a part that is not.
    fn list_found(&self, cid: Cid, kind: RootKind) -> Result<(), StoreError> {
        match self.old.read(|index| index.root(&cid)) {
            Some(Root { number, record }) => {
                self.known.update(|known| known + 1);
                self.list(RootRecord { pinned: true, ..record }, Some(number))
            }
            None => self.list(nameless(cid, kind), None),
        }
    }

    fn node(&self, cid: &Cid) -> Result<Option<Visible>, StoreError> {
        match self.new.get(cid) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| node_block::visible(&bytes).ok())),
            Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists a root with all blocks below it; those that are not here are listed as missing. Below a missing node block,
    /// the list with this number in the old index is used.
    fn list(&self, mut record: RootRecord, number: Option<u64>) -> Result<(), StoreError> {
        let mut walked = self.new.walk(record.cid)?;
        if record.blocks == 0 && walked.unread.is_empty() {
            record.blocks = walked.blocks.len() as u64;
            record.stored_len = walked.blocks.iter().map(|block| u64::from(block.len)).sum();
        }
        let found: HashSet<Digest> = walked.blocks.iter().map(|block| block.digest).collect();
        for digest in number.map(|number| self.old.list(number)).unwrap_or_default() {
            let row = match self.old.read(|index| index.row(&digest)) {
                None => self.new.inner.index.row(&digest)?,
                row => row,
            };
            // A digest that neither index knows comes from damage to the old one.
            if let Some(Row { codec, len, .. }) = row.filter(|_| !found.contains(&digest)) {
                walked.blocks.push(Arrival { digest, codec, len, inline: None });
            }
        }
        self.new.inner.writer.run(move |tables| tables.add_walked(&record, &walked, unix_ms()))
    }
}

/// A node block shows that it is one; anything else is data.
fn codec_of(bytes: &[u8]) -> Codec {
    if node_block::visible(bytes).is_ok() { Codec::DagCbor } else { Codec::Raw }
}

/// Returns the record of a root of which only its block is known.
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

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Replaces the old index by the new one, and keeps the old one under another name.
fn replace_index(dir: &Path) -> Result<(), StoreError> {
    let fail = |e| StoreError::io("replace the index", e);
    let (index, new) = (dir.join(INDEX), dir.join(NEW_INDEX));
    if index.exists() {
        // A hard link, if the file system has them: then `index.redb` exists at every moment.
        if fs::hard_link(&index, private::name_aside(&index)).is_err() {
            private::set_aside(&index).map_err(fail)?;
        }
    }
    private::rename(&new, &index).map_err(fail)?;
    private::sync_folder(&index).map_err(fail)
}
