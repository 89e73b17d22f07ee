//! Rebuilding a lost, damaged or outdated index, and moving blocks to another layout.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::{
    binary::{Done, Machine, block_files},
    swarm::noise,
};

const LEN: usize = 3 << 20;

fn provide(machine: &Machine, path: &Path) -> String {
    machine.run(["provide".as_ref(), path.as_os_str(), "--no-serve".as_ref()]).ok().one_line()
}

fn rebuild(machine: &Machine) {
    let done = machine.run(["verify", "--rebuild-index", "--json"]).ok().json();
    assert_eq!(done["bad"], serde_json::json!([]));
    assert_eq!(done["missing"], serde_json::json!([]));
}

fn names(machine: &Machine) -> Vec<String> {
    let listed = machine.run(["ls", "--json"]).ok().json();
    let names = listed.as_array().expect("a list").iter().map(|file| file["name"].as_str().map(String::from));
    names.flatten().collect()
}

#[test]
fn links_still_open_files_after_the_index_was_lost_and_rebuilt() {
    let machine = Machine::new();
    let bytes = noise(5, LEN);
    let file = provide(&machine, &machine.file("file", &bytes));
    fs::create_dir_all(machine.home().join("folder/inner")).expect("made");
    machine.file("folder/a", &bytes[..100_000]);
    machine.file("folder/inner/b", &bytes[..200_000]);
    let folder = provide(&machine, &machine.home().join("folder"));
    let node = machine.start::<&str>([]);
    machine.run(["verify", "--rebuild-index"]).fails(11, &["the node runs"]);
    drop(node);

    let index = machine.data().join("index.redb");
    for lost in [true, false] {
        if lost {
            fs::remove_file(&index).expect("removed");
        } else {
            fs::write(&index, b"junk").expect("written");
        }
        // No command makes a new index silently: it would take all blocks for those of interrupted uploads.
        machine.run(["ls"]).fails(7, &["verify --rebuild-index"]);
        if lost {
            let found = machine.run(["doctor"]).ends(1);
            assert!(found.text().contains("index.redb is gone"), "{}", found.text());
            assert!(found.text().contains("verify --rebuild-index"), "{}", found.text());
        }
        rebuild(&machine);
        assert!(machine.run(["get", &file, "-o", "-"]).ok().stdout == bytes);
        let out = format!("out-{lost}");
        machine.run(["get", &folder, "-o", &out]).ok();
        assert!(machine.read(&format!("{out}/inner/b")) == bytes[..200_000]);
        assert_eq!(machine.run(["ls", "--json"]).ok().json().as_array().map(Vec::len), Some(2));
    }
    // Storing a file again restores its name.
    assert_eq!(provide(&machine, &machine.home().join("file")), file);
    assert_eq!(names(&machine), ["file"]);
}

#[test]
fn a_rebuild_keeps_names_and_keys_restores_no_removed_file_and_keeps_all_old_indexes() {
    let machine = Machine::new();
    let bytes = noise(6, LEN);
    provide(&machine, &machine.file("short", b"short"));
    provide(&machine, &machine.file("long", &bytes));
    provide(&machine, &machine.file("gone", &bytes[..LEN / 2]));
    machine.run(["rm", "gone"]).ok();
    for round in 1..=3 {
        let done = machine.run(["verify", "--rebuild-index"]).ok();
        assert!(done.stderr.contains("2 files") && !done.stderr.contains("names"), "{}", done.stderr);
        let mut names = names(&machine);
        names.sort();
        assert_eq!(names, ["long", "short"]);
        assert!(machine.run(["get", "long", "-o", "-"]).ok().stdout == bytes);
        assert_eq!(machine.run(["get", "short", "-o", "-"]).ok().stdout, b"short");
        let here = fs::read_dir(machine.data()).expect("listed");
        let old = here.filter(|item| {
            let name = item.as_ref().expect("listed").file_name();
            name.to_string_lossy().starts_with("index.redb.old")
        });
        assert_eq!(old.count(), round);
    }
}

#[test]
fn a_rebuild_reports_a_lost_block_as_missing_until_it_is_stored_again() {
    let machine = Machine::new();
    let bytes = noise(7, LEN);
    let path = machine.file("file", &bytes);
    let link = provide(&machine, &path);
    fs::remove_file(&block_files(&machine)[0]).expect("removed");
    fs::remove_file(machine.data().join("index.redb")).expect("removed");
    let done = machine.run(["verify", "--rebuild-index", "--json"]).ends(7);
    assert_eq!(done.json()["missing"].as_array().map(Vec::len), Some(1));
    assert_eq!(provide(&machine, &path), link);
    let mut gc = machine.command();
    gc.env("STORGO_GC_GRACE", "0s").arg("gc");
    Done::of(gc).ok();
    assert!(machine.run(["get", &link, "-o", "-"]).ok().stdout == bytes);
    assert_eq!(machine.run(["verify", "file", "--json"]).ok().json()["missing"], serde_json::json!([]));
}

#[test]
fn blocks_below_a_damaged_node_block_survive_collection_after_a_rebuild() {
    for lost in [false, true] {
        let machine = Machine::new();
        fs::create_dir_all(machine.home().join("folder")).expect("made");
        machine.file("folder/file", &noise(10, LEN));
        let link = provide(&machine, &machine.home().join("folder"));
        let files = block_files(&machine);
        let mut blocks = files.iter().map(|path| (path, fs::read(path).expect("read")));
        let is_root = |bytes: &[u8]| bytes.windows(10).any(|part| part == b"dkinddfile");
        let (root, mut bytes) = blocks.find(|(_, bytes)| is_root(bytes)).expect("the file's root");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(root, bytes).expect("written");
        if lost {
            fs::remove_file(machine.data().join("index.redb")).expect("removed");
        }
        machine.run(["verify", "--rebuild-index"]).ends(7);
        let mut gc = machine.command();
        gc.env("STORGO_GC_GRACE", "0s").args(["gc", "--json"]);
        assert_eq!(Done::of(gc).ok().json()["blocks"], 0);
        assert_eq!(machine.run(["gc", "--now", "--json"]).ok().json()["blocks"], 0);
        assert_eq!(provide(&machine, &machine.home().join("folder")), link);
        assert_eq!(machine.run(["gc", "--now", "--json"]).ok().json()["blocks"], 0);
        machine.run(["verify"]).ok();
        machine.run(["get", &link, "-o", "out"]).ok();
        assert!(machine.read("out/file") == noise(10, LEN));
    }
}

#[test]
fn another_layout_is_refused_until_a_rebuild_moves_the_blocks() {
    let machine = Machine::new();
    let bytes = noise(8, LEN);
    provide(&machine, &machine.file("file", &bytes));
    let with = |layout: &str, args: &[&str]| {
        let mut command = machine.command();
        command.env("STORGO_STORAGE_LAYOUT", layout).args(args);
        Done::of(command)
    };
    let get = ["get", "file", "-o", "-"];
    let mut before = "sharded";
    for layout in ["flat", "segments", "sharded"] {
        let says = [&format!("laid out as {before}"), &format!("says {layout}"), "--rebuild-index"];
        let said = with(layout, &["ls"]).ends(1).stderr;
        assert!(says.iter().all(|words| said.contains(words)), "{said}");
        assert!(with(before, &get).ok().stdout == bytes, "the refused command changed nothing");
        let files = block_files(&machine).len();
        with(layout, &["verify", "--rebuild-index"]).ok();
        assert_eq!(block_files(&machine).len(), files);
        assert!(with(layout, &get).ok().stdout == bytes);
        with(before, &["ls"]).fails(1, &[layout]);
        before = layout;
    }
    // A move that was interrupted, then a data directory without a record of its layout.
    fs::write(machine.data().join("layout"), "moving\n").expect("written");
    machine.run(["ls"]).fails(1, &["interrupted", "--rebuild-index"]);
    machine.run(["verify", "--rebuild-index"]).ok();
    assert!(machine.run(get).ok().stdout == bytes);
    fs::remove_file(machine.data().join("layout")).expect("removed");
    with("flat", &["ls"]).fails(1, &["sharded"]);
    machine.run(["ls"]).ok();
    assert_eq!(fs::read_to_string(machine.data().join("layout")).expect("written"), "sharded\n");
}

#[test]
fn no_other_user_can_read_an_index_whatever_the_umask_and_the_mode_of_the_folder() {
    let machine = Machine::new();
    fs::create_dir(machine.data()).expect("made");
    fs::set_permissions(machine.data(), fs::Permissions::from_mode(0o777)).expect("set");
    let storgo = |args: &str| {
        let of = machine.command();
        let mut command = Command::new("sh");
        let script = format!("umask 000; exec {} {args}", env!("CARGO_BIN_EXE_storgo-node"));
        command
            .arg("-c")
            .arg(script)
            .current_dir(machine.home())
            .env_clear()
            .stdin(std::process::Stdio::null());
        command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Done::of(command).ok()
    };
    machine.file("file", &noise(9, 100_000));
    storgo("provide file --no-serve");
    storgo("verify --rebuild-index");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for item in fs::read_dir(machine.data()).expect("listed") {
        let path = item.expect("listed").path();
        assert_eq!(mode(&path) & 0o077, 0, "{} has mode {:o}", path.display(), mode(&path));
    }
    // An index that was made readable for others.
    for name in ["index.redb", "index.redb.old"] {
        let index = machine.data().join(name);
        fs::set_permissions(&index, fs::Permissions::from_mode(0o644)).expect("set");
        machine.run(["doctor"]).ends(1).text().find(name).expect("named");
        storgo("ls");
        assert_eq!(mode(&index), 0o600);
    }
    machine.run(["doctor"]).ok();
}

#[test]
fn an_outdated_index_causes_no_block_to_be_removed() {
    let machine = Machine::new();
    let (old, new) = (noise(7, LEN), noise(8, LEN));
    provide(&machine, &machine.file("old", &old));
    let (index, copy) = (machine.data().join("index.redb"), machine.home().join("copy"));
    fs::copy(&index, &copy).expect("copied");
    let link = provide(&machine, &machine.file("new", &new));
    fs::copy(&copy, &index).expect("copied");

    machine.run(["gc", "--now"]).fails(7, &["older than the blocks", "verify --rebuild-index"]);
    let node = machine.start::<&str>([]);
    assert_eq!(machine.status()["index_behind"], true);
    assert!(machine.run(["status"]).ok().text().contains("older than the blocks"));
    let found = machine.run(["doctor"]).ends(1);
    assert!(found.text().contains("verify --rebuild-index"), "{}", found.text());
    assert!(machine.run(["get", "old", "-o", "-"]).ok().stdout == old);
    drop(node);

    rebuild(&machine);
    for _ in 0..2 {
        assert!(machine.run(["get", &link, "-o", "-"]).ok().stdout == new);
        machine.run(["gc", "--now"]).ok();
    }
    assert_eq!(names(&machine), ["old"]);
    machine.run(["verify"]).ok();
}
