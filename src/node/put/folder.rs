//! Storing a folder from a tar archive.
//!
//! Contents take constant memory. Names and links of all entries stay in memory to the end, because a folder's node block
//! lists them in order.

use std::{
    collections::{BTreeMap, btree_map},
    io::Read,
    path::{Component, Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::{
    MAX_NAME,
    sealer::{Sealer, UploadCounts},
    tar_reader::{self, Archive, invalid, quoted, unsupported},
};
use crate::{
    content::encoder::{DirEncoder, DirEntry, EntryKind, Finished, Metadata},
    node::error::{ErrorCode, NodeError, Reason},
};

/// Maximum depth of nested folders: deeper than any path on Linux.
const MAX_DEPTH: usize = 2048;
/// Maximum number of symbolic links that lead to one another, as on Linux.
const MAX_LINKS: usize = 40;

enum TreeItem {
    File(StoredFile),
    Dir(Folder),
}

#[derive(Clone)]
struct StoredFile {
    entry: DirEntry,
    /// Number and bytes of its blocks.
    blocks: u64,
    stored_len: u64,
}

#[derive(Default)]
struct Folder {
    items: BTreeMap<String, TreeItem>,
    mtime: Option<i64>,
    mode: Option<u32>,
}

/// Stores the folder in the tar archive `input` and returns its root.
///
/// `gone` ends it when nobody waits for the folder any more.
///
/// Errors: [`ErrorCode::BadRequest`] for entries that are neither files nor folders, and for links that lead to no file of
/// the archive.
pub(super) fn store(
    sealer: &mut Sealer,
    input: &mut dyn Read,
    gone: &CancellationToken,
    metadata: Metadata,
) -> Result<Finished, NodeError> {
    let mut top = Folder { items: BTreeMap::new(), mtime: metadata.mtime, mode: metadata.mode };
    let mut symbolic_links = Vec::new();
    let mut archive = Archive::new(input, gone);
    while let Some(entry) = archive.next()? {
        let tar_reader::Entry { path, kind, size, mtime, mode } = entry;
        let parts = components(&path)?;
        match kind {
            tar_reader::EntryKind::Dir => {
                let folder = descend(&mut top, &parts)?;
                (folder.mtime, folder.mode) = (mtime, mode);
            }
            tar_reader::EntryKind::File => {
                let name = parts.last().cloned();
                let media_type = name.as_ref().and_then(|name| mime_guess::from_path(name).first_raw());
                let media_type = media_type.map(String::from);
                let file = Metadata { name: name.clone(), mtime, mode, media_type, ..Metadata::default() };
                let before = sealer.counts;
                let done = sealer.file(&mut archive, file)?;
                if done.size != size {
                    return Err(invalid(format_args!("it is cut short in {}", quoted(&path))));
                }
                let UploadCounts { blocks, stored_len, .. } = sealer.counts;
                let (link, root_len, kind) = (done.link, done.root_len, EntryKind::File);
                let file = StoredFile {
                    entry: DirEntry {
                        name: name.unwrap_or_default(),
                        link,
                        root_len,
                        kind,
                        size,
                        mtime,
                        mode,
                    },
                    blocks: blocks - before.blocks,
                    stored_len: stored_len - before.stored_len,
                };
                insert(&mut top, &path, &parts, file)?;
            }
            tar_reader::EntryKind::HardLink(target) => {
                let file = find(&top, &components(&target)?).cloned().ok_or_else(|| {
                    let target = quoted(&target);
                    unsupported(&path, &format!("it is a hard link to {target}, which is no earlier file"))
                })?;
                insert_copy(sealer, &mut top, &path, &parts, file)?;
            }
            tar_reader::EntryKind::SymbolicLink(target) => symbolic_links.push((path, parts, target)),
        }
    }
    copy_targets(sealer, &mut top, symbolic_links)?;
    encode(sealer, top, metadata.name)
}

/// Replaces symbolic links by copies of the files that they lead to.
fn copy_targets(
    sealer: &mut Sealer,
    top: &mut Folder,
    mut links: Vec<(PathBuf, Vec<String>, PathBuf)>,
) -> Result<(), NodeError> {
    // A link to another link is replaced after that one.
    for _ in 0..MAX_LINKS {
        let before = links.len();
        let mut left = Vec::new();
        for (path, parts, target) in links {
            match resolve(&parts, &target).and_then(|target| find(top, &target).cloned()) {
                Some(file) => insert_copy(sealer, top, &path, &parts, file)?,
                None => left.push((path, parts, target)),
            }
        }
        links = left;
        if links.is_empty() || links.len() == before {
            break;
        }
    }
    let Some((path, _, target)) = links.first() else { return Ok(()) };
    let target = quoted(target);
    Err(unsupported(path, &format!("it is a symbolic link to {target}, which is no file of this archive")))
}

/// Returns the path to which a symbolic link at `link` leads; `None` if that is outside the folder.
fn resolve(link: &[String], target: &Path) -> Option<Vec<String>> {
    let mut parts = link.split_last()?.1.to_vec();
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

/// Returns the file at `parts`.
fn find<'a>(top: &'a Folder, parts: &[String]) -> Option<&'a StoredFile> {
    let (name, parents) = parts.split_last()?;
    let mut folder = top;
    for part in parents {
        let TreeItem::Dir(inner) = folder.items.get(part)? else { return None };
        folder = inner;
    }
    match folder.items.get(name)? {
        TreeItem::File(file) => Some(file),
        TreeItem::Dir(_) => None,
    }
}

/// Inserts a file that has the content of another one.
fn insert_copy(
    sealer: &mut Sealer,
    top: &mut Folder,
    path: &Path,
    parts: &[String],
    mut file: StoredFile,
) -> Result<(), NodeError> {
    file.entry.name = parts.last().cloned().unwrap_or_default();
    // Each use of a block counts.
    sealer.counts.blocks += file.blocks;
    sealer.counts.stored_len += file.stored_len;
    insert(top, path, parts, file)
}

fn insert(top: &mut Folder, path: &Path, parts: &[String], file: StoredFile) -> Result<(), NodeError> {
    let Some((name, parents)) = parts.split_last() else {
        return Err(bad_path(path, "it has no name"));
    };
    if descend(top, parents)?.items.insert(name.clone(), TreeItem::File(file)).is_some() {
        return Err(unsupported(path, "it occurs twice, as in an archive to which files were appended"));
    }
    Ok(())
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
            Some((_, TreeItem::File(file))) => open.add(sealer, file.entry)?,
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
                Some(name) if name.contains('\0') => {
                    return Err(bad_path(path, "it contains a NUL character"));
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
    NodeError::new(ErrorCode::BadRequest, format!("cannot store {}: {why}", quoted(path)))
        .reason(Reason::PathInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_file_can_have_is_refused() {
        let error = components(Path::new("a\0b")).expect_err("a NUL");
        assert_eq!((error.code, error.reason), (ErrorCode::BadRequest, Some(Reason::PathInvalid)));
        assert_eq!(error.message, r#"cannot store "a\0b": it contains a NUL character"#);
        let error = components(Path::new(&"/long".repeat(10_000))).expect_err("absolute");
        assert!(error.message.len() < 300 && error.message.contains('…'), "{}", error.message);
    }
}
