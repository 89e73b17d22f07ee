//! Where `get` writes: under a temporary name, which is renamed when the output is complete.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::Method;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{
    beneath::open_own,
    client::{Client, Endpoint},
    error::CliError,
    sanitize::is_hidden,
    shell::quote,
};
use crate::node::report::FileInfo;

pub(super) enum Destination {
    Stdout,
    /// A terminal, `/dev/null` or a named pipe: written to, never replaced.
    Device(PathBuf),
    /// A new file or folder, or a file to replace.
    Path(PathBuf),
}

impl Destination {
    /// Refuses an `--output` that exists before anything is asked for. A folder is where the file goes, so it is no obstacle.
    pub(super) fn check(output: Option<&Path>, force: bool) -> Result<(), CliError> {
        let Some(path) = output.filter(|path| !force && *path != Path::new("-")) else { return Ok(()) };
        let kind = fs::metadata(path).map(|meta| meta.file_type());
        let may_be_used = kind.is_ok_and(|kind| kind.is_dir() || kind.is_char_device() || kind.is_fifo());
        if may_be_used || path.symlink_metadata().is_err() {
            return Ok(());
        }
        Err(already_exists(path, false))
    }

    /// Resolves `--output`. An existing file is an error unless `force` is set; an existing folder always is.
    pub(super) async fn resolve(
        client: &Client,
        reference: &str,
        output: Option<PathBuf>,
        is_folder: bool,
        force: bool,
    ) -> Result<Self, CliError> {
        let path = match output {
            Some(path) if path == Path::new("-") => return Ok(Self::Stdout),
            // As with `cp`: an existing folder is where the file goes.
            Some(path) if path.is_dir() => path.join(default_name(client, reference).await?),
            Some(path) => path,
            None => default_name(client, reference).await?,
        };
        let kind = fs::metadata(&path).map(|meta| meta.file_type());
        if !is_folder && kind.is_ok_and(|kind| kind.is_char_device() || kind.is_fifo()) {
            return Ok(Self::Device(path));
        }
        let may_replace = force && !is_folder && !path.is_dir();
        match path.symlink_metadata() {
            Ok(_) if !may_replace => Err(already_exists(&path, is_folder)),
            _ => Ok(Self::Path(path)),
        }
    }
}

/// The name of the file, as a path in the current folder. Whatever the name contains, the path does not leave it.
async fn default_name(client: &Client, reference: &str) -> Result<PathBuf, CliError> {
    let info: FileInfo = client.json(Method::GET, &Endpoint::file(reference, "")?).await?;
    let cid = info.cid.to_string();
    let name: String = info.name.as_deref().unwrap_or_default().chars().map(safe).collect();
    Ok(PathBuf::from(if matches!(name.as_str(), "" | "." | "..") { cid } else { name }))
}

fn safe(c: char) -> char {
    if c == '/' || is_hidden(c) { '_' } else { c }
}

fn already_exists(path: &Path, is_folder: bool) -> CliError {
    let hint = if is_folder || path.is_dir() {
        "choose another path with -o; folders are never replaced, not even with --force"
    } else {
        "choose another path with -o, or replace the file with --force"
    };
    CliError::bad_request(format!("{} already exists", path.display())).hint(hint)
}

pub(super) fn cannot_write(path: &Path, e: &io::Error) -> CliError {
    let error = CliError::io(format_args!("write {}", path.display()), e);
    match path.parent() {
        Some(folder) if e.kind() == io::ErrorKind::NotFound && !folder.exists() => {
            error.hint(format!("create the folder first: `mkdir -p {}`", quote(folder)))
        }
        _ => error,
    }
}

/// A folder created for the output; removed when dropped, if it is still empty.
#[derive(Debug)]
pub(super) struct CreatedFolder(PathBuf);

impl CreatedFolder {
    /// Creates the folder if the path ends with a slash and nothing exists there; `None` otherwise.
    pub(super) fn create(path: &Path) -> Option<Result<Self, CliError>> {
        let wanted = path.as_os_str().as_bytes().ends_with(b"/") && path.symlink_metadata().is_err();
        wanted.then(|| match fs::create_dir(path) {
            Ok(()) => Ok(Self(path.into())),
            Err(e) => Err(cannot_write(path, &e)),
        })
    }
}

impl Drop for CreatedFolder {
    fn drop(&mut self) {
        // Fails if the folder is not empty.
        drop(fs::remove_dir(&self.0));
    }
}

/// A file or folder under a temporary name beside its final one; removed when dropped before [`Partial::finish`].
///
/// A killed process leaves it behind. The next `get` into the same folder removes it.
pub(super) struct Partial {
    temporary: PathBuf,
    target: PathBuf,
    finished: bool,
    /// Locked while this process writes.
    lock: Option<fs::File>,
}

/// Minimum age of a leftover before it is removed: a younger one may belong to a process that has not locked it yet.
const STALE: Duration = Duration::from_secs(2);

impl Partial {
    /// Chooses a temporary name beside `target` and removes stale leftovers there. Creates nothing.
    pub(super) fn beside(target: &Path) -> Result<Self, CliError> {
        if target.file_name().is_none() {
            let message = format!("{} is not a valid file name", target.display());
            return Err(CliError::bad_request(message));
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        remove_stale(folder.unwrap_or(Path::new(".")));
        // Short, so that it fits wherever the final name fits.
        let temporary = target.with_file_name(format!(".storgo-{:08x}.part", rand::random::<u32>()));
        Ok(Self { temporary, target: target.into(), finished: false, lock: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Locks the file or folder, once it exists, so that no other process removes it as stale.
    pub(super) fn lock(&mut self) {
        // Without locks in the file system, no other process can take the lock either, and so none removes it.
        self.lock = open_own(&self.temporary).ok().filter(|file| file.try_lock().is_ok());
    }

    /// Renames it to its final name.
    ///
    /// Errors: something with that name exists, unless `replace` is set.
    pub(super) fn finish(mut self, replace: bool) -> Result<(), CliError> {
        if replace && self.target.symlink_metadata().is_ok() {
            // Sync before replacing: after a power cut, the name must refer to the old or the new bytes, never to neither.
            let synced = match &self.lock {
                Some(file) => file.sync_data(),
                None => open_own(&self.temporary).and_then(|file| file.sync_data()),
            };
            synced.map_err(|e| cannot_write(&self.target, &e))?;
        }
        rename(&self.temporary, &self.target, replace).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => already_exists(&self.target, self.temporary.is_dir()),
            _ => cannot_write(&self.target, &e),
        })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            drop(remove(&self.temporary));
        }
    }
}

#[allow(clippy::disallowed_methods)] // The caller syncs before it replaces a file.
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not support NOREPLACE. A hard link never replaces a file.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::hard_link(from, to) {
            Ok(()) => fs::remove_file(from),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // No hard links either (or a folder): check as late as possible.
            Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        renamed => renamed.map_err(Into::into),
    }
}

/// Removes what killed processes of this user left in a folder.
fn remove_stale(folder: &Path) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = item.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(".storgo-")?.strip_suffix(".part"));
        let is_ours = id.is_some_and(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_ours && let Some(_locked) = lock_stale(&item.path()) {
            drop(remove(&item.path()));
        }
    }
}

/// Locks a leftover; `None` if it is young, in use, or not of this user.
fn lock_stale(path: &Path) -> Option<fs::File> {
    let meta = path.symlink_metadata().ok()?;
    let old = meta.modified().ok()?.elapsed().ok()? >= STALE;
    let own = meta.uid() == rustix::process::geteuid().as_raw() && (meta.is_file() || meta.is_dir());
    let file = (old && own).then(|| open_own(path).ok()).flatten()?;
    file.try_lock().ok()?;
    Some(file)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_folder_is_removed_if_nothing_was_written_to_it() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let new = dir.path().join("new/");
        assert!(CreatedFolder::create(&dir.path().join("new")).is_none(), "no slash: a file name");
        drop(CreatedFolder::create(&new).expect("a slash: a folder").expect("created"));
        assert!(!new.exists());
        let created = CreatedFolder::create(&new).expect("a slash: a folder").expect("created");
        fs::write(new.join("file"), b"x").expect("written");
        drop(created);
        assert!(new.join("file").exists());
    }
}
