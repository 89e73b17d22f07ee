//! Sending a folder as a tar stream.

use bytes::Bytes;

use super::{
    file,
    sink::{Sink, Stopped},
    source::Source,
};
use crate::{
    content::{
        ContentError,
        decoder::{DirTree, Root, open_root},
        encoder::{DirEntry, EntryKind},
        tar_time,
    },
    node::error::{ErrorCode, NodeError},
};

/// Length of a tar record, in bytes.
const RECORD: usize = 512;
/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 2048;

/// Sends a folder, depth first, names in order.
pub(super) async fn send(source: &Source, top: DirTree, sink: &mut Sink) -> Result<(), Stopped> {
    let mut open = vec![(String::new(), top)];
    while let Some((prefix, tree)) = open.last_mut() {
        let Some(entry) = source.next_entry(tree).await? else {
            open.pop();
            continue;
        };
        let path = format!("{prefix}{}", entry.name);
        let root =
            source.node(&entry.link.cid, Some(entry.root_len), |block| open_entry(&entry, block)).await?;
        match root {
            Root::Dir(inner) => {
                let path = format!("{path}/");
                sink.buffer(&header(&entry, &path)?).await?;
                if open.len() == MAX_DEPTH {
                    return Err(
                        NodeError::new(ErrorCode::Integrity, "the folder is nested too deeply").into()
                    );
                }
                open.push((path, inner));
            }
            Root::File(tree) => {
                // Sent with the first bytes of the file: if those cannot be read, the answer can still be an error.
                sink.buffer(&header(&entry, &path)?).await?;
                file::send(source, tree, 0..entry.size, sink).await?;
                let padding =
                    usize::try_from(entry.size % RECORD as u64).map_or(0, |over| (RECORD - over) % RECORD);
                sink.send(Bytes::from_static(&[0; RECORD][..padding])).await?;
            }
        }
    }
    sink.send(Bytes::from_static(&[0; 2 * RECORD])).await
}

/// Opens the root of an entry and checks it against the kind and size in its folder.
fn open_entry(entry: &DirEntry, block: &[u8]) -> Result<Root, ContentError> {
    let root = open_root(&entry.link, block)?;
    let fits = match &root {
        Root::File(tree) => entry.kind == EntryKind::File && tree.metadata().size == entry.size,
        Root::Dir(_) => entry.kind == EntryKind::Dir,
    };
    if fits { Ok(root) } else { Err(ContentError::Malformed("an entry is not what its folder says")) }
}

/// Returns the tar header of one entry. A long name takes several records.
fn header(entry: &DirEntry, path: &str) -> Result<Bytes, NodeError> {
    let dir = entry.kind == EntryKind::Dir;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_size(if dir { 0 } else { entry.size });
    header.set_mode(entry.mode.unwrap_or(if dir { 0o755 } else { 0o644 }) & 0o7777);
    tar_time::set_mtime(&mut header, entry.mtime.unwrap_or(0));
    let mut records = tar::Builder::new(Vec::with_capacity(RECORD));
    let appended = records.append_data(&mut header, path, std::io::empty());
    appended.map_err(|e| {
        NodeError::new(ErrorCode::Integrity, format!("{path:?} does not fit into a tar header: {e}"))
    })?;
    Ok(std::mem::take(records.get_mut()).into())
}
