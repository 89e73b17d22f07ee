//! `storgo-node`: the one binary.

use std::{hint::black_box, process::ExitCode};

/// Longer than any block, in bytes.
const LONGEST: usize = 4 << 20;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    malloc::limit_arenas();
    // glibc keeps freed memory up to the size of the largest allocation that was freed before, and returns larger ones to
    // the system at once (mallopt(3), M_MMAP_THRESHOLD). Blocks are short-lived megabytes, and faulting their pages in
    // again costs a reader more than decrypting them. With other allocators this does nothing.
    drop(black_box(Vec::<u8>::with_capacity(LONGEST)));
    storgo::cli::main()
}

/// The only unsafe code of storgo.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)] // `mallopt` has no safe wrapper.
mod malloc {
    use std::env;

    /// The default is eight for each core, and each arena keeps megabytes of freed blocks.
    const MAX_ARENAS: libc::c_int = 4;

    /// Limits the number of arenas of glibc's allocator, unless the user does.
    pub(super) fn limit_arenas() {
        let tunables = env::var_os("GLIBC_TUNABLES").unwrap_or_default();
        if env::var_os("MALLOC_ARENA_MAX").is_some() || tunables.to_string_lossy().contains("arena_max") {
            return;
        }
        // SAFETY: `mallopt` takes two numbers, dereferences nothing, and no other thread runs yet. If it fails, the
        // default remains.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS) };
    }
}
