//! Noise XX as libp2p uses it: three handshake messages with a signed identity, then sealed frames of up to 64 KiB.

use std::{io, sync::Arc};

use libp2p::identity::Keypair;
use snow::{Builder, StatelessTransportState};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::{Socket, protobuf::bytes_field, x25519::Resolver};

const PARAMS: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
/// Plaintext of one frame: the tag takes 16 of its 65535 bytes.
const PLAIN: usize = 32 << 10;

/// Does the handshake as the dialler. Whether the node is who it claims to be is not checked.
pub async fn handshake(
    socket: &mut impl Socket,
    identity: &Keypair,
    prologue: &[u8],
) -> io::Result<StatelessTransportState> {
    let builder = || Builder::with_resolver(PARAMS.parse().expect("known"), Box::new(Resolver));
    let keys = builder().generate_keypair().map_err(io::Error::other)?;
    let mut noise = builder()
        .local_private_key(&keys.private)
        .and_then(|noise| noise.prologue(prologue))
        .and_then(Builder::build_initiator)
        .map_err(io::Error::other)?;
    let mut buffer = vec![0; 65535];
    let len = noise.write_message(&[], &mut buffer).map_err(io::Error::other)?;
    write_frame(socket, &buffer[..len]).await?;
    let answer = read_frame(socket).await?;
    noise.read_message(&answer, &mut buffer).map_err(io::Error::other)?;
    let signed = [b"noise-libp2p-static-key:", &keys.public[..]].concat();
    let signature = identity.sign(&signed).map_err(io::Error::other)?;
    let payload = [bytes_field(1, &identity.public().encode_protobuf()), bytes_field(2, &signature)].concat();
    let len = noise.write_message(&payload, &mut buffer).map_err(io::Error::other)?;
    write_frame(socket, &buffer[..len]).await?;
    noise.into_stateless_transport_mode().map_err(io::Error::other)
}

/// Returns a pipe whose bytes are sealed and sent, and that gives what was received and opened. It closes with the socket.
pub fn secure(socket: impl Socket, session: StatelessTransportState) -> DuplexStream {
    let (outer, inner) = duplex(PLAIN);
    let ((from_node, to_node), (from_peer, to_peer)) = (split(socket), split(inner));
    let session = Arc::new(session);
    tokio::spawn(seal(from_peer, to_node, Arc::clone(&session)));
    tokio::spawn(open(from_node, to_peer, session));
    outer
}

async fn seal(
    mut plain: ReadHalf<DuplexStream>,
    mut socket: WriteHalf<impl Socket>,
    session: Arc<StatelessTransportState>,
) -> io::Result<()> {
    let (mut bytes, mut sealed) = (vec![0; PLAIN], vec![0; 65535]);
    for nonce in 0.. {
        let len = plain.read(&mut bytes).await?;
        if len == 0 {
            break;
        }
        let len = session.write_message(nonce, &bytes[..len], &mut sealed).map_err(io::Error::other)?;
        write_frame(&mut socket, &sealed[..len]).await?;
    }
    socket.shutdown().await
}

async fn open(
    mut socket: ReadHalf<impl Socket>,
    mut plain: WriteHalf<DuplexStream>,
    session: Arc<StatelessTransportState>,
) -> io::Result<()> {
    let mut opened = vec![0; 65535];
    for nonce in 0.. {
        let Ok(frame) = read_frame(&mut socket).await else { break };
        let len = session.read_message(nonce, &frame, &mut opened).map_err(io::Error::other)?;
        plain.write_all(&opened[..len]).await?;
    }
    plain.shutdown().await
}

async fn write_frame(socket: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    let len = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    socket.write_all(&[&len[..], bytes].concat()).await
}

async fn read_frame(socket: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; usize::from(socket.read_u16().await?)];
    socket.read_exact(&mut frame).await?;
    Ok(frame)
}
