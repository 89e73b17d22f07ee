//! Storing a folder: a tar stream in, `dir` nodes out.
//!
//! Contents pass through in constant memory; names and links of the folder's entries are held until their
//! folder is complete, because a `dir` node lists its names in order.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Component, Path},
};

use super::{
    error::{ErrorCode, NodeError},
    put::Sealer,
};
use crate::content::{
    encoder::{DirEncoder, DirEntry, EntryKind, Finished, Metadata},
    link::Link,
};

/// Folders inside folders, at most: deeper than any path that Linux takes.
const MAX_DEPTH: usize = 2048;

enum Item {
    File { link: Link, root_len: u32, size: u64, mtime: Option<i64>, mode: Option<u32> },
    Dir(Folder),
}

#[derive(Default)]
struct Folder {
    items: BTreeMap<String, Item>,
    mtime: Option<i64>,
    mode: Option<u32>,
}

/// Stores the folder that `input` carries as a tar stream, and answers with its root and its size in bytes.
///
/// Regular files and folders only: links and devices are refused by name.
pub(super) fn store(
    sealer: &mut Sealer,
    input: &mut dyn Read,
    metadata: Metadata,
) -> Result<Finished, NodeError> {
    let mut top = Folder { mtime: metadata.mtime, mode: metadata.mode, ..Folder::default() };
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(|e| broken(&e))? {
        let mut entry = entry.map_err(|e| broken(&e))?;
        let path = entry.path().map_err(|e| broken(&e))?.into_owned();
        let parts = components(&path)?;
        let header = entry.header();
        let (mtime, mode) = (header.mtime().ok().and_then(|t| i64::try_from(t).ok()), header.mode().ok());
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
                    return Err(NodeError::new(
                        ErrorCode::BadRequest,
                        format!("{} is cut short", path.display()),
                    ));
                }
                let item = Item::File { root_len: done.root_len, link: done.link, size, mtime, mode };
                if descend(&mut top, parents)?.items.insert(name.clone(), item).is_some() {
                    return Err(bad_path(&path, "it is there twice"));
                }
            }
            _ => return Err(bad_path(&path, "it is neither a regular file nor a folder")),
        }
    }
    encode(sealer, top, metadata.name).map(|(finished, _)| finished)
}

fn encode(sealer: &mut Sealer, folder: Folder, name: Option<String>) -> Result<(Finished, u64), NodeError> {
    let mut encoder = DirEncoder::new(sealer.recipe.sealing.clone());
    let mut total = 0;
    for (name, item) in folder.items {
        let entry = match item {
            Item::File { link, root_len, size, mtime, mode } => {
                DirEntry { name, link, root_len, kind: EntryKind::File, size, mtime, mode }
            }
            Item::Dir(inner) => {
                let (mtime, mode) = (inner.mtime, inner.mode);
                let (done, size) = encode(sealer, inner, Some(name.clone()))?;
                DirEntry {
                    name,
                    root_len: done.root_len,
                    link: done.link,
                    kind: EntryKind::Dir,
                    size,
                    mtime,
                    mode,
                }
            }
        };
        total += entry.size;
        sealer.write_nodes(encoder.push(entry)?)?;
    }
    let metadata =
        Metadata { name, size: total, mtime: folder.mtime, mode: folder.mode, ..Metadata::default() };
    let mut finished = encoder.finish(metadata)?;
    sealer.write_nodes(std::mem::take(&mut finished.blocks))?;
    Ok((finished, total))
}

/// The folder at `parts`, made on the way where it does not exist.
fn descend<'a>(top: &'a mut Folder, parts: &[String]) -> Result<&'a mut Folder, NodeError> {
    let mut folder = top;
    for part in parts {
        let item = folder.items.entry(part.clone()).or_insert_with(|| Item::Dir(Folder::default()));
        match item {
            Item::Dir(inner) => folder = inner,
            Item::File { .. } => {
                return Err(bad_path(Path::new(part), "it is both a file and a folder"));
            }
        }
    }
    Ok(folder)
}

/// The names along a path: relative, without `..`, all of them UTF-8.
fn components(path: &Path) -> Result<Vec<String>, NodeError> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) => parts.push(name.to_owned()),
                None => return Err(bad_path(path, "its name is not UTF-8")),
            },
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(bad_path(path, "a path must stay inside its folder"));
            }
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(bad_path(path, "it is nested too deeply"));
    }
    Ok(parts)
}

fn bad_path(path: &Path, why: &str) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, format!("{:?} cannot be stored: {why}", path.display().to_string()))
}

fn broken(e: &std::io::Error) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, format!("the folder's tar stream is broken: {e}"))
}
