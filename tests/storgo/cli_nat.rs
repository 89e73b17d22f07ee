//! Two networks behind NAT, and a relay that both can reach.

use super::{
    binary::{Done, Live, Machine, eventually, link},
    cable::{Island, star},
    swarm::noise,
};

const RELAY: &str = "/ip4/203.0.113.1/tcp/3000";

fn start(island: &Island, machine: &Machine, args: &[&str]) -> Live {
    let mut command = machine.command();
    command.args(["--listen", "/ip4/0.0.0.0/tcp/3000", "--http", "127.0.0.1:0", "--json"]).args(args);
    Live::of(island.enter(&command))
}

fn run(island: &Island, machine: &Machine, args: &[&str]) -> Done {
    let mut command = machine.command();
    command.args(args);
    Done::of(island.enter(&command))
}

fn has_a_place(island: &Island, machine: &Machine) -> bool {
    let status = run(island, machine, &["status", "--json"]).ok().json();
    let addrs = status["listen"].as_array().expect("addresses");
    addrs.iter().any(|addr| addr.as_str().is_some_and(|addr| addr.contains("/p2p-circuit/")))
}

#[test]
fn a_file_is_read_from_one_nat_to_another_through_a_relay() {
    let star = star();
    let [left, right] = &star.homes;
    let [relay, public, writer, reader] = [(); 4].map(|()| Machine::new());
    let _relaying = start(&star.relay, &relay, &["--relay-server", "true"]);
    let _calling = start(&star.public, &public, &["--bootstrap", RELAY]);
    let writing = start(left, &writer, &["--bootstrap", RELAY]);
    eventually("the relay gives a place", || has_a_place(left, &writer));
    eventually("who can be called needs no relay", || !has_a_place(&star.public, &public));

    let bytes = noise(1, 3 << 20);
    writer.file("file", &bytes);
    let report = run(left, &writer, &["provide", "file", "--json"]).ok().json();
    let _reading = start(right, &reader, &["--bootstrap", RELAY]);
    run(right, &reader, &["get", link(&report), "-o", "got"]).ok();
    assert!(reader.read("got") == bytes);
    let peer = writing.status["peer"].as_str().expect("a peer");
    let peers = run(right, &reader, &["peers"]).ok().text();
    let line = peers.lines().find(|line| line.starts_with(peer)).expect("the writer");
    assert!(line.contains("(relayed)"), "{peers}");
    let peers = run(right, &reader, &["peers", "--json"]).ok().json();
    let relayed: Vec<_> = peers.as_array().expect("peers").iter().filter(|p| p["relayed"] == true).collect();
    assert!(relayed.iter().any(|found| found["peer"] == peer), "{peers}");
}
