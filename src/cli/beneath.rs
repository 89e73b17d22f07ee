//! Opens what is in a folder while others may change it.
//!
//! Each item is opened relative to the descriptor of its folder, and symbolic links are not followed: a link that takes the
//! place of a file or folder leads nowhere. Opening never waits: a named pipe in the place of a file is an error.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
};

/// For files of others: without waiting for the other end of a pipe, and without making a terminal that of this process.
const CAREFUL: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// A folder through which items are reached. Needs no right to list it.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The items below a folder. Paths are relative to it and consist of names only.
pub(super) struct Beneath {
    top: OwnedFd,
    /// The folder inside it that was used last.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Beneath {
    pub(super) fn open(top: &Path) -> io::Result<Self> {
        Ok(Self { top: openat(CWD, top, FOLDER, Mode::empty()).map_err(replaced)?, last: None })
    }

    /// Returns the folder at `path`; makes the folders of the path that do not exist, if `make` is set.
    fn folder(&mut self, path: &Path, make: bool) -> io::Result<BorrowedFd<'_>> {
        let inside = |(last, fd): (PathBuf, OwnedFd)| Some((path.strip_prefix(last).ok()?, fd));
        let (rest, mut folder) =
            self.last.take().and_then(inside).map_or((path, None), |(rest, fd)| (rest, Some(fd)));
        for name in rest.components() {
            let above = folder.as_ref().unwrap_or(&self.top);
            if make {
                match mkdirat(above, name.as_os_str(), Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            folder = Some(openat(above, name.as_os_str(), FOLDER, Mode::empty()).map_err(replaced)?);
        }
        match folder {
            Some(fd) => Ok(self.last.insert((path.into(), fd)).1.as_fd()),
            None => Ok(self.top.as_fd()),
        }
    }

    fn item(&mut self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<fs::File> {
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let folder = self.folder(path.parent().unwrap_or(Path::new("")), false)?;
        let opened = openat(folder, name, flags | OFlags::NOFOLLOW | CAREFUL, mode);
        Ok(opened.map_err(replaced)?.into())
    }

    /// Describes an item; of a symbolic link, the link itself.
    pub(super) fn metadata(&mut self, path: &Path) -> io::Result<fs::Metadata> {
        self.item(path, OFlags::PATH, Mode::empty())?.metadata()
    }

    /// Opens a file for reading. Anything but a regular file is an error.
    pub(super) fn file(&mut self, path: &Path) -> io::Result<fs::File> {
        regular(self.item(path, OFlags::RDONLY, Mode::empty())?)
    }

    /// Opens a folder, to list it or to change its attributes.
    pub(super) fn list(&mut self, path: &Path) -> io::Result<fs::File> {
        self.item(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Makes a folder and those above it.
    pub(super) fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path, true).map(drop)
    }

    /// Makes a new file and the folders above it.
    pub(super) fn make_file(&mut self, path: &Path, mode: u32) -> io::Result<fs::File> {
        self.make_folder(path.parent().unwrap_or(Path::new("")))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.item(path, flags, Mode::from_raw_mode(mode))
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.folder(path.parent().unwrap_or(Path::new("")), false)?;
        Ok(unlinkat(folder, path.file_name().unwrap_or_default(), AtFlags::empty())?)
    }
}

fn replaced(e: Errno) -> io::Error {
    match e {
        Errno::LOOP | Errno::NOTDIR => io::Error::other("something else took its place meanwhile"),
        e => e.into(),
    }
}

fn regular(file: fs::File) -> io::Result<fs::File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(replaced(Errno::NOTDIR)) }
}

/// Opens a file that the user named, where symbolic links are followed. Anything but a regular file is an error.
pub(super) fn open_regular(path: &Path) -> io::Result<fs::File> {
    regular(with_flags(path, CAREFUL)?)
}

/// Opens a file or folder that this program made, and nothing that a symbolic link leads to.
pub(super) fn open_own(path: &Path) -> io::Result<fs::File> {
    with_flags(path, CAREFUL | OFlags::NOFOLLOW)
}

fn with_flags(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}
