//! The advice of commands works: hints fit what failed, and the commands in them can be pasted into a shell.

use std::process::Command;

use super::binary::{ALONE, Done, Machine};

/// The first command in backquotes, as `bash` runs it.
fn pasted(text: &str) -> Done {
    let start = text.find("storgo-node --data-dir").unwrap_or_else(|| panic!("no command in {text}"));
    let line = text[start..].split(['`', '\n']).next().expect("a command");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_storgo-node"));
    let path = format!("{}:/usr/bin:/bin", binary.parent().expect("a folder").display());
    let mut command = Command::new("bash");
    command.env_clear().env("PATH", path).env("STORGO_MDNS", "false").args(["-c", line]);
    Done::of(command)
}

/// A command with variables and without those of the tests.
fn with_variables(machine: &Machine, args: &[&str], variables: &[(&str, &str)]) -> Done {
    let mut command = machine.command();
    command.args(args).envs(variables.iter().copied());
    Done::of(command)
}

#[test]
fn variables_of_a_kubernetes_service_stop_no_command() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let variables = [
        ("STORGO_SERVICE_HOST", "10.96.0.7"),
        ("STORGO_SERVICE_PORT", "3000"),
        ("STORGO_SERVICE_PORT_API", "8080"),
        ("STORGO_PORT", "tcp://10.96.0.7:3000"),
        ("STORGO_PORT_3000_TCP", "tcp://10.96.0.7:3000"),
        ("STORGO_PORT_3000_TCP_PORT", "3000"),
        ("STORGO_PORT_3000_TCP_ADDR", "10.96.0.7"),
        ("PORT", ""),
        ("STORGO_CONFIG", ""),
        ("STORGO_PROFILE", ""),
    ];
    for args in [&["ls"][..], &["config", "check"], &["id"], &["doctor"]] {
        with_variables(&machine, args, &variables).ok();
    }
    // The data directory is then the default one.
    let empty = with_variables(&machine, &["ls"], &[("STORGO_DATA_DIR", "")]);
    empty.fails(5, &[".local/share/storgo"]);
    machine.run(["--data-dir", "", "ls"]).fails(2, &["--data-dir is empty"]);
    with_variables(&machine, &["ls"], &[("STORGO_CACHE_SISE", "1")]).fails(2, &["did you mean"]);
}

#[test]
fn a_folder_with_other_files_does_not_become_a_data_directory() {
    let machine = Machine::new();
    let photos = machine.home().join("photos");
    std::fs::create_dir(&photos).expect("created");
    std::fs::write(photos.join("cat.jpg"), b"meow").expect("written");
    let dir = photos.to_str().expect("a path");
    for command in [&["init"][..], &["run"], &["ls"], &["provide", "photos/cat.jpg"]] {
        let done = machine.run([&["--data-dir", dir][..], command].concat());
        done.fails(2, &["is no data directory: it contains cat.jpg", &format!("{dir}/storgo")]);
    }
    assert_eq!(std::fs::read_dir(&photos).expect("listed").count(), 1);
    machine.run(["--data-dir", &format!("{dir}/storgo"), "init"]).ok();
    // A settings file that was written first, and what file systems and desktops leave, are no files of others.
    let empty = machine.home().join("empty");
    std::fs::create_dir_all(empty.join("lost+found")).expect("created");
    std::fs::write(empty.join("config.toml"), b"mdns = false\n").expect("written");
    machine.run(["--data-dir", empty.to_str().expect("a path"), "init"]).ok();
    machine.run(["--data-dir", empty.to_str().expect("a path"), "init"]).ok();
}

#[test]
fn init_and_join_keep_the_options_that_they_are_given() {
    let (founder, member) = (Machine::new(), Machine::new());
    founder.run(["init", "--cluster", "--region", "attic", "--capacity", "1 GiB"]).ok();
    let settings = |machine: &Machine| machine.run(["config", "show", "--json", "--next"]).ok().json();
    let kept = settings(&founder);
    assert_eq!(kept["region"]["value"], serde_json::json!(["attic"]));
    assert_eq!(kept["storage.capacity"]["value"], serde_json::json!(["1 GiB"]));
    let node = founder.start::<&str>([]);
    let invite = founder.run(["invite"]).ok().one_line();
    // `http` is a setting and the name of a group.
    let http = ["--http", "127.0.0.1:0", "--http-host", "box.example.org"];
    let args = ["join", &invite, ALONE[0], ALONE[1], "--region", "cellar"];
    let done = member.run(args.iter().chain(&http)).ok();
    assert!(done.stderr.contains("--listen") && done.stderr.contains("config.toml"), "{}", done.stderr);
    let kept = settings(&member);
    for (key, value) in [
        ("listen", ALONE[1]),
        ("http", "127.0.0.1:0"),
        ("http.hosts", "box.example.org"),
        ("region", "cellar"),
    ] {
        assert_eq!(kept[key]["value"], serde_json::json!([value]), "{key}");
        assert!(kept[key]["origin"].as_str().is_some_and(|origin| origin.ends_with("config.toml")), "{key}");
    }
    assert!(!kept["bootstrap"]["value"].as_array().expect("a list").is_empty());
    // Without the flags, the node starts as it was told when it joined.
    let joined = member.start_on(&[], [] as [&str; 0]);
    assert!(joined.addr().contains("127.0.0.1"), "{}", joined.addr());
    drop(node);
    let ignored = member.run(["id", "--region", "x"]).ok();
    assert!(ignored.stderr.contains("ignored --region"), "{}", ignored.stderr);
}

#[test]
fn the_key_of_a_cluster_is_shown_as_set() {
    let machine = Machine::new();
    machine.run(["init", "--cluster"]).ok();
    let key = || machine.run(["config", "show", "--json"]).ok().json()["cluster.key"].clone();
    let file = machine.data().join("cluster.key").display().to_string();
    let expected = serde_json::json!({ "value": ["(set)"], "origin": file });
    assert_eq!(key(), expected);
    let node = machine.start::<&str>([]);
    assert_eq!(key(), expected);
    drop(node);
    let alone = Machine::new();
    alone.run(["init"]).ok();
    let shown = alone.run(["config", "show"]).ok().text();
    let line = shown.lines().find(|line| line.starts_with("cluster.key")).expect("listed");
    assert!(line.contains("not set"), "{line}");
}

#[test]
fn printed_commands_can_be_pasted() {
    let machine = Machine::new();
    let dir = machine.home().join("it's my data");
    let dir = dir.to_str().expect("UTF-8");
    let run = |args: &[&str]| {
        let mut command = machine.command();
        command.env_remove("STORGO_DATA_DIR").args(["--data-dir", dir]).args(args);
        Done::of(command)
    };
    let said = run(&["status"]).fails(5, &["no node in"]);
    let id = pasted(&said.stderr).ok().one_line();
    assert_eq!(run(&["id"]).ok().one_line(), id);
    let stored = machine.file("file", b"bytes");
    run(&["provide", "--no-serve", stored.to_str().expect("UTF-8")]).ok();
    let hint = run(&["info", "nosuch"]).fails(4, &["ls"]);
    assert!(pasted(&hint.stderr).ok().text().contains("file"), "{}", hint.stderr);
    let json = run(&["--json", "info", "nosuch"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert!(pasted(error["error"]["hint"].as_str().expect("a hint")).ok().text().contains("file"));
    // A directory that the environment names needs no option in the same shell.
    machine.run(["init"]).ok();
    let named = machine.run(["info", "nosuch"]).fails(4, &["`storgo-node ls`"]);
    assert!(!named.stderr.contains("--data-dir"), "{}", named.stderr);
}

#[test]
fn each_failed_connection_has_its_own_hint() {
    let (machine, other) = (Machine::new(), Machine::new());
    let node = machine.start::<&str>([]);
    let elsewhere = other.start::<&str>([]);
    let addr = elsewhere.addr();
    let (base, _) = addr.split_once("/p2p/").expect("a peer id");
    let own = node.addr();
    let (own_base, own_id) = own.split_once("/p2p/").expect("a peer id");
    let closed = "/ip4/127.0.0.1/tcp/1";
    let wrong = format!("{base}/p2p/{own_id}x");
    let other_peer = format!("{base}/p2p/12D3KooWKR2xmtQZYMZtLPNLFWtvdaLdgifTMVX5jhKcu1DJguiJ");
    for (addr, code, words) in [
        ("nonsense", 2, &["begins with /", "`status` on the other node"][..]),
        (&wrong, 2, &["/p2p/", "wrong or incomplete"]),
        ("/ip4/127.0.0.1/tcp/0", 2, &["port 0", "`status` on the other node"]),
        (closed, 5, &["refused", "start the other node, or correct the port"]),
        (own_base, 5, &["this node itself", "name another node"]),
        (&other_peer, 5, &["another peer", "leave out /p2p/"]),
        ("/dns4/nosuch.invalid/tcp/1", 5, &["nosuch.invalid", "spelling of the host name"]),
    ] {
        machine.run(["peers", "--add", addr]).fails(code, words);
    }
    machine.run(["peers", "--add", &addr]).ok();
}

#[test]
fn hints_name_a_way_out_that_works() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    machine.run(["key", "restore", "nosuch.key"]).fails(4, &["nosuch.key", "check the path"]);
    machine.run(["--profile", "foo", "ls"]).fails(2, &["foo", "the profiles are dev, staging, prod"]);
    machine.run(["--mdns", "maybe", "ls"]).fails(2, &["expected true or false"]);
    machine.run(["--timeout", "soon", "ls"]).fails(2, &["1h 30m"]);
    machine.run(["--bootstrap", "/ip4/192.0.2.1/tcp/1/p2p/x", "ls"]).fails(2, &["/p2p/x is wrong"]);
    let file = machine.data().join("config.toml");
    std::fs::write(&file, "http = \"127.0.0.1:0\"\n[http]\nhosts = [\"x\"]\n").expect("written");
    machine.run(["ls"]).fails(2, &["http has a value, and there is a group [http] too", "\"http.hosts\""]);
    std::fs::write(&file, "http = \"127.0.0.1:0\"\n\"http.hosts\" = [\"x\"]\n").expect("written");
    let checked = machine.run(["config", "check"]).ok().one_line();
    assert!(checked.contains("all settings are valid") && checked.contains("config.toml"), "{checked}");
    // The remedy for a damaged identity, step by step.
    machine.run(["key", "backup", "keys"]).ok();
    let id = machine.run(["id"]).ok().one_line();
    let identity = machine.data().join("identity.key");
    std::fs::write(&identity, "junk").expect("written");
    machine.run(["id"]).fails(1, &["key restore FILE"]);
    assert_eq!(machine.run(["key", "restore", "keys"]).ok().one_line(), id);
}
