//! Reads tar archives as a stream, in constant memory but for names and the maps of sparse files.
//!
//! Reads what GNU tar, bsdtar and `git archive` write by default: ustar, GNU and pax headers, long names, sparse files, hard
//! links, and volume labels, which are ignored. Anything else is refused by name, so nothing of an archive is dropped
//! silently. The `tar` crate parses single headers. Its archive reader knows no sparse files in pax headers, takes an
//! archive that ends between two entries for a complete one, and has no limit for the length of a name.

mod errors;
mod pax;
mod sparse;

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use tar::Header;
use tokio_util::sync::CancellationToken;

pub(super) use self::errors::{invalid, quoted, unsupported};
use self::{
    errors::{cut_short, unsupported_archive},
    pax::Pax,
    sparse::SparseMap,
};
use super::sealer::read_error;
use crate::{content::tar_time, node::error::NodeError};

/// Length of a block of an archive, in bytes.
const BLOCK: usize = 512;
/// Maximum length of a long name or of the pax records of one entry, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// Maximum length of all holes of an archive, 128 GiB: reading them costs time although nobody sends them.
const MAX_HOLES: u64 = 128 << 30;

/// The first bytes of files that are no tar archives, and what they are.
const OTHER_FORMATS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "it is compressed with gzip"),
    (b"BZh", "it is compressed with bzip2"),
    (b"\xfd7zXZ", "it is compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd"),
    (b"PK\x03\x04", "it is a ZIP file"),
    (b"070701", "it is a cpio archive"),
];

/// One entry.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) kind: EntryKind,
    /// Length of the content, including holes.
    pub(super) size: u64,
    pub(super) mtime: Option<i64>,
    pub(super) mode: Option<u32>,
}

pub(super) enum EntryKind {
    /// A file. The archive reads as its content until the next call of [`Archive::next`].
    File,
    Dir,
    /// The file at this path, which comes earlier in the archive.
    HardLink(PathBuf),
    /// A symbolic link with this target.
    SymbolicLink(PathBuf),
}

/// An archive.
pub(super) struct Archive<'a> {
    input: &'a mut dyn Read,
    /// Cancelled when nobody waits for the archive any more. Reading a hole does not touch `input`, so it would not notice.
    gone: &'a CancellationToken,
    /// How long the holes of further entries may be.
    holes_left: u64,
    /// The modification time of entries that have none of their own: a pax record may set one for all.
    mtime: Option<i64>,
    /// The rest of the content of the current entry.
    content: SparseMap,
    /// Bytes of the current entry in the archive that have not been read, with their padding.
    stored: u64,
    is_first: bool,
}

impl<'a> Archive<'a> {
    pub(super) fn new(input: &'a mut dyn Read, gone: &'a CancellationToken) -> Self {
        let content = SparseMap::default();
        Self { input, gone, holes_left: MAX_HOLES, mtime: None, content, stored: 0, is_first: true }
    }

    /// Returns the next entry; `None` at the end of the archive, when the whole input has been read.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, NodeError> {
        self.skip()?;
        let (mut pax, mut name, mut link) = (None, None, None);
        loop {
            let Some(header) = self.header()? else {
                if pax.is_some() || name.is_some() || link.is_some() {
                    return Err(invalid("its last entry is missing"));
                }
                self.expect_end()?;
                return Ok(None);
            };
            match header.entry_type().as_byte() {
                b'x' | b'X' => {
                    pax = Some(Pax::parse(&self.extension(&header)?)?);
                }
                b'g' => {
                    let records = Pax::parse(&self.extension(&header)?)?;
                    if let Some(what) = records.unsupported.or(records.only_for_one_entry()) {
                        return Err(unsupported_archive(what));
                    }
                    self.mtime = records.mtime.or(self.mtime);
                }
                b'L' => name = Some(self.long_name(&header)?),
                b'K' => link = Some(self.long_name(&header)?),
                // The label of a volume, which has no content.
                b'V' => {}
                _ => {
                    let mut pax = pax.unwrap_or_default();
                    pax.path = pax.path.or(name);
                    pax.link = pax.link.or(link);
                    return self.entry(&header, pax).map(Some);
                }
            }
        }
    }

    fn entry(&mut self, header: &Header, mut pax: Pax) -> Result<Entry, NodeError> {
        let path = pax.sparse.name.take().or(pax.path);
        let path = to_path(path.unwrap_or_else(|| header.path_bytes().into_owned()));
        let refuse = |what: &str| Err(unsupported(&path, what));
        if let Some(what) = pax.unsupported {
            return refuse(what);
        }
        let link =
            || to_path(pax.link.or_else(|| Some(header.link_name_bytes()?.into_owned())).unwrap_or_default());
        let (kind, names_folder) =
            (header.entry_type().as_byte(), path.as_os_str().as_encoded_bytes().ends_with(b"/"));
        let kind = match kind {
            // Before ustar, a slash told a folder from a file.
            b'5' => EntryKind::Dir,
            0 | b'0' if names_folder => EntryKind::Dir,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::SymbolicLink(link()),
            b'3' | b'4' => return refuse("it is a device"),
            b'6' => return refuse("it is a named pipe"),
            b'D' => return refuse("it belongs to an incremental archive"),
            b'M' => return refuse("it continues from another volume"),
            kind => return refuse(&format!("it is of the unknown kind {:?}", char::from(kind))),
        };
        let stored = pax.size.map_or_else(|| header.entry_size().map_err(invalid), Ok)?;
        self.stored = padded(stored)?;
        self.content = SparseMap::plain(0);
        if matches!(kind, EntryKind::File) {
            self.content = if header.entry_type().is_gnu_sparse() {
                SparseMap::of_gnu_header(header, stored, || self.block())?
            } else if pax.sparse.is_inline() {
                let (map, used) = SparseMap::inline(&pax.sparse, stored, || self.block())?;
                self.stored -= used;
                map
            } else {
                pax.sparse.map(stored)?
            };
        } else if matches!(kind, EntryKind::HardLink(_)) && stored > 0 {
            // Some writers announce a length here and send nothing, others send the content.
            return refuse("it is a hard link with a content of its own");
        }
        self.holes_left = self
            .holes_left
            .checked_sub(self.content.holes())
            .ok_or_else(|| unsupported_archive("its files have holes of more than 128 GiB"))?;
        let mtime = pax.mtime.or(self.mtime).or_else(|| tar_time::mtime(header));
        Ok(Entry { size: self.content.size(), path, kind, mtime, mode: header.mode().ok() })
    }

    /// Reads the next header. `None` stands for a block of zeros, which ends an archive.
    fn header(&mut self) -> Result<Option<Header>, NodeError> {
        let mut header = Header::new_old();
        let len = read_full(self.input, header.as_mut_bytes())?;
        let is_first = std::mem::take(&mut self.is_first);
        if is_first && len == 0 {
            return Err(invalid("it is empty"));
        }
        let (bytes, is_header) = (header.as_bytes(), len == BLOCK && has_checksum(&header));
        // A header begins with the name of a file, which may be that of another format.
        let known =
            OTHER_FORMATS.iter().find(|(magic, _)| is_first && !is_header && bytes.starts_with(magic));
        if let Some((_, what)) = known {
            return Err(unsupported_archive(what));
        }
        if len < BLOCK {
            return Err(invalid("it is cut short: the block of zeros that ends an archive is missing"));
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !is_header {
            return Err(invalid("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<[u8; BLOCK], NodeError> {
        let mut block = [0; BLOCK];
        if read_full(self.input, &mut block)? < BLOCK {
            return Err(cut_short());
        }
        Ok(block)
    }

    /// Reads the content of a header that describes the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, NodeError> {
        let len = header.entry_size().map_err(invalid)?;
        if len > MAX_EXTENSION {
            return Err(invalid(format_args!(
                "a name or description in it has more than {MAX_EXTENSION} bytes"
            )));
        }
        let mut bytes = Vec::new();
        (&mut *self.input).take(len).read_to_end(&mut bytes).map_err(|e| read_error(&e))?;
        if bytes.len() as u64 != len {
            return Err(cut_short());
        }
        self.stored = padded(len)? - len;
        self.skip()?;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, NodeError> {
        let mut name = self.extension(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> Result<(), NodeError> {
        let skipped = io::copy(&mut (&mut *self.input).take(self.stored), &mut io::sink());
        if skipped.map_err(|e| read_error(&e))? < self.stored {
            return Err(cut_short());
        }
        self.stored = 0;
        Ok(())
    }

    /// Reads the rest of the input, which must be zeros.
    fn expect_end(&mut self) -> Result<(), NodeError> {
        let mut buf = [0; 8 << 10];
        loop {
            let len = self.input.read(&mut buf).map_err(|e| read_error(&e))?;
            if len == 0 {
                return Ok(());
            }
            if buf[..len].iter().any(|byte| *byte != 0) {
                return Err(unsupported_archive(
                    "more data follows its end, as if two archives had been joined",
                ));
            }
        }
    }
}

impl Read for Archive<'_> {
    /// Reads the content of the current entry. Ends early if the archive does.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (len, is_hole) = self.content.next_piece(buf.len());
        let buf = &mut buf[..len];
        if is_hole {
            if self.gone.is_cancelled() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nobody waits for the archive"));
            }
            buf.fill(0);
            return Ok(len);
        }
        let len = self.input.read(buf)?;
        self.content.data_read(len);
        self.stored -= len as u64;
        Ok(len)
    }
}

fn has_checksum(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    // The checksum counts itself as spaces.
    let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    header.cksum().ok() == Some(expected)
}

fn read_full(input: &mut dyn Read, buf: &mut [u8]) -> Result<usize, NodeError> {
    let mut len = 0;
    while len < buf.len() {
        match input.read(&mut buf[len..]).map_err(|e| read_error(&e))? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

/// Rounds up to whole blocks.
fn padded(len: u64) -> Result<u64, NodeError> {
    len.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("an entry is too long"))
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
