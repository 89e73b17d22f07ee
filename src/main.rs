//! `storgo-node`: the one binary.

use std::{hint::black_box, process::ExitCode};

/// Longer than any block, in bytes.
const LONGEST: usize = 4 << 20;

fn main() -> ExitCode {
    // glibc keeps the memory of what is as long as what was given back before, and hands all else to the system at once
    // (mallopt(3), M_MMAP_THRESHOLD). Blocks are short-lived megabytes, and faulting their pages in again costs a reader
    // more than deciphering them. Elsewhere this does nothing.
    drop(black_box(Vec::<u8>::with_capacity(LONGEST)));
    storgo::cli::main()
}
