//! Why a dial or a listener failed, read from the types inside libp2p's errors.

use std::{error::Error, io, iter};

use libp2p::{Multiaddr, PeerId, dns, multiaddr::Protocol, noise, swarm::DialError};

use super::{DialCause, NetError, proof::ProofError};

/// The peer at an address is this node itself.
#[derive(Debug, thiserror::Error)]
#[error("the peer is this node itself")]
pub(super) struct SelfDial;

/// Another peer than the named one is at an address.
#[derive(Debug, thiserror::Error)]
#[error("another peer is at this address: {0}")]
pub(super) struct WrongPeer(pub(super) PeerId);

/// A dial to this node itself.
pub(super) fn self_dial() -> NetError {
    NetError::Dial { cause: DialCause::OwnAddress, reason: SelfDial.to_string() }
}

/// A failed dial without a closer cause.
pub(super) fn unreachable(reason: &str) -> NetError {
    NetError::Dial { cause: DialCause::Other, reason: reason.into() }
}

/// Reason of a failed dial: the two nodes do not have the same cluster key.
const OTHER_CLUSTER: &str = "one of the two nodes belongs to a cluster whose key the other one lacks";

/// Returns an error and what caused it, outermost first. [`io::Error::source`] skips the error that it wraps.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        match error.downcast_ref().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Returns the text of the innermost cause.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// Returns whether a handshake failed as it does between nodes with different cluster keys.
pub(super) fn is_other_cluster(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| match cause.downcast_ref() {
        // TCP: the key is part of the Noise prologue, so the peer's handshake message cannot be decrypted. The error is
        // transparent, so `causes` skips what is inside.
        Some(noise::Error::Io(e)) => {
            e.get_ref().and_then(|inner| inner.downcast_ref()) == Some(&snow::Error::Decrypt)
        }
        // QUIC: the proof is missing or wrong.
        _ => cause.is::<ProofError>(),
    })
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let refused = io::ErrorKind::ConnectionRefused;
    causes(error).any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == refused))
}

fn is_unknown_name(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(dns::ResolveError::is_no_records_found))
}

/// Describes a failed dial for people.
pub(super) fn dial_error(error: &DialError) -> NetError {
    match error {
        DialError::WrongPeerId { obtained, .. } => {
            NetError::Dial { cause: DialCause::OtherPeer, reason: WrongPeer(*obtained).to_string() }
        }
        DialError::LocalPeerId { .. } => self_dial(),
        DialError::Transport(tried) => {
            let failures = tried.iter().map(|(addr, error)| (addr, failure(addr, error)));
            let (causes, reasons): (Vec<_>, Vec<_>) =
                failures.map(|(addr, (cause, reason))| (cause, format!("{addr}: {reason}"))).unzip();
            let same = causes.first().filter(|first| causes.iter().all(|cause| cause == *first));
            NetError::Dial { cause: same.copied().unwrap_or(DialCause::Other), reason: reasons.join("; ") }
        }
        other => unreachable(&other.to_string()),
    }
}

/// Returns why a dial to one address failed.
fn failure(addr: &Multiaddr, error: &(dyn Error + 'static)) -> (DialCause, String) {
    let name = addr.iter().find_map(|part| match part {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
            Some(name)
        }
        _ => None,
    });
    match name {
        _ if is_other_cluster(error) => (DialCause::OtherCluster, OTHER_CLUSTER.into()),
        Some(name) if is_unknown_name(error) => (DialCause::UnknownHost, format!("no DNS record for {name}")),
        _ if causes(error).any(<dyn Error>::is::<SelfDial>) => (DialCause::OwnAddress, SelfDial.to_string()),
        _ if causes(error).any(<dyn Error>::is::<WrongPeer>) => (DialCause::OtherPeer, root_cause(error)),
        _ if is_refused(error) => {
            (DialCause::Refused, "connection refused, so nothing listens on this port".into())
        }
        _ => (DialCause::Other, root_cause(error)),
    }
}
