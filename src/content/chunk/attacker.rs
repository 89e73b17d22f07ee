//! Plays somebody who sees the lengths of a file's chunks, guesses its content, and wants to know whether the guess is right.

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Small numbers, for statistics.

use std::collections::HashSet;

use fastcdc::v2020::{MASKS, cut_gear, get_gear_with_seed};

use super::*;
use crate::content::secret::Key;

const MASK: u64 = MASKS[19];

/// English-like text, the kind of content that can be guessed. `seed` selects it.
fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ", "of ", "and ", "a ", "to ", "in ", "block ", "node ", "file ", "is ", "that ", "for ", "it ",
        "as ", "was ", "with ",
    ];
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(WORDS[state as usize % WORDS.len()].as_bytes());
        if state >> 60 == 0 {
            bytes.extend_from_slice(state.to_string().as_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

fn secret(n: u64) -> ConvergenceSecret {
    ConvergenceSecret::new(Key::new(*blake3::hash(&n.to_le_bytes()).as_bytes()))
}

/// Cuts with `cut` and returns the end of each chunk but the last, if it is not due to the maximum length.
fn cut_points(bytes: &[u8], cut: impl Fn(&[u8]) -> usize) -> Vec<usize> {
    let (mut at, mut points) = (0, Vec::new());
    loop {
        let len = cut(&bytes[at..]);
        at += len;
        if at == bytes.len() {
            return points;
        }
        if len < MAX_CHUNK {
            points.push(at);
        }
    }
}

/// Cut points of FastCDC whose public gear table is combined with a seed by XOR.
fn xor_seeded(bytes: &[u8], seed: u64) -> Vec<usize> {
    let (gear, gear_ls) = get_gear_with_seed(seed);
    let (mask_s, mask_l) = (MASKS[21], MASKS[19]);
    cut_points(bytes, |rest| {
        cut_gear(rest, MIN, AVERAGE, MAX_CHUNK, mask_s, mask_l, mask_s << 1, mask_l << 1, &gear, &gear_ls).1
    })
}

fn ours(bytes: &[u8], secret: &ConvergenceSecret) -> Vec<usize> {
    let cutter = Cutter::new(Chunker::FastCdc, secret);
    cut_points(bytes, |rest| cutter.cut(rest, true).expect("a chunk"))
}

/// Returns all seeds, below the highest bit of the mask, for which the guessed bytes have an anchor at each point.
///
/// Bit n of a gear hash depends only on the bits up to n of the table, so the seed is found from its lowest bit on.
fn recover_seeds(guess: &[u8], points: &[usize]) -> HashSet<u64> {
    let (gear, _) = get_gear_with_seed(0);
    let hash = |point: usize, seed: u64| {
        let window = &guess[point - 63..=point];
        window.iter().fold(0_u64, |hash, byte| (hash << 1).wrapping_add(gear[usize::from(*byte)] ^ seed))
    };
    let mut seeds = HashSet::from([0_u64]);
    for bit in 0..64 - MASK.leading_zeros() {
        let next = seeds.iter().flat_map(|seed| [*seed, *seed | 1 << bit]);
        let fits = |seed: &u64| {
            MASK >> bit & 1 == 0 || points.iter().all(|point| hash(*point, *seed) >> bit & 1 == 0)
        };
        seeds = next.filter(fits).collect();
    }
    seeds
}

#[test]
fn a_seed_that_is_combined_by_xor_is_recovered_and_confirms_the_guess() {
    let (file, seed) = (text(1, 40 << 20), 0x0123_4567_89ab_cdef);
    let points = xor_seeded(&file, seed);
    let low = seed & (u64::MAX >> MASK.leading_zeros());
    assert!(recover_seeds(&file, &points).contains(&low), "the attack works where it can");
    assert_eq!(recover_seeds(&text(2, 40 << 20), &points), HashSet::new(), "and refutes a wrong guess");
}

#[test]
fn seed_recovery_says_the_same_of_a_right_and_a_wrong_guess() {
    let (file, other) = (text(1, 40 << 20), text(2, 40 << 20));
    for n in 0..4 {
        let points = ours(&file, &secret(n));
        assert!(points.len() > 20);
        assert_eq!(recover_seeds(&file, &points), HashSet::new());
        assert_eq!(recover_seeds(&other, &points), HashSet::new());
    }
}

/// The largest distance between the distributions of two samples (Kolmogorov and Smirnov).
fn distance(mut a: Vec<usize>, mut b: Vec<usize>) -> f64 {
    a.sort_unstable();
    b.sort_unstable();
    let share = |sorted: &[usize], x: usize| sorted.partition_point(|y| *y <= x) as f64 / sorted.len() as f64;
    let all: Vec<usize> = a.iter().chain(&b).copied().collect();
    all.into_iter().map(|x| (share(&a, x) - share(&b, x)).abs()).fold(0.0, f64::max)
}

/// Over all secrets, the place of a cut is distributed alike in every content, so a length says nothing about the content.
#[test]
fn chunk_lengths_have_the_same_distribution_in_every_content() {
    const SECRETS: u64 = 300;
    let first = |bytes: &[u8], from: u64| -> Vec<usize> {
        (from..from + SECRETS)
            .map(|n| Cutter::new(Chunker::FastCdc, &secret(n)).cut(bytes, true).expect("a chunk"))
            .collect()
    };
    let (file, other) = (text(1, MAX_CHUNK + 1), text(2, MAX_CHUNK + 1));
    // 0.1 % of equal distributions differ by more.
    let critical = 1.95 * (2.0 / SECRETS as f64).sqrt();
    let found = distance(first(&file, 0), first(&other, SECRETS));
    assert!(found < critical, "{found} is not below {critical}");
}

/// For a fixed secret, the public gear hash at a cut point, and at each distance before it, is like anywhere else.
#[test]
fn the_public_gear_hash_at_a_cut_point_is_like_anywhere_else() {
    let file = text(1, 40 << 20);
    let (gear, _) = get_gear_with_seed(0);
    // Mean and variance of the number of bits that are set below the mask.
    let moments = |points: &[usize]| {
        let ones = points.iter().map(|at| {
            let window = &file[at - 63..=*at];
            let hash =
                window.iter().fold(0_u64, |hash, byte| (hash << 1).wrapping_add(gear[usize::from(*byte)]));
            f64::from((hash & MASK).count_ones())
        });
        let (sum, squares) = ones.fold((0.0, 0.0), |(sum, squares), n| (sum + n, squares + n * n));
        let mean = sum / points.len() as f64;
        (mean, squares / points.len() as f64 - mean * mean)
    };
    let (mean, variance) = moments(&(MIN..file.len()).step_by(997).collect::<Vec<_>>());
    let cuts: Vec<usize> = (0..20).flat_map(|n| ours(&file, &secret(n))).collect();
    for back in [0, 1, 2, 3, 4, 8, 16, 32, 64, SPREAD / 2, SPREAD - 1] {
        let (found, _) = moments(&cuts.iter().map(|at| at - back).collect::<Vec<_>>());
        let deviation = (found - mean).abs() / (variance / cuts.len() as f64).sqrt();
        assert!(deviation < 4.0, "{deviation} standard deviations, {back} bytes before a cut");
    }
}
