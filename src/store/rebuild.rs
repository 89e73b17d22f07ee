//! A new index from the blocks alone.
//!
//! Blocks say what they are: data, or node blocks that list others. A file's root is a node block that no other one
//! lists. Names and keys were in the old index only: files come back under their CIDs, and their links still open them.

use std::collections::{HashSet, VecDeque};

use super::{PutMode, RootKind, RootRecord, Store, StoreError, StoreOptions, disk, lock::Lock, unix_ms};
use crate::content::{
    cid::{Cid, Codec},
    node_block::{self, NodeKind},
};

/// Blocks looked up at a time.
const PAGE: usize = 256;

/// What a rebuild found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Blocks listed anew.
    pub blocks: u64,
    /// Files and folders found.
    pub roots: u64,
    /// Blocks that were damaged and are set aside.
    pub damaged: u64,
}

impl Store {
    /// Sets the old index aside (as `index.redb.old`) and makes a new one from the blocks. Blocks that lived in the
    /// old index itself, those of 16 KiB and less, are taken from it where it can be read.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn rebuild(options: StoreOptions) -> Result<(Self, Rebuilt), StoreError> {
        let dir = options.dir.clone();
        let salvaged = match Self::open(options.clone()) {
            Ok(old) => old.salvage()?,
            Err(StoreError::IndexCorrupt(_) | StoreError::Index(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        {
            let _lock = Lock::take(&dir)?;
            disk::set_aside(&dir.join("index.redb"), &dir.join("index.redb.old"))?;
        }
        let store = Self::open(options)?;
        let keep = store.upload();
        for (cid, bytes) in &salvaged {
            keep.put(cid, bytes, PutMode::Sealed)?;
        }
        let before = store.usage().quarantined;
        let mut found =
            Rebuilt { blocks: store.adopt_unknown()? + salvaged.len() as u64, ..Rebuilt::default() };
        drop(keep);
        found.damaged = store.usage().quarantined - before;
        found.roots = store.find_roots()?;
        Ok((store, found))
    }

    /// The small blocks of a readable index.
    fn salvage(&self) -> Result<Vec<(Cid, Vec<u8>)>, StoreError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.inner.index.blocks(after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            after = Some(*last);
            for (digest, row) in page {
                let cid = Cid::new(row.codec, digest);
                if let Some(bytes) = self.inner.index.inline(&digest)?.filter(|bytes| cid.matches(bytes)) {
                    found.push((cid, bytes));
                }
            }
        }
    }

    fn find_roots(&self) -> Result<u64, StoreError> {
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
        tops.retain(|(cid, _)| !listed.contains(cid));
        for (cid, kind) in &tops {
            self.list_again(*cid, *kind)?;
        }
        Ok(tops.len() as u64)
    }

    fn node(&self, cid: &Cid) -> Result<Option<node_block::Visible>, StoreError> {
        Ok(self.get(cid)?.and_then(|bytes| node_block::visible(&bytes).ok()))
    }

    /// Lists a root with all blocks below it that are here.
    fn list_again(&self, root: Cid, kind: RootKind) -> Result<(), StoreError> {
        let upload = self.upload();
        let mut record = RootRecord {
            cid: root,
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
        };
        let mut queue = VecDeque::from([root]);
        let mut seen = HashSet::from([root]);
        while let Some(cid) = queue.pop_front() {
            let Some(bytes) = self.get(&cid)? else { continue };
            upload.put(&cid, &bytes, PutMode::Sealed)?;
            record.blocks += 1;
            record.stored_len += bytes.len() as u64;
            if cid.codec() == Codec::DagCbor {
                let links = node_block::visible(&bytes).map(|visible| visible.links).unwrap_or_default();
                queue.extend(links.into_iter().filter(|link| seen.insert(*link)));
            }
        }
        upload.commit(record)
    }
}
