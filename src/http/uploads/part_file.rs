//! Writes the parts of an upload to its file.
//!
//! Bytes count once they are synced and the new offset is recorded. A crash may leave more bytes in the file; they are
//! overwritten.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use axum::body::Bytes;
use sha1::Sha1;
use sha2::{Sha256, digest::DynDigest};
use tokio::sync::mpsc;

/// A part without a checksum is synced after this number of bytes.
const SYNC_INTERVAL_BYTES: u64 = 64 << 20;

/// A piece of a part.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The part is complete. Without this piece, it broke off.
    End,
}

/// The hash of the bytes so far, and the expected hash of the part.
pub(super) struct Checksum {
    hash: Box<dyn DynDigest + Send>,
    sum: Vec<u8>,
}

impl Checksum {
    /// `None` for an unknown algorithm and for a sum of the wrong length.
    pub(super) fn new(algorithm: &str, sum: Vec<u8>) -> Option<Self> {
        let hash: Box<dyn DynDigest + Send> = match algorithm {
            "sha1" => Box::new(Sha1::default()),
            "sha256" => Box::new(Sha256::default()),
            _ => return None,
        };
        (hash.output_size() == sum.len()).then_some(Self { hash, sum })
    }
}

/// Why a part was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error("the part is longer than the rest of the upload")]
    TooLong,
    #[error("the part does not match its checksum")]
    Checksum,
    #[error("another program cut the file of this upload to {0} bytes")]
    Cut(u64),
    #[error("the file of this upload is gone, and the bytes in it")]
    Gone,
    #[error("cannot write the part: {0}")]
    Io(#[from] io::Error),
}

/// Writes pieces to a file of `length` bytes, from `offset` on. Calls `record` with each new offset after a sync.
///
/// A part with a checksum counts as a whole or not at all.
pub(super) fn write(
    path: &Path,
    offset: u64,
    length: u64,
    mut checksum: Option<Checksum>,
    pieces: &mut mpsc::Receiver<Piece>,
    mut record: impl FnMut(u64) -> io::Result<()>,
) -> Result<(), PartError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = opened.map_err(|e| match e.kind() {
        // Somebody removed the folder.
        io::ErrorKind::NotFound => PartError::Gone,
        _ => e.into(),
    })?;
    let on_disk = file.metadata()?.len();
    if on_disk < offset {
        // The bytes behind its end are lost. Without this check they would read as zeros.
        record(on_disk)?;
        return Err(PartError::Cut(on_disk));
    }
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    let (mut at, mut synced, mut whole) = (offset, offset, false);
    let mut sync = |file: &File, at: u64| -> io::Result<()> {
        file.sync_data()?;
        record(at)
    };
    while let Some(piece) = pieces.blocking_recv() {
        let Piece::Bytes(bytes) = piece else {
            whole = true;
            break;
        };
        if at + bytes.len() as u64 > length {
            file.set_len(synced)?;
            return Err(PartError::TooLong);
        }
        if let Err(e) = file.write_all(&bytes) {
            // The synced bytes are good.
            file.set_len(synced)?;
            return Err(e.into());
        }
        at += bytes.len() as u64;
        match &mut checksum {
            Some(checksum) => checksum.hash.update(&bytes),
            None if at - synced >= SYNC_INTERVAL_BYTES => {
                sync(&file, at)?;
                synced = at;
            }
            None => {}
        }
    }
    if let Some(checksum) = checksum
        && !(whole && *checksum.hash.finalize() == *checksum.sum)
    {
        file.set_len(offset)?;
        return if whole { Err(PartError::Checksum) } else { Ok(()) };
    }
    Ok(sync(&file, at)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sha2::Digest;

    use super::*;

    /// Writes a part to a file of 10 bytes, of which `offset` are written. Returns the new offset.
    fn run(
        path: &Path,
        offset: u64,
        checksum: Option<Checksum>,
        pieces: Vec<Piece>,
    ) -> Result<u64, PartError> {
        let (sender, mut receiver) = mpsc::channel(16);
        for piece in pieces {
            sender.try_send(piece).unwrap_or_else(|_| panic!("the channel has space"));
        }
        drop(sender);
        let mut recorded = offset;
        write(path, offset, 10, checksum, &mut receiver, |at| {
            recorded = at;
            Ok(())
        })?;
        Ok(recorded)
    }

    fn bytes(text: &'static str) -> Piece {
        Piece::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_part_counts_as_far_as_it_arrived_and_with_a_checksum_as_a_whole() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("x.part");
        assert_eq!(run(&path, 0, None, vec![bytes("abc")]).expect("kept, although it broke off"), 3);
        let sum = || Checksum::new("sha1", Sha1::digest(b"def").to_vec());
        assert_eq!(run(&path, 3, sum(), vec![bytes("de")]).expect("ignored: it broke off"), 3);
        assert!(matches!(run(&path, 3, sum(), vec![bytes("dex"), Piece::End]), Err(PartError::Checksum)));
        assert_eq!(fs::read(&path).expect("read"), b"abc");
        assert_eq!(run(&path, 3, sum(), vec![bytes("d"), bytes("ef"), Piece::End]).expect("written"), 6);
        assert!(matches!(run(&path, 6, None, vec![bytes("12345"), Piece::End]), Err(PartError::TooLong)));
        fs::write(&path, b"abcdefgarbage").expect("written");
        assert_eq!(run(&path, 6, None, vec![bytes("ghij"), Piece::End]).expect("overwritten"), 10);
        assert_eq!(fs::read(&path).expect("read"), b"abcdefghij");
    }

    #[test]
    fn a_file_that_something_else_cut_is_continued_from_its_end() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("x.part");
        fs::write(&path, b"ab").expect("written");
        assert!(matches!(run(&path, 6, None, vec![bytes("ghij"), Piece::End]), Err(PartError::Cut(2))));
        assert_eq!(fs::read(&path).expect("read"), b"ab");
        fs::remove_file(&path).expect("removed");
        assert!(matches!(run(&path, 2, None, vec![bytes("cdef"), Piece::End]), Err(PartError::Cut(0))));
    }
}
