//! Clusters: an invite brings in a machine; nodes without the key cannot connect.

use super::{
    binary::{Live, Machine},
    swarm::noise,
};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Starts a node that listens on one address only.
fn start(machine: &Machine, listen: &str, args: &[&str]) -> Live {
    machine.start_on(&["--listen", listen, "--http", "127.0.0.1:0"], args)
}

#[test]
fn an_invite_brings_in_a_machine_and_strangers_cannot_connect() {
    for listen in [TCP, QUIC] {
        let (first, second) = (Machine::new(), Machine::new());
        first.run(["invite"]).fails(2, &["in no cluster", "init --cluster"]);
        let made = first.run(["init", "--cluster", "--json"]).ok().json();
        assert_eq!(made["cluster"], true);
        let inside = start(&first, listen, &[]);
        let bytes = noise(1, 2 << 20);
        let report = first.provide("secret plans", &bytes);
        let link = report["link"].as_str().expect("a link");

        let invite = first.run(["invite"]).ok().one_line();
        assert!(invite.starts_with("storgo-invite:"), "{invite}");
        let joined = second.run(["join", &invite]).ok();
        assert_eq!(joined.one_line(), second.run(["id"]).ok().one_line());
        second.run(["join", &invite]).ok();
        let member = start(&second, listen, &[]);
        assert_eq!(member.status["cluster"], true);
        assert!(second.run(["get", link, "-o", "-"]).ok().stdout == bytes);
        second.run(["join", &invite]).fails(11, &["stop it"]);
        // In one cluster, the same bytes have the same CID.
        let other = noise(2, 2 << 20);
        let here = first.provide("other", &other);
        let there = second.provide("other", &other);
        assert_eq!(here["cid"], there["cid"]);

        // Neither a node without a cluster nor one of another cluster can connect.
        let (open, foreign) = (Machine::new(), Machine::new());
        foreign.run(["init", "--cluster"]).ok();
        foreign.run(["join", &invite]).fails(2, &["in another cluster"]);
        for stranger in [&open, &foreign] {
            let _node = start(stranger, listen, &["--bootstrap", &inside.addr()]);
            let done = stranger.run(["get", link, "-o", "stolen", "--timeout", "2s"]);
            assert!(matches!(done.code, Some(4 | 5 | 9)), "{done:?}");
            assert!(!stranger.home().join("stolen").exists());
            // On QUIC, the dialler counts as connected until the other side closes.
            if listen == TCP {
                stranger.run(["peers", "--add", &inside.addr()]).fails(5, &["a cluster whose key"]);
            }
            assert_eq!(stranger.status()["received_bytes"], 0);
            // The same bytes have other CIDs.
            let theirs = stranger.provide("other", &other);
            assert_ne!(theirs["cid"], here["cid"]);
            assert_eq!(theirs["new_blocks"], theirs["blocks"]);
        }
    }
}

#[test]
fn an_invalid_invite_changes_nothing() {
    let machine = Machine::new();
    let (first, other) = (Machine::new(), Machine::new());
    first.run(["init", "--cluster"]).ok();
    let line = first.run(["invite"]).ok();
    assert!(line.stderr.contains("contains no address"), "{}", line.stderr);
    let line = line.one_line();
    for bad in ["", "storgo-invite:", "hello", &line[..line.len() - 9], &line["storgo-invite:".len()..]] {
        machine.run(["join", bad]).fails(2, &["invite is invalid"]);
        assert!(!machine.data().exists());
    }
    // Existing settings stay.
    other.run(["init"]).ok();
    let path = other.data().join("config.toml");
    std::fs::write(&path, "# mine\nbootstrap = \"/ip4/192.0.2.1/tcp/3000\"\n").expect("written");
    other.run(["join", &format!(" {line}\n")]).ok();
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(text.contains("# mine") && text.contains("192.0.2.1"), "{text}");
    assert_eq!(other.run(["id", "--json"]).ok().json()["cluster"], true);
}

#[test]
fn join_adds_addresses_to_the_given_settings_file() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (first, second) = (Machine::new(), Machine::new());
    first.run(["init", "--cluster"]).ok();
    let _node = start(&first, TCP, &[]);
    let invite = first.run(["invite"]).ok().one_line();
    let file = second.file("mine.toml", b"# mine\nmdns = false\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("set");
    symlink(&file, second.home().join("link.toml")).expect("made");
    let joined = second.run(["join", &invite, "--config", "link.toml"]).ok();
    assert!(joined.stderr.contains("--config link.toml"), "{}", joined.stderr);
    let text = String::from_utf8(second.read("mine.toml")).expect("UTF-8");
    assert!(text.starts_with("# mine\n") && text.contains("/tcp/"), "{text}");
    assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o640);
    assert!(second.home().join("link.toml").is_symlink() && !second.data().join("config.toml").exists());
    let names: Vec<_> = std::fs::read_dir(second.home()).expect("read").collect();
    assert_eq!(names.len(), 3, "nothing else is left: {names:?}");
    // A file that is not TOML stays as it is; the error lists the addresses.
    let third = Machine::new();
    third.file("mine.yaml", b"mdns: false\n");
    third
        .run(["join", &invite, "--config", "mine.yaml"])
        .fails(2, &["mine.yaml", "yourself: bootstrap: /ip4"]);
    assert_eq!(third.read("mine.yaml"), b"mdns: false\n");
}
