//! Full file systems: errors say so, and stored files are not harmed.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use storgo::{
    content::cid::Cid,
    node::{data_dir::DataDir, identity::load_or_create},
    store::{PutMode, Store, StoreError, StoreOptions},
};
use tempfile::TempDir;

use crate::{
    api::Api,
    binary::{ALONE, Machine},
    store_sample::{LONG, assert_readable, block, file, record, store},
    swarm::noise,
};

const IN_NAMESPACE: &str = "STORGO_TEST_MAY_MOUNT";

/// A small file system in memory, unmounted when dropped.
struct SmallDisk {
    mount: &'static [&'static str],
    unmount: &'static [&'static str],
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts a small file system. `None`: this user may not mount, and these tests passed in a namespace of their own. If
    /// neither works, the test fails.
    fn new() -> Option<Self> {
        Self::with("size=16m")
    }

    fn with(limits: &str) -> Option<Self> {
        let dir = TempDir::new().expect("a folder");
        let user = fs::metadata(dir.path()).expect("made").uid();
        let mut refusals = Vec::new();
        for (mount, unmount) in [
            (&["mount"][..], &["umount", "--lazy"][..]),
            (&["sudo", "-n", "mount"], &["sudo", "-n", "umount", "--lazy"]),
        ] {
            let mut command = Command::new(mount[0]);
            let options = format!("{limits},mode=0700,uid={user}");
            command.args(&mount[1..]).args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path());
            match command.output() {
                Ok(output) if output.status.success() => return Some(Self { mount, unmount, dir }),
                Ok(output) => refusals.push(String::from_utf8_lossy(&output.stderr).into_owned()),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        assert!(env::var_os(IN_NAMESPACE).is_none(), "cannot mount in a namespace: {refusals:?}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]).arg(env::current_exe().expect("this program"));
        let output = command.arg("store_full_disk::").env(IN_NAMESPACE, "1").output();
        match output
            .map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        {
            Ok(said) if said.contains("test result: ok.") && !said.contains("ok. 0 passed") => None,
            other => panic!(
                "cannot mount a small file system: {refusals:?}, {other:?}; run this test as a user who may mount"
            ),
        }
    }

    fn options(&self) -> StoreOptions {
        StoreOptions { grace: Duration::ZERO, ..StoreOptions::new(self.data()) }
    }

    /// Mounts it again: `ro` or `rw`.
    fn remount(&self, how: &str) {
        let mut command = Command::new(self.mount[0]);
        let options = format!("remount,{how}");
        command.args(&self.mount[1..]).args(["-o", &options]).arg(self.dir.path());
        let output = command.output().expect("ran");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new(self.unmount[0]).args(&self.unmount[1..]).arg(self.dir.path()).status());
    }
}

/// A file that lives in the index alone.
fn short(n: u64) -> Vec<(Cid, Vec<u8>)> {
    (0..8).map(|part| block(1_000_000 + n * 8 + part, 15_000)).collect()
}

/// Stores files until the disk is full. Returns the numbers of the acknowledged files.
fn fill(disk: &Store, make: impl Fn(u64) -> Vec<(Cid, Vec<u8>)>) -> Vec<u64> {
    let mut stored = Vec::new();
    for n in 0..100_000 {
        match store(disk, &make(n)) {
            Ok(()) => stored.push(n),
            Err(StoreError::NoSpace(_)) => return stored,
            Err(error) => panic!("file {n}: {error:?} instead of NoSpace"),
        }
    }
    panic!("the disk never got full");
}

fn temporary_files(data: &Path) -> usize {
    fs::read_dir(data.join("blocks/tmp")).expect("listed").count()
}

#[test]
fn a_disk_full_of_long_blocks_keeps_its_files_and_recovers_when_there_is_space() {
    let Some(disk) = SmallDisk::new() else { return };
    let open = Store::open(disk.options()).expect("opens");
    let stored = fill(&open, file);
    assert!(stored.len() > 5, "{stored:?}");
    assert_eq!(temporary_files(&disk.data()), 0);
    for n in &stored {
        assert_readable(&open, &file(*n));
    }
    for n in &stored[..4] {
        assert!(open.remove_root(&file(*n)[0].0).expect("removed on a full disk"));
    }
    assert!(open.collect().expect("collected").blocks > 0);
    store(&open, &file(1_000_000)).expect("there is space again, without a restart");
    drop(open);
    let open = Store::open(disk.options()).expect("opens again");
    for n in &stored[4..] {
        assert_readable(&open, &file(*n));
    }
    assert_readable(&open, &file(1_000_000));
    let verified = open.verify(None, &mut |_| true).expect("verified");
    assert!(verified.bad.is_empty() && verified.missing.is_empty(), "{verified:?}");
}

#[test]
fn a_disk_full_of_short_blocks_leaves_the_index_usable() {
    let Some(disk) = SmallDisk::new() else { return };
    let open = Store::open(disk.options()).expect("opens");
    let stored = fill(&open, short);
    assert!(stored.len() > 5, "{stored:?}");
    for n in &stored {
        assert_readable(&open, &short(*n));
    }
    // The index gives space back in steps, so the test removes files until a new one fits: fewer than half of them.
    let mut left = stored.iter();
    let again = left.by_ref().any(|n| {
        assert!(open.remove_root(&short(*n)[0].0).expect("removed on a full disk"));
        assert!(open.collect().expect("collected").blocks > 0);
        match store(&open, &short(1_000_000)) {
            Ok(()) => true,
            Err(StoreError::NoSpace(_)) => false,
            Err(error) => panic!("{error:?} instead of NoSpace"),
        }
    });
    assert!(again, "there is space again, without a restart");
    let left: Vec<u64> = left.copied().collect();
    assert!(left.len() > stored.len() / 2, "{} of {} are left", left.len(), stored.len());
    drop(open);
    let open = Store::open(disk.options()).expect("opens again");
    for n in &left {
        assert_readable(&open, &short(*n));
    }
    assert_readable(&open, &short(1_000_000));
}

#[test]
fn a_disk_filled_by_others_stops_uploads_only() {
    let Some(disk) = SmallDisk::new() else { return };
    let open = Store::open(disk.options()).expect("opens");
    store(&open, &file(1)).expect("stored");
    store(&open, &file(2)).expect("stored");
    let upload = open.upload();
    let (cid, bytes) = block(7, LONG);
    upload.put(&cid, &bytes, PutMode::Sealed).expect("put");
    let hog = Hog::new(&disk);
    let committed = upload.commit(record(cid));
    drop(upload);
    if let Err(error) = &committed {
        assert!(matches!(error, StoreError::NoSpace(_)), "{error:?}");
    }
    assert_eq!(open.root(&cid).expect("asked").is_some(), committed.is_ok());
    // Uploads use the free space inside the index, then they are refused.
    let stored = fill(&open, short);
    assert_readable(&open, &file(1));
    for n in &stored {
        assert_readable(&open, &short(*n));
    }
    // Removals work, with the disk reserve, also after a restart.
    assert!(open.remove_root(&file(2)[0].0).expect("removed on a full disk"));
    assert!(open.collect().expect("collected").blocks > 0);
    drop(open);
    let hog = hog.again(&disk);
    let open = Store::open(disk.options()).expect("opens on a full disk");
    assert_readable(&open, &file(1));
    for n in &stored {
        assert_readable(&open, &short(*n));
    }
    drop(hog);
    store(&open, &file(3)).expect("there is space again, without a restart");
    assert_readable(&open, &file(1));
    assert_readable(&open, &file(3));
    assert_eq!(open.verify(None, &mut |_| true).expect("verified").missing, []);
}

#[test]
fn a_disk_full_of_cached_blocks_has_space_for_uploads() {
    let Some(disk) = SmallDisk::new() else { return };
    let open = Store::open(disk.options()).expect("opens");
    // More than the disk holds: the oldest blocks are evicted.
    for n in 0..300 {
        let (cid, bytes) = block(5_000 + n, 100_000);
        open.put_cached(&cid, &bytes).expect("kept, or not");
    }
    let cached = open.usage().cached_bytes;
    assert!(cached > 8 << 20, "{cached}");
    let free = rustix::fs::statvfs(disk.dir.path()).map(|disk| disk.f_bavail * disk.f_frsize).expect("asked");
    assert!(free >= 1 << 20, "some of the disk is left: {free}");
    let hog = Hog::new(&disk);
    for n in 0..20 {
        store(&open, &file(n)).expect("cached blocks are evicted for it");
    }
    assert!(open.usage().cached_bytes < cached);
    for n in 0..20 {
        assert_readable(&open, &file(n));
    }
    drop(hog);
    assert_eq!(open.verify(None, &mut |_| true).expect("verified").missing, []);
}

#[test]
fn a_value_needed_for_removals_is_stored_on_a_full_disk() {
    let Some(disk) = SmallDisk::new() else { return };
    let open = Store::open(disk.options()).expect("opens");
    let _hog = Hog::new(&disk);
    let refused = (0..64).any(|n| open.set_meta(&format!("{n}"), &vec![n; 64 << 10]).is_err());
    assert!(refused, "4 MiB were stored on a full disk");
    open.set_meta_to_free_space("note", &[7; 8 << 10]).expect("made");
    assert_eq!(open.meta("note").expect("read").as_deref(), Some(&[7; 8 << 10][..]));
}

#[test]
fn an_identity_that_does_not_fit_on_the_disk_leaves_no_partial_file() {
    let Some(disk) = SmallDisk::new() else { return };
    let hog = Hog::new(&disk);
    load_or_create(DataDir::Closed(disk.dir.path())).expect_err("a full disk");
    drop(hog);
    let made = load_or_create(DataDir::Closed(disk.dir.path())).expect("made, now that there is room");
    let read = load_or_create(DataDir::Closed(disk.dir.path())).expect("read");
    assert_eq!(made.public(), read.public());
}

#[test]
fn every_command_reports_a_full_disk_with_the_same_exit_code() {
    let Some(disk) = SmallDisk::new() else { return };
    let machine = Machine::new();
    let data = disk.data().into_os_string().into_string().expect("UTF-8");
    let on_disk = |args: &[&str]| machine.run(["--data-dir", data.as_str()].iter().chain(args));
    let hog = Hog::new(&disk);
    on_disk(&["init"]).fails(13, &["identity.key", "free some space"]);
    on_disk(&["init", "--json"]).fails(13, &["\"code\":\"no_space\""]);
    drop(hog);
    on_disk(&["init"]).ok();
    let small = noise(1, 2 << 20);
    machine.file("small", &small);
    machine.file("big", &noise(2, 20 << 20));
    on_disk(&["provide", "small", "--no-serve"]).ok();
    on_disk(&["provide", "big", "--no-serve"]).fails(13, &["no space", "hint"]);
    // The same through a running node, which goes on.
    let node = machine.start_on(&ALONE, ["--data-dir", &data]);
    on_disk(&["provide", "big"]).fails(13, &["no space", "hint"]);
    on_disk(&["--json", "provide", "big"]).fails(13, &["\"code\":\"no_space\""]);
    assert!(on_disk(&["get", "small", "-o", "-"]).ok().stdout == small);
    assert_eq!(on_disk(&["ls", "--json"]).ok().json().as_array().map(Vec::len), Some(1));
    drop(node);

    // A reader with a full disk leaves no partial file.
    machine.run(["provide", "big", "--no-serve"]).ok();
    let out = disk.dir.path().join("out").into_os_string().into_string().expect("UTF-8");
    machine.run(["get", "big", "-o", &out]).fails(13, &["cannot write", "free some space"]);
    let names = fs::read_dir(disk.dir.path()).expect("read").map(|item| item.expect("read").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["data"]);
    let _hog = Hog::new(&disk);
    machine.run(["key", "backup", &out]).fails(13, &["cannot write"]);
}

#[test]
fn a_read_only_disk_serves_what_it_has_and_says_what_is_wrong() {
    let Some(disk) = SmallDisk::new() else { return };
    let machine = Machine::new();
    let data = disk.data().into_os_string().into_string().expect("UTF-8");
    let on_disk = |args: &[&str]| machine.run(["--data-dir", data.as_str()].iter().chain(args));
    let (short, long) = (noise(1, 1000), noise(2, 300_000));
    for (name, bytes) in [("short", &short), ("long", &long)] {
        machine.file(name, bytes);
        on_disk(&["provide", name, "--no-serve"]).ok();
    }
    disk.remount("ro");
    let assert_served = || {
        for (name, bytes) in [("short", &short), ("long", &long)] {
            let read = on_disk(&["get", name, "-o", "-"]).ok();
            assert!(read.stdout == *bytes && read.stderr.contains("read-only"), "{name}: {}", read.stderr);
        }
    };
    assert_served();
    on_disk(&["verify"]).ok();
    machine.file("new", b"new");
    on_disk(&["provide", "new", "--no-serve"]).fails(6, &["read-only", "mount it writable"]);
    on_disk(&["rm", "long"]).fails(6, &["read-only", "mount it writable"]);
    on_disk(&["verify", "--rebuild-index"]).fails(6, &["read-only", "mount it writable"]);
    assert!(on_disk(&["doctor"]).ends(1).text().contains("read-only"));

    let node = machine.start_on(&ALONE, ["--data-dir", &data]);
    assert!(node.status["write_problem"].as_str().expect("a problem").contains("read-only"));
    let api = Api { addr: node.status["http"].as_str().expect("an address").into(), token: None };
    let ready = api.get("/readyz").is(200).text();
    assert!(ready.contains("read-only"), "{ready}");
    assert_served();
    drop(node);

    disk.remount("rw");
    on_disk(&["provide", "new", "--no-serve"]).ok();
    let verified = on_disk(&["verify"]).ok();
    assert!(!verified.stderr.contains("read-only"), "{}", verified.stderr);
}

#[test]
fn a_disk_without_inodes_serves_what_it_has_and_recovers() {
    let Some(disk) = SmallDisk::with("size=64m,nr_inodes=150") else { return };
    let open = Store::open(disk.options()).expect("opens");
    assert_eq!(open.write_problem(), None);
    let stored = fill(&open, file);
    assert!(stored.len() > 5, "{stored:?}");
    assert!(open.write_problem().expect("a problem").contains("inodes"));
    drop(open);
    let open = Store::open(disk.options()).expect("opens without inodes");
    for n in &stored {
        assert_readable(&open, &file(*n));
    }
    for n in &stored[..4] {
        assert!(open.remove_root(&file(*n)[0].0).expect("removed"));
    }
    assert!(open.collect().expect("collected").blocks > 0);
    store(&open, &file(1_000_000)).expect("there are inodes again");
}

/// A file that fills the disk completely; removed when dropped.
struct Hog {
    path: PathBuf,
}

impl Hog {
    fn new(disk: &SmallDisk) -> Self {
        let path = disk.dir.path().join("hog");
        let mut file = fs::File::create(&path).expect("made");
        let filled = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull));
        Self { path }
    }

    /// Fills the space that has become free, too.
    fn again(self, disk: &SmallDisk) -> Self {
        drop(self);
        Self::new(disk)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // Emptied first: a process that another test is just starting may have it open still.
        drop(fs::write(&self.path, []));
        drop(fs::remove_file(&self.path));
    }
}
