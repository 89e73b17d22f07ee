//! A node in a cluster never starts as an open one by accident, and every way back that an error names works.

use std::{fs, os::unix::fs::symlink};

use super::binary::{ALONE, Done, Live, Machine, eventually};

/// The words of an error about a loss, and the cause of the loss.
type Loss<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// A member with a file, its invite and a backup of its keys.
fn member() -> (Machine, String) {
    let machine = Machine::new();
    machine.run(["init", "--cluster"]).ok();
    let file = machine.file("plan", b"secret");
    machine.run(["provide".as_ref(), file.as_os_str(), "--no-serve".as_ref()]).ok();
    let invite = machine.run(["invite"]).ok().one_line();
    machine.run(["key", "backup", "keys"]).ok();
    (machine, invite)
}

fn is_in_cluster(machine: &Machine) -> bool {
    let node = machine.start::<&str>([]);
    node.status["cluster"] == true
}

#[test]
fn a_node_whose_cluster_key_is_gone_or_damaged_does_not_start() {
    let (machine, invite) = member();
    let key = machine.data().join("cluster.key");
    let whole = fs::read(&key).expect("a key");
    let id = machine.data().join("cluster.id");
    let losses: [Loss<'_>; 8] = [
        ("is gone", Box::new(|| fs::remove_file(&key).expect("removed"))),
        // Both together: the index remembers the cluster.
        ("is gone", Box::new(|| [&key, &id].iter().for_each(|path| fs::remove_file(path).expect("removed")))),
        (
            "it is a folder",
            Box::new(|| fs::remove_file(&key).and_then(|()| fs::create_dir(&key)).expect("made")),
        ),
        (
            "it is a symbolic link to nowhere",
            Box::new(|| fs::remove_file(&key).and_then(|()| symlink("nowhere", &key)).expect("made")),
        ),
        ("is damaged", Box::new(|| fs::write(&key, b"").expect("written"))),
        ("is damaged", Box::new(|| fs::write(&key, &whole[..20]).expect("written"))),
        ("is damaged", Box::new(|| fs::write(&key, [0; 44]).expect("written"))),
        ("is damaged", Box::new(|| fs::write(&key, [0xff; 44]).expect("written"))),
    ];
    for (says, lose) in losses {
        for way_back in [["key", "restore", "keys"].as_slice(), &["join", &invite]] {
            lose();
            for command in [["run"].as_slice(), &["ls"], &["id"], &["invite"], &["init", "--cluster"]] {
                machine.run(command).fails(2, &["cluster", says, "key restore", "join", "leave"]);
            }
            let found = machine.run(["doctor"]).ends(1).text();
            assert!(found.contains(says) && found.contains("key restore"), "{found}");
            machine.run(way_back).ok();
            assert_eq!(fs::read(&key).expect("a key"), whole);
            assert!(is_in_cluster(&machine));
        }
    }
    // An index that is new does not know, and the node refuses all the same.
    lose_index_and_key(&machine);
    machine.run(["id"]).fails(2, &["the key of the cluster is gone"]);
}

fn lose_index_and_key(machine: &Machine) {
    for name in ["cluster.key", "index.redb"] {
        fs::remove_file(machine.data().join(name)).expect("removed");
    }
}

#[test]
fn a_key_in_a_variable_counts_and_the_key_of_another_cluster_is_refused() {
    let (machine, _) = member();
    let key = fs::read_to_string(machine.data().join("cluster.key")).expect("a key");
    let other = Machine::new();
    other.run(["init"]).ok();
    let mut node = other.command();
    node.args(ALONE).arg("--json").env("STORGO_CLUSTER_KEY", key.trim());
    drop(Live::of(node));
    other.run(["run"]).fails(2, &["the key of the cluster is gone"]);

    let (_, invite) = member();
    other.run(["join", &invite]).fails(2, &["in another cluster", "leave"]);
    machine.run(["join", &invite]).fails(2, &["in another cluster", "leave"]);
    assert_eq!(fs::read_to_string(machine.data().join("cluster.key")).expect("a key"), key);
    // A damaged `cluster.id` does not get in the way.
    fs::write(machine.data().join("cluster.id"), b"").expect("written");
    assert!(is_in_cluster(&machine));
    assert_eq!(fs::read(machine.data().join("cluster.id")).expect("written again").len(), 33);
}

#[test]
fn leave_makes_an_open_node_that_still_reads_its_files() {
    let (machine, invite) = member();
    let open = Machine::new();
    open.run(["leave"]).fails(5, &["no node in"]);
    open.run(["init"]).ok();
    open.run(["leave"]).fails(2, &["in no cluster"]);
    let mut setting = machine.command();
    setting.arg("leave").env("STORGO_CLUSTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    Done::of(setting).fails(2, &["STORGO_CLUSTER_KEY", "remove this setting"]);
    let node = machine.start::<&str>([]);
    machine.run(["leave"]).fails(11, &["stop it"]);
    drop(node);
    let left = machine.run(["leave", "--json"]).ok();
    assert_eq!(left.json()["cluster"], false);
    assert!(left.stderr.is_empty(), "{}", left.stderr);
    assert!(!is_in_cluster(&machine));
    assert_eq!(machine.run(["get", "plan", "-o", "-"]).ok().stdout, b"secret");
    // Without its key too, and without any file that names the cluster: the index remembers it, and forgets it.
    for lost in [&["cluster.key"][..], &["cluster.key", "cluster.id"]] {
        machine.run(["join", &invite]).ok();
        assert!(is_in_cluster(&machine));
        for name in lost {
            fs::remove_file(machine.data().join(name)).expect("removed");
        }
        machine.run(["ls"]).fails(2, &["the key of the cluster is gone"]);
        machine.run(["leave"]).ok();
        assert!(!is_in_cluster(&machine));
        fs::remove_file(machine.data().join("cluster.id")).expect("removed");
        assert!(!is_in_cluster(&machine));
        machine.run(["leave"]).fails(2, &["in no cluster"]);
    }
}

#[test]
fn a_backup_brings_back_what_is_lost_and_replaces_nothing_else() {
    let (first, second) = (Machine::new(), Machine::new());
    first.run(["init", "--cluster"]).ok();
    let node = first.start::<&str>([]);
    let invite = first.run(["invite"]).ok().one_line();
    second.run(["join", &invite]).ok();
    let peer = second.run(["id"]).ok().one_line();
    second.run(["key", "backup", "keys"]).ok();
    let backup = String::from_utf8(second.read("keys")).expect("UTF-8");

    let restored = Machine::new();
    let done = restored.run_with(["key", "restore", "-"], backup.as_bytes()).ok();
    assert_eq!(done.one_line(), peer);
    let start = format!("start the node with: storgo-node --data-dir {}", restored.data().display());
    assert!(done.stderr.contains(&start) && done.stderr.contains("the original"), "{}", done.stderr);
    // It finds the cluster by the addresses of the backup alone.
    let back = restored.start::<&str>([]);
    eventually("they are connected", || restored.status()["peers"] == 1);
    assert_eq!(back.status["peer"], peer);
    // The founder was told of no other member, and has met one: its backup leads back, too.
    eventually("the founder has met the other member", || {
        first.run(["key", "backup", "-"]).ok().text().contains(&back.addr())
    });
    drop((back, node));
    let more = first.run(["key", "backup", "-", "--bootstrap", "/ip4/192.0.2.7/tcp/1"]).ok();
    assert!(more.text().contains("192.0.2.7") && !more.stderr.contains("ignored"), "{}", more.stderr);

    // A damaged identity is replaced, another one is not.
    fs::write(restored.data().join("identity.key"), b"").expect("written");
    restored.run(["id"]).fails(1, &["identity.key is damaged", "key restore"]);
    restored.run_with(["key", "restore", "-"], backup.as_bytes()).ok();
    assert_eq!(restored.run(["id"]).ok().one_line(), peer);
    let other = Machine::new();
    let own = other.run(["init"]).ok().one_line();
    other.run_with(["key", "restore", "-"], backup.as_bytes()).fails(2, &["other keys already"]);
    assert_eq!(other.run(["id"]).ok().one_line(), own);
    assert!(!other.data().join("cluster.key").exists() && !other.data().join("config.toml").exists());
}

#[test]
fn a_node_that_was_put_into_a_cluster_says_that_it_must_be_started_again() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    assert_eq!(machine.status()["restart_pending"], false);
    let made = machine.run(["init", "--cluster"]).ok();
    let holder = format!("process {} is not in the cluster yet; stop and start it again", node.status["pid"]);
    assert!(made.stderr.contains(&holder) && !made.stderr.contains("start the node with"), "{}", made.stderr);
    assert_eq!(machine.status()["restart_pending"], true);
    let pending = "changed after the node started; stop it and start it again";
    assert!(machine.run(["status"]).ok().text().contains(pending));
    assert!(machine.run(["doctor"]).ok().text().contains(pending));
    drop(node);
    let _node = machine.start::<&str>([]);
    assert_eq!(machine.status()["restart_pending"], false);
    // It listens on loopback, so its invite is of no use elsewhere.
    let made = machine.run(["invite", "--json"]).ok().json();
    assert_eq!(made["usable_elsewhere"], false);
    let told = machine.run(["invite"]).ok().stderr;
    assert!(told.contains("other machines cannot use this invite") && told.contains("--external"), "{told}");
}

#[test]
fn an_original_and_its_restored_backup_warn_of_each_other() {
    let (original, restored) = (Machine::new(), Machine::new());
    let first = original.start::<&str>([]);
    original.run(["key", "backup", "keys"]).ok();
    let done = restored.run_with(["key", "restore", "-"], &original.read("keys")).ok();
    assert!(done.stderr.contains("only if the original has stopped"), "{}", done.stderr);
    let second = restored.start::<&str>([]);
    for (machine, node) in [(&original, &first), (&restored, &second)] {
        node.running.notes("has the identity of this node");
        assert!(machine.status()["same_identity"].is_string());
        let found = machine.run(["doctor"]).ends(1).text();
        assert!(found.contains("another machine uses this node's identity"), "{found}");
    }
    let met = restored.status()["same_identity"].to_string();
    let addr = first.bare_addr();
    assert!(met.contains(&addr), "{met} is not {addr}");
}
