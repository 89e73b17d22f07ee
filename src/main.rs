//! `storgo-node`: the one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    storgo::cli::main()
}
