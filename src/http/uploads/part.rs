//! The bytes of one upload on disk: written by a thread of their own, and counted when they are synced.
//!
//! `<id>.part` holds the bytes, `<id>.at` how many of them count. A crash may leave more bytes than count: they are
//! written again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use axum::body::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// Bytes after which those so far are synced.
const SYNC_EVERY: u64 = 64 << 20;

/// What comes through the channel.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The part is whole; without this, it has broken off.
    End,
}

/// How the body of a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    Broken,
}

/// A hash that runs along, and what it must come to.
pub(super) enum Check {
    Sha1(Box<Sha1>, Vec<u8>),
    Sha256(Box<Sha256>, Vec<u8>),
}

impl Check {
    /// None for an algorithm that is not known, and a sum that has another length.
    pub(super) fn new(algorithm: &str, sum: Vec<u8>) -> Option<Self> {
        match (algorithm, sum.len()) {
            ("sha1", 20) => Some(Self::Sha1(Box::default(), sum)),
            ("sha256", 32) => Some(Self::Sha256(Box::default(), sum)),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash, _) => hash.update(bytes),
            Self::Sha256(hash, _) => hash.update(bytes),
        }
    }

    fn holds(self) -> bool {
        match self {
            Self::Sha1(hash, sum) => hash.finalize().as_slice() == sum,
            Self::Sha256(hash, sum) => hash.finalize().as_slice() == sum,
        }
    }
}

/// Why a part was not taken, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error("the part goes beyond the end of the upload")]
    TooLong,
    #[error("the part is not what its checksum says")]
    Checksum,
    #[error("the part cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// Writes what comes, from `offset` on, and answers with the new offset. `count` is told whenever more bytes count.
///
/// With a checksum, a part counts as a whole or not at all.
pub(super) fn write(
    path: &Path,
    offset: u64,
    length: u64,
    mut check: Option<Check>,
    pieces: &mut mpsc::Receiver<Piece>,
    mut count: impl FnMut(u64),
) -> Result<(), PartError> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    let (mut at, mut synced, mut whole) = (offset, offset, false);
    let mut sync = |file: &File, at: u64| -> io::Result<()> {
        file.sync_data()?;
        note(path, at)?;
        count(at);
        Ok(())
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
            // What came before is good, as far as it counts.
            file.set_len(synced)?;
            return Err(e.into());
        }
        at += bytes.len() as u64;
        match &mut check {
            Some(check) => check.update(&bytes),
            None if at - synced >= SYNC_EVERY => {
                sync(&file, at)?;
                synced = at;
            }
            None => {}
        }
    }
    if let Some(check) = check
        && !(whole && check.holds())
    {
        file.set_len(offset)?;
        return if whole { Err(PartError::Checksum) } else { Ok(()) };
    }
    Ok(sync(&file, at)?)
}

/// Notes durably how many bytes count. The note is shorter than a sector: it is the old one or the new one.
fn note(path: &Path, at: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("at"))?;
    file.write_all(format!("{at:020}\n").as_bytes())?;
    file.sync_all()
}

/// How many bytes count.
pub(super) fn offset(path: &Path) -> u64 {
    let noted = fs::read_to_string(path.with_extension("at")).ok();
    let noted = noted.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    noted.min(fs::metadata(path).map_or(0, |file| file.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: &Path, check: Option<Check>, pieces: Vec<Piece>) -> Result<u64, PartError> {
        let (sender, mut receiver) = mpsc::channel(16);
        for piece in pieces {
            sender.try_send(piece).unwrap_or_else(|_| panic!("room"));
        }
        drop(sender);
        write(path, offset(path), 10, check, &mut receiver, |_| {})?;
        Ok(offset(path))
    }

    fn bytes(text: &'static str) -> Piece {
        Piece::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_arrived_counts_and_what_is_wrong_does_not() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("x.part");
        assert_eq!(run(&path, None, vec![bytes("abc")]).expect("kept, though it broke off"), 3);
        let sum = || Check::new("sha1", Sha1::digest(b"def").to_vec());
        assert_eq!(run(&path, sum(), vec![bytes("de")]).expect("nothing of a part with a checksum"), 3);
        assert!(matches!(run(&path, sum(), vec![bytes("dex"), Piece::End]), Err(PartError::Checksum)));
        assert_eq!(offset(&path), 3);
        assert_eq!(run(&path, sum(), vec![bytes("d"), bytes("ef"), Piece::End]).expect("right"), 6);
        assert!(matches!(run(&path, None, vec![bytes("12345"), Piece::End]), Err(PartError::TooLong)));
        // Bytes that a crash left do not count.
        fs::write(&path, b"abcdefgarbage").expect("written");
        assert_eq!(run(&path, None, vec![bytes("ghij"), Piece::End]).expect("written over"), 10);
        assert_eq!(fs::read(&path).expect("read"), b"abcdefghij");
        assert!(Check::new("md5", vec![0; 16]).is_none() && Check::new("sha1", vec![0; 19]).is_none());
    }
}
