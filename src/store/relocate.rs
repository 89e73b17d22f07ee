//! The layout of a data directory that is in use, and moving its blocks to another one.
//!
//! Blocks are looked for where the layout says, and nowhere else. So the layout is written down beside them, and a
//! setting that says otherwise is refused: with it, every block would seem to be lost.

use std::{fs, io, path::Path};

use super::{Layout, StoreError, disk::Disk, private};

const RECORD: &str = "layout";
/// What the record says while blocks are being moved.
const MOVING: &str = "moving";

/// Whether moving blocks to another layout has not come to its end.
pub(super) fn is_half_moved(dir: &Path) -> bool {
    fs::read_to_string(dir.join(RECORD)).is_ok_and(|text| text.trim() == MOVING)
}

/// Refuses another layout than that of the blocks that are here.
pub(super) fn check(dir: &Path, disk: &Disk, asked: Layout) -> Result<(), StoreError> {
    let path = dir.join(RECORD);
    let recorded = match fs::read_to_string(&path) {
        Ok(text) if text.trim() == MOVING => return Err(StoreError::HalfMoved),
        // Whatever else it says, the blocks themselves know.
        Ok(text) => text.trim().parse().ok(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
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
            // A full disk is no reason not to open: its files can be read, and removed.
            Err(error @ StoreError::NoSpace(_)) => {
                tracing::warn!("{error}");
                Ok(())
            }
            recorded => recorded,
        },
    }
}

/// Moves the blocks of all other layouts to where this one wants them; answers how many. Interrupted, it is to be done
/// again: until then, [`check`] refuses every layout.
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
    let written = private::replace(&dir.join(RECORD), format!("{text}\n").as_bytes());
    written.map_err(|e| StoreError::io("write down the layout", e))
}
