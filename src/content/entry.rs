//! Metadata of files and folders, and folder entries.

use serde::{Deserialize, Serialize};

use super::{ContentError, link::Link};

/// Maximum length of each text in metadata, in bytes.
const MAX_TEXT: usize = 4 << 10;

/// Metadata of a file or folder, stored in the sealed part of the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Plaintext size in bytes; for a folder, of all its files. Set by the encoder.
    pub size: u64,
    /// Media type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Modification time in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
    /// Unix permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Name of the chunker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunker: Option<String>,
}

impl Metadata {
    /// Checks the lengths of the texts.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`].
    pub(super) fn check(&self) -> Result<(), ContentError> {
        let texts = [&self.name, &self.media_type, &self.chunker];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT) {
            return Err(ContentError::TooLarge("a name or media type above 4096 bytes"));
        }
        Ok(())
    }
}

/// The kind of a folder entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Dir,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name, a single path component.
    pub name: String,
    /// Root CID and key of the file or folder.
    pub link: Link,
    /// Length of the root block in bytes.
    pub root_len: u32,
    /// File or folder.
    pub kind: EntryKind,
    /// Plaintext size in bytes.
    pub size: u64,
    /// Modification time in seconds since 1970.
    pub mtime: Option<i64>,
    /// Unix permission bits.
    pub mode: Option<u32>,
}
