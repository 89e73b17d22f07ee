//! Ending a connection with a reset, so that its client sees that the response broke off.

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection that can be reset.
pub(super) trait Reset {
    /// Has the connection end with an error for its client when it is dropped. Bytes that were not sent are dropped.
    fn reset(&self);
}

impl Reset for TcpStream {
    fn reset(&self) {
        // Without it, the connection is closed as if the response were complete.
        drop(self.set_zero_linger());
    }
}

impl<S> Reset for TlsStream<S>
where
    S: Reset,
{
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, sync::Arc, time::Duration};

    use axum::{Router, body::Body, routing::get};
    use bytes::Bytes;
    use futures::stream;
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsConnector,
        rustls::{
            ClientConfig, RootCertStore,
            crypto::ring,
            pki_types::{CertificateDer, pem::PemObject},
        },
    };

    use super::{
        super::{ServeOptions, Tls, connections::Connections, limited, serve, serve_requests},
        *,
    };
    use crate::node::{Node, NodeOptions};

    /// Sends `GET path`. Returns what arrives and how the connection ends.
    async fn read(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        path: &str,
        version: &str,
    ) -> (String, io::Result<()>) {
        let request = format!("GET {path} {version}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut received = Vec::new();
        let ended = stream.read_to_end(&mut received).await.map(drop);
        (String::from_utf8_lossy(&received).into_owned(), ended)
    }

    #[tokio::test]
    async fn a_response_of_unknown_length_that_breaks_off_ends_with_a_reset() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let node = Node::start(NodeOptions { offline: true, ..NodeOptions::new(dir.path()) })
            .await
            .expect("started");
        let body = |fails: bool| {
            let first = stream::iter([Ok(Bytes::from_static(b"first"))]);
            let broken = stream::once(async {
                // The first piece is on its way by then.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Err(io::Error::other("a block is missing"))
            });
            let broken = futures::StreamExt::take(broken, usize::from(fails));
            Body::from_stream(futures::StreamExt::chain(first, broken))
        };
        let router = Router::new()
            .route("/whole", get(move || async move { body(false) }))
            .route("/broken", get(move || async move { body(true) }));
        let plain = ServeOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let tls = ServeOptions { tls: Tls::SelfSigned, ..plain.clone() };
        let plain = serve(&node, router.clone(), &plain).await.expect("served").addr;
        let tls = serve(&node, router, &tls).await.expect("served").addr;
        let mut roots = RootCertStore::empty();
        let pem = std::fs::read(dir.path().join("api-tls.pem")).expect("a certificate");
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        for version in ["HTTP/1.0", "HTTP/1.1"] {
            for path in ["/whole", "/broken"] {
                let socket = TcpStream::connect(plain).await.expect("connected");
                let over_tcp = read(socket, path, version).await;
                let socket = TcpStream::connect(tls).await.expect("connected");
                let name = "localhost".try_into().expect("a name");
                let stream = connector.connect(name, socket).await.expect("a handshake");
                let over_tls = read(stream, path, version).await;
                for (received, ended) in [over_tcp, over_tls] {
                    assert!(received.contains("200 OK") && received.contains("first"), "{received}");
                    let ended = ended.map_err(|e| e.kind());
                    let expected =
                        if path == "/whole" { Ok(()) } else { Err(io::ErrorKind::ConnectionReset) };
                    assert_eq!(ended, expected, "{path} {version}");
                }
            }
        }
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_download_that_nobody_reads_ends_with_a_reset() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let node = Node::start(NodeOptions { offline: true, ..NodeOptions::new(dir.path()) })
            .await
            .expect("started");
        let endless = || stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 16 << 10])));
        let router = Router::new().route("/", get(move || async move { Body::from_stream(endless()) }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(addr).await.expect("connected");
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sent");
        let (socket, _) = listener.accept().await.expect("accepted");
        let connection = Arc::new(Connections::new(1, false, true)).open().expect("a connection");
        let stream = limited(socket, Duration::from_millis(200));
        let served = serve_requests(&node, stream, router, connection);
        tokio::time::timeout(Duration::from_secs(30), served).await.expect("the node ends it");
        let ended = client.read_to_end(&mut Vec::new()).await.map_err(|e| e.kind());
        assert_eq!(ended.err(), Some(io::ErrorKind::ConnectionReset));
        node.shutdown().await;
    }
}
