//! Limits: headers, bodies, forms, connections and time.

use std::{
    io::Write,
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    api::{Api, answer},
    binary::{ALONE, Live, Machine},
};

/// Peak memory of a node in KiB.
fn peak_kib(node: &Live) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.status["pid"])).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Lets this process open this many sockets.
fn need_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let enough = Rlimit { current: Some(count), ..limit };
        setrlimit(Resource::Nofile, enough).expect("this test needs more open files: raise `ulimit -Hn`");
    }
}

#[test]
fn oversized_headers_and_invalid_http_are_refused() {
    let (_machine, _node, api) = Api::start();
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = |len| format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "x".repeat(len));
    for (request, status) in [
        (long(30 << 10), 200),
        (long(40 << 10), 431),
        (format!("GET /livez HTTP/1.1\r\n{many}\r\n"), 431),
        ("GET /livez HTTP/9.9\r\n\r\n".into(), 400),
        ("G\u{1}T / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".into(), 400),
    ] {
        let mut stream = TcpStream::connect(&api.addr).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        assert_eq!(answer(&stream, false).status, status, "{request:?}");
    }
    api.get("/api/v1/status").is(200);
}

#[test]
fn ten_thousand_slow_clients_lock_nobody_out() {
    need_descriptors(12_000);
    let (_machine, node, api) = Api::start();
    let (mut slow, mut slowest) = (Vec::new(), Duration::ZERO);
    // Half of a header, or half of the body of a request without authentication.
    let head = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    let body = "POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    for number in 0..10_000 {
        let mut stream = TcpStream::connect(&api.addr).expect("connected");
        drop(stream.write_all(if number % 2 == 0 { head } else { body }.as_bytes()));
        slow.push(stream);
        if number % 500 == 0 {
            let asked = Instant::now();
            api.get("/api/v1/status").is(200);
            slowest = slowest.max(asked.elapsed());
        }
    }
    println!("slowest response {slowest:?}, peak memory {} KiB", peak_kib(&node));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(peak_kib(&node) < 150 << 10, "{}", peak_kib(&node));
}

#[test]
fn connections_leave_file_descriptors_for_the_store() {
    let machine = Machine::new();
    let plain = machine.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(ALONE)
        .arg("--json");
    command.env_clear().stdin(Stdio::null()).current_dir(machine.home());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let node = Live::of(command);
    let api = Api::of(&machine, &node);
    let idle: Vec<_> = (0..600).map(|_| TcpStream::connect(&api.addr).expect("connected")).collect();
    for number in 0..20 {
        machine.provide("a", format!("{number}").as_bytes());
    }
    assert_eq!(api.get("/api/v1/status").is(200).json()["files"], 20);
    drop(idle);
}

#[test]
fn slow_uploads_do_not_block_other_requests() {
    let (machine, _node, api) = Api::start();
    let tus = ("tus-resumable", "1.0.0");
    let part = ("content-type", "application/offset+octet-stream");
    let slow: Vec<_> = (0..600)
        .map(|_| {
            let begun = api.ask("POST", "/api/v1/uploads", &[tus, ("upload-length", "2")], b"").is(201);
            let path = begun.header("location").expect("a place").to_owned();
            let mut stream = api.send("PATCH", &path, &[tus, part, ("upload-offset", "0")], 2);
            stream.write_all(b"1").expect("sent");
            stream
        })
        .collect();
    let report = machine.provide("a", b"bytes");
    assert_eq!(
        api.get(&format!("/api/v1/files/{}", report["cid"].as_str().expect("one"))).is(200).json()["size"],
        5
    );
    drop(slow);
}

#[test]
fn slow_senders_do_not_delay_bytes_that_have_arrived() {
    let (_machine, _node, api) = Api::start();
    // More than the limit of concurrent uploads.
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = api.send("POST", "/api/v1/files", &[], 100);
            stream.write_all(b"1").expect("sent");
            stream
        })
        .collect();
    let headers = [
        ("tus-resumable", "1.0.0"),
        ("content-type", "application/offset+octet-stream"),
        ("upload-length", "5"),
    ];
    let stored = api.ask("POST", "/api/v1/uploads", &headers, b"bytes").is(201);
    assert!(stored.header("storgo-cid").is_some(), "{stored:?}");
    let form = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nearly\r\n\
        --B\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--B--\r\n";
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    api.ask("POST", "/api/store", &kind, form.as_bytes()).is(200);
    assert_eq!(api.get("/api/get?key=k").is(200).text(), "early");
    drop(slow);
}

#[test]
fn a_client_that_is_refused_can_finish_sending_and_read_the_response() {
    let (_machine, _node, api) = Api::start();
    let tus = ("tus-resumable", "1.0.0");
    let part = ("content-type", "application/offset+octet-stream");
    let json = ("content-type", "application/json");
    let begun = api.ask("POST", "/api/v1/uploads", &[tus, ("upload-length", "10")], b"").is(201);
    let upload = begun.header("location").expect("a place").to_owned();
    let body = vec![b' '; 8 << 20];
    let known = [
        ("POST", "/api/v1/nothing", &[][..], 404, "not_found"),
        ("POST", "/nothing", &[], 404, "not_found"),
        ("PUT", "/api/v1/files", &[], 405, "bad_request"),
        ("POST", "/api/v1/files?nonsense=1", &[], 400, "bad_request"),
        ("POST", "/api/v1/files?chunker=none", &[], 400, "bad_request"),
        ("POST", "/api/v1/tokens", &[json], 413, "bad_request"),
        ("PATCH", &upload, &[tus, ("upload-offset", "0")], 415, "bad_request"),
        ("PATCH", &upload, &[tus, part, ("upload-offset", "0")], 413, "bad_request"),
        ("PATCH", &upload, &[part, ("upload-offset", "0")], 412, "bad_request"),
    ];
    let refused = |api: &Api, method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut stream = api.send(method, path, headers, body.len() as u64);
        stream.write_all(&body).unwrap_or_else(|e| panic!("{method} {path} is not taken: {e}"));
        answer(stream, false)
    };
    for (method, path, headers, status, code) in known {
        refused(&api, method, path, headers).refuses(status, code);
    }
    refused(&api.bare(), "POST", "/api/v1/files", &[]).refuses(401, "denied");
    refused(&api.bare(), "POST", "/api/v1/session", &[json]).refuses(413, "bad_request");
}

#[test]
fn a_form_without_parts_is_refused_in_bounded_memory() {
    let (_machine, node, api) = Api::start();
    let before = peak_kib(&node);
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let nothing = "x".repeat(64 << 20);
    let endless = format!("--B\r\nContent-Disposition: form-data; name=\"file\"; x=\"{nothing}");
    let behind =
        format!("--B\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--B\r\nx: {nothing}");
    for form in [&nothing, &endless, &behind] {
        for path in ["/api/v1/files", "/api/store"] {
            api.ask("POST", path, &kind, form.as_bytes()).refuses(400, "bad_request");
        }
    }
    let grown = peak_kib(&node) - before;
    assert!(grown < 32 << 10, "{grown} KiB");
    // A long part without a file is skipped.
    let long =
        format!("--B\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n{}\r\n", &nothing[..1 << 20]);
    let file = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nbytes\r\n--B--\r\n";
    let stored = api.ask("POST", "/api/v1/files", &kind, (long + file).as_bytes()).is(201);
    assert_eq!(stored.json()["files"][0]["size"], 5);
}

#[test]
fn one_verification_runs_at_a_time() {
    let (machine, _node, api) = Api::start();
    let mut bytes = vec![0; 96 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    machine.provide("a", &bytes);
    let checks: Vec<_> = (0..8).map(|_| api.send("POST", "/api/v1/verify", &[], 0)).collect();
    let answers: Vec<_> = checks.into_iter().map(|check| answer(check, false)).collect();
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert!(of(200) > 0 && of(409) > 0 && of(200) + of(409) == 8, "{answers:?}");
    api.post("/api/v1/verify", &serde_json::json!({})).is(200);
}

/// Opens a stream of events, which takes a place until it is dropped. Returns whether it was accepted.
fn listen(api: &Api) -> (TcpStream, bool) {
    let mut stream = api.send("GET", "/api/v1/events", &[], 0);
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut head).expect("a status");
    (stream, head.ends_with(b"200"))
}

fn guest(owner: &Api, name: &str) -> Api {
    let made = owner.post("/api/v1/tokens", &serde_json::json!({ "name": name, "scope": "read" }));
    owner.with(made.is(201).json()["token"].as_str().expect("a token"))
}

#[test]
fn tokens_without_admin_leave_connections_to_the_owner() {
    let machine = Machine::new();
    let mut command = machine.command();
    command.args(ALONE).arg("--json").env("STORGO_HTTP_CONNECTIONS", "32");
    let node = Live::of(command);
    let owner = Api::of(&machine, &node);
    let held = ["one", "two", "three", "four"].map(|name| {
        let guest = guest(&owner, name);
        (0..12).map(|_| listen(&guest)).filter(|(_, accepted)| *accepted).collect::<Vec<_>>()
    });
    assert_eq!(held.each_ref().map(Vec::len), [8, 8, 8, 0]);
    owner.get("/api/v1/status").is(200);
    machine.run(["status"]).ok();
}

#[test]
fn event_streams_of_one_token_leave_room_for_others() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let owner = Api::of(&machine, &node);
    let guest = guest(&owner, "guest");
    let all: Vec<_> = (0..40).map(|_| listen(&guest)).collect();
    assert_eq!(all.iter().filter(|(_, accepted)| *accepted).count(), 32);
    assert!(listen(&owner).1);
}
