//! Three machines that each know one other: files, folders, ranges and pipes between them.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    binary::{Live, Machine, link},
    swarm::noise,
};

/// Three machines: the second and third know the first one's address, without and with its peer id.
struct Three {
    machines: [Machine; 3],
    _nodes: [Live; 3],
}

fn three() -> Three {
    let machines = [Machine::new(), Machine::new(), Machine::new()];
    let first = machines[0].start::<&str>([]);
    let second = machines[1].start(["--bootstrap", &first.bare_addr()]);
    let third = machines[2].start(["--bootstrap", &first.addr()]);
    Three { machines, _nodes: [first, second, third] }
}

#[test]
fn a_file_goes_from_any_of_three_machines_to_any_other() {
    let three = three();
    let [first, second, third] = &three.machines;
    let bytes = noise(1, 5 << 20);
    let report = first.provide("a file.bin", &bytes);
    let fields: Vec<&str> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    for field in ["cid", "link", "name", "size", "blocks", "new_blocks", "redundancy"] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
    assert_eq!(report["name"], "a file.bin");
    assert_eq!(report["size"], 5 << 20);
    assert!(link(&report).starts_with(&format!("storgo://{}#", report["cid"].as_str().expect("a CID"))));

    // Read by link: into a file, to stdout, and under its own name.
    for machine in [second, third] {
        let done = machine.run(["get", link(&report), "-o", "got"]).ok();
        assert!(done.stdout.is_empty() && done.stderr.contains("verified"), "{done:?}");
        assert!(machine.read("got") == bytes);
        machine.run(["get", link(&report)]).ok();
        assert!(machine.read("a file.bin") == bytes);
    }
    let done = third.run(["get", link(&report), "-o", "-"]).ok();
    assert!(done.stdout == bytes, "{} bytes", done.stdout.len());
    let done = third.run(["--json", "get", link(&report), "-o", "-"]).ok();
    assert!(done.stdout == bytes && done.stderr.is_empty(), "{}", done.stderr);
    let done = third.run(["--json", "get", link(&report), "-o", "again"]).ok().json();
    assert_eq!((&done["output"], &done["bytes"]), (&"again".into(), &(5 << 20).into()));

    // An existing file is replaced only with --force.
    third.file("got", b"mine");
    third.run(["get", link(&report), "-o", "got"]).fails(2, &["got already exists", "--force"]);
    assert_eq!(third.read("got"), b"mine");
    third.run(["get", link(&report), "-o", "got", "--force"]).ok();
    assert!(third.read("got") == bytes);

    // From a pipe on the third machine to the first.
    let report = third.run_with(["provide", "-", "--name", "piped", "--json"], b"hello, pipe").ok().json();
    assert_eq!((&report["name"], &report["size"]), (&"piped".into(), &11.into()));
    assert_eq!(first.run(["get", link(&report), "-o", "-"]).ok().stdout, b"hello, pipe");
    assert_eq!(third.run(["get", "piped", "-o", "-"]).ok().stdout, b"hello, pipe");
    let nameless = third.run_with(["add", "-"], b"").ok().one_line();
    assert_eq!(second.run(["get", &nameless, "-o", "-"]).ok().stdout, b"");
}

#[test]
fn a_range_returns_exactly_its_bytes() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let bytes = noise(2, 3 << 20);
    let report = machine.provide("file", &bytes);
    let get = |range: &str| machine.run(["get", link(&report), "-o", "-", "--range", range]);
    for (range, expected) in [
        ("0-0", &bytes[..1]),
        ("0-99", &bytes[..100]),
        ("1500000-2500000", &bytes[1_500_000..=2_500_000]),
        ("-50", &bytes[bytes.len() - 50..]),
        ("-99999999", &bytes[..]),
        ("3145727-", &bytes[bytes.len() - 1..]),
        ("3145000-9999999999", &bytes[3_145_000..]),
        ("3145000-99999999999999999999999", &bytes[3_145_000..]),
    ] {
        assert!(get(range).ok().stdout == expected, "{range}");
    }
    for range in ["3145728-", "-0", "9-1", "99999999999999999999-5", "a-b", "1-2,4-5", "7", ""] {
        get(range).fails(2, &[]);
    }
    get("3145728-").fails(2, &["has 3145728 bytes"]);
    let empty = machine.provide("empty", b"");
    machine.run(["get", link(&empty), "-o", "-", "--range", "0-"]).fails(2, &[]);
    machine.run(["get", link(&report), "-o", "part", "--range", "10-19"]).ok();
    assert_eq!(machine.read("part"), &bytes[10..20]);
}

/// The contents of a folder: the bytes of each file, `None` for folders.
fn contents(top: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(&folder).expect("a folder") {
            let path = item.expect("an item").path();
            let name = path.strip_prefix(top).expect("below").to_str().expect("UTF-8").to_owned();
            if path.is_dir() {
                found.insert(name, None);
                open.push(path);
            } else {
                found.insert(name, Some(fs::read(&path).expect("read")));
            }
        }
    }
    found
}

#[test]
fn a_folder_with_odd_names_comes_back_as_it_was() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.bare_addr()]);
    let top = writer.home().join("my folder");
    let deep = (0..40).map(|n| format!("level {n}")).collect::<Vec<_>>().join("/");
    for folder in [deep.as_str(), "empty", "ünïcödé/日本語", ".hidden"] {
        fs::create_dir_all(top.join(folder)).expect("made");
    }
    let long = "n".repeat(255);
    let names = [
        "plain",
        "with space",
        "-rf",
        "--",
        "line\nbreak",
        "back\\slash",
        "quote\"'`$(x)",
        "trailing ",
        "...",
        "a:b*c?",
        "ünïcödé/日本語/файл",
        ".hidden/.file",
        long.as_str(),
    ];
    for (name, n) in names.iter().zip(0_u16..) {
        fs::write(top.join(name), noise(n.into(), usize::from(n) * 1000)).expect("written");
    }
    fs::write(top.join(&deep).join("bottom"), b"here").expect("written");
    fs::write(top.join("big"), noise(99, 3 << 20)).expect("written");
    let report = writer.run(["provide", "my folder", "--json"]).ok().json();
    assert_eq!(report["name"], "my folder");
    reader.run(["get", link(&report), "-o", "copy"]).ok();
    assert!(contents(&reader.home().join("copy")) == contents(&top));
    reader.run(["get", link(&report)]).ok();
    assert!(contents(&reader.home().join("my folder")) == contents(&top));

    // Names are escaped on the terminal and whole in JSON.
    let info = reader.run(["info", link(&report)]).ok().text();
    assert!(info.contains("line\\nbreak") && !info.contains("line\nbreak"));
    let info = reader.run(["info", link(&report), "--json"]).ok().json();
    let entries = info["entries"].as_array().expect("entries");
    assert!(entries.iter().any(|entry| entry["name"] == "line\nbreak"));
    // One file of it, by its own link.
    let big = entries.iter().find(|entry| entry["name"] == "big").expect("listed");
    assert!(reader.run(["get", link(big), "-o", "-"]).ok().stdout == noise(99, 3 << 20));

    // Into an existing folder, as with `cp -r`; existing files stay.
    reader.run(["get", link(&report), "-o", "copy"]).ok();
    let inner = reader.home().join("copy/my folder");
    assert!(contents(&inner) == contents(&top));
    std::fs::write(inner.join("precious"), "mine").expect("written");
    for force in [&[][..], &["--force"]] {
        let again = ["get", link(&report), "-o", "copy"].into_iter().chain(force.iter().copied());
        reader.run(again).fails(2, &["already exists", "never replaced"]);
    }
    assert_eq!(reader.read("copy/my folder/precious"), b"mine");
    reader.run(["get", link(&report), "-o", "x", "--range", "0-1"]).fails(2, &["--range works on files"]);

    // Single files with names that shells treat specially.
    for name in ["-dash", "line\nbreak", &"l".repeat(255), "a#b c"] {
        let path = writer.file(name, name.as_bytes());
        let report = writer.run(["provide".as_ref(), path.as_os_str(), "--json".as_ref()]).ok().json();
        assert_eq!(report["name"], name);
        assert_eq!(writer.run(["get", "-o", "-", "--", name]).ok().stdout, name.as_bytes());
        reader.run(["get", link(&report)]).ok();
        let kept = name.replace('\n', "_");
        assert_eq!(reader.read(&kept), name.as_bytes());
    }
}

#[test]
fn an_empty_folder_comes_back_as_a_folder() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    fs::create_dir(machine.home().join("nothing")).expect("made");
    let link = machine.run(["provide", "nothing"]).ok().one_line();
    machine.run(["get", &link, "-o", "out"]).ok();
    assert!(contents(&machine.home().join("out")).is_empty());
    // A folder on stdout is a tar stream.
    let tar = machine.run(["get", &link, "-o", "-"]).ok().stdout;
    assert_eq!(tar::Archive::new(&tar[..]).entries().expect("a tar").count(), 0);
}

#[test]
fn two_machines_with_one_identity_are_reported() {
    let [first, second] = [(); 2].map(|()| Machine::new());
    let one = first.start::<&str>([]);
    std::fs::create_dir(second.data()).expect("made");
    std::fs::copy(first.data().join("identity.key"), second.data().join("identity.key")).expect("copied");
    let addr = one.bare_addr();
    let two = second.start(["--bootstrap", &addr]);
    assert_eq!(two.status["peer"], one.status["peer"]);
    two.running.notes("has the identity of this node");
    let done = second.run(["doctor"]).ends(1);
    let line = done.text().lines().find(|line| line.contains("identity ")).map(str::to_owned);
    assert!(line.is_some_and(|line| line.starts_with("FAIL") && line.contains(&addr)), "{}", done.text());
}
