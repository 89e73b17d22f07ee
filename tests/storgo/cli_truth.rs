//! Commands agree on what is damaged, and claim nothing that they have not checked.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    binary::{Live, Machine, block_files, eventually, link},
    swarm::noise,
};

/// The largest block file of a machine.
fn block(machine: &Machine) -> PathBuf {
    block_files(machine).remove(0)
}

/// The check of this name in the report of `doctor`.
fn checked(machine: &Machine, name: &str) -> Value {
    let report = machine.run(["doctor", "--json"]).ok().json();
    let checks = report.as_array().expect("a list");
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("{report}")).clone()
}

/// Stores a public file, whose blocks are the same on each machine.
fn provide(machine: &Machine, bytes: &[u8]) -> Value {
    let path = machine.file("shared", bytes);
    let path = path.to_str().expect("a name");
    machine.run(["provide", path, "--public", "--chunker", "fixed:64KiB", "--json"]).ok().json()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "no file must outlast a power cut here")]
fn status_lists_descriptions_and_doctor_show_the_damage_that_health_finds() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    machine.provide("one", &noise(1, 300_000));
    let assert_missing = |missing: u64| {
        assert_eq!(machine.status()["missing"], missing);
        assert_eq!(machine.run(["info", "one", "--json"]).ok().json()["missing"], missing);
        assert_eq!(machine.run(["ls", "--json"]).ok().json()[0]["missing"], missing);
        assert_eq!(machine.run(["ls"]).ok().text().contains("damaged"), missing > 0);
    };
    assert_missing(0);
    assert_eq!(checked(&machine, "blocks")["state"], "ok");
    let lost = block(&machine);
    let away = machine.home().join("away");
    fs::rename(&lost, &away).expect("moved");
    // Nothing has read the block: `doctor` and `health` look for themselves, and the others show what these found.
    eventually("the scan before is too old", || checked(&machine, "blocks")["state"] == "warn");
    assert_missing(1);
    machine.run(["health"]).ends(7);
    let found = checked(&machine, "blocks");
    assert_eq!(found["state"], "warn", "{found}");
    assert!(found["says"].as_str().is_some_and(|says| says.starts_with("1 block of 1 file")), "{found}");
    // A disk that is mounted again has the block again.
    fs::rename(&away, &lost).expect("moved");
    eventually("the block is back", || checked(&machine, "blocks")["state"] == "ok");
    assert_missing(0);
    drop(node);
}

#[test]
fn doctor_does_not_approve_of_what_it_has_not_checked() {
    let machine = Machine::new();
    for name in ["store", "secrets", "peers", "blocks"] {
        assert_eq!(checked(&machine, name)["state"], "skip", "{name}");
    }
    machine.run(["init"]).ok();
    for (name, state) in [("store", "ok"), ("secrets", "ok"), ("peers", "skip"), ("blocks", "skip")] {
        assert_eq!(checked(&machine, name)["state"], state, "{name}");
    }
    assert_eq!(machine.run(["health"]).ok().text(), "this node keeps no files\n");
}

#[test]
fn doctor_does_not_advise_what_is_set() {
    let machine = Machine::new();
    let peers = |args: &[&str]| {
        let node = machine.start(args);
        let check = checked(&machine, "peers");
        drop(node);
        check["says"].as_str().expect("text").to_owned()
    };
    let alone = peers(&[]);
    assert!(alone.contains("neither `bootstrap` nor `mdns` is set"), "{alone}");
    let dead = "/ip4/127.0.0.1/tcp/1";
    let named = peers(&["--bootstrap", dead]);
    assert!(named.contains(dead) && named.contains("does not answer"), "{named}");
}

#[test]
fn blocks_that_a_node_does_not_keep_are_no_copies() {
    let (keeper, reader) = (Machine::new(), Machine::new());
    let first = keeper.start::<&str>([]);
    let second = reader.start(["--bootstrap", &first.addr()]);
    let stored = keeper.provide("file", &noise(2, 300_000));
    reader.run(["get", link(&stored), "-o", "got"]).ok();
    // The reader has all blocks, in its cache.
    let health = reader.run(["health", link(&stored), "--json"]).ok().json();
    assert_eq!(
        (&health["state"], &health["copies"], &health["may_lose"]),
        (&json!("at_risk"), &json!(1), &json!(0))
    );
    assert_eq!((&health["here"], &health["kept"]), (&health["blocks"], &json!(false)), "{health}");
    let text = reader.run(["health", link(&stored)]).ok().text();
    assert!(text.contains("not kept") && !text.contains("own"), "{text}");
    drop(second);
    // Removed blocks stay for the grace period, and can be read until then.
    keeper.run(["rm", "file"]).ok();
    assert_eq!(keeper.run(["health", link(&stored), "--json"]).ok().json()["state"], "unkept");
    // A block is lost: the rest is of no use to anybody.
    fs::remove_file(block(&keeper)).expect("removed");
    keeper.run(["health", link(&stored)]).fails(4, &["is not kept", "waiting for collection"]);
    drop(first);
}

#[test]
fn a_file_that_was_only_read_is_kept_when_somebody_asks_for_it() {
    let (keeper, reader) = (Machine::new(), Machine::new());
    let first = keeper.start::<&str>([]);
    fs::create_dir(keeper.home().join("folder")).expect("created");
    // The end of the file is short: in the cache, it is in the index.
    let bytes = noise(5, (256 << 10) + 100);
    keeper.file("folder/a", &bytes);
    keeper.file("folder/b", b"small");
    let stored = keeper.run(["provide", "folder", "--chunker", "fixed:64KiB", "--json"]).ok().json();
    let second = reader.start(["--bootstrap", &first.addr()]);
    reader.run(["get", link(&stored), "-o", "got"]).ok();
    drop(first);
    eventually("the other node has left", || reader.status()["peers"] == 0);
    let health = || reader.run(["health", link(&stored), "--json"]).ok().json();
    let unkept = health();
    assert_eq!(
        (&unkept["state"], &unkept["kept"], &unkept["copies"]),
        (&json!("unkept"), &json!(false), &json!(0))
    );
    assert_eq!((&unkept["here"], &unkept["lost"]), (&unkept["blocks"], &unkept["blocks"]), "{unkept}");
    let text = reader.run(["health", link(&stored)]).ok().text();
    assert!(text.contains("can be read here, but no node that answered keeps"), "{text}");
    reader.run(["repair", link(&stored)]).fails(4, &["storgo-node keep LINK"]);
    let kept = reader.run(["keep", link(&stored), "--json"]).ok().json();
    assert_eq!(
        (&kept["name"], &kept["pinned"], &kept["missing"]),
        (&json!("folder"), &json!(true), &json!(0))
    );
    assert_eq!((&kept["blocks"], &kept["size"]), (&stored["blocks"], &stored["size"]), "{kept}");
    assert!(reader.run(["keep", "folder"]).ok().text().starts_with("kept here: folder, "), "a second time");
    assert_eq!((&health()["state"], &health()["kept"]), (&json!("at_risk"), &json!(true)));
    assert_eq!(reader.status()["cached_bytes"], 0);
    reader.run(["gc", "--now", "--cache"]).ok();
    drop(second);
    reader.run(["verify"]).ok();
    reader.run(["get", "folder", "-o", "again"]).ok();
    assert!(reader.read("again/a") == bytes);
}

#[test]
fn a_file_is_fetched_to_be_kept_and_not_kept_in_part() {
    let (keeper, other) = (Machine::new(), Machine::new());
    let first = keeper.start::<&str>([]);
    let bytes = noise(6, 1_500_000);
    let stored = keeper.provide("file", &bytes);
    other.run(["init"]).ok();
    let keep = ["keep", link(&stored), "--bootstrap", &first.addr()];
    other.run(keep.iter().copied().chain(["--capacity", "1MiB"])).fails(13, &["storage.capacity"]);
    assert_eq!(other.run(["ls", "--json"]).ok().json(), json!([]));
    other.run(keep).ok();
    drop(first);
    assert!(other.run(["get", "file", "-o", "-"]).ok().stdout == bytes);
}

#[test]
fn a_file_is_not_lost_while_a_node_that_announces_it_is_only_unreachable() {
    let (keeper, other) = (Machine::new(), Machine::new());
    let first = keeper.start::<&str>([]);
    let second = other.start(["--bootstrap", &first.addr()]);
    let bytes = noise(3, 300_000);
    provide(&keeper, &bytes);
    let cid = provide(&other, &bytes)["cid"].as_str().expect("a CID").to_owned();
    let health = || keeper.run(["health", &cid, "--json"]).json();
    eventually("the other node announces it", || health()["holders"][0]["announces"] == true);
    fs::remove_file(block(&keeper)).expect("removed");
    assert_eq!(health()["state"], "damaged");
    second.running.kill();
    eventually("the other node has left", || keeper.status()["peers"] == 0);
    let done = keeper.run(["health", &cid]).ends(7);
    assert!(done.text().contains("unknown: 1 block is on no node that answered; 1 node"), "{}", done.text());
    assert!(done.stderr.contains("firewall"), "{}", done.stderr);
    drop(first);
}

#[test]
fn a_block_that_the_only_living_provider_lacks_is_missing_and_does_not_time_out() {
    let (living, dying, reader) = (Machine::new(), Machine::new(), Machine::new());
    let first: Live = living.start::<&str>([]);
    let second = dying.start(["--bootstrap", &first.addr()]);
    let bytes = noise(4, 300_000);
    provide(&living, &bytes);
    let stored = provide(&dying, &bytes);
    fs::remove_file(block(&living)).expect("removed");
    second.running.kill();
    eventually("the other provider has left", || living.status()["peers"] == 0);
    let get = ["get", link(&stored), "-o", "got", "--bootstrap", &first.addr()];
    reader.run(get).fails(7, &["no intact copy", "lost or damaged"]);
    drop(first);
}
