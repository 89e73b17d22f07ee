//! Error messages, commands without a node, and hostile names.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    binary::{Done, Machine, link},
    swarm::noise,
};

/// The error that a command printed as JSON on stderr.
#[track_caller]
fn error_of(done: &Done) -> Value {
    let value: Value = serde_json::from_str(&done.stderr).unwrap_or_else(|e| panic!("{e}: {}", done.stderr));
    value["error"].clone()
}

#[test]
fn every_error_is_json_with_the_json_flag() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    for (args, code, name) in [
        (&["--json", "rm", "nosuch"][..], 4, "not_found"),
        (&["rm", "--json", ""], 2, "bad_request"),
        (&["ls", "--json", "--nonsense"], 2, "bad_request"),
        (&["--json", "fetch", "x"], 2, "bad_request"),
        (&["--json", "get"], 2, "bad_request"),
        (&["--json", "key"], 2, "bad_request"),
        (&["--json", "--timeout", "soon", "ls"], 2, "bad_request"),
        (&["--json", "status"], 5, "unreachable"),
        (&["--json", "get", "nosuch"], 4, "not_found"),
    ] {
        let done = machine.run(args).fails(code, &[]);
        let error = error_of(&done);
        assert_eq!(error["code"], name, "{args:?}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    }
    // Text without the flag; --help is not an error.
    assert!(machine.run(["ls", "--nonsense"]).fails(2, &["Usage"]).stderr.starts_with("error: "));
    assert!(machine.run(["ls", "--json", "--help"]).ok().text().contains("Usage"));
}

#[test]
fn a_command_with_several_inputs_ends_with_one_json_error_that_lists_each() {
    let machine = Machine::new();
    for name in ["first", "changed", "gone"] {
        machine.file(name, name.as_bytes());
    }
    let listed = |error: &Value| {
        let errors = error["errors"].as_array().expect("a list").iter();
        errors.map(|error| [&error["input"], &error["code"]].map(Value::to_string)).collect::<Vec<_>>()
    };
    let mut provide = machine.fed(["provide", "--no-serve", "--json", "first", "-", "changed", "gone"]);
    // When the first one is stored, all have been examined.
    provide.read("{".len());
    machine.file("changed", b"CHANGED");
    fs::remove_file(machine.home().join("gone")).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(machine.home().join("gone")).status();
    assert!(made.expect("mkfifo").success());
    provide.close();
    let error = error_of(&provide.done().ends(3));
    assert_eq!(error["message"], "3 of 4 stored");
    assert_eq!(listed(&error), [["\"changed\"", "\"partial\""], ["\"gone\"", "\"other\""]]);

    for (kept, code, message) in [(Some("first"), 3, "1 of 3 removed"), (None, 2, "none of 2 removed")] {
        let references = kept.into_iter().chain(["nosuch", "storgo://bad"]);
        let error = error_of(&machine.run(["rm", "--json"].into_iter().chain(references)).ends(code));
        assert_eq!(error["message"], message);
        let expected = [["\"nosuch\"", "\"not_found\""], ["\"storgo://bad\"", "\"bad_request\""]];
        assert_eq!(listed(&error), expected);
        assert!(error["errors"][0]["hint"].as_str().is_some_and(|hint| hint.contains("ls")), "{error}");
    }
}

#[test]
fn what_is_meant_for_another_command_is_named_and_not_repeated() {
    let machine = Machine::new();
    fs::create_dir(machine.home().join("top")).expect("made");
    machine.file("top/a", b"first");
    let folder = machine.run(["provide", "top", "--no-serve"]).ok().one_line();
    let invite = "storgo-invite:c2VjcmV0";
    for (args, words) in [
        (["provide", &folder], &["this is a link", "storgo-node get LINK"][..]),
        (["provide", invite], &["this is an invite to a cluster", "join INVITE"]),
        (["get", invite], &["this is an invite to a cluster, not a link", "join INVITE"]),
        (["info", invite], &["this is an invite to a cluster, not a link", "join INVITE"]),
        (["get", &format!("{folder}/a")], &["a path behind a link", "info --json FOLDER"]),
    ] {
        let done = machine.run(args).fails(2, words);
        let key = folder.split_once('#').expect("a key").1;
        assert!(!done.stderr.contains(key) && !done.stderr.contains(invite), "{}", done.stderr);
    }
    machine.run(["get", "top/a"]).fails(4, &["no file here is named \"top/a\"", "info --json FOLDER"]);
    // The way out that is named works.
    let entries = machine.run(["info", "--json", "top"]).ok().json();
    let entry = machine.run(["get", link(&entries["entries"][0]), "-o", "-"]).ok();
    assert_eq!(entry.stdout, b"first");
}

#[test]
fn commands_that_only_read_do_not_create_a_node() {
    let machine = Machine::new();
    let empty = machine.home().join("empty");
    fs::create_dir(&empty).expect("made");
    for dir in [machine.data(), empty.clone()] {
        for verb in [
            &["ls"][..],
            &["info", "x"],
            &["id"],
            &["status"],
            &["peers"],
            &["events"],
            &["rm", "x"],
            &["verify"],
            &["gc"],
            &["web"],
            &["token", "ls"],
            &["key", "backup", "-"],
        ] {
            let args = ["--data-dir".as_ref(), dir.as_os_str()];
            let done =
                machine.run(args.into_iter().chain(verb.iter().map(|word| std::ffi::OsStr::new(*word))));
            done.fails(5, &["no node in", "init", "run"]);
        }
    }
    assert!(!machine.data().exists() && fs::read_dir(&empty).expect("read").next().is_none());
    assert!(machine.run(["doctor"]).ok().text().contains("does not exist yet"));
    assert!(!machine.data().exists());
    // Commands that can start a node still work.
    let stored = machine.run_with(["provide", "-", "--name", "x", "--no-serve"], b"x").ok();
    assert!(stored.one_line().starts_with("storgo://"));
    assert_eq!(machine.run(["get", "x", "-o", "-"]).ok().stdout, b"x");
    let other = Machine::new();
    other.run(["get", &stored.one_line(), "--timeout", "1s"]).fails(5, &["no peer"]);
}

#[test]
fn denied_access_has_its_own_exit_code() {
    let machine = Machine::new();
    machine.run_with(["provide", "-", "--name", "x", "--no-serve"], b"x").ok();
    // Not even root can create a file there.
    machine.run(["init", "--data-dir", "/sys/storgo-node"]).fails(6, &["/sys/storgo-node", "permissions"]);
    machine.run(["get", "x", "--data-dir", "/sys/storgo-node"]).fails(6, &["/sys/storgo-node"]);
    machine.run(["get", "x", "-o", "/sys/x"]).fails(6, &["/sys/x", "permissions"]);
    machine.run(["key", "backup", "/sys/x"]).fails(6, &["/sys/x"]);
    machine.run(["man", "--dir", "/sys/man"]).fails(6, &["/sys/man"]);
}

#[test]
fn a_full_stdout_is_an_error_and_a_closed_one_is_not() {
    let machine = Machine::new();
    machine.run_with(["provide", "-", "--name", "x", "--no-serve"], &noise(1, 1 << 20)).ok();
    for verb in
        [&["get", "x", "-o", "-"][..], &["ls"], &["man"], &["completions", "bash"], &["config", "show"]]
    {
        let mut command = machine.command();
        let full = fs::File::options().write(true).open("/dev/full").expect("there");
        let output = command.args(verb).stdout(full).output().expect("ran");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(13), "{verb:?}: {stderr}");
        assert!(stderr.contains("cannot write to stdout"), "{verb:?}: {stderr}");

        let mut command = machine.command();
        let mut child =
            command.args(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{verb:?}: {:?}", output.status);
        assert!(output.stderr.is_empty(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn hostile_names_cannot_change_the_text_beside_them() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let odd = "photo\u{202e}gpj\u{1b}[2J.exe";
    let report = machine.provide("plain", b"bytes");
    let odd_link = machine.run_with(["provide", "-", "--name", odd], b"odd").ok().one_line();
    machine.run_with(["provide", "-", "--name", odd], b"odd too").ok();
    let shown = "photo\\u{202e}gpj\\u{1b}[2J.exe";
    for verb in [&["ls"][..], &["info", &odd_link], &["get", &odd_link]] {
        let done = machine.run(verb).ok();
        let text = done.text() + &done.stderr;
        assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'), "{verb:?}: {text:?}");
        assert!(text.contains(shown) || text.contains("photo_gpj_[2J.exe"), "{verb:?}: {text:?}");
    }
    // Errors escape names too.
    for verb in [&["rm", odd][..], &["get", "no\u{202e}such"], &["get", "plain", "-o", "a/\u{202e}b"]] {
        let done = machine.run(verb);
        assert!(done.code != Some(0) && !done.stderr.contains('\u{202e}'), "{verb:?}: {:?}", done.stderr);
    }
    // File names on disk lose hidden characters; JSON keeps them.
    assert_eq!(machine.read("photo_gpj_[2J.exe"), b"odd");
    let listed = machine.run(["ls", "--json"]).ok().json();
    assert!(listed.as_array().expect("files").iter().any(|file| file["name"] == odd));
    assert_eq!(report["name"], "plain");
}

#[test]
fn the_newest_file_is_listed_first() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let names: Vec<String> = (0..12).map(|n| format!("file {n}")).collect();
    for name in &names {
        machine.provide(name, name.as_bytes());
    }
    let newest_first: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    let listed = machine.run(["ls"]).ok().text();
    let order: Vec<&str> =
        listed.lines().skip(1).map(|line| line.rsplit("  ").next().expect("a name")).collect();
    assert_eq!(order, newest_first);
    let listed = machine.run(["ls", "--json"]).ok().json();
    let order: Vec<&str> =
        listed.as_array().expect("files").iter().map(|f| f["name"].as_str().expect("a name")).collect();
    assert_eq!(order, newest_first);
}

#[test]
fn a_file_comes_back_with_its_time_and_permissions() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let path = writer.file("tool", b"#!/bin/sh\nexit 7\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    let report = writer.run(["provide", "tool", "--json"]).ok().json();
    let folder = writer.home().join("folder");
    fs::create_dir(&folder).expect("made");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    fs::File::open(&folder).expect("opened").set_modified(then).expect("set");
    let tree = writer.run(["provide", "folder", "--json"]).ok().json();

    reader.run(["get", link(&report)]).ok();
    let meta = reader.home().join("tool").metadata().expect("there");
    assert_eq!(meta.permissions().mode() & 0o100, 0o100);
    assert_eq!(meta.modified().ok(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let ran = std::process::Command::new(reader.home().join("tool")).status().expect("it runs");
    assert_eq!(ran.code(), Some(7));
    reader.run(["get", link(&tree)]).ok();
    assert_eq!(reader.home().join("folder").metadata().expect("there").modified().ok(), Some(then));
    // A range is a new file with the present time.
    reader.run(["get", link(&report), "--range", "0-1", "-o", "part"]).ok();
    let part = reader.home().join("part").metadata().expect("there");
    assert!(part.modified().expect("a time").elapsed().is_ok_and(|age| age.as_secs() < 3600));

    // A destination that ends with a slash is created as a folder.
    reader.run(["get", link(&report), "-o", "new/"]).ok();
    assert!(reader.home().join("new/tool").exists());
    reader.run(["get", link(&report), "-o", "new/"]).fails(2, &["new/tool already exists"]);
    reader.run(["get", link(&report), "-o", "no/such/"]).fails(1, &["no/such", "mkdir -p"]);
    reader.run(["get", "nosuch", "-o", "in vain/"]).fails(4, &[]);
    assert!(!reader.home().join("in vain").exists());
}

#[test]
fn get_without_a_terminal_says_what_it_waits_for() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let report = writer.provide("file", &noise(3, 100_000));
    // Stopped but still connected: the peer does not answer.
    node.running.signal(rustix::process::Signal::STOP);
    let get = reader.spawn(["get", link(&report), "-o", "-", "--timeout", "30s"]);
    get.notes("nothing arrives for 30s");
    node.running.signal(rustix::process::Signal::CONT);
}

#[test]
fn a_node_without_the_cluster_key_is_told_how_to_join() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (member, foreign) = (Machine::new(), Machine::new());
        member.run(["init", "--cluster"]).ok();
        foreign.run(["init", "--cluster"]).ok();
        let addrs = ["--listen", listen, "--http", "127.0.0.1:0"];
        let node = member.start_on(&addrs, [] as [&str; 0]);
        let stored = member.provide("file", b"bytes");
        let _foreign = foreign.start_on(&addrs, ["--bootstrap", &node.addr()]);
        let done = foreign.run(["get", link(&stored), "--timeout", "5s"]);
        let done = done.fails(5, &["belongs to another cluster", "invite", "join"]);
        assert!(!done.stderr.contains("--bootstrap"), "{}", done.stderr);
        let found = foreign.run(["doctor"]).ok().text();
        assert!(found.contains("belongs to another cluster") && !found.contains("firewall"), "{found}");
    }
    // Without any key, over TCP.
    let (member, open) = (Machine::new(), Machine::new());
    member.run(["init", "--cluster"]).ok();
    let node = member.start::<&str>([]);
    let stored = member.provide("file", b"bytes");
    let args = ["get", link(&stored), "--timeout", "5s", "--bootstrap", &node.addr()];
    open.run(args).fails(5, &["belongs to another cluster", "join"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let machine = Machine::new();
    let page = |words: &[&str]| machine.run(["man"].iter().chain(words)).ok().text();
    assert!(page(&[]).contains(".TH storgo-node 1"));
    let get = page(&["get"]);
    assert!(
        get.contains(".TH storgo-node-get 1") && get.contains("\\-\\-range") && get.contains("data\\-dir"),
        "{get}"
    );
    assert!(page(&["key", "backup"]).contains(".TH storgo-node-key-backup 1"));
    assert!(page(&["add"]).contains(".TH storgo-node-provide 1"), "by its alias");
    machine.run(["man", "fly"]).fails(2, &["unknown command \"fly\""]);
    let done = machine.run(["man", "--dir", "pages/man1"]).ok();
    assert!(done.stdout.is_empty() && done.stderr.contains("pages to pages/man1"), "{done:?}");
    let count = fs::read_dir(machine.home().join("pages/man1")).expect("made").count();
    assert!(done.stderr.starts_with(&format!("wrote {count} pages")) && count > 30, "{}", done.stderr);
    assert_eq!(machine.read("pages/man1/storgo-node-get.1"), get.into_bytes());
    for item in fs::read_dir(machine.home().join("pages/man1")).expect("made") {
        let path = item.expect("a page").path();
        let text = fs::read_to_string(&path).expect("UTF-8");
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        assert!(text.contains(&format!(".TH {name} 1")) && text.contains("data\\-dir"), "{name}: {text}");
    }
    let made = machine.run(["man", "--dir", "more", "--json"]).ok().json();
    assert_eq!(made["pages"].as_array().map(Vec::len), Some(count));
    assert!(!machine.data().exists());
}
