//! Failures: each cause has its exit code, and existing files stay as they are.

use std::{path::Path, time::Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    binary::{DEADLINE, Machine, block_files, eventually, link},
    swarm::noise,
};

/// Flips a bit of the longest block: a chunk, not a list of blocks.
pub fn damage_a_block(machine: &Machine) {
    let file = block_files(machine).remove(0);
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[12345] ^= 4;
    std::fs::write(file, bytes).expect("written");
}

/// The CID after `block ` in a message.
fn named_block(stderr: &str) -> &str {
    let rest = stderr.split("block ").nth(1).unwrap_or_else(|| panic!("no block in {stderr}"));
    rest.split_whitespace().next().expect("a CID")
}

#[test]
fn a_damaged_block_on_the_only_provider_is_named_and_quarantined() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let bytes = noise(1, 4 << 20);
    let report = writer.provide("file", &bytes);
    damage_a_block(&writer);
    let done = reader.run(["get", link(&report), "-o", "got"]).fails(7, &["no intact copy of block"]);
    assert!(!reader.home().join("got").exists());
    let block = named_block(&done.stderr);

    // The provider quarantines the bad copy and counts the block as missing.
    assert_eq!(writer.status()["quarantined"], 1);
    assert_eq!(std::fs::read_dir(writer.data().join("quarantine")).expect("made").count(), 1);
    let verified = writer.run(["verify", "file", "--json"]).ends(7).json();
    assert_eq!(verified["missing"], serde_json::json!([block]));
    writer.run(["get", "file", "-o", "-"]).ends(7);
    assert!(writer.run(["doctor"]).ok().text().contains("1 block of 1 file"));
    let says = |missing: u64| {
        let (info, listed) = (writer.run(["info", "file"]).ok(), writer.run(["ls"]).ok());
        assert_eq!(
            info.text().contains("incomplete: 1 block missing or damaged"),
            missing > 0,
            "{}",
            info.text()
        );
        assert_eq!(listed.text().contains("damaged"), missing > 0, "{}", listed.text());
        assert_eq!(writer.run(["info", "file", "--json"]).ok().json()["missing"], missing);
        assert_eq!(writer.run(["ls", "--json"]).ok().json()[0]["missing"], missing);
        assert_eq!(writer.status()["missing"], missing);
    };
    says(1);

    // Storing the file again restores the missing block and adds no other.
    let again = writer.provide("file", &bytes);
    assert_eq!((&again["cid"], &again["new_blocks"]), (&report["cid"], &1.into()));
    assert!(reader.run(["get", link(&report), "-o", "-"]).ok().stdout == bytes);
    writer.run(["verify"]).ok();
    says(0);
    let found = writer.run(["doctor"]).ok();
    assert!(found.text().contains("none is missing now"), "{}", found.text());
}

#[test]
fn a_damaged_block_is_found_without_a_running_node_and_without_a_wait() {
    let machine = Machine::new();
    let path = machine.file("file", &noise(2, 4 << 20));
    machine.run(["provide".as_ref(), path.as_os_str(), "--no-serve".as_ref()]).ok();
    let whole = machine.run(["verify", "--json"]).ok().json();
    damage_a_block(&machine);
    let done = machine.run(["verify", "--json"]).ends(7);
    assert_eq!(done.json()["bytes"], whole["bytes"], "the damaged block was read too");
    let block = done.json()["bad"][0].as_str().expect("a CID").to_owned();
    let done = machine.run(["get", "file", "-o", "got", "--force", "--timeout", "2s"]);
    assert_eq!(named_block(&done.fails(7, &[]).stderr), block);
    assert_eq!(machine.run(["info", "file", "--json"]).ok().json()["missing"], 1);
    assert!(machine.run(["ls"]).ok().text().contains("damaged"));
    assert!(!machine.home().join("got").exists());
}

#[test]
fn info_describes_a_file_with_a_damaged_root() {
    let machine = Machine::new();
    let path = machine.file("file", &noise(7, 4 << 20));
    machine.run(["provide".as_ref(), path.as_os_str(), "--no-serve".as_ref()]).ok();
    let root = block_files(&machine).pop().expect("a block file");
    let mut bytes = std::fs::read(&root).expect("read");
    bytes[100] ^= 4;
    std::fs::write(&root, bytes).expect("written");
    let info = machine.run(["info", "file"]).ok();
    assert!(info.text().contains("incomplete: 1 block missing or damaged"), "{}", info.text());
}

#[test]
fn get_tells_no_peer_from_no_provider_from_a_missing_key() {
    let (writer, reader, elsewhere) = (Machine::new(), Machine::new(), Machine::new());
    let lost = elsewhere.run_with(["provide", "-", "--no-serve"], b"far away").ok().one_line();
    let lost_cid = &lost["storgo://".len()..lost.find('#').expect("a key")];
    reader.run(["get", &lost, "--timeout", "1s"]).fails(5, &["no peer", "--bootstrap"]);

    let node = writer.start::<&str>([]);
    let report = writer.provide("file", &noise(3, 100_000));
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    for (reference, words) in [
        (lost.as_str(), "the file is not on this node, and no reachable peer has it"),
        (lost_cid, "the file is not on this node, and no reachable peer has it"),
        ("no such name", "no file here is named"),
    ] {
        reader.run(["get", reference, "-o", "-"]).fails(4, &[words]);
        reader.run(["info", reference]).fails(4, &[]);
        reader.run(["rm", reference]).ends(4);
        reader.run(["verify", reference]).fails(4, &[]);
    }
    let cid = report["cid"].as_str().expect("a CID");
    reader.run(["get", cid, "-o", "-"]).fails(6, &["whole link"]);
    let info = reader.run(["info", cid, "--json"]).ok().json();
    let fields = ["link", "size", "sealed"].map(|field| info[field].clone());
    assert_eq!(fields, [Value::Null, Value::Null, true.into()]);
    assert!(!reader.run(["info", cid]).ok().text().contains("size"));
    let (start, end) = link(&report).split_at(link(&report).len() - 10);
    let other = if end.starts_with('A') { "B" } else { "A" };
    let wrong = format!("{start}{other}{}", &end[1..]);
    reader.run(["get", &wrong, "-o", "-"]).fails(6, &["the read key is wrong", "complete"]);
    reader.run(["info", &wrong]).fails(6, &["the read key is wrong"]);
}

#[test]
fn a_file_beyond_the_quota_is_refused_and_leaves_no_blocks() {
    for runs in [true, false] {
        let machine = Machine::new();
        machine.run(["init"]).ok();
        std::fs::write(machine.data().join("config.toml"), "[storage]\ncapacity = \"2 MiB\"\n")
            .expect("written");
        let _node = runs.then(|| machine.start::<&str>([]));
        let small = machine.file("small", &noise(4, 300_000));
        machine.run(["provide".as_ref(), small.as_os_str(), "--no-serve".as_ref()]).ok();
        let big = machine.file("big", &noise(5, 40 << 20));
        let provide = ["provide".as_ref(), big.as_os_str(), "--no-serve".as_ref()];
        let before = block_files(&machine).len();
        for _ in 0..2 {
            machine
                .run(provide)
                .fails(13, &["storage.capacity is 2097152 bytes", "the next block needs", "raise"]);
            assert_eq!(block_files(&machine).len(), before, "no block is left");
        }
        let fits = machine.file("fits", &noise(6, 1_500_000));
        machine.run(["provide".as_ref(), fits.as_os_str(), "--no-serve".as_ref()]).ok();
        machine.run(["rm", "fits"]).ok();
        let listed = machine.run(["ls", "--json"]).ok().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        assert_eq!(machine.run(["get", "small", "-o", "-"]).ok().stdout, machine.read("small"));
        machine.run(["rm", "small"]).ok();
    }
}

#[test]
fn an_interrupted_get_leaves_no_files() {
    let (writer, reader) = (Machine::new(), Machine::new());
    // So slow that the test interrupts it before the end.
    let node = writer.start(["--upload-limit", "200 KiB"]);
    let folder = writer.home().join("folder");
    std::fs::create_dir(&folder).expect("made");
    for n in 0..8 {
        std::fs::write(folder.join(n.to_string()), noise(n, 1 << 20)).expect("written");
    }
    let folder = writer.run(["provide", "folder", "--json"]).ok().json();
    let file = writer.provide("file", &noise(99, 8 << 20));
    let alone = |reader: &Machine| {
        let names =
            std::fs::read_dir(reader.home()).expect("read").map(|item| item.expect("read").file_name());
        names.filter(|name| name != "data").collect::<Vec<_>>()
    };
    let _node = reader.start(["--bootstrap", &node.addr()]);
    for (what, signal) in [(&file, Signal::INT), (&folder, Signal::TERM)] {
        let get = reader.spawn(["get", link(what), "-o", "out"]);
        eventually("it begins to write", || !alone(&reader).is_empty());
        let (code, took) = get.end_by(signal);
        assert_eq!(code, Some(130));
        assert!(took.as_secs() < 5, "{took:?}");
        assert_eq!(alone(&reader), Vec::<std::ffi::OsString>::new());
    }
    // Interrupted while waiting for the first peer.
    let lonely = Machine::new();
    let get = lonely.spawn(["get", link(&file)]);
    get.notes("no peer is connected yet");
    assert_eq!(get.end_by(Signal::INT).0, Some(130));
}

#[test]
fn get_says_what_it_waits_for_when_its_provider_stops() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(["--upload-limit", "200 KiB"]);
    let file = writer.provide("file", &noise(98, 4 << 20));
    let _node = reader.start(["--bootstrap", &node.addr()]);
    let get = reader.spawn(["get", link(&file), "-o", "out"]);
    let begun = || std::fs::read_dir(reader.home()).expect("read").count() > 1;
    eventually("it begins to write", begun);
    node.running.signal(Signal::STOP);
    let waiting = get.notes("no data for 3 s");
    assert!(waiting.contains("gives up after 60s without data (--timeout)"), "{waiting}");
    node.running.signal(Signal::CONT);
    assert_eq!(get.end_by(Signal::INT).0, Some(130));
}

#[test]
fn invalid_arguments_are_usage_errors() {
    let machine = Machine::new();
    let wrong: [&[&str]; 10] = [
        &["fetch", "x"],
        &["get"],
        &["rm"],
        &["ls", "--nonsense"],
        &["--capacity", "much", "ls"],
        &["--timeout", "soon", "ls"],
        &["--mdns", "maybe", "ls"],
        &["--chunker", "fixed:0", "ls"],
        &["get", "storgo://nonsense#key"],
        &["get", ""],
    ];
    for args in wrong {
        let started = Instant::now();
        machine.run(args).fails(2, &["error"]);
        assert!(started.elapsed() < DEADLINE / 10);
    }
    assert!(!Path::new("out").exists());
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error_only_if_it_is_a_setting() {
    use std::os::unix::ffi::OsStrExt;

    let machine = Machine::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let mut command = machine.command();
    command.args(["config", "show"]).env("LESSOPEN", odd).env(odd, "x");
    super::binary::Done::of(command).ok();
    let mut command = machine.command();
    command.args(["config", "show"]).env("STORGO_CACHE_SIZE", odd);
    super::binary::Done::of(command).fails(2, &["STORGO_CACHE_SIZE", "UTF-8"]);
    // The name of a folder need not be UTF-8.
    let mut command = machine.command();
    command.args(["init"]).env("STORGO_DATA_DIR", machine.home().join(odd));
    super::binary::Done::of(command).ok();
    assert!(machine.home().join(odd).join("identity.key").exists());
    let mut command = machine.command();
    let file = std::ffi::OsStr::from_bytes(b"\xff.json");
    command.args(["--json", "key", "backup"]).arg(file).env("STORGO_DATA_DIR", machine.home().join(odd));
    assert!(super::binary::Done::of(command).ok().json()["file"].is_string());
}

#[test]
fn damaged_and_lost_blocks_are_fetched_from_a_node_that_only_read_the_file() {
    let (writer, reader, third) = (Machine::new(), Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let _third = third.start(["--bootstrap", &node.addr()]);
    let bytes = noise(6, 4 << 20);
    let report = writer.provide("file", &bytes);
    assert!(reader.run(["get", link(&report), "-o", "-"]).ok().stdout == bytes);
    for reference in [&["verify"][..], &["verify", "file"]] {
        damage_a_block(&writer);
        let mended = writer.run(reference.iter().chain(&["--json"])).ok().json();
        assert_eq!((mended["bad"].as_array().map(Vec::len), &mended["repaired"]), (Some(1), &mended["bad"]));
        std::fs::remove_file(&block_files(&writer)[0]).expect("removed");
        let mended = writer.run(reference.iter().chain(&["--json"])).ok().json();
        assert_eq!(mended["repaired"].as_array().map(Vec::len), Some(1), "{mended}");
        assert_eq!(writer.run(["verify", "--json"]).ok().json()["missing"], serde_json::json!([]));
    }
}
