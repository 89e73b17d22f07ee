//! Roots of files and folders: list, look up, remove.

use super::{RootRecord, Store, StoreError, schema::unix_ms};
use crate::content::cid::Cid;

impl Store {
    /// Lists a root that is only known: it references no block. A root that is pinned stays so, and gets its key and name if
    /// they were lost with an index.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn add_root(&self, record: RootRecord) -> Result<(), StoreError> {
        let is_known = |known: &RootRecord| known.pinned && (known.key.is_some() || record.key.is_none());
        if self.root(&record.cid)?.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        // An upload may list it in between: `learn_root` checks again, in the transaction.
        self.inner.writer.run(move |tables| tables.learn_root(&record, unix_ms()))
    }

    /// Returns the record of a root; `None` means that it is not listed.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn root(&self, cid: &Cid) -> Result<Option<RootRecord>, StoreError> {
        Ok(self.inner.index.root(cid)?.map(|root| root.record))
    }

    /// Returns how many blocks of each of these roots are known to be missing: lost, or damaged and set aside, and not
    /// replaced since. Quick when nothing is missing.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn missing(&self, roots: &[Cid]) -> Result<Vec<u64>, StoreError> {
        match self.inner.index.usage().missing {
            0 => Ok(vec![0; roots.len()]),
            _ => self.inner.index.missing(roots),
        }
    }

    /// Returns up to `limit` roots after `after`, ordered by CID.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn roots(&self, after: Option<Cid>, limit: usize) -> Result<Vec<RootRecord>, StoreError> {
        Ok(self.inner.index.roots(after, limit)?.into_iter().map(|root| root.record).collect())
    }

    /// Removes a root; returns whether it was listed. Blocks that no other root needs are collected after the grace period.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn remove_root(&self, cid: &Cid) -> Result<bool, StoreError> {
        if self.inner.index.root(cid)?.is_none() {
            return Ok(false);
        }
        let cid = *cid;
        self.inner.writer.free_space(move |tables| tables.remove_root(&cid))?;
        self.inner.journal.record_pin(&cid);
        self.finish_removals()?;
        Ok(true)
    }

    /// How long blocks stay that no file needs any more.
    pub fn grace(&self) -> std::time::Duration {
        self.inner.options.grace
    }

    /// Drops the references of removed roots, part by part. After a crash, the rest is dropped when the store is opened
    /// next.
    pub(super) fn finish_removals(&self) -> Result<(), StoreError> {
        while let Some(number) = self.inner.index.dying()? {
            self.inner.writer.free_space(move |tables| tables.drop_part(number, unix_ms()))?;
        }
        Ok(())
    }
}
