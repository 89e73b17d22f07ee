//! How bytes get from node to node: TCP with Noise and Yamux, QUIC, relays, DNS names; memory for tests.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport, OrTransport},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    noise, quic, relay, tcp,
};

use super::{NetError, expected::Expected, mux::Bulk, proof, quic_fallback::QuicFallback, socket::Buffered};
use crate::content::secret::MembershipKey;

/// How long a connection may take until it is ready.
const SETUP: Duration = Duration::from_secs(15);

/// All transports as one. `self_calls` counts calls that were meant for others and reached ourselves.
pub(super) fn build(
    keypair: &Keypair,
    membership: Option<&MembershipKey>,
    relay: relay::client::Transport,
    self_calls: Arc<AtomicU64>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise_config(keypair, membership)?;
    let local = keypair.public().to_peer_id();
    let refusals = QuicFallback::new();
    let plain = OrTransport::new(
        refusals.told_by(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))),
        OrTransport::new(relay, MemoryTransport::new()),
    );
    let upgraded = plain
        .map(|socket, _| Buffered::new(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(Bulk)
        .timeout(SETUP)
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)));
    let membership = membership.cloned();
    let quic = refusals.heard_by(quic::tokio::Transport::new(quic::Config::new(keypair)));
    let quic = quic
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)))
        .and_then(move |connection, endpoint| proof::run(membership.clone(), local, connection, endpoint));
    let both = OrTransport::new(quic, upgraded).map(|either, _| either.into_inner());
    let inner = with_names(both)?.map(|connection, _| connection).boxed();
    Ok(Expected { inner, local, self_calls }.boxed())
}

fn noise_config(keypair: &Keypair, membership: Option<&MembershipKey>) -> Result<noise::Config, NetError> {
    let config = noise::Config::new(keypair).map_err(|e| NetError::Setup(e.to_string()))?;
    Ok(match membership {
        Some(key) => config.with_prologue(key.derive("storgo v1 noise prologue").as_bytes().to_vec()),
        None => config,
    })
}

/// DNS names by the system's resolver; where its configuration is missing or useless, by the hosts file alone.
fn with_names<T>(inner: T) -> Result<dns::tokio::Transport<T>, NetError>
where
    T: Transport + Send + Unpin + 'static,
    T::Dial: Send,
    T::Error: Send,
{
    // Tried on a transport that costs nothing: where it fails, the one given is gone.
    match dns::tokio::Transport::system(MemoryTransport::new()) {
        Ok(_) => dns::tokio::Transport::system(inner).map_err(|e| NetError::Setup(format!("DNS: {e}"))),
        Err(error) => {
            tracing::info!("names are looked up in the hosts file alone: {error}");
            let (config, options) = (dns::ResolverConfig::default(), dns::ResolverOpts::default());
            Ok(dns::tokio::Transport::custom(inner, config, options))
        }
    }
}
