//! Files of DistStore forms that arrive before their name. They wait on disk.

use std::{io, path::PathBuf, sync::atomic::Ordering};

use axum::body::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::SemaphorePermit,
};
use tokio_util::io::ReaderStream;

use super::{
    super::problem::Problem,
    upload_registry::{UploadRegistry, make_folder, permit},
};
use crate::node::{PutOptions, error::NodeError, report::FileKind};

/// The quota is checked again after this number of bytes.
const CHECK_INTERVAL_BYTES: u64 = 4 << 20;

/// A file without a name. Removed when dropped.
pub(in super::super) struct SpooledFile<'a> {
    uploads: &'a UploadRegistry,
    path: PathBuf,
    len: u64,
    _permit: SemaphorePermit<'a>,
}

impl<'a> SpooledFile<'a> {
    /// Writes `bytes` to disk, within the space that unfinished uploads leave.
    pub(in super::super) async fn write(
        uploads: &'a UploadRegistry,
        bytes: impl Stream<Item = Result<Bytes, Problem>>,
    ) -> Result<Self, Problem> {
        let permit = permit(&uploads.spoolers, "forms whose file comes before its key").await?;
        make_folder(&uploads.dir)?;
        let path = uploads.dir.join(format!("{:032x}.spooled", rand::random::<u128>()));
        let mut spooled = Self { uploads, path, len: 0, _permit: permit };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&spooled.path).await;
        let mut file = file.map_err(|e| spooled.failed(&e))?;
        let mut bytes = std::pin::pin!(bytes);
        let mut checked = 0;
        while let Some(piece) = bytes.try_next().await? {
            spooled.len += piece.len() as u64;
            uploads.spooled_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if spooled.len > checked {
                uploads.check_space("the form", 0).await?;
                checked = spooled.len + CHECK_INTERVAL_BYTES;
            }
            file.write_all(&piece).await.map_err(|e| spooled.failed(&e))?;
        }
        file.flush().await.map_err(|e| spooled.failed(&e))?;
        Ok(spooled)
    }

    /// Stores the file in the node under `name`.
    pub(in super::super) async fn store(self, name: &str) -> Result<(), Problem> {
        let node = &self.uploads.node;
        let permit = node.local_upload_permit().await?;
        let file = File::open(&self.path).await.map_err(|e| self.failed(&e))?;
        permit.put(ReaderStream::new(file), PutOptions::named(name), FileKind::File).await?;
        Ok(())
    }

    fn failed(&self, e: &io::Error) -> Problem {
        NodeError::io(format_args!("use {}", self.path.display()), e).into()
    }
}

impl Drop for SpooledFile<'_> {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
        self.uploads.spooled_bytes.fetch_sub(self.len, Ordering::Relaxed);
    }
}
