//! Files that change while a command works on them, and files that must not be shared.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{
    binary::{Machine, eventually, link},
    swarm::noise,
};

#[test]
fn a_file_that_is_rewritten_while_it_is_stored_is_named_even_if_length_and_time_stay() {
    let machine = Machine::new();
    fs::create_dir(machine.home().join("folder")).expect("made");
    let write = |byte: u8| {
        machine.file("file", &vec![byte; 100_000]);
        machine.file("folder/inner", &vec![byte; 100_000]);
    };
    machine.file("first", b"1");
    write(b'a');
    let mut provide = machine.fed(["provide", "--no-serve", "first", "-", "file", "folder"]);
    // When the first one is stored, all have been examined.
    provide.read("storgo://".len());
    write(b'b');
    provide.close();
    let done = provide.done().ends(3);
    assert_eq!(done.text().lines().count(), 4);
    for words in
        ["half old and half new: file", "half new: folder/inner", "4 of 4 stored, but some inputs changed"]
    {
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    machine.run(["provide", "--no-serve", "first", "file", "folder"]).ok();
}

#[test]
fn a_file_that_appears_during_a_get_is_not_replaced() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start(["--upload-limit", "1 MiB"]);
    let bytes = noise(1, 4 << 20);
    let file = writer.provide("file", &bytes);
    fs::create_dir(writer.home().join("folder")).expect("made");
    writer.file("folder/a", &noise(2, 4 << 20));
    let folder = writer.run(["provide", "folder", "--json"]).ok().json();
    let _node = reader.start(["--bootstrap", &node.addr()]);
    let names = || {
        let items = fs::read_dir(reader.home()).expect("listed");
        let mut names: Vec<_> =
            items.map(|item| item.expect("listed").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    let out = reader.home().join("out");
    let get = |what, appear: &dyn Fn()| {
        let mut get = reader.spawn(["get", link(what), "-o", "out"]);
        eventually("it begins to write", || names() != ["data"]);
        appear();
        get.notes("out already exists");
        assert_eq!(get.wait(), Some(2));
        assert_eq!(names(), ["data", "out"]);
    };
    get(&file, &|| fs::write(&out, b"mine").expect("written"));
    assert_eq!(fs::read(&out).expect("read"), b"mine");
    reader.run(["get", link(&file), "-o", "out", "--force"]).ok();
    assert!(fs::read(&out).expect("read") == bytes);
    fs::remove_file(&out).expect("removed");
    // A plain rename would replace an empty folder.
    get(&folder, &|| fs::create_dir(&out).expect("made"));
    assert_eq!(fs::read_dir(&out).expect("listed").count(), 0);
}

#[test]
fn the_keys_of_a_node_are_never_stored() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    machine.file("file", b"bytes");
    machine.run(["provide", "data", "--no-serve"]).fails(2, &["data directory", "key backup"]);
    let done = machine.run(["provide", ".", "--no-serve"]).ends(3);
    assert!(done.stderr.contains("data directory of a node and contains its keys"), "{}", done.stderr);
    machine.run(["get", &done.one_line(), "-o", "copy"]).ok();
    let copied: Vec<_> = fs::read_dir(machine.home().join("copy")).expect("listed").collect();
    assert_eq!(copied.len(), 1);
    assert_eq!(machine.read("copy/file"), b"bytes");
}

#[test]
fn times_before_1970_are_restored() {
    let machine = Machine::new();
    let long_ago = SystemTime::UNIX_EPOCH - Duration::from_secs(1_000_000_000);
    fs::create_dir(machine.home().join("folder")).expect("made");
    machine.file("file", b"bytes");
    machine.file("folder/inner", b"bytes");
    for name in ["file", "folder/inner", "folder"] {
        let file = fs::File::open(machine.home().join(name)).expect("opened");
        file.set_modified(long_ago).expect("set");
    }
    let links = machine.run(["provide", "--no-serve", "file", "folder"]).ok().text();
    for (link, out) in links.lines().zip(["file2", "folder2"]) {
        machine.run(["get", link, "-o", out]).ok();
    }
    for name in ["file2", "folder2/inner", "folder2"] {
        let given = machine.home().join(name).metadata().and_then(|meta| meta.modified()).expect("there");
        assert_eq!(given, long_ago, "{name}");
    }
}
