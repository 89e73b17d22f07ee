//! Health of files, by the answers of the nodes that have them.

use std::fs;

use serde_json::{Value, json};

use super::{
    api::Api,
    binary::{Live, Machine, block_files, eventually},
    swarm::noise,
};

struct Two {
    machines: [Machine; 2],
    nodes: [Live; 2],
    /// The API of the first node.
    api: Api,
}

fn two() -> Two {
    let machines = [Machine::new(), Machine::new()];
    let first = machines[0].start::<&str>([]);
    let second = machines[1].start(["--bootstrap", &first.addr(), "--region", "the attic"]);
    let api = Api::of(&machines[0], &first);
    eventually("they are connected", || api.get("/api/v1/status").json()["peers"] == 1);
    Two { machines, nodes: [first, second], api }
}

/// Stores a public file. It has the same blocks on each machine: its chunks depend on no secret.
fn provide(machine: &Machine, bytes: &[u8]) -> String {
    let path = machine.file("the file", bytes);
    let path = path.to_str().expect("a name");
    let report = machine.run(["provide", path, "--public", "--chunker", "fixed:256KiB", "--json"]);
    report.ok().json()["cid"].as_str().expect("a CID").to_owned()
}

/// Asserts that a command reports to stdout, and the damage with its exit code and on stderr.
#[track_caller]
fn reports_damage(machine: &Machine, verb: &[&str], words: &[&str]) {
    let done = machine.run(verb).ends(7);
    assert!(!done.stdout.is_empty() && words.iter().all(|word| done.stderr.contains(word)), "{done:?}");
}

#[test]
fn health_follows_what_is_on_the_disks() {
    let Two { machines, nodes, api } = two();
    let bytes = noise(3, 6 << 20);
    let cid = provide(&machines[0], &bytes);
    let health = || api.get(&format!("/api/v1/files/{cid}/health")).is(200).json();
    let listed =
        |which: &str| api.get(&format!("/api/v1/files?health={which}")).is(200).json()["total"].clone();

    let alone = health();
    assert_eq!(alone["state"], "at_risk", "{alone}");
    let all = alone["blocks"].as_u64().expect("a number");
    assert!(all > 3 && alone["here"] == all && alone["only_here"] == all, "{alone}");
    assert_eq!((&alone["copies"], &alone["may_lose"]), (&json!(1), &json!(0)), "{alone}");

    assert_eq!(provide(&machines[1], &bytes), cid);
    let both = health();
    assert_eq!(
        (&both["state"], &both["copies"], &both["may_lose"]),
        (&json!("ok"), &json!(2), &json!(1)),
        "{both}"
    );
    let holder = &both["holders"][0];
    assert_eq!((&holder["whole"], &holder["blocks"]), (&json!(true), &json!(all)), "{both}");
    assert_eq!(holder["peer"], nodes[1].status["peer"]);
    let page = api.get(&format!("/api/v1/files/{cid}/blocks?holders=true&limit=2&cursor=1")).is(200).json();
    let counts: Vec<&Value> =
        page["blocks"].as_array().expect("a list").iter().map(|block| &block["holders"]).collect();
    assert_eq!((counts, &page["next"]), (vec![&json!(2), &json!(2)], &json!("3")), "{page}");

    // The second node has lost a block that nobody has read since. Its disk counts.
    fs::remove_file(&block_files(&machines[1])[0]).expect("removed");
    let halved = health();
    assert_eq!((&halved["state"], &halved["copies"]), (&json!("at_risk"), &json!(1)), "{halved}");
    assert_eq!(
        (&halved["only_here"], &halved["holders"][0]["blocks"]),
        (&json!(1), &json!(all - 1)),
        "{halved}"
    );
    assert!(machines[1].run(["repair"]).ok().text().contains("1 block fetched"));
    assert_eq!(health()["state"], "ok");

    // One block is missing, another is cut short. Neither has been read.
    assert_eq!((listed("damaged"), listed("ok")), (json!(0), json!(1)));
    let kept = api.get("/api/v1/files?health=damaged&limit=1").is(200).json()["kept"].clone();
    assert_eq!(kept, json!(1));
    let files = block_files(&machines[0]);
    fs::remove_file(&files[0]).expect("removed");
    fs::File::options().write(true).open(&files[1]).and_then(|file| file.set_len(9)).expect("cut");
    eventually("the list shows the damage", || (listed("damaged"), listed("ok")) == (json!(1), json!(0)));
    let damaged = health();
    assert_eq!((&damaged["state"], &damaged["here"]), (&json!("damaged"), &json!(all - 2)), "{damaged}");
    assert_eq!(damaged["missing"].as_array().map(Vec::len), Some(2), "{damaged}");
    reports_damage(&machines[0], &["health"], &["1 file with missing blocks", "repair"]);
    reports_damage(&machines[0], &["health", &cid], &["2 blocks are not on this node"]);

    let repaired = api.ask("POST", &format!("/api/v1/files/{cid}/repair"), &[], b"").is(200).json();
    assert_eq!(repaired["missing"], json!([]), "{repaired}");
    assert_eq!(repaired["repaired"].as_array().map(Vec::len), Some(2), "{repaired}");
    assert_eq!((&health()["state"], listed("damaged")), (&json!("ok"), json!(0)));
    let text = machines[0].run(["health", &cid]).ok().text();
    assert!(text.contains("survives the loss of any 1 node") && text.contains("(all blocks)"), "{text}");
    assert!(machines[0].run(["health"]).ok().text().contains("all kept files are complete"));

    // The second node has stopped, and a block is missing.
    let [_first, second] = nodes;
    second.stop();
    eventually("the second node has left", || api.get("/api/v1/status").json()["peers"] == 0);
    fs::remove_file(&block_files(&machines[0])[0]).expect("removed");
    let lost = health();
    // It announced the file, so it may have the block.
    assert_eq!((&lost["state"], &lost["lost"]), (&json!("unknown"), &json!(1)), "{lost}");
    reports_damage(&machines[0], &["repair"], &["1 block is still missing"]);
    reports_damage(&machines[0], &["health", &cid], &["1 block is on no node that answered"]);
}

#[test]
fn health_fetches_missing_node_blocks() {
    let Two { machines, nodes: _nodes, api } = two();
    let bytes = noise(6, 3 << 20);
    let cid = provide(&machines[0], &bytes);
    assert_eq!(provide(&machines[1], &bytes), cid);
    let root = block_files(&machines[0]).pop().expect("the shortest");
    assert!(fs::metadata(&root).expect("there").len() < 100_000);
    fs::remove_file(root).expect("removed");
    let health = api.get(&format!("/api/v1/files/{cid}/health")).is(200).json();
    assert_eq!((&health["state"], &health["here"]), (&json!("ok"), &health["blocks"]), "{health}");
    assert_eq!(health["missing"], json!([]), "{health}");
}

#[test]
fn a_block_that_a_file_uses_often_is_lost_once() {
    let Two { machines, nodes: _nodes, api } = two();
    let cid = provide(&machines[0], &vec![0; 3 << 20]);
    let health = || api.get(&format!("/api/v1/files/{cid}/health")).is(200).json();
    let whole = health();
    assert_eq!(
        (&whole["blocks"], &whole["here"]),
        (&json!(2), &json!(2)),
        "one block of zeros and the root block"
    );
    fs::remove_file(&block_files(&machines[0])[0]).expect("removed");
    let lost = health();
    assert_eq!(
        (&lost["lost"], &lost["here"], &lost["only_here"]),
        (&json!(1), &json!(1), &json!(1)),
        "{lost}"
    );
    assert_eq!(lost["missing"].as_array().map(Vec::len), Some(1), "{lost}");
    reports_damage(&machines[0], &["health", &cid], &["1 block is on no node that answered"]);
    let page = api.get(&format!("/api/v1/files/{cid}/blocks?holders=true&limit=100")).is(200).json();
    let away = |block: &&Value| block["here"] == false && block["holders"] == 0;
    assert_eq!(page["blocks"].as_array().map(|all| all.iter().filter(away).count()), Some(12), "{page}");
}

#[test]
fn a_block_that_does_not_fit_is_not_reported_as_repaired() {
    let machines = [Machine::new(), Machine::new()];
    let other = machines[1].start::<&str>([]);
    let node = machines[0].start(["--capacity", "4MiB"]);
    let api = Api::of(&machines[0], &node);
    let bytes = noise(7, 3 << 20);
    let store = |machine: &Machine| {
        let path = machine.file("the file", &bytes);
        let path = path.to_str().expect("a name");
        machine.run(["provide", path, "--public", "--chunker", "fixed:1MiB"]).ok();
    };
    machines.iter().for_each(store);
    fs::remove_file(&block_files(&machines[0])[0]).expect("removed");
    reports_damage(&machines[0], &["verify"], &["no good copy here of 1 block"]);
    // Another file takes the space before a node with the block connects.
    machines[0].run_with(["provide", "-", "--name", "another"], &noise(8, 3 << 19)).ok();
    machines[0].run(["peers", "--add", &other.addr()]).ok();
    for _ in 0..2 {
        machines[0].run(["repair"]).fails(13, &["storage.capacity"]);
        let verified = machines[0].run(["verify", "--json"]).ends(13).json();
        assert_eq!((&verified["repaired"], &verified["failure"]["code"]), (&json!([]), &json!("no_space")));
        assert_eq!(verified["missing"].as_array().map(Vec::len), Some(1), "{verified}");
    }
    api.ask("POST", "/api/v1/repair", &[], b"").refuses(507, "no_space");
    machines[0].run(["rm", "another"]).ok();
    machines[0].run(["gc", "--now"]).ok();
    assert!(machines[0].run(["repair"]).ok().text().contains("1 block fetched"));
    machines[0].run(["verify"]).ok();
}

#[test]
fn health_needs_a_known_file_and_repair_a_kept_one() {
    let Two { machines, nodes: _nodes, api } = two();
    let cid = provide(&machines[1], &noise(4, 3 << 20));
    // The file is not kept here, but complete on the second node.
    let health = api.get(&format!("/api/v1/files/{cid}/health")).is(200).json();
    assert_eq!(
        (&health["state"], &health["kept"], &health["copies"]),
        (&json!("at_risk"), &json!(false), &json!(1))
    );
    api.ask("POST", &format!("/api/v1/files/{cid}/repair"), &[], b"").refuses(404, "not_found");
    // Opening its link makes it known, but not kept.
    api.post("/api/v1/links/open", &json!({ "link": format!("storgo://{cid}") })).is(200);
    let status = api.get("/api/v1/status").is(200).json();
    assert_eq!((&status["files"], &status["kept"]), (&json!(1), &json!(0)), "{status}");
    assert!(machines[0].run(["status"]).ok().text().contains("0 kept, 1 known by link only"));
    machines[1].run(["rm", &cid]).ok();
    let nowhere = "bafyrcifi5zl5wmkkcjxqmxbyzhq5p2fyhlemoyq";
    api.get(&format!("/api/v1/files/{nowhere}/health")).refuses(404, "not_found");
    api.get("/api/v1/files?health=odd").refuses(400, "bad_request");
}

#[test]
fn peers_report_their_free_space_and_transferred_bytes() {
    let Two { machines, nodes, api } = two();
    let bytes = noise(5, 3 << 20);
    let report = machines[1].provide("moved", &bytes);
    machines[0].run(["get", super::binary::link(&report), "-o", "got"]).ok();
    let peers = api.get("/api/v1/peers").is(200).json();
    let peer = &peers[0];
    assert_eq!(peer["peer"], nodes[1].status["peer"]);
    assert!(peer["free"].as_u64().is_some_and(|free| free > 0), "{peer}");
    assert!(peer["region"] == "the attic" && peer["sent_bytes"] == 0, "{peer}");
    assert!(peer["received_bytes"].as_u64().is_some_and(|got| got >= 3 << 20), "{peer}");
    assert!(machines[0].run(["peers"]).ok().text().contains("  the attic  "));
    assert!(!machines[1].run(["peers"]).ok().text().contains("REGION"), "the first node has no region");
}
