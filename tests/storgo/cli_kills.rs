//! Nodes that stop in the middle of work: acknowledged files are there, and finished work is not done twice.

use std::{path::Path, time::Duration};

use super::{
    binary::{Machine, block_files, eventually, link},
    swarm::noise,
};

/// How long a node may take to end.
const END: Duration = Duration::from_secs(5);
/// Rate at which a test can stop a transfer half-way, and still wait for its end.
const SLOW: [&str; 2] = ["--upload-limit", "8 MiB"];
/// Longer than what a reader fetches ahead, so that it is stopped half-way on any machine.
const LONG: usize = 40 << 20;

fn bytes_on_disk(machine: &Machine) -> u64 {
    block_files(machine).iter().map(|file| file.metadata().expect("there").len()).sum()
}

fn number(machine: &Machine, field: &str) -> u64 {
    machine.status()[field].as_u64().expect("a number")
}

/// Bytes of all blocks of a file.
fn stored_len(machine: &Machine, name: &str) -> u64 {
    machine.run(["info", name, "--json"]).ok().json()["stored_len"].as_u64().expect("known")
}

#[test]
fn a_reader_whose_provider_dies_fails_and_resumes_later() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(SLOW);
    let bytes = noise(1, LONG);
    let report = writer.provide("file", &bytes);
    let stored = stored_len(&writer, "file");
    let here = reader.start(["--bootstrap", &node.addr()]);
    let mut get = reader.pipe(["get", link(&report), "-o", "-", "--timeout", "2s"]);
    assert!(get.read(3 << 20) == bytes[..3 << 20]);
    node.running.kill();
    let (rest, done) = get.finish();
    assert!(bytes[3 << 20..].starts_with(&rest) && rest.len() < LONG - (3 << 20), "{} more", rest.len());
    assert!(done.code == Some(9) && done.stderr.contains("no data arrived"), "{done:?}");
    let received = number(&reader, "received_bytes");
    assert!(received > (3 << 20) && received < stored);

    let _back = writer.start(["--bootstrap", &here.addr()]);
    reader.run(["get", link(&report), "-o", "got"]).ok();
    assert!(reader.read("got") == bytes);
    let received = number(&reader, "received_bytes");
    assert!(received <= stored, "{received} bytes for {stored}");
}

#[test]
fn after_the_death_of_the_readers_node_no_finished_block_is_fetched_again() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(SLOW);
    let bytes = noise(2, LONG);
    let report = writer.provide("file", &bytes);
    let stored = stored_len(&writer, "file");
    let here = reader.start(["--bootstrap", &node.addr()]);
    let mut get = reader.pipe(["get", link(&report), "-o", "-"]);
    get.read(4 << 20);
    here.running.kill();
    let (_, done) = get.finish();
    assert!(done.code == Some(5), "{done:?}");
    let kept = bytes_on_disk(&reader);
    assert!(kept >= (3 << 20), "{kept}");

    let _here = reader.start(["--bootstrap", &node.addr()]);
    reader.run(["get", link(&report), "-o", "got"]).ok();
    assert!(reader.read("got") == bytes);
    // Small blocks live in the index, and its last second may not be synced.
    let received = number(&reader, "received_bytes");
    assert!(received <= stored - kept + (64 << 10), "{received} bytes, {kept} of {stored} were here");
}

#[test]
fn a_killed_provide_is_resumed_by_the_next() {
    let machine = Machine::new();
    for runs in [true, false] {
        let bytes = noise(if runs { 3 } else { 33 }, 12 << 20);
        let before = block_files(&machine).len();
        let node = runs.then(|| machine.start::<&str>([]));
        let mut provide = machine.fed(["provide", "-", "--name", "file", "--no-serve"]);
        provide.feed(&bytes[..8 << 20]);
        eventually("some blocks are written", || block_files(&machine).len() >= before + 3);
        match node {
            Some(node) => {
                node.running.kill();
                let done = provide.done();
                assert!(done.code == Some(5) && done.stdout.is_empty(), "{done:?}");
            }
            None => provide.kill(),
        }
        let known = block_files(&machine).len() as u64;
        assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
        let provide = ["provide", "-", "--name", "file", "--no-serve", "--json"];
        let report = machine.run_with(provide, &bytes).ok().json();
        let (blocks, new) = (report["blocks"].as_u64(), report["new_blocks"].as_u64());
        let (blocks, new) = (blocks.expect("a number"), new.expect("a number"));
        assert!(new + 3 <= blocks, "{new} of {blocks} are new");
        let all = block_files(&machine).len() as u64;
        assert_eq!(new, all - known, "{known} were here, {all} are now");
        assert!(machine.run(["get", "file", "-o", "-"]).ok().stdout == bytes);
        machine.run(["verify"]).ok();
        machine.run(["rm", "file"]).ok();
    }
}

#[test]
fn a_busy_node_stops_in_time_and_keeps_acknowledged_files() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(["--upload-limit", "2 MiB"]);
    let bytes = noise(4, LONG);
    let report = writer.provide("file", &bytes);
    let there = reader.start(["--bootstrap", &node.addr()]);
    let mut events = writer.spawn(["events"]);
    events.notes("waiting for events");
    let mut get = reader.pipe(["get", link(&report), "-o", "-"]);
    get.read(1000);
    let mut provide = writer.fed(["provide", "-", "--name", "never whole"]);
    let before = block_files(&writer).len();
    provide.feed(&noise(5, 4 << 20));
    eventually("some blocks are written", || block_files(&writer).len() > before);

    // The node of the reader stops first, in the middle of a read.
    let (code, took) = there.stop();
    assert!(code == Some(0) && took < END, "{code:?} after {took:?}");
    assert_eq!(get.finish().1.code, Some(5));
    let (code, took) = node.stop();
    assert!(code == Some(0) && took < END, "{code:?} after {took:?}");
    let done = provide.done();
    assert!(done.code == Some(5) && done.stdout.is_empty(), "{done:?}");
    assert_eq!(events.wait(), Some(0));

    let _node = writer.start::<&str>([]);
    let listed = writer.run(["ls", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert!(writer.run(["get", "file", "-o", "-"]).ok().stdout == bytes);
    writer.run(["verify"]).ok();
}

#[test]
fn a_file_acknowledged_just_before_a_kill_is_there() {
    let machine = Machine::new();
    for n in 0..5 {
        let node = machine.start::<&str>([]);
        let name = format!("file {n}");
        let bytes = noise(n, 700_000);
        let link = link(&machine.provide(&name, &bytes)).to_owned();
        node.running.kill();
        assert!(machine.run(["get", &link, "-o", "-"]).ok().stdout == bytes);
    }
    let listed = machine.run(["ls", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(5));
    assert!(Path::new(&machine.data()).join("lock").exists());
}

#[test]
fn partial_files_of_a_killed_get_are_removed_by_the_next_one() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(["--upload-limit", "200 KiB"]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let folder = writer.home().join("folder");
    std::fs::create_dir(&folder).expect("made");
    for n in 0..4 {
        std::fs::write(folder.join(n.to_string()), noise(60 + n, 2 << 20)).expect("written");
    }
    let folder = writer.run(["provide", "folder", "--json"]).ok().json();
    let file = writer.provide("file", &noise(70, 8 << 20));
    let parts = || {
        let items = std::fs::read_dir(reader.home()).expect("read").map(|item| item.expect("read").path());
        items.filter(|path| path.to_string_lossy().ends_with(".part")).collect::<Vec<_>>()
    };
    let age = |path: &Path| {
        let seconds_ago = std::time::SystemTime::now() - Duration::from_secs(5);
        std::fs::File::open(path).and_then(|file| file.set_modified(seconds_ago)).expect("set");
    };
    for what in [&file, &folder] {
        let get = reader.spawn(["get", link(what), "-o", "out"]);
        eventually("it begins to write", || !parts().is_empty());
        get.kill();
        let left = parts();
        assert_eq!(left.len(), 1);
        age(&left[0]);
        let live = reader.spawn(["get", link(what), "-o", "live"]);
        eventually("only the new one is there", || parts().len() == 1 && parts() != left);
        // A file in use stays, however old it looks.
        let there = parts();
        reader.run_with(["provide", "-", "--name", "small", "--no-dedup"], b"small").ok();
        age(&there[0]);
        reader.run(["get", "small", "-o", "small", "--force"]).ok();
        assert_eq!(parts(), there);
        assert_eq!(live.end_by(rustix::process::Signal::INT).0, Some(130));
        assert!(parts().is_empty());
    }
}

#[test]
fn blocks_of_a_killed_or_interrupted_upload_count() {
    let machine = Machine::new();
    for end in [None, Some(rustix::process::Signal::INT)] {
        let bytes = noise(if end.is_some() { 77 } else { 78 }, 8 << 20);
        let before = block_files(&machine).len();
        let mut provide = machine.fed(["provide", "-", "--name", "file", "--no-serve"]);
        provide.feed(&bytes[..6 << 20]);
        eventually("some blocks are written", || block_files(&machine).len() >= before + 3);
        match end {
            None => provide.kill(),
            Some(signal) => assert_eq!(provide.end_by(signal), Some(130)),
        }
        let on_disk = bytes_on_disk(&machine);
        let node = machine.start::<&str>([]);
        let counted = number(&machine, "stored_bytes");
        assert!(counted >= on_disk, "{counted} of {on_disk} bytes are counted");
        drop(node);
        // The next try does not write them again.
        let report = machine.run_with(["provide", "-", "--no-serve", "--json"], &bytes).ok().json();
        let (blocks, new) = (report["blocks"].as_u64(), report["new_blocks"].as_u64());
        assert!(new.expect("a number") + 3 <= blocks.expect("a number"), "{report}");
    }
}
