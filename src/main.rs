//! `storgo-node`: the one binary.

use std::{hint::black_box, process::ExitCode};

/// Longer than any block, in bytes.
const LONGEST: usize = 4 << 20;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    few_arenas();
    // glibc keeps the memory of what is as long as what was given back before, and hands all else to the system at once
    // (mallopt(3), M_MMAP_THRESHOLD). Blocks are short-lived megabytes, and faulting their pages in again costs a reader
    // more than deciphering them. Elsewhere this does nothing.
    drop(black_box(Vec::<u8>::with_capacity(LONGEST)));
    storgo::cli::main()
}

/// glibc makes up to eight arenas per core, and each one keeps megabytes of blocks that have gone: with more than a few, most
/// of the memory of a transfer is such. It reads their number at start, from the environment alone, so the program starts
/// itself once more, unless somebody has set it (mallopt(3), `M_ARENA_MAX`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn few_arenas() {
    use std::{env, os::unix::process::CommandExt, path::Path, process::Command};

    const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "4");
    /// The program has done this. With the rights of its file (setcap(8)) it is not given the other one.
    const DONE: (&str, &str) = ("__STORGO_STARTED", "1");
    let tuned = env::var_os("GLIBC_TUNABLES").is_some_and(|set| set.to_string_lossy().contains("arena_max"));
    if tuned || env::var_os(ARENAS.0).is_some() || env::var_os(DONE.0).is_some() {
        return;
    }
    let mut args = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), args.next()) else { return };
    // Under another name there is another program that has loaded this one.
    if program.file_name() != Path::new(&name).file_name() {
        return;
    }
    // Returns where it failed: then there are as many as glibc likes.
    let _ = Command::new(program).arg0(name).args(args).envs([ARENAS, DONE]).exec();
}
