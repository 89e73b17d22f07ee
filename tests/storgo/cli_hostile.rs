//! Bad input: a clear error, and nothing is written to the wrong place.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
};

use super::binary::{ALONE, Done, Machine, link};

/// The names of the items of a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        items.map(|item| item.expect("an item").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_hostile_file_name_cannot_leave_the_current_folder() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let inner = machine.home().join("a/b");
    fs::create_dir_all(&inner).expect("made");
    let before = names(machine.home());
    let hostile = ["../../evil", "/etc/storgo-evil", "..", ".", "", "a/../../evil", "\u{1b}[2Jevil"];
    for (name, n) in hostile.into_iter().zip(0_u8..) {
        let stored = machine.run_with(["provide", "-", "--json", "--name", name], &[n]).ok().json();
        let mut command = machine.command();
        command.current_dir(&inner).args(["get", link(&stored)]);
        let done = Done::of(command).ok();
        assert!(!done.stderr.contains('\u{1b}'), "{:?}", done.stderr);
        assert_eq!(names(&inner).len(), usize::from(n) + 1, "{name:?}: {:?}", names(&inner));
        let listed = machine.run(["ls"]).ok().text();
        assert!(!listed.contains('\u{1b}'), "{listed:?}");
    }
    assert_eq!(names(machine.home()), before);
    assert_eq!(names(&machine.home().join("a")), ["b"]);
    assert!(!Path::new("/etc/storgo-evil").exists());
}

#[test]
fn get_reports_destinations_that_cannot_take_the_file() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let report = machine.provide("file", b"bytes");
    machine
        .run(["get", link(&report), "-o", "no/such/folder/x"])
        .fails(1, &["no/such/folder/x", "mkdir -p no/such/folder"]);
    // As with `cp`: into an existing folder.
    fs::create_dir_all(machine.home().join("in/file")).expect("made");
    fs::create_dir(machine.home().join("out")).expect("made");
    machine.run(["get", link(&report), "-o", "out/"]).ok();
    assert_eq!(machine.read("out/file"), b"bytes");
    machine.run(["get", link(&report), "-o", "in"]).fails(2, &["in/file already exists"]);
    machine.run(["get", link(&report), "-o", "in", "--force"]).fails(2, &["in/file"]);
    assert_eq!(names(&machine.home().join("in")), ["file"]);
    // Devices are written to, not replaced.
    machine.run(["get", link(&report), "-o", "/dev/null"]).ok();
    machine.run(["get", link(&report), "-o", "/dev/null", "--force"]).ok();
    assert!(!Path::new("/dev/null").is_file());
    assert_eq!(machine.run(["get", link(&report), "-o", "/dev/stdout"]).ok().stdout, b"bytes");
    // A symbolic link is not followed.
    let other = machine.file("other", b"mine");
    symlink(&other, machine.home().join("link")).expect("made");
    machine.run(["get", link(&report), "-o", "link"]).fails(2, &["already exists"]);
    machine.run(["get", link(&report), "-o", "link", "--force"]).ok();
    assert_eq!((machine.read("other"), machine.read("link")), (b"mine".to_vec(), b"bytes".to_vec()));
}

#[test]
fn an_uploaded_archive_with_paths_outside_is_refused() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let token = fs::read_to_string(machine.data().join("api.token")).expect("a token");
    let http = node.status["http"].as_str().expect("an address");
    for path in ["../evil", "/evil", "a/../../evil", "a/./../../b", ".."] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(1);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &b"x"[..]).expect("appended");
        let body = tar.into_inner().expect("whole");
        let mut socket = TcpStream::connect(http).expect("served");
        let head = format!(
            "POST /api/v1/files?tree=true HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n",
            token.trim(),
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&body)).expect("asked");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("\"path_invalid\""), "{answer}");
    }
    assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn unreadable_input_is_named_and_stored_as_far_as_it_can_be_read() {
    for runs in [true, false] {
        let machine = Machine::new();
        let _node = runs.then(|| machine.start::<&str>([]));
        let provide = |path: &str| machine.run(["provide", path, "--no-serve"]);
        provide("nothing").fails(4, &["nothing", "No such file"]);
        provide("/dev/zero").fails(2, &["neither a file nor a folder", "provide -"]);
        // This file can be opened but not read.
        provide("/proc/self/mem").fails(1, &["cannot read /proc/self/mem"]);
        let folder = machine.home().join("folder");
        fs::create_dir_all(folder.join("inner")).expect("made");
        fs::write(folder.join("a"), super::swarm::noise(1, 3 << 20)).expect("written");
        assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
        provide("folder").ok();
        let place = folder.join("inner/link");
        let with_link = |target: &str| {
            symlink(target, &place).expect("made");
            let done = machine.run(["provide", "folder", "--no-serve", "--follow"]);
            fs::remove_file(&place).expect("removed");
            done
        };
        for (target, why) in [
            ("..", "leads back to a folder"),
            ("link", "symbolic link to link"),
            ("/proc/self/mem", "cannot read it"),
        ] {
            let done = with_link(target).ends(3);
            assert!(done.stderr.contains("skipped folder/inner/link: "), "{}", done.stderr);
            assert!(done.stderr.contains(why), "{}", done.stderr);
            machine.run(["get", &done.one_line(), "-o", "copy"]).ok();
            assert_eq!(machine.read("copy/a"), machine.read("folder/a"));
            fs::remove_dir_all(machine.home().join("copy")).expect("removed");
        }
        // The kernel claims 4096 bytes for it.
        let online = "/sys/devices/system/cpu/online";
        machine.run(["get", &with_link(online).ok().one_line(), "-o", "copy"]).ok();
        assert_eq!(machine.read("copy/inner/link"), fs::read(online).expect("read"));
        fs::remove_dir_all(machine.home().join("copy")).expect("removed");
    }
}

#[test]
fn invalid_addresses_are_refused_with_a_hint() {
    let machine = Machine::new();
    for bad in ["nowhere", "127.0.0.1:3000", "/ip4/127.0.0.1", "/ip4/300.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/x"]
    {
        for flag in ["--bootstrap", "--listen"] {
            machine.run([flag, bad, "run"]).fails(2, &[flag, "for example"]);
        }
        machine.run(["peers", "--add", bad]).fails(2, &["multiaddr"]);
    }
    for (typed, meant) in [
        ("127.0.0.1:3001", "/ip4/127.0.0.1/tcp/3001"),
        ("[::1]:3001", "/ip6/::1/tcp/3001"),
        ("box.example.org:3001", "/dns/box.example.org/tcp/3001"),
    ] {
        machine.run(["--bootstrap", typed, "run"]).fails(2, &[&format!("write {meant}")]);
        machine.run(["peers", "--add", typed]).fails(2, &[&format!("write {meant}")]);
    }
    machine.run(["--http", "nowhere", "run"]).fails(2, &["--http"]);
    machine.run(["--http", "0.0.0.0:0", "run", ALONE[0], ALONE[1]]).fails(2, &["without TLS", "proxy"]);
    machine
        .run(["run", "--listen", "/ip4/192.0.2.1/tcp/0", "--http", "127.0.0.1:0"])
        .fails(2, &["192.0.2.1", "no such address"]);
    let file = machine.file("no folder", b"x");
    let args = ["--data-dir".as_ref(), file.as_os_str(), "ls".as_ref()];
    machine.run(args).fails(2, &["is a file, but a data directory must be a folder"]);
    // None of these commands leaves the data directory locked.
    let node = machine.start::<&str>([]);
    for own in [node.addr(), node.bare_addr()] {
        machine.run(["peers", "--add", &own]).fails(5, &["this node itself"]);
    }
    machine.run(["peers", "--add", "/ip4/127.0.0.1/tcp/1"]).fails(5, &[]);
}

#[test]
fn a_data_directory_of_another_version_is_not_changed() {
    let machine = Machine::new();
    machine.run_with(["provide", "-", "--name", "x", "--no-serve"], b"x").ok();
    let version = machine.data().join("version");
    let known = fs::read(&version).expect("read");
    fs::write(&version, b"99\n").expect("written");
    let index = fs::read(machine.data().join("index.redb")).expect("read");
    for verb in [&["ls"][..], &["run", ALONE[0], ALONE[1]], &["get", "x", "-o", "-"], &["gc"]] {
        machine.run(verb).fails(1, &["format 99", "the version of storgo-node that wrote it"]);
    }
    machine.run(["verify", "--rebuild-index"]).fails(1, &["format 99"]);
    assert!(fs::read(machine.data().join("index.redb")).expect("read") == index);
    fs::write(&version, b"?").expect("written");
    machine.run(["ls"]).fails(7, &["version"]);
    fs::write(&version, known).expect("written");
    assert_eq!(machine.run(["get", "x", "-o", "-"]).ok().stdout, b"x");
}

#[test]
fn items_of_a_folder_that_are_no_files_are_skipped_and_named() {
    let machine = Machine::new();
    let folder = machine.home().join("folder");
    fs::create_dir_all(folder.join("inner")).expect("made");
    fs::write(folder.join("a"), b"bytes").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("inner/socket")).expect("bound");
    fs::write(folder.join(OsStr::from_bytes(b"caf\xe9")), b"x").expect("written");
    symlink("/dev/null", folder.join("device")).expect("made");
    symlink("/nowhere", folder.join("dangling")).expect("made");
    let pipe = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, pipe, 0)
        .expect("made");
    let _node = machine.start::<&str>([]);
    let done = machine.run(["provide", "folder"]).ends(3);
    for name in ["inner/socket", "device", "pipe", "dangling"] {
        assert!(done.stderr.contains(&format!("skipped folder/{name}")), "{}", done.stderr);
    }
    assert!(done.stderr.contains("symbolic link to /nowhere, which does not exist"), "{}", done.stderr);
    assert!(done.stderr.contains("its name is not UTF-8"), "{}", done.stderr);
    assert!(done.stderr.contains("stored without 5 items"), "{}", done.stderr);
    machine.run(["get", &done.one_line(), "-o", "copy"]).ok();
    assert_eq!(machine.read("copy/a"), b"bytes");
    let mut alone = machine.command();
    alone.arg("provide").arg(folder.join(OsStr::from_bytes(b"caf\xe9")));
    let alone = super::binary::Done::of(alone).ok();
    assert!(alone.stderr.contains("without a name") && alone.stderr.contains("--name"), "{}", alone.stderr);
    let other = machine.run(["get", "storg://cid#secret"]).fails(4, &["not a valid link", "storgo://"]);
    assert!(!other.stderr.contains("secret"), "{}", other.stderr);
    assert_eq!(
        (names(&machine.home().join("copy")), names(&machine.home().join("copy/inner"))),
        (vec!["a".into(), "inner".into()], vec![])
    );
    let done = machine.run(["provide", "folder", "--json"]).ends(3);
    assert!(done.json()["cid"].is_string() && done.stderr.contains("folder/pipe"), "{}", done.stderr);
}

#[test]
fn several_paths_give_one_link_each_and_missing_ones_are_found_before_storing() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    machine.file("one", b"1");
    machine.file("two", b"2");
    machine.run(["provide", "one", "nothing", "two"]).fails(4, &["nothing", "nothing was stored"]);
    machine.run(["provide", "one", "two", "--name", "three"]).fails(2, &["--name", "one by one"]);
    assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
    let links = machine.run(["provide", "one", "two"]).ok().text();
    let links: Vec<&str> = links.lines().collect();
    assert_eq!(links.len(), 2);
    for (link, bytes) in links.iter().zip([b"1", b"2"]) {
        assert_eq!(machine.run(["get", link, "-o", "-"]).ok().stdout, bytes);
    }
    let objects = machine.run(["provide", "one", "two", "--json"]).ok().text();
    let name =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("an object")["name"].clone();
    assert_eq!(objects.lines().map(name).collect::<Vec<_>>(), ["one", "two"]);
    // An unreadable file does not keep the others from being stored.
    let done = machine.run(["provide", "one", "/proc/self/mem", "two"]).ends(3);
    assert_eq!(done.text().lines().collect::<Vec<_>>(), links);
    assert!(
        done.stderr.contains("/proc/self/mem") && done.stderr.contains("2 of 3 stored"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_name_that_is_too_long_is_refused_before_anything_is_stored() {
    for runs in [true, false] {
        let machine = Machine::new();
        machine.run(["init"]).ok();
        let _node = runs.then(|| machine.start::<&str>([]));
        let name = "n".repeat(256);
        machine
            .run_with(["provide", "-", "--name", &name, "--no-serve"], b"bytes")
            .fails(2, &["256 bytes", "at most 255"]);
        assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
        let link =
            machine.run_with(["provide", "-", "--name", &name[1..], "--no-serve"], b"bytes").ok().one_line();
        machine.run(["get", &link]).ok();
        assert_eq!(machine.read(&name[1..]), b"bytes");
    }
}

#[test]
fn a_closed_standard_input_is_not_an_empty_file() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let provide = |redirected: &str| {
        let mut command = std::process::Command::new("sh");
        let storgo = machine.command();
        let line = format!("exec \"$0\" provide - --no-serve {redirected}");
        command.arg("-c").arg(line).arg(storgo.get_program()).args(storgo.get_args());
        command.current_dir(storgo.get_current_dir().unwrap_or(machine.home()));
        for (key, value) in storgo.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        super::binary::Done::of(command)
    };
    provide("<&-").fails(2, &["standard input is closed"]);
    assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
    provide("</dev/null").ok();
}
