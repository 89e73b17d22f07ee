//! Cutting a file into chunks.
//!
//! The default is `FastCDC` (Xia et al., 2020): cut points follow the content, so that an insertion moves no more than
//! the chunks around it. Its gear table is keyed by the convergence secret: without the secret, the lengths of chunks
//! are no fingerprint of a known file.

use std::{borrow::Cow, fmt, str::FromStr};

use fastcdc::v2020::{self, MASKS};

use super::{MAX_CHUNK, secret::ConvergenceSecret};

/// Shortest chunk that content decides (the last one of a file may be shorter), bytes.
pub const MIN: usize = 256 << 10;
/// The length that chunks tend to, bytes.
pub const AVERAGE: usize = 1 << 20;
/// Bounds of `fixed:SIZE`, bytes.
pub const FIXED: std::ops::RangeInclusive<u32> = 4096..=2_031_616;

/// How a file is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chunker {
    /// Where the content says so: 256 KiB to 1984 KiB, 1 MiB on average.
    #[default]
    FastCdc,
    /// Every so many bytes.
    Fixed(u32),
}

/// A text that names no chunker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no chunker: use `fastcdc`, or `fixed:SIZE` with 4 KiB to 1984 KiB, for example fixed:1MiB")]
pub struct ChunkerError(String);

impl FromStr for Chunker {
    type Err = ChunkerError;

    fn from_str(text: &str) -> Result<Self, ChunkerError> {
        if text == "fastcdc" {
            return Ok(Self::FastCdc);
        }
        let fail = || ChunkerError(text.chars().take(64).collect());
        let size = text.strip_prefix("fixed:").ok_or_else(fail)?;
        let digits = size.bytes().take_while(u8::is_ascii_digit).count();
        let unit: u64 = match size[digits..].trim() {
            "" | "B" => 1,
            "KiB" | "K" | "k" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            _ => return Err(fail()),
        };
        let bytes = size[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(fail)?;
        u32::try_from(bytes).ok().filter(|n| FIXED.contains(n)).map(Self::Fixed).ok_or_else(fail)
    }
}

impl fmt::Display for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FastCdc => f.write_str("fastcdc"),
            Self::Fixed(size) => write!(f, "fixed:{size}"),
        }
    }
}

/// Finds cut points. Made once per file; keeps no state between calls.
pub struct Cutter(Kind);

enum Kind {
    Fixed(usize),
    FastCdc { gear: Cow<'static, [u64]>, gear_ls: Cow<'static, [u64]> },
}

impl Cutter {
    /// A cutter of this kind, keyed by the secret.
    pub fn new(chunker: Chunker, secret: &ConvergenceSecret) -> Self {
        Self(match chunker {
            Chunker::Fixed(size) => Kind::Fixed(size as usize),
            Chunker::FastCdc => {
                let (gear, gear_ls) = v2020::get_gear_with_seed(seed(secret));
                Kind::FastCdc { gear, gear_ls }
            }
        })
    }

    /// Longest chunk, in bytes. With this many bytes at hand, [`Cutter::cut`] always finds a cut.
    pub fn max_len(&self) -> usize {
        match self.0 {
            Kind::Fixed(size) => size,
            Kind::FastCdc { .. } => MAX_CHUNK,
        }
    }

    /// Length in bytes of the chunk at the front of `buf`; none where more bytes are needed to tell. `last`: nothing
    /// follows `buf`.
    pub fn cut(&self, buf: &[u8], last: bool) -> Option<usize> {
        if buf.is_empty() || (buf.len() < self.max_len() && !last) {
            return None;
        }
        Some(match &self.0 {
            Kind::Fixed(size) => buf.len().min(*size),
            Kind::FastCdc { gear, gear_ls } => {
                // Normalisation level 1, as the crate's own default: one bit stricter before the average, one laxer after.
                let bits = AVERAGE.ilog2() as usize;
                let (small, large) = (MASKS[bits + 1], MASKS[bits - 1]);
                v2020::cut_gear(
                    buf,
                    MIN,
                    AVERAGE,
                    MAX_CHUNK,
                    small,
                    large,
                    small << 1,
                    large << 1,
                    gear,
                    gear_ls,
                )
                .1
            }
        })
    }
}

/// The gear table's seed. 0 would mean the public table.
fn seed(secret: &ConvergenceSecret) -> u64 {
    let bytes = blake3::derive_key("storgo v1 chunker seed", secret.as_bytes());
    let seed = u64::from_le_bytes(bytes[..8].try_into().expect("8 of 32 bytes"));
    seed.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::secret::Key;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("storgo test noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(chunker: Chunker, secret: &ConvergenceSecret, mut bytes: &[u8]) -> Vec<usize> {
        let cutter = Cutter::new(chunker, secret);
        let mut lengths = Vec::new();
        while let Some(len) = cutter.cut(bytes, true) {
            lengths.push(len);
            bytes = &bytes[len..];
        }
        lengths
    }

    fn secret(byte: u8) -> ConvergenceSecret {
        ConvergenceSecret::new(Key::new([byte; 32]))
    }

    #[test]
    fn chunks_keep_their_bounds_and_their_average() {
        let bytes = noise(64 << 20);
        let found = lengths(Chunker::FastCdc, &secret(1), &bytes);
        assert_eq!(found.iter().sum::<usize>(), bytes.len());
        let (last, others) = found.split_last().expect("chunks");
        assert!(others.iter().all(|len| (MIN..=MAX_CHUNK).contains(len)) && *last <= MAX_CHUNK);
        let average = bytes.len() / found.len();
        assert!((AVERAGE * 3 / 4..AVERAGE * 3 / 2).contains(&average), "average {average}");
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let bytes = noise(16 << 20);
        assert_ne!(
            lengths(Chunker::FastCdc, &secret(1), &bytes),
            lengths(Chunker::FastCdc, &secret(2), &bytes)
        );
    }

    #[test]
    fn an_inserted_byte_moves_few_chunks() {
        let bytes = noise(32 << 20);
        let mut longer = vec![7];
        longer.extend_from_slice(&bytes);
        let ends = |lengths: Vec<usize>, from: usize| -> Vec<usize> {
            lengths
                .iter()
                .scan(0, |end, len| {
                    *end += len;
                    Some(*end)
                })
                .map(|end| end - from)
                .collect()
        };
        let before = ends(lengths(Chunker::FastCdc, &secret(1), &bytes), 0);
        let after = ends(lengths(Chunker::FastCdc, &secret(1), &longer), 1);
        let same = after.iter().filter(|end| before.contains(end)).count();
        assert!(same + 2 >= before.len(), "{same} of {}", before.len());
    }

    #[test]
    fn chunker_names_come_back_and_odd_ones_are_refused() {
        for text in ["fastcdc", "fixed:4096", "fixed:1048576"] {
            assert_eq!(text.parse::<Chunker>().map(|c| c.to_string()), Ok(text.into()));
        }
        assert_eq!("fixed:1MiB".parse(), Ok(Chunker::Fixed(1 << 20)));
        for text in
            ["", "fixed", "fixed:", "fixed:1", "fixed:2MiB", "fixed:1 elephant", "fixed:99999999999999999999"]
        {
            assert!(text.parse::<Chunker>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn fixed_chunks_are_fixed(len in 0_usize..200_000, size in 4096_u32..70_000) {
            let found = lengths(Chunker::Fixed(size), &secret(0), &vec![0; len]);
            prop_assert_eq!(found.iter().sum::<usize>(), len);
            prop_assert!(found.iter().rev().skip(1).all(|len| *len == size as usize));
        }
    }
}
