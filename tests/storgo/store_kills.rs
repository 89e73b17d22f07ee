//! `kill -9` at random moments of concurrent puts and removals: acknowledged files are there and whole.
//!
//! The store under test runs in another process (this test binary again), which prints what it does and what was
//! acknowledged, and is killed. `STORGO_SOAK_KILLS` sets how often.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;
use storgo::store::{Store, StoreOptions};
use tempfile::TempDir;

use crate::store_sample::{assert_readable, file, store};

const DIR: &str = "STORGO_TEST_KILLED_STORE";
const FIRST: &str = "STORGO_TEST_FIRST_FILE";
const KILLS: &str = "STORGO_SOAK_KILLS";
const WORKERS: u64 = 4;

fn options(dir: &Path) -> StoreOptions {
    StoreOptions { grace: Duration::ZERO, ..StoreOptions::new(dir) }
}

/// Killed when dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// State of a file according to the output of the killed process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Begun, never acknowledged.
    Perhaps,
    Stored,
    Removed,
}

#[test]
#[ignore = "the process that `acknowledged_files_survive_kills` kills"]
fn victim() {
    let Ok(dir) = env::var(DIR) else { return };
    let first: u64 = env::var(FIRST).expect("set").parse().expect("a number");
    let open = Store::open(options(Path::new(&dir))).expect("opens after a kill");
    let next = AtomicU64::new(first);
    let say = |word: &str, n: u64| {
        // One write per line, so that no partial line is read.
        let line = format!("\n{word} {n}\n");
        std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush()).expect("heard");
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                open.collect().expect("collected");
                open.sweep().expect("swept");
            }
        });
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut mine = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    say("storing", n);
                    store(&open, &file(n)).expect("stored");
                    say("stored", n);
                    mine.push(n);
                    if !n.is_multiple_of(3) {
                        let gone = mine.swap_remove(mine.len() / 2);
                        say("removing", gone);
                        assert!(open.remove_root(&file(gone)[0].0).expect("removed"));
                        say("removed", gone);
                    }
                }
            });
        }
    });
}

/// Lets a victim work for a while, kills it, and reads its output.
fn run_and_kill(dir: &Path, first: u64, lifetime: Duration, known: &mut BTreeMap<u64, Known>) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["store_kills::victim", "--exact", "--ignored", "--nocapture"]);
    command.env(DIR, dir).env(FIRST, first.to_string());
    let mut victim = Victim(command.stdout(Stdio::piped()).spawn().expect("started"));
    let words = BufReader::new(victim.0.stdout.take().expect("piped"));
    let (said, heard) = sync_channel(1 << 16);
    let listener = thread::spawn(move || {
        for line in words.lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    let mut note = |line: String| {
        let Some((word, n)) = line.split_once(' ') else { return false };
        let Ok(n) = n.parse::<u64>() else { return false };
        match word {
            "storing" | "removing" => known.insert(n, Known::Perhaps),
            "stored" => known.insert(n, Known::Stored),
            "removed" => known.insert(n, Known::Removed),
            _ => return false,
        };
        true
    };
    // Its lifetime begins with its first line, after the start of the process.
    let mut begun: Option<Instant> = None;
    loop {
        let left = begun.map_or(Duration::from_secs(60), |begun| lifetime.saturating_sub(begun.elapsed()));
        match heard.recv_timeout(left) {
            Ok(line) => {
                if note(line) {
                    begun.get_or_insert_with(Instant::now);
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if begun.is_some() => break,
            Err(error) => panic!("the victim ended by itself: {error}"),
        }
        if begun.is_some_and(|begun| begun.elapsed() >= lifetime) {
            break;
        }
    }
    drop(victim);
    for line in heard {
        note(line);
    }
    listener.join().expect("no panic");
}

fn check(dir: &Path, known: &mut BTreeMap<u64, Known>) {
    let open = Store::open(options(dir)).expect("opens after a kill");
    assert_eq!(std::fs::read_dir(dir.join("blocks/tmp")).expect("listed").count(), 0, "temporary files");
    let verified = open.verify(None, &mut |_| true).expect("verified");
    assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
    let listed: BTreeSet<_> =
        open.roots(None, usize::MAX).expect("listed").into_iter().map(|root| root.cid).collect();
    for (n, state) in known.iter_mut() {
        let blocks = file(*n);
        let here = listed.contains(&blocks[0].0);
        match state {
            Known::Stored => assert!(here, "file {n} was acknowledged and is gone"),
            Known::Removed => assert!(!here, "file {n} was removed and is back"),
            // Both are right, and final.
            Known::Perhaps => *state = if here { Known::Stored } else { Known::Removed },
        }
        if here {
            assert_readable(&open, &blocks);
        }
    }
    // Blocks of dead uploads and removed files are collected, and no others.
    open.collect().expect("collected");
    open.sweep().expect("swept");
    let stored = known.iter().filter(|(_, state)| **state == Known::Stored);
    let needed: BTreeSet<_> = stored.flat_map(|(n, _)| file(*n)).map(|(cid, _)| cid).collect();
    assert_eq!(open.usage().blocks, needed.len() as u64, "blocks that no file needs, or too few");
    known.retain(|_, state| *state == Known::Stored);
}

#[test]
fn acknowledged_files_survive_kills() {
    let kills: u32 = env::var(KILLS).map_or(8, |kills| kills.parse().expect("a number"));
    let dir = TempDir::new().expect("a folder");
    let data = dir.path().join("data");
    let (mut known, mut next, mut acknowledged) = (BTreeMap::new(), 0, 0);
    for kill in 0..kills {
        let lifetime = Duration::from_micros(rand::rng().random_range(0..700_000));
        run_and_kill(&data, next, lifetime, &mut known);
        acknowledged += known.range(next..).filter(|(_, state)| **state == Known::Stored).count();
        next = known.keys().next_back().map_or(next, |last| last + WORKERS + 1);
        check(&data, &mut known);
        if kill % 10 == 9 {
            eprintln!("{} kills, {acknowledged} files acknowledged, {} kept", kill + 1, known.len());
        }
    }
    assert!(acknowledged > 0, "the victims did something");
}
