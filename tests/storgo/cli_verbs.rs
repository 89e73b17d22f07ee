//! Every command: exit code, stdout, and JSON.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;

use super::binary::{ALONE, Done, Live, Machine, Running};

/// Commands that print one JSON value, and the kind of that value.
type Kind = fn(&Value) -> bool;
const VERBS: [(&[&str], Kind); 17] = [
    (&["ls"], Value::is_array),
    (&["ls", "thi"], Value::is_array),
    (&["info", "thing"], Value::is_object),
    (&["id"], Value::is_object),
    (&["verify"], Value::is_object),
    (&["verify", "thing"], Value::is_object),
    (&["health"], Value::is_array),
    (&["health", "thing"], Value::is_object),
    (&["repair"], Value::is_object),
    (&["repair", "thing"], Value::is_object),
    (&["gc"], Value::is_object),
    (&["doctor"], Value::is_array),
    (&["config", "show"], Value::is_object),
    (&["config", "show", "--origin"], Value::is_object),
    (&["config", "check"], Value::is_object),
    (&["config", "path"], Value::is_object),
    (&["rm", "thing"], Value::is_array),
];

#[test]
fn every_command_works_with_and_without_a_running_node() {
    for runs in [true, false] {
        let machine = Machine::new();
        let node = runs.then(|| machine.start::<&str>([]));
        for json in [true, false] {
            let file = machine.file("thing", b"some bytes");
            let stored = machine.run(["provide".as_ref(), file.as_os_str(), "--no-serve".as_ref()]);
            let link = stored.ok().one_line();
            assert!(link.starts_with("storgo://"), "{link}");
            for (verb, kind) in VERBS {
                let done = machine.run(verb.iter().chain(json.then_some(&"--json"))).ok();
                if json {
                    assert!(kind(&done.json()), "{}", done.text());
                    assert!(done.stderr.is_empty(), "{}: {}", done.args, done.stderr);
                }
                if matches!(verb, ["ls" | "info" | "rm", ..]) {
                    assert!(done.text().contains("thing"), "{}", done.text());
                }
            }
            let peers = machine.run(["peers"].into_iter().chain(json.then_some("--json")));
            if runs {
                assert_eq!(peers.ok().text(), if json { "[]\n" } else { "" });
            } else {
                peers.fails(5, &["no node runs"]);
                machine.run(["events"]).fails(5, &["no node runs"]);
            }
            machine.run(["ls"]).ok();
            machine.run(["rm", "thing"]).fails(4, &["thing"]);
        }
        if let Some(node) = node {
            let status = machine.status();
            assert_eq!(status["peer"], node.status["peer"]);
            assert_eq!(machine.run(["id"]).ok().one_line(), status["peer"].as_str().expect("an id"));
            assert!(machine.run(["status"]).ok().text().contains("api      http://127.0.0.1:"));
            assert_eq!(node.stop().0, Some(0));
        }
        machine.run(["status"]).fails(5, &["no node runs", "storgo-node", " run`"]);
        machine.run(["status", "--json"]).fails(5, &["\"code\":\"unreachable\""]);
    }
}

#[test]
fn rm_reports_which_files_it_removed() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    machine.provide("one", b"1");
    machine.provide("two", b"2");
    let done = machine.run(["rm", "one", "nothing", "two"]).ends(3);
    assert_eq!(done.text().lines().count(), 2);
    assert!(done.stderr.contains("nothing") && done.stderr.contains("2 of 3 removed"), "{}", done.stderr);
}

#[test]
fn completions_and_manuals_need_no_data_directory() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = machine.run(["completions", shell]).ok();
        assert!(script.text().contains("storgo-node") && script.stderr.is_empty());
    }
    assert!(machine.run(["man"]).ok().text().contains(".TH storgo-node"));
    let help = machine.run(["--help"]).ok().text();
    assert!(help.contains("provide") && help.contains("Exit codes:"), "{help}");
    assert!(machine.run(["--version"]).ok().one_line().starts_with("storgo-node "));
    assert!(!machine.data().exists(), "none of these commands needs a data directory");
}

#[test]
fn events_are_printed_as_they_happen() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let events = machine.spawn(["events"]);
    events.notes("waiting for events");
    let report = machine.provide("a", b"bytes");
    let cid = report["cid"].as_str().expect("a CID");
    assert_eq!(events.says("stored"), format!("stored {cid}, 5 B"));
    machine.run(["rm", "a"]).ok();
    assert_eq!(events.says("removed"), format!("removed {cid}"));
    assert_eq!(events.end_by(Signal::INT).0, Some(130));

    let mut events = machine.spawn(["events", "--json"]);
    // It prints nothing before the first event.
    let line = (0..200).find_map(|n: u32| {
        machine.provide("b", &n.to_be_bytes());
        events.try_line()
    });
    let event: Value = serde_json::from_str(&line.expect("an event")).expect("JSON");
    assert_eq!(event["type"], "stored");
    assert_eq!(node.stop().0, Some(0));
    assert_eq!(events.wait(), Some(0));
}

#[test]
fn config_show_names_the_source_of_each_setting() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    std::fs::write(machine.data().join("config.toml"), "[cache]\nsize = \"2 GiB\"\n").expect("written");
    let shown = |args: &[&str]| {
        let mut command = machine.command();
        command.env("STORGO_GC_GRACE", "10m").args(["config", "show", "--json"]).args(args);
        Done::of(command).ok().json()
    };
    let all = shown(&["--timeout", "7s", "--profile", "prod"]);
    for (key, value, origin) in [
        ("cache.size", "2 GiB", machine.data().join("config.toml").display().to_string()),
        ("gc.grace", "10m", "$STORGO_GC_GRACE".into()),
        ("timeout", "7s", "--timeout".into()),
        ("log.format", "json", "profile prod".into()),
        ("storage.layout", "sharded", "built-in".into()),
    ] {
        assert_eq!(all[key]["value"][0], value, "{key}");
        assert_eq!(all[key]["origin"], origin, "{key}");
    }
    assert!(machine.run(["config", "show", "--origin"]).ok().text().contains("built-in"));
    let path = machine.data().join("config.toml");
    assert_eq!(machine.run(["config", "path"]).ok().one_line(), path.display().to_string());
    assert!(machine.run(["config", "check"]).ok().one_line().starts_with("all settings are valid"));
    std::fs::write(&path, "[cache]\nsise = 1\n").expect("written");
    machine.run(["config", "check"]).fails(2, &["config.toml", "did you mean \"cache.size\""]);
    let done = machine.run(["config", "show"]).fails(2, &["did you mean", "storage.capacity, cache.size"]);
    assert!(!done.stderr.contains("config show"), "{}", done.stderr);
    let probe = machine.data().join(".doctor-0123abcd");
    std::fs::write(&probe, b"x").expect("written");
    let found = machine.run(["doctor"]).ends(1);
    assert!(!probe.exists(), "the leftover of a killed check is removed");
    assert!(found.text().contains("did you mean \"cache.size\""), "{}", found.text());
    assert!(found.text().contains("ok    data"), "the other checks run too: {}", found.text());
    std::fs::write(&path, "cache = [").expect("written");
    machine.run(["ls"]).fails(2, &["config.toml"]);
    machine.run(["--config", "/nowhere.toml", "ls"]).fails(2, &["/nowhere.toml"]);
    std::fs::remove_file(&path).expect("removed");
    machine.run(["--profile", "production", "ls"]).fails(2, &["the profiles are dev, staging, prod"]);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

#[test]
fn the_port_variable_sets_the_http_port() {
    let machine = Machine::new();
    let port = free_port();
    let mut command = machine.command();
    command.env("PORT", port.to_string()).args(["--json", "run", "--listen", ALONE[1]]);
    let node = Running::new(command);
    let status: Value = serde_json::from_str(&node.line()).expect("a status");
    assert_eq!(status["http"], format!("127.0.0.1:{port}"));
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("served");
    socket.write_all(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("asked");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("ok\n"), "{answer}");

    let mut command = machine.command();
    command.env("PORT", "many").args(["run"]);
    Done::of(command).fails(2, &["$PORT"]);
}

#[test]
fn keys_are_moved_by_backup_and_restore_and_never_replaced() {
    let (old, new) = (Machine::new(), Machine::new());
    let id = old.run(["init", "--cluster"]).ok().one_line();
    assert_eq!(old.run(["id"]).ok().one_line(), id);
    old.run(["init", "--cluster"]).fails(2, &["in a cluster already", "invite"]);
    assert!(old.run(["key", "backup", "keys.json"]).ok().stderr.contains("keep keys.json secret"));
    let mode = old.home().join("keys.json").metadata().expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let keys = old.read("keys.json");
    old.run(["key", "backup", "keys.json"]).fails(2, &["keys.json already exists", "not replaced"]);
    assert_eq!(old.read("keys.json"), keys);
    assert!(old.run(["--json", "key", "backup", "more.json"]).ok().json()["file"].is_string());
    // Through pipes.
    let piped = old.run(["key", "backup", "-"]).ok();
    assert!(piped.stdout == keys && !old.home().join("-").exists());
    assert_eq!(old.run(["key", "backup", "-", "--json"]).ok().stdout, keys);
    let refused = new.run_with(["key", "restore", "-"], b"nonsense");
    refused.fails(2, &["standard input is not a storgo backup", "key backup"]);

    new.file("keys.json", &keys);
    new.file("half.json", &keys[..keys.len() / 2]);
    new.run(["key", "restore", "half.json"]).fails(2, &["is not a storgo backup"]);
    new.run(["key", "restore", "nothing.json"]).fails(4, &["nothing.json"]);
    let restored = new.run(["--json", "key", "restore", "keys.json"]).ok().json();
    assert_eq!((&restored["peer"], &restored["cluster"]), (&id.clone().into(), &true.into()));
    assert_eq!(new.run(["id"]).ok().one_line(), id);
    new.run(["key", "restore", "keys.json"]).ok();
    assert_eq!(new.run(["id"]).ok().one_line(), id);
    let other = Machine::new();
    other.run(["init"]).ok();
    new.file("other.json", &other.run(["key", "backup", "-"]).ok().stdout);
    new.run(["key", "restore", "other.json"]).fails(2, &["contains other keys already"]);
    assert_eq!(new.run(["id"]).ok().one_line(), id);
    // The same secrets give the same file the same CID.
    let cid = |machine: &Machine| {
        let done = machine.run_with(["provide", "-", "--no-serve", "--json"], b"the same bytes");
        done.ok().json()["cid"].clone()
    };
    assert_eq!(cid(&old), cid(&new));
    let version = new.data().join("identity.key");
    std::fs::write(&version, b"junk").expect("written");
    new.run(["id"]).fails(1, &["identity.key is damaged", "key restore"]);
}

#[test]
fn get_takes_the_newest_of_several_files_with_one_name_and_rm_refuses() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let all = [&b"first"[..], b"second", b"third"].map(|bytes| machine.provide("notes", bytes));
    let cid = |n: usize| all[n]["cid"].as_str().expect("a CID").to_owned();
    machine.provide("notes too", b"another name");

    let listed = machine.run(["ls", "notes"]).ok().text();
    let dates = listed.lines().filter(|line| line.contains("Z  notes")).count();
    assert!(listed.contains("STORED") && dates == 4, "{listed}");
    // Commands that change nothing take the newest and say so.
    let done = machine.run(["get", "notes", "-o", "-"]).ok();
    assert_eq!(done.stdout, b"third");
    assert!(done.stderr.contains("2 older files have this name"), "{}", done.stderr);
    let done = machine.run(["info", "notes"]).ok();
    assert!(done.text().contains(&cid(2)) && done.stderr.contains("2 older files"), "{}", done.stderr);
    assert!(machine.run(["info", &cid(0)]).ok().stderr.is_empty());

    let done = machine.run(["rm", "notes"]).ends(2);
    assert!((0..3).all(|n| done.stderr.contains(&format!("{} of 20", cid(n)))), "{}", done.stderr);
    assert!(done.stderr.contains("by its CID"), "{}", done.stderr);
    assert_eq!(machine.run(["ls", "notes", "--json"]).ok().json().as_array().map(Vec::len), Some(4));
    machine.run(["rm", &cid(0), &cid(2)]).ok();
    machine.run(["rm", "notes"]).ok();
    assert!(machine.run(["get", "notes too", "-o", "-"]).ok().stderr.lines().count() == 1);
}

#[test]
fn run_reports_a_taken_port_and_how_to_invite() {
    // If this fails, another program has the port, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let machine = Machine::new();
    machine.run(["init", "--cluster"]).ok();
    let node = machine.spawn(["run", "--listen", ALONE[1]]);
    let port = node.notes("8080");
    assert!(port.starts_with("port 8080 is taken, the API is at 127.0.0.1:"), "{port}");
    node.notes("bring another machine into the cluster");
    let invite = node.notes("invite");
    assert_eq!(invite.trim(), format!("storgo-node --data-dir {} invite", machine.data().display()));
}

#[test]
fn a_bootstrap_address_that_does_not_answer_is_named() {
    let nowhere = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let cid = "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi";
    for verb in [&["run", "--http", "127.0.0.1:0", "--listen", ALONE[1]][..], &["get", cid]] {
        let machine = Machine::new();
        let running = machine.spawn(verb.iter().copied().chain(["--bootstrap", &nowhere]));
        let word = running.notes(&nowhere);
        assert!(word.contains("WARN") && word.contains("cannot be reached"), "{word}");
        assert!(word.to_lowercase().contains("refused"), "{word}");
    }
}

#[test]
fn the_permissions_of_a_fetched_folder_stay_within_the_umask() {
    let machine = Machine::new();
    let path = |name: &str| machine.home().join(name);
    let modes = |top: &str| {
        let mode = |name: &str| path(top).join(name).metadata().expect("there").permissions().mode() & 0o777;
        ["", "inner", "inner/deeper", "inner/run", "inner/deeper/f"].map(mode)
    };
    std::fs::create_dir_all(path("top/inner/deeper")).expect("made");
    for name in ["top/inner/run", "top/inner/deeper/f"] {
        std::fs::write(path(name), b"x").expect("written");
    }
    for name in ["top", "top/inner", "top/inner/deeper", "top/inner/run"] {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o777)).expect("set");
    }
    machine.run(["provide", "top", "--no-serve"]).ok();
    let of = machine.command();
    let mut command = std::process::Command::new("sh");
    let script = format!("umask 027; exec {} get top -o back", env!("CARGO_BIN_EXE_storgo-node"));
    command.arg("-c").arg(script).current_dir(machine.home()).env_clear().stdin(Stdio::null());
    command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Done::of(command).ok();
    assert_eq!(modes("back"), [0o750, 0o750, 0o750, 0o750, 0o640].map(|mode| mode & modes("top")[0]));
}

#[test]
fn sighup_does_not_end_a_node() {
    let machine = Machine::new();
    let start = |hangup: &str| {
        let of = machine.command();
        let mut command = std::process::Command::new("env");
        command.args([hangup, env!("CARGO_BIN_EXE_storgo-node"), "--json"]).args(ALONE);
        command.current_dir(machine.home()).env_clear().stdin(Stdio::null());
        command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Live::of(command)
    };
    // The tests themselves may run with SIGHUP ignored. `nohup` starts a node in that way.
    for hangup in ["--default-signal=HUP", "--ignore-signal=HUP"] {
        let node = start(hangup);
        for _ in 0..3 {
            node.running.signal(Signal::HUP);
        }
        assert_eq!(machine.status()["peer"], node.status["peer"]);
        assert_eq!(node.stop().0, Some(0));
    }
}

#[test]
fn a_link_may_be_in_capitals_and_a_truncated_cid_is_not_taken_for_a_name() {
    let machine = Machine::new();
    let _node = machine.start::<&str>([]);
    let report = machine.provide("file", b"bytes");
    let link = report["link"].as_str().expect("a link").replacen("storgo", "STORGO", 1);
    assert_eq!(machine.run(["get", &link, "-o", "-"]).ok().stdout, b"bytes");
    let cid = report["cid"].as_str().expect("a CID");
    machine.run(["get", &cid[..cid.len() - 1], "-o", "-"]).fails(4, &["mistyped or cut off"]);
}
