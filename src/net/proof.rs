//! Proof of membership on QUIC.
//!
//! On TCP the cluster's key is part of the Noise prologue: with another key the handshake fails. TLS in QUIC has no
//! prologue. So right after the handshake and before any protocol starts, both sides prove that they have the key:
//!
//! ```text
//! dialer   ─ 32 random bytes ─▶ listener
//! dialer   ◀─ 32 random bytes ‖ MAC("listener") ─ listener
//! dialer   ─ MAC("dialer") ─▶ listener        MAC = BLAKE3 keyed, over role ‖ both peer ids ‖ both random values
//! ```
//! TLS has proven the peer ids by then. A proof covers both peer ids and both random values of this connection, so it is
//! not valid on another connection or for other peers.

use std::{io, time::Duration};

use libp2p::{
    PeerId,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxerBox, StreamMuxerExt},
    },
    futures::{AsyncReadExt, AsyncWriteExt, future::poll_fn},
};

use crate::content::secret::{Key, MembershipKey};

/// Time within which a peer must prove its membership.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a peer is not known to be a member of this cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    /// The peer sent no proof in time.
    #[error("the peer did not prove its membership in time")]
    Missing,
    /// The proof was made with another key.
    #[error("the peer is not of this cluster")]
    Wrong,
}

/// Runs the proof on a new connection. Without a key there is none.
pub(super) async fn run(
    key: Option<MembershipKey>,
    local: PeerId,
    (remote, mut muxer): (PeerId, StreamMuxerBox),
    endpoint: ConnectedPoint,
) -> io::Result<(PeerId, StreamMuxerBox)> {
    let Some(key) = key else {
        return Ok((remote, muxer));
    };
    let key = key.derive("storgo v1 quic proof");
    let proof = prove(&key, local, remote, &mut muxer, is_dialer(&endpoint));
    match tokio::time::timeout(DEADLINE, proof).await {
        Ok(Ok(())) => Ok((remote, muxer)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, ProofError::Missing)),
    }
}

/// Returns whether this side takes the role of the dialer. In a hole punch both sides dial, one of them as the listener.
fn is_dialer(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Dialer { role_override, .. } => role_override.is_dialer(),
        ConnectedPoint::Listener { .. } => false,
    }
}

async fn prove(
    key: &Key,
    local: PeerId,
    remote: PeerId,
    muxer: &mut StreamMuxerBox,
    dialer: bool,
) -> io::Result<()> {
    let mut stream = open(muxer, dialer).await?;
    // The muxer must be polled for the stream to move.
    let exchange = async {
        if dialer {
            let local_random: [u8; 32] = rand::random();
            stream.write_all(&local_random).await?;
            stream.flush().await?;
            let (remote_random, proof) = (read(&mut stream).await?, read(&mut stream).await?);
            check(proof, mac(key, b"listener", local, remote, &local_random, &remote_random))?;
            stream
                .write_all(mac(key, b"dialer", local, remote, &local_random, &remote_random).as_bytes())
                .await?;
        } else {
            let remote_random = read(&mut stream).await?;
            let local_random: [u8; 32] = rand::random();
            stream.write_all(&local_random).await?;
            stream
                .write_all(mac(key, b"listener", remote, local, &remote_random, &local_random).as_bytes())
                .await?;
            stream.flush().await?;
            let proof = read(&mut stream).await?;
            check(proof, mac(key, b"dialer", remote, local, &remote_random, &local_random))?;
        }
        stream.close().await
    };
    tokio::select! {
        done = exchange => done,
        error = drive(muxer) => Err(error),
    }
}

async fn open(muxer: &mut StreamMuxerBox, dialer: bool) -> io::Result<libp2p::core::muxing::SubstreamBox> {
    poll_fn(|cx| {
        if let std::task::Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
            return std::task::Poll::Ready(Err(error));
        }
        if dialer { muxer.poll_outbound_unpin(cx) } else { muxer.poll_inbound_unpin(cx) }
    })
    .await
}

/// Polls a connection, without which its streams do not move, until it ends.
pub(super) async fn drive(muxer: &mut StreamMuxerBox) -> io::Error {
    loop {
        if let Err(error) = poll_fn(|cx| muxer.poll_unpin(cx)).await {
            return error;
        }
    }
}

async fn read(stream: &mut libp2p::core::muxing::SubstreamBox) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn mac(
    key: &Key,
    role: &[u8],
    dialer: PeerId,
    listener: PeerId,
    first: &[u8; 32],
    second: &[u8; 32],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    // Each part is preceded by its length, so that different inputs have different encodings.
    for part in [role, &dialer.to_bytes(), &listener.to_bytes(), first, second] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

/// Compares in constant time, as BLAKE3's hash type does.
fn check(proof: [u8; 32], expected: blake3::Hash) -> io::Result<()> {
    if blake3::Hash::from_bytes(proof) == expected {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, ProofError::Wrong))
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        Multiaddr,
        core::{Endpoint, transport::PortUse},
    };

    use super::*;

    #[test]
    fn in_a_hole_punch_one_of_the_two_dialers_has_the_role_of_the_listener() {
        let dialing_as = |role_override| ConnectedPoint::Dialer {
            address: Multiaddr::empty(),
            role_override,
            port_use: PortUse::Reuse,
        };
        assert!(is_dialer(&dialing_as(Endpoint::Dialer)));
        assert!(!is_dialer(&dialing_as(Endpoint::Listener)));
    }

    #[test]
    fn a_proof_is_valid_for_one_connection_and_one_role() {
        let key = Key::new([1; 32]);
        let (a, b) = (PeerId::random(), PeerId::random());
        let proof = mac(&key, b"dialer", a, b, &[1; 32], &[2; 32]);
        assert!(check(*proof.as_bytes(), proof).is_ok());
        for other in [
            mac(&key, b"listener", a, b, &[1; 32], &[2; 32]),
            mac(&key, b"dialer", b, a, &[1; 32], &[2; 32]),
            mac(&key, b"dialer", a, b, &[3; 32], &[2; 32]),
            mac(&key, b"dialer", a, b, &[1; 32], &[3; 32]),
            mac(&Key::new([2; 32]), b"dialer", a, b, &[1; 32], &[2; 32]),
        ] {
            assert!(check(*proof.as_bytes(), other).is_err());
        }
    }
}
