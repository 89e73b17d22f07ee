//! The proof of membership on QUIC.
//!
//! On TCP the cluster's key is part of the Noise prologue: with another key the handshake fails. QUIC has TLS and no
//! prologue, so right after the handshake, before the connection is handed to anything that would answer, both sides
//! prove that they have the key:
//!
//! ```text
//! dialer   ─ 32 random bytes ─▶ listener
//! dialer   ◀─ 32 random bytes ‖ MAC("listener") ─ listener
//! dialer   ─ MAC("dialer") ─▶ listener        MAC = BLAKE3 keyed, over role ‖ both peer ids ‖ both random values
//! ```
//! TLS has proven the peer ids by then. A proof names them both and the two random values of this very connection, so
//! one that was made for another connection, or for another pair of peers, is worth nothing here.

use std::{io, time::Duration};

use libp2p::{
    PeerId,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerExt},
    },
    futures::{AsyncReadExt, AsyncWriteExt, future::poll_fn},
};

use crate::content::secret::{Key, MembershipKey};

/// How long a peer has to prove itself.
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

/// Runs the proof on a fresh connection.
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
    let proof = prove(&key, local, remote, &mut muxer, begins(&endpoint));
    match tokio::time::timeout(DEADLINE, proof).await {
        Ok(Ok(())) => Ok((remote, muxer)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, ProofError::Missing)),
    }
}

/// Whether this side begins. In a hole punch both sides dial, and one of them does so as the listener.
fn begins(endpoint: &ConnectedPoint) -> bool {
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
            let ours: [u8; 32] = rand::random();
            stream.write_all(&ours).await?;
            stream.flush().await?;
            let (theirs, shown) = (read(&mut stream).await?, read(&mut stream).await?);
            check(shown, mac(key, b"listener", local, remote, &ours, &theirs))?;
            stream.write_all(mac(key, b"dialer", local, remote, &ours, &theirs).as_bytes()).await?;
        } else {
            let theirs = read(&mut stream).await?;
            let ours: [u8; 32] = rand::random();
            stream.write_all(&ours).await?;
            stream.write_all(mac(key, b"listener", remote, local, &theirs, &ours).as_bytes()).await?;
            stream.flush().await?;
            let shown = read(&mut stream).await?;
            check(shown, mac(key, b"dialer", remote, local, &theirs, &ours))?;
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

async fn drive(muxer: &mut StreamMuxerBox) -> io::Error {
    poll_fn(|cx| {
        loop {
            match std::pin::Pin::new(&mut *muxer).poll(cx) {
                std::task::Poll::Ready(Ok(_)) => {}
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(error),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    })
    .await
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
    // Lengths first: no two different inputs run together into one.
    for part in [role, &dialer.to_bytes(), &listener.to_bytes(), first, second] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

/// Compares in constant time, as BLAKE3's hash type does.
fn check(shown: [u8; 32], made: blake3::Hash) -> io::Result<()> {
    if blake3::Hash::from_bytes(shown) == made {
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
    fn in_a_hole_punch_one_of_two_dialers_begins() {
        let dialing_as = |role_override| ConnectedPoint::Dialer {
            address: Multiaddr::empty(),
            role_override,
            port_use: PortUse::Reuse,
        };
        assert!(begins(&dialing_as(Endpoint::Dialer)));
        assert!(!begins(&dialing_as(Endpoint::Listener)));
    }

    #[test]
    fn a_proof_is_for_one_connection_and_one_role_alone() {
        let key = Key::new([1; 32]);
        let (a, b) = (PeerId::random(), PeerId::random());
        let made = mac(&key, b"dialer", a, b, &[1; 32], &[2; 32]);
        assert!(check(*made.as_bytes(), made).is_ok());
        for other in [
            mac(&key, b"listener", a, b, &[1; 32], &[2; 32]),
            mac(&key, b"dialer", b, a, &[1; 32], &[2; 32]),
            mac(&key, b"dialer", a, b, &[3; 32], &[2; 32]),
            mac(&key, b"dialer", a, b, &[1; 32], &[3; 32]),
            mac(&Key::new([2; 32]), b"dialer", a, b, &[1; 32], &[2; 32]),
        ] {
            assert!(check(*made.as_bytes(), other).is_err());
        }
    }
}
