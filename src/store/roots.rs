//! Files and folders: list, look up, remove.

use super::{RootRecord, Store, StoreError, schema::unix_ms};
use crate::content::cid::Cid;

impl Store {
    /// Lists a root that is only known, not kept: nothing is referenced. A root that is kept stays so; where its key and
    /// name were lost with an index, it gets them.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn add_root(&self, record: RootRecord) -> Result<(), StoreError> {
        let is_known = |known: &RootRecord| known.pinned && (known.key.is_some() || record.key.is_none());
        if self.root(&record.cid)?.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        // An upload may list it before this does: what is kept is asked where it is written.
        self.inner.writer.run(move |tables| tables.learn_root(&record, unix_ms()))
    }

    /// What is kept of a root.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn root(&self, cid: &Cid) -> Result<Option<RootRecord>, StoreError> {
        Ok(self.inner.index.root(cid)?.map(|root| root.record))
    }

    /// How many blocks of each of these roots are missing here, as far as is known: lost, or damaged and set aside, and not
    /// mended since. Quick where nothing is missing.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn missing(&self, roots: &[Cid]) -> Result<Vec<u64>, StoreError> {
        match self.inner.index.usage().missing {
            0 => Ok(vec![0; roots.len()]),
            _ => self.inner.index.missing(roots),
        }
    }

    /// Up to `limit` roots after `after`, by CID.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn roots(&self, after: Option<Cid>, limit: usize) -> Result<Vec<RootRecord>, StoreError> {
        Ok(self.inner.index.roots(after, limit)?.into_iter().map(|root| root.record).collect())
    }

    /// Takes a root off the list; answers whether it was there. Blocks that no other root needs are collected after
    /// the grace period.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn remove_root(&self, cid: &Cid) -> Result<bool, StoreError> {
        if self.inner.index.root(cid)?.is_none() {
            return Ok(false);
        }
        let cid = *cid;
        self.inner.writer.let_go(move |tables| tables.remove_root(&cid))?;
        self.note_kept(&cid);
        self.finish_removals()?;
        Ok(true)
    }

    /// Drops the references of removed roots, part by part. A crash on the way loses nothing: the rest is dropped when
    /// the store is opened next.
    pub(super) fn finish_removals(&self) -> Result<(), StoreError> {
        for number in self.inner.index.dying()? {
            while self.inner.index.is_dying(number)? {
                self.inner.writer.let_go(move |tables| tables.drop_part(number, unix_ms()))?;
            }
        }
        Ok(())
    }
}
