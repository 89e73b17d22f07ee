//! The layout of an existing data directory, and moving its blocks to another one.
//!
//! Blocks are looked up at the path of the configured layout only. Another layout would make every block seem lost.
//! Therefore a record beside the blocks names their layout, and a setting that differs from it is refused.

use std::{fs, io, path::Path};

use super::{Layout, StoreError, disk::Disk, private};

const RECORD: &str = "layout";
/// Content of the record while blocks are being moved.
const MOVING: &str = "moving";

/// Whether a move of blocks to another layout was interrupted.
pub(super) fn is_half_moved(dir: &Path) -> bool {
    fs::read_to_string(dir.join(RECORD)).is_ok_and(|text| text.trim() == MOVING)
}

/// Refuses a layout that differs from that of the blocks here.
pub(super) fn check(dir: &Path, disk: &Disk, asked: Layout) -> Result<(), StoreError> {
    let path = dir.join(RECORD);
    let recorded = match fs::read_to_string(&path) {
        Ok(text) if text.trim() == MOVING => return Err(StoreError::HalfMoved),
        // If the record is damaged, the blocks themselves show their layout.
        Ok(text) => text.trim().parse().ok(),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData
            ) =>
        {
            None
        }
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
    private::make_way(&path)?;
    let written = private::replace(&path, format!("{text}\n").as_bytes());
    written.map_err(|e| StoreError::io("write the layout record", e))
}
