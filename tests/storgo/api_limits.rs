//! What a caller may cost: headers, bodies, forms, connections, and their time.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    api::{Api, answer},
    binary::{ALONE, Live, Machine},
};

/// Peak memory of a node, KiB.
fn peak_kib(node: &Live) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.status["pid"])).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Lets this process hold so many sockets.
fn need_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let enough = Rlimit { current: Some(count), ..limit };
        setrlimit(Resource::Nofile, enough).expect("this test needs more open files: raise `ulimit -Hn`");
    }
}

#[test]
fn a_header_has_an_end() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let long = "x".repeat(100_000);
    let many: Vec<(String, &str)> = (0..200).map(|i| (format!("x-{i}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for headers in [&[("x-long", long.as_str())][..], &many] {
        answer(api.send("GET", "/api/v1/status", headers, 0), false).refuses(431, "bad_request");
    }
    // Shorter than what the parser takes, longer than what is served.
    api.ask("GET", "/api/v1/status", &[("x-long", &long[..40_000])], b"").refuses(431, "bad_request");
    api.get("/api/v1/status").is(200);
}

#[test]
fn what_cannot_be_read_as_http_is_answered_with_a_problem_too() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let answered = format!("GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n", api.addr);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let broken = [
        ("GET /livez HTTP/9.9\r\n\r\n", 400),
        ("G\u{1}T / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (long.as_str(), 431),
    ];
    for (request, status) in broken {
        let mut stream = TcpStream::connect(&api.addr).expect("connected");
        drop(stream.write_all(request.as_bytes()));
        answer(&stream, false).refuses(status, "bad_request");
        // Also after an answer on the same connection, which stays what it was.
        let mut stream = TcpStream::connect(&api.addr).expect("connected");
        stream.write_all(answered.as_bytes()).expect("sent");
        let mut first = Vec::new();
        while !first.ends_with(b"ok\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            first.extend(byte);
        }
        drop(stream.write_all(request.as_bytes()));
        answer(&stream, false).refuses(status, "bad_request");
    }
    // What a file says is never taken for a refusal.
    let mock = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(20_000);
    let cid = api.ask("POST", "/api/v1/files?name=mock", &[], mock.as_bytes()).is(201).json()["cid"].clone();
    let path = format!("/api/v1/files/{}/content", cid.as_str().expect("a CID"));
    assert!(api.get(&path).is(200).text() == mock);
}

#[test]
fn ten_thousand_slow_callers_keep_nobody_out() {
    need_descriptors(12_000);
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let (mut slow, mut slowest) = (Vec::new(), Duration::ZERO);
    // Half of a header; and, of nobody who is known, half of a body.
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
    println!("another is answered within {slowest:?}, memory at most {} KiB", peak_kib(&node));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(peak_kib(&node) < 150 << 10, "{}", peak_kib(&node));
}

#[test]
fn callers_take_no_files_from_the_store_where_there_are_few() {
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
fn slow_uploads_take_no_thread_that_others_need() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
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
fn slow_senders_keep_nothing_waiting_that_is_here_already() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    // More than may store at a time.
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
fn who_is_refused_may_send_all_of_it_and_reads_why() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
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
fn a_form_without_parts_is_refused_before_it_fills_the_memory() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
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
    // A long part that nobody wants is passed over.
    let long =
        format!("--B\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n{}\r\n", &nothing[..1 << 20]);
    let file = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nbytes\r\n--B--\r\n";
    let stored = api.ask("POST", "/api/v1/files", &kind, (long + file).as_bytes()).is(201);
    assert_eq!(stored.json()["files"][0]["size"], 5);
}

#[test]
fn everything_is_checked_once_at_a_time() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let mut bytes = vec![0; 96 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    machine.provide("a", &bytes);
    let checks: Vec<_> = (0..8).map(|_| api.send("POST", "/api/v1/verify", &[], 0)).collect();
    let answers: Vec<_> = checks.into_iter().map(|check| answer(check, false)).collect();
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert!(of(200) > 0 && of(409) > 0 && of(200) + of(409) == 8, "{answers:?}");
    api.post("/api/v1/verify", &serde_json::json!({})).is(200);
}
