//! Settings that cannot work are refused before anything starts, by `config check` and `run` alike.

use std::net::TcpListener;

use super::binary::{ALONE, Machine};

/// A setting, a value that it cannot have, and what is said of it.
const WRONG: [(&str, &str, &str); 27] = [
    ("log.level", "loud", "levels are"),
    ("log.level", "info,storgo=loud", "levels are"),
    ("log.format", "xml", "text or json"),
    ("timeout", "0s", "a millisecond"),
    ("timeout", "9999999999y", "timeout"),
    ("timeout", "200y", "100 years"),
    ("uploads.keep", "0s", "a millisecond"),
    ("gc.grace", "soon", "gc.grace"),
    ("max.connections", "0", "more than 0"),
    ("http.connections", "0", "more than 0"),
    ("storage.capacity", "0", "1.00 MiB at least"),
    ("storage.capacity", "10", "1.00 MiB at least"),
    ("upload.limit", "0", "1.00 KiB at least"),
    ("chunker", "fixed:0", "chunker"),
    ("http", "0.0.0.0:0", "without TLS"),
    ("http", "192.0.2.1:0", "without TLS"),
    ("http", "nowhere", "127.0.0.1:8080"),
    ("tls.cert", "/nowhere.pem", "tls.key belongs to it"),
    ("listen", "/ip4/192.0.2.1/tcp/3000", "this machine has no such address"),
    ("listen", "/ip4/192.0.2.1/udp/3000/quic-v1", "this machine has no such address"),
    ("listen", "/ip4/127.0.0.1/tcp/0/ws", "ws is not spoken here"),
    ("listen", "/ip4/127.0.0.1/udp/0", "neither a tcp nor a quic-v1 port"),
    ("listen", "/dns4/localhost/tcp/0", "a node listens at an IP address"),
    ("bootstrap", "/ip4/192.0.2.1/tcp/0", "port 0"),
    ("bootstrap", "/tcp/3000", "neither a tcp nor a quic-v1 port"),
    ("external", "/ip4/0.0.0.0/tcp/3000", "none that can be reached"),
    ("http.hosts", "a b", "no host name"),
];

#[test]
fn what_cannot_work_is_refused_by_the_check_as_by_a_start() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let file = machine.data().join("config.toml");
    let name = file.display().to_string();
    for (key, value, word) in WRONG {
        std::fs::write(&file, format!("{key} = {value:?}\n")).expect("written");
        let checked = machine.run(["config", "check"]).fails(2, &[&name, key, value, word]);
        // `ALONE` would hide some of them behind flags.
        let started = machine.run(["run"]).fails(2, &[&name, key, value, word]);
        assert_eq!(checked.stderr, started.stderr, "{key}");
        let found = machine.run(["doctor"]).ends(1).text();
        assert!(found.contains(key) && found.contains(word), "{found}");
    }
    // The same by a flag and by a variable, each named.
    std::fs::remove_file(&file).expect("removed");
    machine.run(["config", "check", "--timeout", "0"]).fails(2, &["--timeout", "timeout = \"0\""]);
    let mut command = machine.command();
    command.args(["config", "check"]).env("STORGO_MAX_CONNECTIONS", "0");
    super::binary::Done::of(command).fails(2, &["$STORGO_MAX_CONNECTIONS", "max.connections = \"0\""]);
}

#[test]
fn what_works_is_checked_in_silence() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    // Whoever has a port now may have gone when the node starts.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let text = format!(
        "listen = [\"/ip4/127.0.0.1/tcp/{port}\", \"/ip4/0.0.0.0/udp/0/quic-v1\"]\nhttp = \"127.0.0.1:{port}\"\n\
         bootstrap = [\"/dns4/box.example.org/tcp/3000\", \"/dnsaddr/example.org\", \"/ip4/192.0.2.1/udp/1/quic-v1\"]\n\
         [log]\nlevel = \"warn,storgo=debug\"\n[storage]\ncapacity = \"1 MiB\"\n[gc]\ngrace = \"0s\"\n[scrub]\nrate = 0\n"
    );
    std::fs::write(machine.data().join("config.toml"), text).expect("written");
    let done = machine.run(["config", "check"]).ok();
    assert!(done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    assert_eq!(machine.run(["config", "check", "--json"]).ok().json(), serde_json::json!({ "valid": true }));
    // What a comma parts is a list only where there can be several.
    let shown = machine.run(["config", "show", "--json", "--profile", "staging"]).ok().json();
    assert_eq!(shown["log.level"]["value"], serde_json::json!(["warn,storgo=debug"]));
    assert_eq!(shown["listen"]["value"].as_array().map(Vec::len), Some(2));
    // With TLS others may come; a variable without a value is none.
    let mut command = machine.command();
    command.args(["config", "check", "--http", "0.0.0.0:0", "--tls-self-signed"]).env("STORGO_TIMEOUT", "");
    super::binary::Done::of(command).ok();
}

#[test]
fn a_mistake_in_a_file_has_its_own_hint() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let file = machine.data().join("config.toml");
    for (text, words) in [
        ("[foo]\na = 1\n", &["there is no group of settings [foo]", "the settings are"][..]),
        ("[stroage]\ncapacity = \"1 GiB\"\n", &["[stroage]", "did you mean \"storage.capacity\""]),
        ("[foo]\n", &["there is no group of settings [foo]"]),
        ("[cache]\nsise = 1\n", &["did you mean \"cache.size\""]),
        ("timeout = [\"1s\", \"2s\"]\n", &["timeout takes one value, and 2 are given"]),
        ("http = []\n", &["http takes one value, and 0 are given"]),
    ] {
        std::fs::write(&file, text).expect("written");
        machine.run(["config", "check"]).fails(2, words);
    }
    std::fs::remove_file(&file).expect("removed");
    machine.run(["--config", "nothing.toml", "ls"]).fails(2, &["nothing.toml", "name a file that is there"]);
    let mut command = machine.command();
    command.args(["ls"]).env("STORGO_CLUSTER_KEY_FILE", "/nowhere");
    super::binary::Done::of(command).fails(2, &["/nowhere", "$STORGO_CLUSTER_KEY_FILE"]);
}

#[test]
fn a_key_that_cannot_be_used_is_called_what_it_is() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    for (bytes, word) in [(&b""[..], "it is empty"), (b"junk", "no Ed25519 key")] {
        std::fs::write(machine.data().join("identity.key"), bytes).expect("written");
        for verb in [&["id"][..], &["run", ALONE[0], ALONE[1], ALONE[2], ALONE[3]]] {
            let done = machine.run(verb).fails(1, &["identity.key is damaged", word, "key restore"]);
            assert!(!done.stderr.contains("cargo"), "{}", done.stderr);
        }
    }
    let other = Machine::new();
    other.run(["init", "--cluster"]).ok();
    std::fs::write(other.data().join("cluster.key"), "half").expect("written");
    other.run(["id"]).fails(2, &["cluster.key is damaged", "invite"]);
}

#[test]
fn an_address_that_others_have_is_told_from_one_that_is_not_here() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address");
    let machine = Machine::new();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", addr.port());
    machine.run(["run", "--listen", &listen]).fails(1, &["in use", "another program has this port"]);
    machine
        .run(["run", "--listen", ALONE[1], "--http", &addr.to_string()])
        .fails(1, &["cannot serve", "--http"]);
    let cid = "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi";
    let done =
        machine.run(["get", cid, "--listen", "/ip4/192.0.2.1/tcp/3000"]).fails(1, &["its machine has"]);
    assert!(!done.stderr.contains("another program"), "{}", done.stderr);
}

#[test]
fn the_settings_that_are_shown_are_those_of_the_node_that_runs() {
    let machine = Machine::new();
    let node = machine.start(["--upload-limit", "3 MiB"]);
    let shown = |args: &[&str]| machine.run(["config", "show"].iter().chain(args)).ok();
    let (running, next) = (shown(&["--json"]), shown(&["--json", "--next"]).json());
    let running = running.json();
    assert_eq!(
        running["upload.limit"],
        serde_json::json!({ "value": ["3 MiB"], "origin": "--upload-limit" })
    );
    assert_eq!(running["listen"]["value"], serde_json::json!([ALONE[1]]));
    assert_eq!(next["upload.limit"]["origin"], "built-in");
    let keys =
        |shown: &serde_json::Value| shown.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&running), keys(&next));
    for (key, value) in next.as_object().expect("an object") {
        if running[key]["origin"] == value["origin"] {
            assert_eq!(&running[key], value, "{key}");
        }
    }
    let done = shown(&["--origin"]);
    assert!(done.stderr.contains("the node that runs here") && done.text().contains("3 MiB"), "{done:?}");
    assert!(!shown(&["--next"]).stderr.contains("runs here"));
    drop(node);
    assert!(shown(&[]).stderr.is_empty());
}
