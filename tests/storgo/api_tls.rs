//! Sockets: TLS, addresses beyond this machine, and callers that take their time.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    api::{Answer, Api, answer},
    binary::{DEADLINE, Live, Machine},
};

fn over_tls(machine: &Machine, node: &Live, host: &str) -> Answer {
    let api = Api::of(machine, node);
    let pem = std::fs::read(machine.data().join("api-tls.pem")).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = host.to_owned().try_into().expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let port = api.addr.rsplit_once(':').expect("a port").1;
    let socket = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut stream = StreamOwned::new(client, socket);
    let token = api.token.expect("one");
    let head = format!(
        "GET /api/v1/status HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    answer(stream, false)
}

#[test]
fn a_node_speaks_tls_with_a_certificate_of_its_own_and_its_commands_still_reach_it() {
    let machine = Machine::new();
    let args = ["--tls-self-signed", "--http-host", "box.example"];
    let node = machine.start(args);
    assert_eq!(node.status["https"], true);
    for host in ["127.0.0.1", "localhost", "box.example"] {
        assert_eq!(over_tls(&machine, &node, host).is(200).json()["peer"], node.status["peer"], "{host}");
    }
    assert_eq!(machine.status()["peer"], node.status["peer"]);
    assert!(machine.run(["web"]).ok().one_line().starts_with("https://"));
    // Who speaks no TLS gets no answer, and nothing of anybody's.
    let mut plain = Api::of(&machine, &node).send("GET", "/api/v1/status", &[], 0);
    let mut bytes = Vec::new();
    drop(plain.read_to_end(&mut bytes));
    assert!(!String::from_utf8_lossy(&bytes).contains("HTTP/1.1"));
    let made = std::fs::read(machine.data().join("api-tls.pem")).expect("a certificate");
    let _ = node.stop();
    let node = machine.start(args);
    assert_eq!(
        std::fs::read(machine.data().join("api-tls.pem")).expect("kept"),
        made,
        "it keeps its certificate"
    );
    let _ = node.stop();

    // The same file does as a certificate of somebody else's.
    let pem = machine.home().join("chain.pem");
    std::fs::write(&pem, &made).expect("written");
    let node = machine.start(["--tls-cert".as_ref(), pem.as_os_str(), "--tls-key".as_ref(), pem.as_os_str()]);
    over_tls(&machine, &node, "localhost").is(200);
    let _ = node.stop();
    machine.run(["run", "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"]).fails(2, &["nowhere.pem"]);
    machine.run(["run", "--tls-cert", "nowhere.pem"]).fails(2, &["--tls-key"]);
}

#[test]
fn what_others_can_reach_needs_tls_or_a_word_that_it_does_not() {
    let machine = Machine::new();
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut command = machine.command();
    command.args(listen).args(["--http", "0.0.0.0:0"]);
    super::binary::Done::of(command).fails(2, &["without TLS", "--tls-self-signed", "--http-insecure"]);
    let node =
        machine.start_on(&["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "0.0.0.0:0"], ["--http-insecure"]);
    let port = node.status["http"].as_str().expect("it serves").rsplit_once(':').expect("a port").1;
    let api = Api { addr: format!("127.0.0.1:{port}"), ..Api::of(&machine, &node) };
    api.ask("GET", "/api/v1/status", &[("host", "192.0.2.9:8080")], b"").is(200);
    api.ask("GET", "/api/v1/status", &[("host", "evil.example")], b"").refuses(421, "denied");
    assert_eq!(machine.status()["peer"], node.status["peer"]);
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
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(20_000);
    let count = 10_000.min(usize::try_from(limit).unwrap_or(0).saturating_sub(2_000));
    let (mut slow, mut slowest) = (Vec::new(), Duration::ZERO);
    let part = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    for number in 0..count {
        let mut stream = TcpStream::connect(&api.addr).expect("connected");
        drop(stream.write_all(part.as_bytes()));
        slow.push(stream);
        if number % 500 == 0 {
            let asked = Instant::now();
            api.get("/api/v1/status").is(200);
            slowest = slowest.max(asked.elapsed());
        }
    }
    println!("{count} slow callers; another is answered within {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.status["pid"])).expect("it runs");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    let peak_kib: u64 = peak.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    println!("memory at most: {peak_kib} KiB");
    assert!(peak_kib < 150 << 10, "{peak}");
}
