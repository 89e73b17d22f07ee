//! Storing a folder from a tar stream.
//!
//! Contents take constant memory. Names and links of all entries stay in memory to the end, because a folder's node block
//! lists them in order.

use std::{
    collections::{BTreeMap, btree_map},
    fmt::Display,
    io::Read,
    path::{Component, Path},
};

use super::{MAX_NAME, sealer::Sealer};
use crate::{
    content::{
        encoder::{DirEncoder, DirEntry, EntryKind, Finished, Metadata},
        tar_time,
    },
    node::error::{ErrorCode, NodeError, Reason},
};

/// Maximum depth of nested folders: deeper than any path on Linux.
const MAX_DEPTH: usize = 2048;

enum TreeItem {
    File(DirEntry),
    Dir(Folder),
}

#[derive(Default)]
struct Folder {
    items: BTreeMap<String, TreeItem>,
    mtime: Option<i64>,
    mode: Option<u32>,
}

/// Stores the folder in the tar stream `input` and returns its root.
///
/// Errors: [`ErrorCode::BadRequest`] for anything but regular files and folders.
pub(super) fn store(
    sealer: &mut Sealer,
    input: &mut dyn Read,
    metadata: Metadata,
) -> Result<Finished, NodeError> {
    let mut top = Folder { items: BTreeMap::new(), mtime: metadata.mtime, mode: metadata.mode };
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(invalid_tar)? {
        let mut entry = entry.map_err(invalid_tar)?;
        let path = entry.path().map_err(invalid_tar)?.into_owned();
        let parts = components(&path)?;
        let header = entry.header();
        let (mtime, mode) = (tar_time::mtime(header), header.mode().ok());
        match header.entry_type() {
            tar::EntryType::Directory => {
                let folder = descend(&mut top, &parts)?;
                (folder.mtime, folder.mode) = (mtime, mode);
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let Some((name, parents)) = parts.split_last() else {
                    return Err(bad_path(&path, "it has no name"));
                };
                let size = entry.size();
                let file = Metadata {
                    name: Some(name.clone()),
                    mtime,
                    mode,
                    media_type: mime_guess::from_path(name).first_raw().map(String::from),
                    ..Metadata::default()
                };
                let done = sealer.file(&mut entry, file)?;
                if done.size != size {
                    return Err(invalid_tar(format_args!("{} is cut short", path.display())));
                }
                let (link, root_len, kind) = (done.link, done.root_len, EntryKind::File);
                let entry = DirEntry { name: name.clone(), link, root_len, kind, size, mtime, mode };
                if descend(&mut top, parents)?.items.insert(name.clone(), TreeItem::File(entry)).is_some() {
                    return Err(bad_path(&path, "it occurs twice"));
                }
            }
            _ => return Err(bad_path(&path, "it is neither a regular file nor a folder")),
        }
    }
    encode(sealer, top, metadata.name)
}

/// A folder whose node blocks are being written.
struct Open {
    items: btree_map::IntoIter<String, TreeItem>,
    encoder: DirEncoder,
    metadata: Metadata,
}

impl Drop for Folder {
    /// Without recursion: a thread's stack is too short for the deepest folders.
    fn drop(&mut self) {
        let mut items: Vec<TreeItem> = std::mem::take(&mut self.items).into_values().collect();
        while let Some(item) = items.pop() {
            if let TreeItem::Dir(mut folder) = item {
                items.extend(std::mem::take(&mut folder.items).into_values());
            }
        }
    }
}

impl Open {
    fn new(sealer: &Sealer, mut folder: Folder, name: Option<String>) -> Self {
        let metadata =
            Metadata { name, mtime: folder.mtime, mode: folder.mode, size: 0, ..Metadata::default() };
        let encoder = DirEncoder::new(sealer.options.sealing.clone());
        Self { items: std::mem::take(&mut folder.items).into_iter(), encoder, metadata }
    }

    fn add(&mut self, sealer: &mut Sealer, entry: DirEntry) -> Result<(), NodeError> {
        self.metadata.size += entry.size;
        sealer.write_nodes(self.encoder.push(entry)?)
    }

    /// Writes the node blocks of this folder. Returns its root, and its entry for the folder above.
    fn finish(self, sealer: &mut Sealer) -> Result<(Finished, DirEntry), NodeError> {
        let Metadata { name, size, mtime, mode, .. } = self.metadata.clone();
        let mut finished = self.encoder.finish(self.metadata)?;
        sealer.write_nodes(std::mem::take(&mut finished.blocks))?;
        let entry = DirEntry {
            name: name.unwrap_or_default(),
            root_len: finished.root_len,
            link: finished.link.clone(),
            kind: EntryKind::Dir,
            size,
            mtime,
            mode,
        };
        Ok((finished, entry))
    }
}

/// Writes the node blocks of all folders, the innermost first. Without recursion, as in `drop`.
fn encode(sealer: &mut Sealer, top: Folder, name: Option<String>) -> Result<Finished, NodeError> {
    let mut above = Vec::new();
    let mut open = Open::new(sealer, top, name);
    loop {
        match open.items.next() {
            Some((_, TreeItem::File(entry))) => open.add(sealer, entry)?,
            Some((name, TreeItem::Dir(inner))) => {
                above.push(std::mem::replace(&mut open, Open::new(sealer, inner, Some(name))));
            }
            None => {
                let (finished, entry) = open.finish(sealer)?;
                let Some(parent) = above.pop() else { return Ok(finished) };
                open = parent;
                open.add(sealer, entry)?;
            }
        }
    }
}

/// Returns the folder at `parts`, creating missing ones.
fn descend<'a>(top: &'a mut Folder, parts: &[String]) -> Result<&'a mut Folder, NodeError> {
    let mut folder = top;
    for part in parts {
        let item = folder.items.entry(part.clone()).or_insert_with(|| TreeItem::Dir(Folder::default()));
        match item {
            TreeItem::Dir(inner) => folder = inner,
            TreeItem::File(_) => return Err(bad_path(Path::new(part), "it is both a file and a folder")),
        }
    }
    Ok(folder)
}

/// Splits a path into names. It must be relative, without `..`, and UTF-8.
fn components(path: &Path) -> Result<Vec<String>, NodeError> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) if name.len() > MAX_NAME => {
                    return Err(bad_path(path, &format!("a name in it is longer than {MAX_NAME} bytes")));
                }
                Some(name) => parts.push(name.to_owned()),
                None => return Err(bad_path(path, "its name is not valid UTF-8")),
            },
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(bad_path(path, "it leads out of the folder"));
            }
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(bad_path(path, "it is nested too deeply"));
    }
    Ok(parts)
}

fn bad_path(path: &Path, why: &str) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, format!("cannot store {:?}: {why}", path.display().to_string()))
        .reason(Reason::PathInvalid)
}

fn invalid_tar(why: impl Display) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, format!("invalid tar stream: {why}")).reason(Reason::TarInvalid)
}
