//! Commands without a running node: each starts a node of its own.

use std::thread;

use rustix::process::Signal;

use super::{
    binary::{ALONE, Machine, link},
    swarm::noise,
};

#[test]
fn provide_serves_until_ctrl_c_and_get_comes_and_goes() {
    let (hub, writer, reader) = (Machine::new(), Machine::new(), Machine::new());
    let node = hub.start::<&str>([]);
    let bytes = noise(1, 2 << 20);
    let path = writer.file("a file", &bytes);
    let arg = |text: &'static str| std::ffi::OsStr::new(text);
    let addr = node.bare_addr();
    let http = [arg("--http"), arg("127.0.0.2:0")];
    let words = [arg("provide"), path.as_os_str(), arg("--bootstrap"), addr.as_ref()];
    let provide = writer.spawn(words.into_iter().chain(http));
    let line = provide.line();
    assert!(line.starts_with("storgo://"), "{line}");
    provide.notes("1 peer knows");
    provide.notes("serving it until Ctrl-C");
    // Other commands on this data directory talk to it.
    assert!(writer.run(["ls"]).ok().text().contains("a file"));
    let status = writer.status();
    assert!(
        status["files"] == 1 && status["http"].as_str().is_some_and(|http| http.starts_with("127.0.0.2:"))
    );
    let second = writer.run_with(["provide", "-", "--name", "b", "--json"], b"b").ok().json();
    assert_eq!(hub.run(["get", link(&second), "-o", "-"]).ok().stdout, b"b");

    for out in ["-", "got"] {
        let done = reader.run(["get", &line, "-o", out, "--bootstrap", &addr]).ok();
        assert!(if out == "-" { done.stdout == bytes } else { reader.read(out) == bytes });
    }
    // The reader keeps the file and needs no peer any more.
    assert_eq!(provide.end_by(Signal::INT).0, Some(0));
    drop(node);
    assert!(reader.run(["get", &line, "-o", "-"]).ok().stdout == bytes);
}

#[test]
fn an_interrupted_provide_stores_nothing() {
    let machine = Machine::new();
    let mut provide = machine.fed(["provide", "-", "--name", "half"]);
    provide.feed(&noise(2, 3 << 20));
    machine.run(["status"]).ok();
    assert_eq!(provide.end_by(Signal::INT), Some(130));
    assert_eq!(machine.run(["ls", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn concurrent_commands_on_one_data_directory_take_turns() {
    let machine = Machine::new();
    machine.run_with(["provide", "-", "--name", "x", "--no-serve"], b"x").ok();
    thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| machine.run(["ls", "--json"]))).collect();
        for one in all {
            assert_eq!(one.join().expect("ran").ok().json().as_array().map(Vec::len), Some(1));
        }
    });
}

#[test]
fn a_data_directory_takes_one_node_and_commands_do_not_disturb_it() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let pid = node.status["pid"].to_string();
    machine.run(["run", ALONE[0], ALONE[1]]).fails(11, &[&pid, "--data-dir"]);
    machine.run(["--json", "run"]).fails(11, &["\"code\":\"locked\""]);
    // Flags that do not reach the running node.
    let done = machine.run(["ls", "--capacity", "1 GiB", "--timeout", "1s"]).ok();
    assert!(done.stderr.contains("ignored --capacity:"), "{}", done.stderr);
    assert!(!done.stderr.contains("--timeout"), "{}", done.stderr);
    drop(node);
    // A node starts while other commands poll the lock.
    thread::scope(|scope| {
        let looking: Vec<_> = (0..4).map(|_| scope.spawn(|| machine.run(["doctor", "-q"]))).collect();
        for _ in 0..3 {
            let node = machine.start::<&str>([]);
            assert_eq!(node.stop().0, Some(0));
        }
        for one in looking {
            one.join().expect("ran");
        }
    });
}
