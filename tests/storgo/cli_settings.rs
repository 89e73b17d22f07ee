//! Invalid settings are refused before anything starts, by `config check` and by `run`.

use std::net::TcpListener;

use super::binary::{ALONE, Machine};

/// A setting, an invalid value, and a part of the error.
const WRONG: [(&str, &str, &str); 27] = [
    ("log.level", "loud", "levels are"),
    ("log.level", "info,storgo=loud", "levels are"),
    ("log.format", "xml", "text or json"),
    ("timeout", "0s", "at least 1 ms"),
    ("timeout", "9999999999y", "timeout"),
    ("timeout", "200y", "100 years"),
    ("uploads.keep", "0s", "at least 1 ms"),
    ("gc.grace", "soon", "gc.grace"),
    ("max.connections", "0", "more than 0"),
    ("http.connections", "0", "more than 0"),
    ("storage.capacity", "0", "at least 1.00 MiB"),
    ("storage.capacity", "10", "at least 1.00 MiB"),
    ("upload.limit", "0", "at least 1.00 KiB"),
    ("chunker", "fixed:0", "chunker"),
    ("http", "0.0.0.0:0", "without TLS"),
    ("http", "192.0.2.1:0", "without TLS"),
    ("http", "nowhere", "127.0.0.1:8080"),
    ("tls.cert", "/nowhere.pem", "tls.key is not set"),
    ("listen", "/ip4/192.0.2.1/tcp/3000", "this machine has no such address"),
    ("listen", "/ip4/192.0.2.1/udp/3000/quic-v1", "this machine has no such address"),
    ("listen", "/ip4/127.0.0.1/tcp/0/ws", "ws is not supported"),
    ("listen", "/ip4/127.0.0.1/udp/0", "no tcp or quic-v1 port"),
    ("listen", "/dns4/localhost/tcp/0", "listens on IP addresses"),
    ("bootstrap", "/ip4/192.0.2.1/tcp/0", "port 0"),
    ("bootstrap", "/tcp/3000", "no tcp or quic-v1 port"),
    ("external", "/ip4/0.0.0.0/tcp/3000", "cannot be dialled"),
    ("http.hosts", "a b", "not a host name"),
];

#[test]
fn config_check_and_run_refuse_the_same_settings() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let file = machine.data().join("config.toml");
    let name = file.display().to_string();
    for (key, value, word) in WRONG {
        std::fs::write(&file, format!("{key} = {value:?}\n")).expect("written");
        let checked = machine.run(["config", "check"]).fails(2, &[&name, key, value, word]);
        // Without `ALONE`, whose flags would override some of these settings.
        let started = machine.run(["run"]).fails(2, &[&name, key, value, word]);
        assert_eq!(checked.stderr, started.stderr, "{key}");
        let found = machine.run(["doctor"]).ends(1).text();
        assert!(found.contains(key) && found.contains(word), "{found}");
    }
    // All mistakes at once.
    std::fs::write(&file, "typo = 1\nlisten = \"/ip4/192.0.2.1/tcp/3000\"\n[gc]\ngrace = \"soon\"\n")
        .expect("written");
    let words = ["3 mistakes", "unknown setting \"typo\"", "gc.grace = \"soon\"", "no such address"];
    machine.run(["config", "check"]).fails(2, &words);
    machine.run(["ls"]).fails(2, &["gc.grace", "config check` lists this and 1 more"]);
    assert!(machine.run(["doctor"]).ends(1).text().contains("soon"));
    // From a flag and from a variable.
    std::fs::remove_file(&file).expect("removed");
    machine.run(["config", "check", "--timeout", "0"]).fails(2, &["--timeout", "timeout = \"0\""]);
    let mut command = machine.command();
    command.args(["config", "check"]).env("STORGO_MAX_CONNECTIONS", "0");
    super::binary::Done::of(command).fails(2, &["$STORGO_MAX_CONNECTIONS", "max.connections = \"0\""]);
}

#[test]
fn config_check_says_which_file_it_read() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    // A port in use may be free when the node starts.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let text = format!(
        "listen = [\"/ip4/127.0.0.1/tcp/{port}\", \"/ip4/0.0.0.0/udp/0/quic-v1\"]\nhttp = \"127.0.0.1:{port}\"\n\
         bootstrap = [\"/dns4/box.example.org/tcp/3000\", \"/dnsaddr/example.org\", \"/ip4/192.0.2.1/udp/1/quic-v1\"]\n\
         [log]\nlevel = \"warn,storgo=debug\"\n[storage]\ncapacity = \"1 MiB\"\n[gc]\ngrace = \"0s\"\n[scrub]\nrate = 0\n"
    );
    std::fs::write(machine.data().join("config.toml"), text).expect("written");
    let done = machine.run(["config", "check"]).ok();
    let file = machine.data().join("config.toml").display().to_string();
    assert_eq!(done.one_line(), format!("all settings are valid (read {file})"));
    assert!(done.stderr.is_empty(), "{done:?}");
    assert_eq!(machine.run(["config", "check", "--json"]).ok().json(), serde_json::json!({ "valid": true }));
    // Commas separate values only in settings that take several.
    let shown = machine.run(["config", "show", "--json", "--profile", "staging"]).ok().json();
    assert_eq!(shown["log.level"]["value"], serde_json::json!(["warn,storgo=debug"]));
    assert_eq!(shown["listen"]["value"].as_array().map(Vec::len), Some(2));
    // Other machines may connect with TLS. An empty variable counts as not set.
    let mut command = machine.command();
    command.args(["config", "check", "--http", "0.0.0.0:0", "--tls-self-signed"]).env("STORGO_TIMEOUT", "");
    super::binary::Done::of(command).ok();
}

#[test]
fn errors_in_a_settings_file_have_their_own_hints() {
    let machine = Machine::new();
    machine.run(["init"]).ok();
    let file = machine.data().join("config.toml");
    for (text, words) in [
        ("[foo]\na = 1\n", &["unknown group of settings [foo]", "the settings are"][..]),
        ("[stroage]\ncapacity = \"1 GiB\"\n", &["[stroage]", "did you mean \"storage.capacity\""]),
        ("[foo]\n", &["unknown group of settings [foo]"]),
        ("[cache]\nsise = 1\n", &["did you mean \"cache.size\""]),
        ("timeout = [\"1s\", \"2s\"]\n", &["timeout takes one value, got 2"]),
        ("http = []\n", &["http takes one value, got 0"]),
    ] {
        std::fs::write(&file, text).expect("written");
        machine.run(["config", "check"]).fails(2, words);
    }
    std::fs::remove_file(&file).expect("removed");
    machine.run(["--config", "nothing.toml", "ls"]).fails(2, &["nothing.toml", "name a file that exists"]);
    let mut command = machine.command();
    command.args(["ls"]).env("STORGO_CLUSTER_KEY_FILE", "/nowhere");
    super::binary::Done::of(command).fails(2, &["/nowhere", "$STORGO_CLUSTER_KEY_FILE"]);
}

#[test]
fn a_damaged_key_file_is_named_with_its_remedy() {
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
fn an_address_in_use_is_told_from_one_that_this_machine_lacks() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address");
    let machine = Machine::new();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", addr.port());
    let words = [listen.as_str(), "in use", "another program uses this port", "--listen"];
    machine.run(["run", "--listen", &listen]).fails(1, &words);
    machine
        .run(["run", "--listen", ALONE[1], "--http", &addr.to_string()])
        .fails(1, &["cannot serve", &addr.to_string(), "--http"]);
    let cid = "bafyrcfh5k23alp4qlyr3ux4w7lulfao2d3zbibi";
    let done =
        machine.run(["get", cid, "--listen", "/ip4/192.0.2.1/tcp/3000"]).fails(1, &["this machine has"]);
    assert!(!done.stderr.contains("another program"), "{}", done.stderr);
}

#[test]
fn config_show_shows_the_settings_of_the_running_node() {
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
    assert!(
        done.stderr.contains("settings of the running node") && done.text().contains("3 MiB"),
        "{done:?}"
    );
    assert!(!shown(&["--next"]).stderr.contains("running node"));
    drop(node);
    assert!(shown(&[]).stderr.is_empty());
}
