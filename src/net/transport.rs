//! The transports: TCP with Noise and Yamux, QUIC, relays, DNS names; memory for tests.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport, OrTransport, timeout::TransportTimeoutError},
        upgrade::Version,
    },
    dns,
    futures::io::BufReader,
    identity::Keypair,
    noise, quic, relay, tcp,
};

use super::{
    NetError, connection_limits::Limits, mux::BulkYamux, peer_check::check_peer,
    pending_limits::PendingLimits, proof, strangers::Strangers,
};
use crate::content::secret::MembershipKey;

/// Maximum time to set up a connection to a dialled peer. Callers have less (`pending_limits`).
const SETUP: Duration = Duration::from_secs(15);

/// Maximum time for the handshake of QUIC, which sends its first packet again after one and after three seconds. A host that
/// refuses TCP drops the packets, so a dial over both lasts this long.
const QUIC_HANDSHAKE: Duration = Duration::from_millis(3500);
/// Read buffer of a TCP connection in bytes. Unbuffered, each read of Noise (8 KiB) would be a system call.
const READ_AHEAD: usize = 32 << 10;

/// Builds the transport of all kinds of addresses. `self_dials` counts dials to other peers that this node answered.
/// `strangers` learns the resolved addresses of dials.
///
/// Each error of a connection stays in the chain of causes that `dial_failure` reads: `Either` would hide it.
pub(super) fn build(
    keypair: &Keypair,
    membership: Option<&MembershipKey>,
    relay: relay::client::Transport,
    limits: Limits,
    self_dials: Arc<AtomicU64>,
    strangers: Strangers,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise_config(keypair, membership)?;
    let local = keypair.public().to_peer_id();
    let plain = OrTransport::new(
        tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)),
        OrTransport::new(relay, MemoryTransport::new()),
    )
    .map_err(|error| error.either(|tcp| tcp, io::Error::other));
    let upgraded = plain
        .map(|socket, _| BufReader::with_capacity(READ_AHEAD, socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(BulkYamux)
        .timeout(SETUP)
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)))
        .map_err(|error| match error {
            TransportTimeoutError::Other(error) => {
                error.either(|dial| dial.either(|io| io, io::Error::other), io::Error::other)
            }
            late => io::Error::other(late),
        });
    let membership = membership.cloned();
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = QUIC_HANDSHAKE;
    let quic = quic::tokio::Transport::new(config)
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)))
        .and_then(move |connection, endpoint| proof::run(membership.clone(), local, connection, endpoint))
        .map_err(|error| error.either(io::Error::other, |error| error));
    let both = OrTransport::new(quic, upgraded)
        .map(move |either, endpoint| {
            let (peer, mux) = either.into_inner();
            strangers.set_dialled(peer, &endpoint);
            (peer, mux)
        })
        .map_err(|error| error.either(|quic| quic, |tcp| tcp));
    let inner = with_names(both)?.map(|connection, _| connection).boxed();
    let limited = PendingLimits::new(inner, limits.pending, limits.pending_per_host).boxed();
    Ok(check_peer(limited, local, self_dials))
}

fn noise_config(keypair: &Keypair, membership: Option<&MembershipKey>) -> Result<noise::Config, NetError> {
    let config = noise::Config::new(keypair).map_err(|e| NetError::Setup(e.to_string()))?;
    Ok(match membership {
        Some(key) => config.with_prologue(key.derive("storgo v1 noise prologue").as_bytes().to_vec()),
        None => config,
    })
}

/// Adds DNS names, resolved by the system's configuration. If that is missing or invalid, only the hosts file is used.
fn with_names<T>(inner: T) -> Result<dns::tokio::Transport<T>, NetError>
where
    T: Transport + Send + Unpin + 'static,
    T::Dial: Send,
    T::Error: Send,
{
    // A failure would consume `inner`, so the configuration is tried on another transport.
    match dns::tokio::Transport::system(MemoryTransport::new()) {
        Ok(_) => dns::tokio::Transport::system(inner).map_err(|e| NetError::Setup(format!("DNS: {e}"))),
        Err(error) => {
            tracing::info!("no DNS configuration, names are looked up in the hosts file only: {error}");
            let (config, options) = (dns::ResolverConfig::default(), dns::ResolverOpts::default());
            Ok(dns::tokio::Transport::custom(inner, config, options))
        }
    }
}
