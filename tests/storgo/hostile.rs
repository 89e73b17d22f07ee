//! A libp2p peer made by hand: TCP, multistream-select, Noise XX and Yamux without libp2p, so that a broken peer can be
//! written in a few lines.
//!
//! ```text
//! Caller::stranger().connect(&addr)  ─▶  Connection      .open(protocol) ─▶ Stream: AsyncRead + AsyncWrite
//!        .socket(&addr)  a caller that has not said a word   .frame(…)        any Yamux frame
//!        .connect_over(stream)   through a relay             .accept()        streams that the node opens
//! ```
//! The peer keeps the rules unless a test breaks them: it grants Yamux windows as it reads and respects those of the node.

pub mod multistream;
mod noise;
pub mod protobuf;
mod x25519;
pub mod yamux;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol};
use storgo::{
    content::secret::MembershipKey,
    transfer,
    wire::{Message, PREFIX_LEN, Request, Response},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpSocket, TcpStream},
};

pub use yamux::{Connection, Stream};

/// Maximum time to wait for one answer of a node.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a peer.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// A caller: its identity, its cluster and the address it calls from.
#[derive(Clone)]
pub struct Caller {
    pub keypair: Keypair,
    /// Derived from the cluster's key. Empty outside a cluster.
    prologue: Vec<u8>,
    from: Ipv4Addr,
}

impl Caller {
    /// A caller with a new identity and without a cluster's key.
    pub fn stranger() -> Self {
        Self { keypair: Keypair::generate_ed25519(), prologue: Vec::new(), from: Ipv4Addr::LOCALHOST }
    }

    /// A caller with a new identity that has the cluster's key.
    pub fn member(key: &MembershipKey) -> Self {
        let prologue = key.derive("storgo v1 noise prologue").as_bytes().to_vec();
        Self { prologue, ..Self::stranger() }
    }

    /// Calls from another address of this machine. On Linux, all of 127.0.0.0/8 are.
    pub fn from(self, from: [u8; 4]) -> Self {
        Self { from: from.into(), ..self }
    }

    /// Connects and says nothing.
    pub async fn socket(&self, addr: &Multiaddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        let stream = socket.connect(tcp_addr(addr)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Does the Noise handshake. What is written to the returned pipe is sealed and sent.
    async fn noise(&self, mut socket: impl Socket) -> io::Result<DuplexStream> {
        multistream::offer(&mut socket, "/noise").await?;
        let session = noise::handshake(&mut socket, &self.keypair, &self.prologue).await?;
        Ok(noise::secure(socket, session))
    }

    /// Connects, authenticates and multiplexes.
    pub async fn connect(&self, addr: &Multiaddr) -> io::Result<Connection> {
        self.connect_over(self.socket(addr).await?).await
    }

    /// Authenticates and multiplexes on a socket, or on a stream through a relay.
    pub async fn connect_over(&self, socket: impl Socket) -> io::Result<Connection> {
        let connecting = async {
            let mut pipe = self.noise(socket).await?;
            multistream::offer(&mut pipe, "/yamux/1.0.0").await?;
            Ok(Connection::new(pipe))
        };
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Returns the socket address of a multiaddr over TCP.
pub fn tcp_addr(addr: &Multiaddr) -> SocketAddr {
    let mut parts = addr.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => SocketAddr::new(IpAddr::V4(ip), port),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) => SocketAddr::new(IpAddr::V6(ip), port),
        _ => panic!("{addr} is not over TCP"),
    }
}

/// Opens a stream of the transfer protocol.
pub async fn transfer(connection: &Connection) -> io::Result<Stream> {
    connection.open(transfer::PROTOCOL.as_ref()).await
}

/// Sends one request of the transfer protocol and returns the answer, without the bytes of a block.
pub async fn ask(stream: &mut Stream, request: &Request) -> io::Result<Response> {
    stream.write_all(&request.encode().expect("encoded")).await?;
    answer(stream).await
}

/// Reads one answer of the transfer protocol.
pub async fn answer(stream: &mut Stream) -> io::Result<Response> {
    let reading = async {
        let mut prefix = [0; PREFIX_LEN];
        stream.read_exact(&mut prefix).await?;
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut body).await?;
        Response::decode(&body).map_err(io::Error::other)
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

mod tests {
    use storgo::content::cid::{Cid, Codec};

    use super::{Caller, Request, Response, ask, transfer};
    use crate::{
        cluster::random_key,
        swarm::{addr_of, start_with},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_made_by_hand_gets_an_answer() {
        let node = start_with(|_| {}).await;
        let addr = addr_of(&node).await;
        let peer = Caller::stranger().connect(&addr).await.expect("connected");
        let mut stream = transfer(&peer).await.expect("opened");
        let cid = Cid::of(Codec::Raw, b"nowhere");
        let answer = ask(&mut stream, &Request::Get { cids: vec![cid] }).await.expect("answered");
        assert_eq!(answer, Response::Missing { cid });
        // The node opens streams too, to identify its peer.
        let (protocol, _) = peer.accept().await.expect("a stream");
        assert!(protocol.starts_with("/ipfs/"), "{protocol}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_made_by_hand_needs_the_key_of_a_cluster() {
        let key = random_key();
        let node = start_with(|options| options.cluster = Some(key.clone())).await;
        let addr = addr_of(&node).await;
        assert!(Caller::stranger().connect(&addr).await.is_err());
        let peer = Caller::member(&key.membership()).connect(&addr).await.expect("connected");
        let mut stream = transfer(&peer).await.expect("opened");
        let root = Cid::of(Codec::DagCbor, b"nowhere");
        let have = ask(&mut stream, &Request::Have { root }).await.expect("answered");
        assert_eq!(have, Response::Have { blocks: 1, bitmap: vec![0].into() });
    }
}
