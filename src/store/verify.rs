//! Reading everything again: are the bytes still what their names say?

use super::{
    Store, StoreError,
    index::{Place, Row},
    upload::PutMode,
};
use crate::content::{
    cid::{Cid, Codec},
    hash::{self, Digest},
};

/// Blocks looked up at a time.
const PAGE: usize = 256;

/// What a check of stored blocks found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks read.
    pub checked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that were damaged and are set aside now.
    pub bad: Vec<Cid>,
    /// Blocks that a file needs and that are not here.
    pub missing: Vec<Cid>,
}

impl Store {
    /// Reads and hashes the blocks of a root, or all. `progress` hears of every block's length and says whether to go
    /// on.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`]. Damage is no error here: it is what the answer lists.
    pub fn verify(
        &self,
        root: Option<&Cid>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Verified, StoreError> {
        let mut found = Verified::default();
        self.read_again(root, &mut found, progress)?;
        if found.missing.len() as u64 > self.usage().missing {
            // Lost before such blocks were listed.
            let digests: Vec<Digest> = found.missing.iter().map(|cid| *cid.digest()).collect();
            self.inner
                .writer
                .let_go(move |tables| digests.iter().try_for_each(|digest| tables.list_missing(digest)))?;
        }
        Ok(found)
    }

    /// Reads and hashes up to `limit` blocks after `after`, in the order of digests: for who goes on another day. Answers with
    /// the last of them, too; with none where there are no more. `progress` as in [`Store::verify`].
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify_page(
        &self,
        after: Option<Digest>,
        limit: usize,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Verified, Option<Digest>), StoreError> {
        let (mut found, mut last) = (Verified::default(), None);
        for (digest, _) in self.inner.index.blocks(after, limit)? {
            last = Some(digest);
            if !self.verify_one(&digest, &mut found, progress)? {
                break;
            }
        }
        Ok((found, last))
    }

    fn read_again(
        &self,
        root: Option<&Cid>,
        found: &mut Verified,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), StoreError> {
        if let Some(cid) = root {
            let Some(root) = self.inner.index.root(cid)? else {
                return Ok(());
            };
            for part in 0.. {
                let Some(digests) = self.inner.index.list(root.number, part)? else {
                    break;
                };
                for digest in &digests {
                    if !self.verify_one(digest, found, progress)? {
                        return Ok(());
                    }
                }
            }
        } else {
            let mut after = None;
            loop {
                let page = self.inner.index.blocks(after, PAGE)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                for (digest, _) in &page {
                    if !self.verify_one(digest, found, progress)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a block's file, or its row where it is short, is here in its full length. Its bytes are not read.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn holds(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.inner.index.row(cid.digest())?.is_some_and(|row| self.is_there(cid.digest(), &row)))
    }

    fn is_there(&self, digest: &Digest, row: &Row) -> bool {
        match row.place {
            Place::Missing => false,
            Place::Inline => true,
            Place::File => self.inner.disk.len(digest) == Some(row.len.into()),
        }
    }

    /// The first `limit` blocks of a root that should be here, by its list, and are not, by what is on the disk. Nothing
    /// is read but lengths. None for a root that is not kept.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn lacks(&self, root: &Cid, limit: usize) -> Result<Vec<Cid>, StoreError> {
        let mut lacking = Vec::new();
        let Some(root) = self.inner.index.root(root)?.filter(|root| root.record.pinned) else {
            return Ok(lacking);
        };
        for part in 0.. {
            let Some(digests) = self.inner.index.list(root.number, part)? else { break };
            for digest in &digests {
                let row = self.inner.index.row(digest)?;
                if row.is_some_and(|row| self.is_there(digest, &row)) {
                    continue;
                }
                lacking.push(Cid::new(row.map_or(Codec::Raw, |row| row.codec), *digest));
                if lacking.len() == limit {
                    return Ok(lacking);
                }
            }
        }
        Ok(lacking)
    }

    fn verify_one(
        &self,
        digest: &Digest,
        found: &mut Verified,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, StoreError> {
        let row = self.inner.index.row(digest)?;
        let cid = Cid::new(row.map_or(Codec::Raw, |row| row.codec), *digest);
        let Some(row) = row else { return Ok(true) };
        if row.place == Place::Missing {
            found.missing.push(cid);
            return Ok(progress(0));
        }
        match self.get(&cid) {
            Ok(Some(bytes)) => {
                found.checked += 1;
                found.bytes += bytes.len() as u64;
                Ok(progress(bytes.len() as u64))
            }
            Ok(None) => {
                // Removed meanwhile, or evicted: only what a file needs is missing.
                if self.inner.index.row(digest)?.is_some() {
                    found.missing.push(cid);
                }
                Ok(progress(0))
            }
            Err(StoreError::Corrupt { cid }) => {
                found.checked += 1;
                found.bad.push(cid);
                Ok(progress(0))
            }
            Err(error) => Err(error),
        }
    }

    /// Lists every block file that the index does not know, after the index was lost. Each is read and hashed; a file
    /// whose bytes are not what its name says is set aside.
    ///
    /// Answers with the number of blocks found.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn adopt_unknown(&self) -> Result<u64, StoreError> {
        let upload = self.listing();
        let mut adopted = 0;
        self.inner.disk.walk(&mut |file| {
            let digest = file.digest;
            if self.inner.index.row(&digest)?.is_some() {
                return Ok(true);
            }
            let len =
                self.inner.disk.len(&digest).and_then(|len| u32::try_from(len).ok()).unwrap_or(u32::MAX);
            let Some(bytes) = self.inner.disk.read(&digest, len)? else {
                return Ok(true);
            };
            if hash::sha1(&bytes) != digest {
                self.inner.disk.quarantine(&digest)?;
                self.inner.writer.run(|tables| {
                    tables.stats.quarantined += 1;
                    Ok(())
                })?;
                return Ok(true);
            }
            // A node block says what it is; anything else is data.
            let node = crate::content::node_block::visible(&bytes).is_ok();
            let codec = if node { Codec::DagCbor } else { Codec::Raw };
            upload.put(&Cid::new(codec, digest), &bytes, PutMode::Sealed)?;
            adopted += 1;
            Ok(true)
        })?;
        upload.keep()?;
        Ok(adopted)
    }
}
