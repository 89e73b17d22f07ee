//! The layout of an existing data directory, and moving its blocks to another one.
//!
//! Blocks are looked up at the path of the configured layout only. Another layout would make every block seem lost.
//! Therefore a record beside the blocks names their layout, and a setting that differs from it is refused.

use std::{io, path::Path};

use super::{Layout, StoreError, disk::Disk, private};

const RECORD: &str = "layout";
/// Content of the record while blocks are being moved.
const MOVING: &str = "moving";

/// Whether a move of blocks to another layout was interrupted.
pub(super) fn is_half_moved(dir: &Path) -> bool {
    matches!(private::read_own(&dir.join(RECORD)), Ok(Some(bytes)) if bytes.trim_ascii() == MOVING.as_bytes())
}

/// Refuses a layout that differs from that of the blocks here.
pub(super) fn check(dir: &Path, disk: &Disk, asked: Layout) -> Result<(), StoreError> {
    if is_half_moved(dir) {
        return Err(StoreError::HalfMoved);
    }
    let path = dir.join(RECORD);
    // If the record is lost or damaged, the blocks themselves show their layout.
    let recorded = match private::read_own(&path) {
        Ok(bytes) => bytes.and_then(|bytes| str::from_utf8(&bytes).ok()?.trim().parse().ok()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
        Err(e) => return Err(StoreError::io(format!("read {}", path.display()), e)),
    };
    if recorded == Some(asked) {
        return Ok(());
    }
    match disk.first_layout()? {
        Some(first) if recorded.unwrap_or(first) != asked => {
            Err(StoreError::OtherLayout { found: recorded.unwrap_or(first), asked })
        }
        _ => match record(dir, &asked.to_string()) {
            // A full or read-only disk must not prevent opening: files can still be read.
            Err(error @ (StoreError::NoSpace(_) | StoreError::ReadOnly(_))) => {
                tracing::warn!("the layout record is not written: {error}");
                Ok(())
            }
            recorded => recorded,
        },
    }
}

/// Moves the blocks of all other layouts to this one; returns their number. If it is interrupted, [`check`] refuses every
/// layout until it has run again.
pub(super) fn settle(dir: &Path, disk: &Disk, layout: Layout) -> Result<u64, StoreError> {
    let mut moved = 0;
    disk.walk(&mut |file| {
        if file.layout != layout {
            if moved == 0 {
                record(dir, MOVING)?;
            }
            disk.take_in(file)?;
            moved += 1;
        }
        Ok(true)
    })?;
    if moved > 0 {
        disk.sync_file_system()?;
    }
    record(dir, &layout.to_string())?;
    Ok(moved)
}

fn record(dir: &Path, text: &str) -> Result<(), StoreError> {
    let path = dir.join(RECORD);
    let written = private::replace(&path, format!("{text}\n").as_bytes());
    written.map_err(|e| StoreError::io("write the layout record", e))
}
