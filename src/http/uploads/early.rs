//! The bytes of a form that come before the name that they are to have: they wait on disk, within the room that there is.

use std::{io, path::PathBuf, sync::atomic::Ordering};

use axum::body::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::SemaphorePermit,
};
use tokio_util::io::ReaderStream;

use super::{super::problem::Problem, Uploads};
use crate::node::{
    PutOptions,
    error::{ErrorCode, NodeError},
    report::FileKind,
};

/// Bytes after which it is looked again whether there is room for those so far.
const STEP: u64 = 4 << 20;

/// Bytes that wait for their name; gone when dropped.
pub(in super::super) struct Early<'a> {
    uploads: &'a Uploads,
    path: PathBuf,
    len: u64,
    _place: SemaphorePermit<'a>,
}

impl<'a> Early<'a> {
    /// Takes all of `bytes`, as long as there is room for them beside what is promised to uploads.
    ///
    /// # Errors
    /// [`ErrorCode::NoSpace`] where there is not; 503 where too many wait already.
    pub(in super::super) async fn take(
        uploads: &'a Uploads,
        bytes: impl Stream<Item = Result<Bytes, Problem>>,
    ) -> Result<Self, Problem> {
        let place = uploads.early().await?;
        let path = uploads.dir.join(format!("{:032x}.early", rand::random::<u128>()));
        let mut early = Self { uploads, path, len: 0, _place: place };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&early.path).await;
        let mut file = file.map_err(|e| early.failed(&e))?;
        let mut bytes = std::pin::pin!(bytes);
        let mut checked = 0;
        while let Some(piece) = bytes.try_next().await? {
            early.len += piece.len() as u64;
            uploads.early_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if early.len > checked {
                uploads.check_room("this form", 0).await?;
                checked = early.len + STEP;
            }
            file.write_all(&piece).await.map_err(|e| early.failed(&e))?;
        }
        file.flush().await.map_err(|e| early.failed(&e))?;
        Ok(early)
    }

    /// Stores them under their name.
    pub(in super::super) async fn store(self, name: &str) -> Result<(), Problem> {
        let node = &self.uploads.node;
        let place = node.local_place().await?;
        let file = File::open(&self.path).await.map_err(|e| self.failed(&e))?;
        node.put_in(&place, ReaderStream::new(file), PutOptions::named(name), FileKind::File).await?;
        Ok(())
    }

    fn failed(&self, e: &io::Error) -> Problem {
        let full = e.kind() == io::ErrorKind::StorageFull;
        let code = if full { ErrorCode::NoSpace } else { ErrorCode::Other };
        NodeError::new(code, format!("cannot use {}: {e}", self.path.display())).into()
    }
}

impl Drop for Early<'_> {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
        self.uploads.early_bytes.fetch_sub(self.len, Ordering::Relaxed);
    }
}
