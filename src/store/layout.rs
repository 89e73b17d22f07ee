//! Paths of block files.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use data_encoding::HEXLOWER;

/// How block files are distributed over folders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// Two levels of folders, named by the first two bytes.
    #[default]
    Sharded,
    /// Seven levels of folders: the SHA-1 in hex, cut into pieces of five characters.
    Segments,
    /// All in one folder.
    Flat,
}

impl Layout {
    /// Returns the path of a block below `blocks/`.
    pub(super) fn path(self, digest: &[u8; 20]) -> PathBuf {
        let hex = HEXLOWER.encode(digest);
        match self {
            Self::Sharded => [&hex[..2], &hex[2..4], &hex].iter().collect(),
            Self::Segments => (0..8).map(|n| &hex[n * 5..n * 5 + 5]).collect(),
            Self::Flat => hex.into(),
        }
    }

    /// Returns the layout and the digest of a path below `blocks/`; `None` means that it is not the path of a block.
    pub(super) fn of(path: &Path) -> Option<(Self, [u8; 20])> {
        let (layout, hex) = match path.iter().count() {
            1 => (Self::Flat, path.to_str()?.to_owned()),
            3 => (Self::Sharded, path.file_name()?.to_str()?.to_owned()),
            _ => (Self::Segments, path.iter().filter_map(|part| part.to_str()).collect()),
        };
        let digest = HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()?;
        (layout.path(&digest) == path).then_some((layout, digest))
    }
}

/// Error of parsing a [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown layout {0:?}; the layouts are sharded, segments and flat")]
pub struct LayoutError(String);

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let mut all = [Self::Sharded, Self::Segments, Self::Flat].into_iter();
        all.find(|layout| layout.to_string() == text).ok_or_else(|| LayoutError(text.into()))
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sharded => "sharded",
            Self::Segments => "segments",
            Self::Flat => "flat",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_back_its_layout_and_digest() {
        let digest: [u8; 20] = std::array::from_fn(|n| u8::try_from(n * 7).expect("small"));
        for layout in [Layout::Sharded, Layout::Segments, Layout::Flat] {
            let path = layout.path(&digest);
            assert!(path.is_relative());
            assert_eq!(Layout::of(&path), Some((layout, digest)));
            assert_eq!(layout.to_string().parse(), Ok(layout));
        }
        assert_eq!(Layout::Segments.path(&digest).iter().count(), 8);
        for path in ["", "aa", "aa/bb/xx", "tmp/7"] {
            assert_eq!(Layout::of(Path::new(path)), None);
        }
    }
}
