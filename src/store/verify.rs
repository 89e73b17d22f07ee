//! Verification: are the blocks here, and are their bytes still what their names say?

use super::{
    Store, StoreError,
    schema::{Location, Row},
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
};

/// Rows read at a time.
const PAGE: usize = 256;

/// Result of [`Store::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks read.
    pub checked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged blocks, now in quarantine.
    pub bad: Vec<Cid>,
    /// Blocks that a file needs and that are not here.
    pub missing: Vec<Cid>,
}

/// Whether a block is here. One that is not kept is in the cache or waits for collection: it may go at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is here in its full length.
    pub here: bool,
    /// Whether it is here and a kept file needs it.
    pub kept: bool,
}

impl Store {
    /// Reads and hashes the blocks of a root, or all blocks. Calls `progress` with the length of each block; if that
    /// returns false, the verification stops.
    ///
    /// # Errors
    /// [`StoreError::IndexCorrupt`], [`StoreError::Io`], [`StoreError::Index`]. Damaged blocks are no error: the result
    /// lists them.
    pub fn verify(
        &self,
        root: Option<&Cid>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Verified, StoreError> {
        let mut check = Verification { store: self, found: Verified::default(), progress };
        if let Some(cid) = root {
            if let Some(root) = self.inner.index.root(cid)? {
                self.each_block(root.number, |digest| check.block(digest))?;
            }
            return Ok(check.found);
        }
        self.inner.index.check()?;
        let mut after = None;
        'pages: loop {
            let page = self.inner.index.blocks(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (digest, _) in &page {
                if !check.block(digest)? {
                    break 'pages;
                }
            }
        }
        Ok(check.found)
    }

    /// Reads and hashes up to `limit` blocks after `after`, in the order of digests: a verification in steps. Also returns
    /// the last of them; `None` means that there are no more. `progress` is that of [`Store::verify`].
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify_page(
        &self,
        after: Option<Digest>,
        limit: usize,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Verified, Option<Digest>), StoreError> {
        let mut check = Verification { store: self, found: Verified::default(), progress };
        let mut last = None;
        for (digest, _) in self.inner.index.blocks(after, limit)? {
            last = Some(digest);
            if !check.block(&digest)? {
                break;
            }
        }
        Ok((check.found, last))
    }

    /// Whether a block is here in its full length, as a file or in the index. Its bytes are not read.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn holds(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.inner.index.row(cid.digest())?.is_some_and(|row| self.is_there(cid.digest(), &row)))
    }

    /// Whether a block is here in its full length, and whether a kept file needs it.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn presence(&self, cid: &Cid) -> Result<Presence, StoreError> {
        let row = self.inner.index.row(cid.digest())?.filter(|row| self.is_there(cid.digest(), row));
        Ok(Presence { here: row.is_some(), kept: row.is_some_and(|row| row.is_kept()) })
    }

    fn is_there(&self, digest: &Digest, row: &Row) -> bool {
        match row.location {
            Location::Missing => false,
            Location::Inline => true,
            Location::File => self.inner.disk.len(digest) == Some(row.len.into()),
        }
    }

    /// Returns the first `limit` blocks of a root that are listed and not here, judged by file lengths alone. Returns none
    /// for a root that is not kept.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn lacks(&self, root: &Cid, limit: usize) -> Result<Vec<Cid>, StoreError> {
        let mut lacking = Vec::new();
        self.each_missing(root, |cid| {
            lacking.push(cid);
            lacking.len() < limit
        })?;
        Ok(lacking)
    }

    /// Calls `visit` with each block that [`Store::lacks`] returns, until it returns false.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn each_missing(&self, root: &Cid, mut visit: impl FnMut(Cid) -> bool) -> Result<(), StoreError> {
        let Some(root) = self.inner.index.root(root)?.filter(|root| root.record.pinned) else {
            return Ok(());
        };
        self.each_block(root.number, |digest| {
            let row = self.inner.index.row(digest)?;
            let is_missing = row.is_none_or(|row| !self.is_there(digest, &row));
            Ok(!is_missing || visit(Cid::new(row.map_or(Codec::Raw, |row| row.codec), *digest)))
        })
    }

    /// Calls `visit` with each block in a root's list, until it returns false.
    fn each_block(
        &self,
        number: u64,
        mut visit: impl FnMut(&Digest) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for part in 0.. {
            let Some(digests) = self.inner.index.list(number, part)? else { break };
            for digest in &digests {
                if !visit(digest)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A verification under way.
struct Verification<'a> {
    store: &'a Store,
    found: Verified,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

impl Verification<'_> {
    /// Reads and hashes a block; returns whether to go on.
    fn block(&mut self, digest: &Digest) -> Result<bool, StoreError> {
        let index = &self.store.inner.index;
        let Some(row) = index.row(digest)? else { return Ok(true) };
        let (cid, mut len) = (Cid::new(row.codec, *digest), 0);
        if row.location == Location::Missing {
            self.found.missing.push(cid);
            return Ok((self.progress)(0));
        }
        match self.store.get(&cid) {
            Ok(Some(bytes)) => {
                len = bytes.len() as u64;
                self.found.checked += 1;
                self.found.bytes += len;
            }
            // A block without a row was removed or evicted meanwhile.
            Ok(None) if index.row(digest)?.is_none() => {}
            Ok(None) => self.found.missing.push(cid),
            Err(StoreError::Corrupt { cid }) => {
                len = row.len.into();
                self.found.checked += 1;
                self.found.bytes += len;
                self.found.bad.push(cid);
            }
            Err(error) => return Err(error),
        }
        Ok((self.progress)(len))
    }
}
