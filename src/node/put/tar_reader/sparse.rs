//! Sparse files: which bytes of a file are in the archive, and where the holes are.
//!
//! GNU tar has four ways to write the map: in the blocks after the header (its own format), and in pax records as pairs
//! (0.0), as one list (0.1), or before the content (1.0, which bsdtar writes by default).

use std::{mem, vec};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{
    BLOCK,
    errors::{invalid, unsupported_archive},
};
use crate::node::error::NodeError;

/// Maximum number of segments of a file. Their map is in memory.
const MAX_SEGMENTS: usize = 1 << 18;

/// Offset and length of bytes that are in the archive.
type Segment = (u64, u64);

/// The content of an entry, as far as it has not been read.
#[derive(Default)]
pub(super) struct SparseMap {
    segments: vec::IntoIter<Segment>,
    /// The end of the last segment that was taken.
    at: u64,
    /// The length of the file.
    size: u64,
    /// The length of all holes.
    holes: u64,
    /// Bytes to read before the next segment: first the hole, then the data.
    hole: u64,
    data: u64,
}

impl SparseMap {
    /// A file without holes.
    pub(super) fn plain(size: u64) -> Self {
        Self { at: size, size, data: size, ..Self::default() }
    }

    /// A file of `size` bytes, of which the archive has `stored`.
    fn new(segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self, NodeError> {
        let (mut at, mut len_bytes, mut aligned) = (0_u64, 0_u64, true);
        for (offset, len) in segments.iter().copied().filter(|(_, len)| *len > 0) {
            let end = offset.checked_add(len).filter(|end| *end <= size);
            // Readers disagree on whether each segment or only the last one is padded.
            let (true, true, Some(end)) = (offset >= at, aligned, end) else {
                return Err(invalid("the map of a sparse file is malformed"));
            };
            (at, len_bytes, aligned) = (end, len_bytes + len, len % BLOCK as u64 == 0);
        }
        if len_bytes != stored {
            return Err(invalid("the map of a sparse file does not fit its length"));
        }
        Ok(Self { segments: segments.into_iter(), size, holes: size - len_bytes, ..Self::default() })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The length of all holes.
    pub(super) fn holes(&self) -> u64 {
        self.holes
    }

    /// Returns the length of the next piece, at most `max`, and whether it is a hole. 0 is the end.
    pub(super) fn next_piece(&mut self, max: usize) -> (usize, bool) {
        while self.hole == 0 && self.data == 0 {
            if let Some((offset, len)) = self.segments.next() {
                // Empty segments need not be in order.
                if len > 0 {
                    (self.hole, self.data, self.at) = (offset - self.at, len, offset + len);
                }
            } else if self.at < self.size {
                self.hole = self.size - mem::replace(&mut self.at, self.size);
            } else {
                return (0, false);
            }
        }
        let is_hole = self.hole > 0;
        let left = if is_hole { &mut self.hole } else { &mut self.data };
        let len = usize::try_from(*left).map_or(max, |left| left.min(max));
        if is_hole {
            *left -= len as u64;
        }
        (len, is_hole)
    }

    /// Notes that `len` bytes of a piece were read from the archive.
    pub(super) fn data_read(&mut self, len: usize) {
        self.data -= len as u64;
    }

    /// Reads the map of GNU tar's own format: in the header, and in the blocks after it.
    pub(super) fn of_gnu_header(
        header: &Header,
        stored: u64,
        mut next_block: impl FnMut() -> Result<[u8; BLOCK], NodeError>,
    ) -> Result<Self, NodeError> {
        let gnu = header.as_gnu().ok_or_else(|| invalid("a sparse file has no GNU header"))?;
        let mut segments = Vec::new();
        add_gnu(&mut segments, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            block.as_mut_bytes().copy_from_slice(&next_block()?);
            add_gnu(&mut segments, block.sparse())?;
            more = block.is_extended();
        }
        Self::new(segments, gnu.real_size().map_err(invalid)?, stored)
    }

    /// Reads a map of version 1.0, which begins the content. Returns the number of bytes that it takes.
    pub(super) fn inline(
        records: &SparseRecords,
        stored: u64,
        mut next_block: impl FnMut() -> Result<[u8; BLOCK], NodeError>,
    ) -> Result<(Self, u64), NodeError> {
        let size = records.size.ok_or_else(|| invalid("a sparse file has no length"))?;
        let (mut used, mut block) = (0, Vec::new().into_iter());
        let mut next = || {
            let mut digits = Vec::new();
            loop {
                let Some(byte) = block.next() else {
                    used += BLOCK as u64;
                    if used > stored {
                        return Err(invalid("the map of a sparse file is cut short"));
                    }
                    block = Vec::from(next_block()?).into_iter();
                    continue;
                };
                match byte {
                    b'\n' => return number(&digits),
                    // No number of 64 bits is longer.
                    byte if digits.len() < 20 => digits.push(byte),
                    _ => return Err(invalid("the map of a sparse file is malformed")),
                }
            }
        };
        let mut segments = Vec::new();
        for _ in 0..next()? {
            push(&mut segments, (next()?, next()?))?;
        }
        Ok((Self::new(segments, size, stored - used)?, used))
    }
}

fn add_gnu(segments: &mut Vec<Segment>, headers: &[GnuSparseHeader]) -> Result<(), NodeError> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        push(segments, (header.offset().map_err(invalid)?, header.length().map_err(invalid)?))?;
    }
    Ok(())
}

fn push(segments: &mut Vec<Segment>, segment: Segment) -> Result<(), NodeError> {
    if segments.len() == MAX_SEGMENTS {
        return Err(unsupported_archive(&format!(
            "a sparse file in it has more than {MAX_SEGMENTS} segments"
        )));
    }
    segments.push(segment);
    Ok(())
}

/// Parses a decimal number of a pax record or a map.
pub(super) fn number(value: &[u8]) -> Result<u64, NodeError> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("a number in a pax header or a map of a sparse file is malformed"))
}

/// The pax records of a sparse file: those that begin with `GNU.sparse.`.
#[derive(Default)]
pub(super) struct SparseRecords {
    /// The path of the file: that of its header is made up.
    pub(super) name: Option<Vec<u8>>,
    version: (u64, u64),
    size: Option<u64>,
    /// Offsets and lengths in turn.
    map: Vec<u64>,
}

impl SparseRecords {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), NodeError> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.version.0 = number(value)?,
            b"minor" => self.version.1 = number(value)?,
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" | b"numbytes" => self.map.push(number(value)?),
            b"map" if value.is_empty() => {}
            b"map" => self.map = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?,
            b"numblocks" => {}
            _ => return Err(unsupported_archive("it has a sparse file of an unknown format")),
        }
        Ok(())
    }

    pub(super) fn is_set(&self) -> bool {
        self.name.is_some() || self.size.is_some() || self.version != (0, 0) || !self.map.is_empty()
    }

    /// Whether the map comes before the content.
    pub(super) fn is_inline(&self) -> bool {
        self.version == (1, 0)
    }

    /// Returns the content of a file whose map is in these records, if it has one.
    pub(super) fn map(self, stored: u64) -> Result<SparseMap, NodeError> {
        if self.version > (0, 1) {
            return Err(unsupported_archive("it has a sparse file of an unknown format"));
        }
        let Some(size) = self.size else { return Ok(SparseMap::plain(stored)) };
        let mut segments = Vec::new();
        for pair in self.map.chunks(2) {
            let [offset, len] = pair else {
                return Err(invalid("the map of a sparse file is malformed"));
            };
            push(&mut segments, (*offset, *len))?;
        }
        SparseMap::new(segments, size, stored)
    }
}
