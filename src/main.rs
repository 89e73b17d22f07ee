//! `storgo-node`: the one binary.

fn main() {}
