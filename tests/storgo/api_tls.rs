//! Sockets: TLS, and addresses beyond this machine.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
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

    // The same file works as a certificate from elsewhere.
    let pem = machine.home().join("chain.pem");
    std::fs::write(&pem, &made).expect("written");
    let node = machine.start(["--tls-cert".as_ref(), pem.as_os_str(), "--tls-key".as_ref(), pem.as_os_str()]);
    over_tls(&machine, &node, "localhost").is(200);
    let _ = node.stop();
    machine.run(["run", "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"]).fails(2, &["nowhere.pem"]);
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
}
