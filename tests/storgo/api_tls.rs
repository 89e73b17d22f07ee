//! Sockets: TLS, and addresses beyond this machine.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;

use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    api::{Answer, Api, answer},
    binary::{DEADLINE, Live, Machine, eventually},
};

fn over_tls(machine: &Machine, node: &Live, host: &str) -> Answer {
    let pem = std::fs::read(machine.data().join("api-tls.pem")).expect("a certificate");
    trusting(&pem, machine, node, host).expect("a connection")
}

/// Asks for the status as a client that trusts this certificate only. `None`: the node shows another one.
fn trusting(pem: &[u8], machine: &Machine, node: &Live, host: &str) -> Option<Answer> {
    let api = Api::of(machine, node);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).expect("PEM")).expect("a certificate");
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
    stream.write_all(head.as_bytes()).ok()?;
    Some(answer(stream, false))
}

/// Makes a certificate for `localhost` that is valid for these days from now, and its key.
fn certificate(days: std::ops::Range<i64>) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("names");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let day = |days: i64| {
        let seconds = i64::try_from(now.as_secs()).expect("small") + days * 24 * 60 * 60;
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.try_into().expect("after 1970"))
    };
    (params.not_before, params.not_after) = (day(days.start), day(days.end));
    let key = rcgen::KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
}

#[test]
fn a_node_with_a_self_signed_certificate_still_serves_its_commands() {
    let machine = Machine::new();
    let args = ["--tls-self-signed", "--http-host", "box.example"];
    let node = machine.start(args);
    assert_eq!(node.status["https"], true);
    for host in ["127.0.0.1", "localhost", "box.example"] {
        assert_eq!(over_tls(&machine, &node, host).is(200).json()["peer"], node.status["peer"], "{host}");
    }
    assert_eq!(machine.status()["peer"], node.status["peer"]);
    let status = machine.run(["status"]).ok().text();
    assert!(
        status.contains(&format!("https://{}", node.status["http"].as_str().expect("an address"))),
        "{status}"
    );
    assert!(machine.run(["web"]).ok().one_line().starts_with("https://"));
    // A client without TLS gets no response.
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
        "the node keeps its certificate"
    );
    let _ = node.stop();
    // Also if the clock is behind.
    let file = std::fs::File::options().write(true).open(machine.data().join("api-tls.pem")).expect("opened");
    file.set_modified(SystemTime::now() + Duration::from_secs(1 << 30)).expect("set");
    let node = machine.start(args);
    assert_eq!(std::fs::read(machine.data().join("api-tls.pem")).expect("kept"), made);
    let _ = node.stop();

    // The same file works as a certificate from elsewhere.
    let pem = machine.home().join("chain.pem");
    std::fs::write(&pem, &made).expect("written");
    let node = machine.start(["--tls-cert".as_ref(), pem.as_os_str(), "--tls-key".as_ref(), pem.as_os_str()]);
    over_tls(&machine, &node, "localhost").is(200);
    let _ = node.stop();
    let nowhere = ["run", "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"];
    machine.run(nowhere).fails(2, &["nowhere.pem", "--tls-cert takes a PEM chain"]);
    machine.run(["run", "--tls-cert", "nowhere.pem"]).fails(2, &["--tls-key"]);
}

#[test]
fn an_address_that_others_can_reach_needs_tls_or_a_flag() {
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
    // Nobody can open the URL of an address that means all of them.
    let text = machine.run(["status"]).ok().text();
    assert!(text.contains(&format!("http://127.0.0.1:{port} (on all addresses")), "{text}");
    assert!(machine.run(["web"]).ok().one_line().starts_with(&format!("http://127.0.0.1:{port}/#signin=")));
}

#[test]
fn a_renewed_certificate_is_used_by_a_running_node() {
    let machine = Machine::new();
    let (old, old_key) = certificate(-1..100);
    let (new, new_key) = certificate(-1..100);
    let write = |cert: &str, key: &str| {
        machine.file("cert.pem", cert.as_bytes());
        machine.file("key.pem", key.as_bytes());
    };
    write(&old, &old_key);
    let args = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let node = machine.start(args);
    let ask = |pem: &str| trusting(pem.as_bytes(), &machine, &node, "localhost");
    ask(&old).expect("the first certificate").is(200);
    assert!(ask(&new).is_none());
    // A key that does not belong to the certificate changes nothing.
    machine.file("cert.pem", new.as_bytes());
    node.running.notes("key.pem is not the private key of the certificate");
    ask(&old).expect("still the first certificate").is(200);
    write(&new, &new_key);
    eventually("the new certificate is used", || ask(&new).is_some());
    assert!(ask(&old).is_none());
    // SIGHUP asks for it at once, and ends nothing.
    write(&old, &old_key);
    node.running.signal(Signal::HUP);
    eventually("the old certificate is back", || ask(&old).is_some());
    assert_eq!(machine.status()["peer"], node.status["peer"]);
}

#[test]
fn a_certificate_with_wrong_dates_or_an_encrypted_key_is_named() {
    let machine = Machine::new();
    let args = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    for (days, says, code) in
        [(-30..-1, "expired on", 1), (2..30, "is not valid before", 1), (-30..5, "expires on", 0)]
    {
        let (cert, key) = certificate(days);
        machine.file("cert.pem", cert.as_bytes());
        machine.file("key.pem", key.as_bytes());
        let node = machine.start(args);
        let line = node.running.notes(says);
        assert!(line.contains("cert.pem"), "{line}");
        drop(node);
        let found = machine.run(["doctor"].iter().chain(&args)).ends(code).text();
        assert!(found.contains(says) && found.contains("cert.pem"), "{found}");
    }
    for marker in
        ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED"]
    {
        machine.file("key.pem", format!("{marker}\nMIHs\n-----END PRIVATE KEY-----\n").as_bytes());
        machine.run(["run"].iter().chain(&args)).fails(2, &["key.pem is encrypted", "openssl pkey"]);
    }
    machine.file("key.pem", b"nothing");
    machine.run(["run"].iter().chain(&args)).fails(2, &["no private key in key.pem"]);
}
