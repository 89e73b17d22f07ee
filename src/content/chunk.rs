//! Cuts a file into chunks.
//!
//! The default finds anchors like `FastCDC` (Xia et al., 2020), so an insertion changes only the chunks around it. Everybody
//! who holds a block of the file sees the lengths of its chunks. They must not confirm a guess of the content, so both the
//! gear table and the distance from the anchor to the cut depend on the convergence secret: a cut point says only that one of
//! the [`SPREAD`] positions before it was an anchor, and nothing about the table can be solved from that.

use std::{fmt, str::FromStr};

use fastcdc::v2020::{self, MASKS};

use super::{MAX_CHUNK, secret::ConvergenceSecret};

/// Minimum length of a content-defined chunk in bytes. The last chunk of a file may be shorter.
pub const MIN: usize = 256 << 10;
/// Target length of a content-defined chunk in bytes.
pub const AVERAGE: usize = 1 << 20;
/// A cut is 0 to `SPREAD - 1` bytes behind its anchor.
pub const SPREAD: usize = 128 << 10;
/// Distance in bytes from the start of a chunk from which four times as many hash values make an anchor.
const CENTER: usize = AVERAGE - SPREAD;
/// Maximum distance in bytes from the start of a chunk to its anchor.
const MAX_ANCHOR: usize = MAX_CHUNK - SPREAD;
/// Bytes before an anchor that decide how far behind it the cut is.
const WINDOW: usize = 64;
/// Allowed values of SIZE in `fixed:SIZE`, in bytes.
pub const FIXED: std::ops::RangeInclusive<u32> = 4096..=2_031_616;

/// How a file is cut into chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chunker {
    /// Content-defined: 256 KiB to 1984 KiB, 1 MiB on average.
    #[default]
    FastCdc,
    /// Chunks of this many bytes.
    Fixed(u32),
}

/// The text is not the name of a chunker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown chunker {0:?}: use `fastcdc`, or `fixed:SIZE` with 4 KiB to 1984 KiB, for example fixed:1MiB"
)]
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

/// Finds cut points. Keeps no state between calls.
pub struct Cutter(Kind);

enum Kind {
    Fixed(usize),
    FastCdc(Box<Tables>),
}

/// The tables and the key that the secret decides.
struct Tables {
    gear: [u64; 256],
    /// `gear`, each word shifted left by one bit.
    gear_ls: [u64; 256],
    spread_key: [u8; 32],
}

impl Tables {
    fn new(secret: &ConvergenceSecret) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("storgo v1 chunker");
        let mut stream = hasher.update(secret.as_bytes()).finalize_xof();
        let gear = std::array::from_fn(|_| {
            let mut word = [0; 8];
            stream.fill(&mut word);
            u64::from_le_bytes(word)
        });
        let mut spread_key = [0; 32];
        stream.fill(&mut spread_key);
        Self { gear, gear_ls: gear.map(|word| word << 1), spread_key }
    }

    /// Returns the end of the first chunk of `buf`. Without an anchor, `buf` is one chunk as far as it may be.
    fn cut(&self, buf: &[u8]) -> usize {
        // Normalisation level 1, the default of the crate: one mask bit more before the average, one less after.
        let bits = AVERAGE.ilog2() as usize;
        let (mask_s, mask_l) = (MASKS[bits + 1], MASKS[bits - 1]);
        let searched = &buf[..buf.len().min(MAX_ANCHOR)];
        let (_, anchor) = v2020::cut_gear(
            searched,
            MIN,
            CENTER,
            MAX_ANCHOR,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
            &self.gear,
            &self.gear_ls,
        );
        if anchor == searched.len() {
            return buf.len().min(MAX_CHUNK);
        }
        let hash = blake3::keyed_hash(&self.spread_key, &buf[anchor - WINDOW..anchor]);
        let [a, b, c, d, ..] = *hash.as_bytes();
        buf.len().min(anchor + u32::from_le_bytes([a, b, c, d]) as usize % SPREAD)
    }
}

impl Cutter {
    /// Creates a cutter that is keyed by the secret.
    pub fn new(chunker: Chunker, secret: &ConvergenceSecret) -> Self {
        Self(match chunker {
            Chunker::Fixed(size) => Kind::Fixed(size as usize),
            Chunker::FastCdc => Kind::FastCdc(Box::new(Tables::new(secret))),
        })
    }

    /// Maximum chunk length in bytes. In a buffer of this length, [`Cutter::cut`] always finds a cut.
    pub fn max_len(&self) -> usize {
        match self.0 {
            Kind::Fixed(size) => size,
            Kind::FastCdc(_) => MAX_CHUNK,
        }
    }

    /// Returns the length in bytes of the chunk at the front of `buf`, or `None` if `buf` is too short to tell. `last`
    /// means that no bytes follow `buf`.
    pub fn cut(&self, buf: &[u8], last: bool) -> Option<usize> {
        if buf.is_empty() || (buf.len() < self.max_len() && !last) {
            return None;
        }
        Some(match &self.0 {
            Kind::Fixed(size) => buf.len().min(*size),
            Kind::FastCdc(tables) => tables.cut(buf),
        })
    }
}

#[cfg(test)]
mod attacker;

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
    fn content_defined_chunks_stay_within_bounds_and_near_the_average() {
        let bytes = noise(64 << 20);
        let found = lengths(Chunker::FastCdc, &secret(1), &bytes);
        assert_eq!(found.iter().sum::<usize>(), bytes.len());
        let (last, others) = found.split_last().expect("chunks");
        assert!(others.iter().all(|len| (MIN..=MAX_CHUNK).contains(len)) && *last <= MAX_CHUNK);
        let average = bytes.len() / found.len();
        assert!((AVERAGE * 3 / 4..AVERAGE * 3 / 2).contains(&average), "average {average}");
    }

    #[test]
    fn bytes_without_an_anchor_are_cut_at_the_maximum() {
        for len in [1, MIN, MAX_ANCHOR, MAX_ANCHOR + 1, MAX_CHUNK, MAX_CHUNK + 1] {
            let found = lengths(Chunker::FastCdc, &secret(1), &vec![0; len]);
            let expected = if len > MAX_CHUNK { vec![MAX_CHUNK, len - MAX_CHUNK] } else { vec![len] };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn another_secret_gives_other_cut_points() {
        let bytes = noise(16 << 20);
        assert_ne!(
            lengths(Chunker::FastCdc, &secret(1), &bytes),
            lengths(Chunker::FastCdc, &secret(2), &bytes)
        );
    }

    #[test]
    fn an_inserted_byte_changes_few_chunks() {
        let bytes = noise(32 << 20);
        let mut longer = vec![7];
        longer.extend_from_slice(&bytes);
        let before = lengths(Chunker::FastCdc, &secret(1), &bytes);
        let after = lengths(Chunker::FastCdc, &secret(1), &longer);
        let same = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        // The cuts meet at the first anchor.
        let without_anchor = before.iter().take_while(|len| **len == MAX_CHUNK).count();
        assert!(same + without_anchor + 1 >= before.len(), "{same} of {}", before.len());
    }

    #[test]
    fn chunker_names_round_trip_and_invalid_ones_are_rejected() {
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
        fn fixed_chunks_have_the_given_length(len in 0_usize..200_000, size in 4096_u32..70_000) {
            let found = lengths(Chunker::Fixed(size), &secret(0), &vec![0; len]);
            prop_assert_eq!(found.iter().sum::<usize>(), len);
            prop_assert!(found.iter().rev().skip(1).all(|len| *len == size as usize));
        }
    }
}
