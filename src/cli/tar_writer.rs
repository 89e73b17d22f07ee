//! Packs a folder as a tar stream.

use std::{
    fs,
    io::{self, Read, Write},
    path::PathBuf,
};

use axum::body::Bytes;
use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::{
    input_errors::{InputErrors, PIECE, unreadable},
    walk::Entry,
};
use crate::node::set_tar_mtime;

/// Returns the entries as a tar stream, which a blocking thread produces.
pub(super) fn tar_stream(
    entries: Vec<Entry>,
    errors: &InputErrors,
) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (sender, receiver) = mpsc::channel(4);
    let errors = errors.clone();
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe { sender: sender.clone(), buf: Vec::with_capacity(PIECE) };
        if let Err((path, e)) = write_tar(entries, pipe, &errors) {
            // A broken pipe means that the request has failed, which is reported elsewhere.
            if e.kind() != io::ErrorKind::BrokenPipe {
                errors.set_failed(unreadable(&path, &e));
            }
            drop(sender.blocking_send(Err(e)));
        }
    });
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|piece| (piece, receiver)))
}

/// Errors name the file that was being read.
fn write_tar(entries: Vec<Entry>, pipe: Pipe, errors: &InputErrors) -> Result<(), (PathBuf, io::Error)> {
    let mut tar = tar::Builder::new(pipe);
    for entry in entries {
        append(&mut tar, &entry, errors).map_err(|e| (entry.path, e))?;
    }
    let done = tar.into_inner().and_then(|mut pipe| pipe.flush());
    done.map_err(|e| (PathBuf::from("the folder"), e))
}

fn append(tar: &mut tar::Builder<Pipe>, entry: &Entry, errors: &InputErrors) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    set_tar_mtime(&mut header, entry.version.mtime.0);
    if entry.is_folder {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        return tar.append_data(&mut header, &entry.name, io::empty());
    }
    header.set_size(entry.size);
    let file = fs::File::open(&entry.path)?;
    // A file that grows is stored with its old length. One that shrinks makes the stream fail.
    let mut exact = ExactReader { input: (&file).take(entry.size), left: entry.size };
    tar.append_data(&mut header, &entry.name, &mut exact)?;
    errors.check_unchanged(&entry.path, entry.version, file.metadata());
    Ok(())
}

/// A reader that fails if its input ends early.
struct ExactReader<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for ExactReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        self.left -= len as u64;
        if len == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(len)
    }
}

/// Writes to a channel, in pieces.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buf: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
