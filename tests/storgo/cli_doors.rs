//! Access to the API of a running node over HTTP, and the demo.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::binary::{DEADLINE, Live, Machine};

/// Sends one HTTP request. Returns the status and the whole response.
fn call(node: &Live, path: &str, host: &str, token: Option<&str>) -> (u16, String) {
    let addr = node.status["http"].as_str().expect("it serves");
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let host = host.replace("ADDR", addr);
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

#[test]
fn the_api_requires_its_token_and_its_own_host_name() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let report = machine.provide("secret", b"the secret");
    let token = std::fs::read_to_string(machine.data().join("api.token")).expect("a token");
    let token = token.trim();
    let almost = format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { 'B' } else { 'A' });
    let content = format!("/api/v1/files/{}/content", report["cid"].as_str().expect("a CID"));
    for path in ["/api/v1/status", "/api/v1/files", "/api/v1/peers", &content] {
        let (status, answer) = call(&node, path, "ADDR", Some(token));
        assert_eq!(status, 200, "{path}: {answer}");
        for wrong in [None, Some(""), Some(almost.as_str()), Some(&token[..token.len() / 2])] {
            let (status, answer) = call(&node, path, "ADDR", wrong);
            assert_eq!(status, 401, "{path}, {wrong:?}: {answer}");
            assert!(answer.contains("\"code\":\"denied\""), "{answer}");
            assert!(!answer.contains("the secret") && !answer.contains(token), "{answer}");
        }
        // DNS rebinding: a web page points its own name at this machine.
        for host in ["evil.example", "localhost.evil.example", "192.0.2.1:8080", ""] {
            let (status, answer) = call(&node, path, host, Some(token));
            assert_eq!(status, 421, "{path}, {host}: {answer}");
            assert!(!answer.contains("the secret"), "{answer}");
        }
    }
    assert_eq!(call(&node, "/api/v1/status", "localhost", Some(token)).0, 200);
    let _ = node.stop();
}

#[test]
fn the_demo_needs_no_set_up_and_reports_a_port_that_is_taken() {
    // If this fails, another program has the port, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:4000");
    let machine = Machine::new();
    let mut command = machine.command();
    command.args(["demo", "--once"]).env("TMPDIR", machine.home());
    let done = super::binary::Done::of(command).ok();
    let text = done.text();
    assert!(text.contains("port 4000 is taken, node 2 uses "), "{text}");
    assert!(text.contains("identical") && text.contains("storgo://"), "{text}");
    let left: Vec<_> = std::fs::read_dir(machine.home()).expect("read").collect();
    assert!(left.is_empty(), "leftovers: {left:?}");

    let quiet = |args: &[&str]| {
        let mut command = machine.command();
        command.args(["demo", "--once", "-q"]).args(args).env("TMPDIR", machine.home());
        super::binary::Done::of(command).ok()
    };
    let done = quiet(&[]);
    assert!(done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    let done = quiet(&["--json"]);
    assert!(done.json()["identical"] == true && done.stderr.is_empty(), "{done:?}");
}

#[test]
fn the_demo_serves_until_ctrl_c_and_removes_its_files() {
    let machine = Machine::new();
    let mut command = machine.command();
    command.arg("demo").env("TMPDIR", machine.home());
    let demo = super::binary::Running::new(command);
    demo.says("identical");
    let line = demo.says("stay up until Ctrl-C");
    let addr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let mut stream = TcpStream::connect(addr).expect("its API is there");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ready"), "{answer}");
    // The command that it suggests works.
    let tried = demo.says("try it: ");
    let words = tried.split_whitespace().skip_while(|word| *word != "--data-dir");
    let peers = machine.run(words).ok().text();
    assert_eq!(peers.lines().filter(|line| line.contains("12D3Koo")).count(), 2, "{peers}");
    assert_eq!(demo.end_by(rustix::process::Signal::INT).0, Some(0));
    let left: Vec<_> = std::fs::read_dir(machine.home()).expect("read").collect();
    assert!(left.is_empty(), "leftovers: {left:?}");

    // Interrupted before it is done.
    let mut command = machine.command();
    command.args(["demo", "--once"]).env("TMPDIR", machine.home());
    let demo = super::binary::Running::new(command);
    demo.says("node 1");
    assert_eq!(demo.end_by(rustix::process::Signal::INT).0, Some(130));
    assert_eq!(std::fs::read_dir(machine.home()).expect("read").count(), 0);
}
