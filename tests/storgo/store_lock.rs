//! One process per data directory: a second one learns who has it, and a kill releases it.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use storgo::store::{Store, StoreError, StoreOptions, read_lock};
use tempfile::TempDir;

use crate::store_sample::{assert_readable, file, store};

const DIR: &str = "STORGO_TEST_HELD_STORE";

/// Killed when dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Holder {
    /// Starts another process (this program again) and returns when it has opened the store.
    fn start(data: &Path) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["store_lock::holder", "--exact", "--ignored", "--nocapture"]).env(DIR, data);
        let mut holder = Self(command.stdout(Stdio::piped()).spawn().expect("started"));
        let words = BufReader::new(holder.0.stdout.take().expect("piped"));
        let held = words.lines().map_while(Result::ok).any(|line| line.ends_with("held"));
        assert!(held, "the holder ended before it held the store");
        holder
    }
}

#[test]
#[ignore = "the process that holds the store of `a_second_process_learns_who_has_the_store`"]
fn holder() {
    let Some(dir) = env::var_os(DIR) else { return };
    let open = Store::open(StoreOptions::new(dir)).expect("opens");
    store(&open, &file(1)).expect("stored");
    println!("held");
    loop {
        std::thread::park();
    }
}

/// Runs the real binary. Returns its exit code and output.
fn storgo(data: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storgo-node"));
    let output = command.arg("--data-dir").arg(data).args(args).output().expect("ran");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Beside a holder, each command says that the directory is in use, and changes nothing.
fn assert_in_use(data: &Path, who: &str) {
    for args in [&["ls"][..], &["gc", "--now"], &["verify"], &["verify", "--rebuild-index"], &["run"]] {
        let (code, said) = storgo(data, args);
        assert_eq!(code, Some(11), "{args:?}: {said}");
        assert!(said.contains(who), "{args:?}: {said}");
    }
}

#[test]
fn the_lock_holds_when_its_file_is_removed_or_replaced() {
    let dir = TempDir::new().expect("a folder");
    let data = dir.path().join("data");
    let holder = Holder::start(&data);
    let lock = data.join("lock");
    let damages: [fn(&Path); 3] = [
        |lock| fs::remove_file(lock).expect("removed"),
        |lock| fs::write(lock, b"garbage").expect("written"),
        |lock| fs::remove_file(lock).and_then(|()| fs::create_dir(lock)).expect("a folder"),
    ];
    for damage in damages {
        damage(&lock);
        assert!(read_lock(&data).is_some());
        let refused = Store::open(StoreOptions::new(&data)).err().expect("refused");
        assert!(matches!(refused, StoreError::Locked { pid: None, .. }), "{refused:?}");
        assert!(matches!(Store::rebuild(StoreOptions::new(&data)), Err(StoreError::Locked { .. })));
        assert_in_use(&data, "another process");
    }
    drop(holder);
    assert_eq!(read_lock(&data), None);
    assert_readable(&Store::open(StoreOptions::new(&data)).expect("opens"), &file(1));
}

#[test]
fn a_second_process_learns_who_has_the_store() {
    let dir = TempDir::new().expect("a folder");
    let data = dir.path().join("data");
    let holder = Holder::start(&data);
    let pid = holder.0.id();
    let refused = Store::open(StoreOptions::new(&data)).err().expect("refused");
    assert!(matches!(refused, StoreError::Locked { pid: Some(named), .. } if named == pid), "{refused:?}");
    assert!(refused.to_string().contains(&format!("process {pid}")), "{refused}");
    assert_in_use(&data, &format!("process {pid}"));
    // A kill releases the lock, and the note that is left does no harm.
    drop(holder);
    assert_eq!(read_lock(&data), None);
    let open = Store::open(StoreOptions::new(&data)).expect("opens");
    assert_readable(&open, &file(1));
    assert_eq!(read_lock(&data).and_then(|note| note.pid), Some(std::process::id()));
}
