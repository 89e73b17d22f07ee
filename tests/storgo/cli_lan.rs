//! Two machines on one network without any addresses of each other, and ports that need privileges.

use std::process::Command;

use super::{
    binary::{Done, Live, Machine, eventually, link},
    cable::{Island, joined_by_a_cable},
    swarm::noise,
};

fn start(island: &Island, machine: &Machine) -> Live {
    let mut command = machine.command();
    command.env("STORGO_MDNS", "true");
    command.args(["--listen", "/ip4/0.0.0.0/tcp/0", "--http", "127.0.0.1:0", "--json"]);
    Live::of(island.enter(&command))
}

fn run(island: &Island, machine: &Machine, args: &[&str]) -> Done {
    let mut command = machine.command();
    command.args(args);
    Done::of(island.enter(&command))
}

#[test]
fn two_nodes_on_one_network_find_each_other_without_any_address() {
    let [left, right] = joined_by_a_cable();
    let (writer, reader) = (Machine::new(), Machine::new());
    let _writing = start(&left, &writer);
    let _reading = start(&right, &reader);
    eventually("they find each other", || {
        let status = run(&right, &reader, &["status", "--json"]).ok().json();
        status["peers"] == 1
    });
    let peers = run(&right, &reader, &["peers", "--json"]).ok().json();
    assert!(peers[0]["addrs"][0].as_str().is_some_and(|addr| addr.contains("192.0.2.1")), "{peers}");
    let bytes = noise(1, 3 << 20);
    writer.file("file", &bytes);
    let report = run(&left, &writer, &["provide", "file", "--json"]).ok().json();
    run(&right, &reader, &["get", link(&report), "-o", "got"]).ok();
    assert!(reader.read("got") == bytes);
}

#[test]
fn a_port_that_needs_privileges_is_denied_to_a_user_without_them() {
    let [island, _] = joined_by_a_cable();
    let machine = Machine::new();
    let storgo = machine.command();
    for addr in ["/ip4/0.0.0.0/tcp/80", "/ip4/0.0.0.0/udp/80/quic-v1"] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
        command.arg(storgo.get_program()).args(storgo.get_args()).args(["run", "--listen", addr]);
        command.envs(storgo.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(storgo.get_current_dir().expect("a folder"));
        Done::of(island.enter(&command)).fails(2, &[addr, "may not use that port"]);
    }
}
