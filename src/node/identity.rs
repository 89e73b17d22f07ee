//! The identity of a node: the key pair in `identity.key` and the secret derived from it.

use std::{collections::HashSet, fs, io::ErrorKind, path::Path};

use libp2p::{Multiaddr, PeerId, identity::Keypair};

use super::{
    data_dir::{DataDir, META_PEER},
    error::{ErrorCode, NodeError, Reason},
};
pub use crate::store::write_new as write_secret;
use crate::{
    content::secret::{ConvergenceSecret, Key},
    store::{read, replace, set_aside},
};

/// Name of the identity file inside the data directory.
pub const IDENTITY_FILE: &str = "identity.key";

/// Reads the Ed25519 key pair of the node, or creates it on the first start.
///
/// The file contains libp2p's protobuf encoding of the key pair, and has mode 0600.
///
/// # Errors
/// Those of [`load`], and [`ErrorCode::Denied`] or [`ErrorCode::NoSpace`] if the file cannot be written.
pub fn load_or_create(data_dir: DataDir<'_>) -> Result<Keypair, NodeError> {
    match load(data_dir)? {
        Some(keypair) => Ok(keypair),
        None => create(data_dir.path()),
    }
}

/// Reads the key pair of the node; `None` before the first start.
///
/// # Errors
/// [`Reason::IdentityDamaged`], and [`Reason::IdentityLost`] if the index remembers one. Such a file is never replaced: with
/// another identity, the node could no longer delete what it has stored. [`ErrorCode::Locked`] if the file is gone and
/// another process has the index open.
pub fn load(data_dir: DataDir<'_>) -> Result<Option<Keypair>, NodeError> {
    let path = data_dir.path().join(IDENTITY_FILE);
    let damaged = |what: &dyn std::fmt::Display| {
        NodeError::new(ErrorCode::Other, format!("{} is damaged: {what}", path.display()))
            .reason(Reason::IdentityDamaged)
    };
    match read(&path) {
        Ok(Some(bytes)) => decode(&bytes).map(Some).ok_or_else(|| {
            damaged(&if bytes.is_empty() { "it is empty" } else { "it contains no Ed25519 key" })
        }),
        Ok(None) => match data_dir.recall(META_PEER)? {
            None => Ok(None),
            Some(peer) => {
                let message = format!("{} is gone: it was the key of peer {peer}", path.display());
                Err(NodeError::new(ErrorCode::Other, message).reason(Reason::IdentityLost))
            }
        },
        Err(e) if e.kind() == ErrorKind::InvalidData => Err(damaged(&e)),
        Err(e) => Err(NodeError::io(format_args!("read {}", path.display()), &e)),
    }
}

/// Returns the peer id of the identity in a data directory; `None` if there is none that can be read.
pub(super) fn peer_id(data_dir: &Path) -> Option<PeerId> {
    let bytes = fs::read(data_dir.join(IDENTITY_FILE)).ok()?;
    Some(decode(&bytes)?.public().to_peer_id())
}

/// Makes a new identity. What lies in the place of its file is moved away.
///
/// # Errors
/// [`ErrorCode::Denied`], [`ErrorCode::NoSpace`] or [`ErrorCode::Other`] if the file cannot be written.
pub fn create(data_dir: &Path) -> Result<Keypair, NodeError> {
    let path = data_dir.join(IDENTITY_FILE);
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair
        .to_protobuf_encoding()
        .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot encode the new identity: {e}")))?;
    let way = if path.symlink_metadata().is_ok() { set_aside(&path) } else { Ok(()) };
    way.and_then(|()| write_secret(&path, &bytes))
        .map_err(|e| NodeError::io(format_args!("write {}", path.display()), &e))?;
    Ok(keypair)
}

/// Decodes a key pair from the identity file or a backup; `None` if it is not an Ed25519 key.
pub(crate) fn decode(bytes: &[u8]) -> Option<Keypair> {
    let keypair = Keypair::from_protobuf_encoding(bytes).ok()?;
    keypair.clone().try_into_ed25519().ok()?;
    Some(keypair)
}

/// Name of the file in the data directory with the addresses of nodes with its identity, the newest first, one a line.
const ADDRS_FILE: &str = "identity.addrs";
const MAX_ADDRS: usize = 16;

/// Returns the addresses at which a node with the identity of this data directory has listened: at these, this node may meet
/// another one with the same identity. A file that cannot be read names none.
pub fn former_addrs(data_dir: &Path) -> Vec<Multiaddr> {
    let text = fs::read_to_string(data_dir.join(ADDRS_FILE)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).take(MAX_ADDRS).collect()
}

/// Adds addresses to [`former_addrs`]. The oldest are dropped.
///
/// # Errors
/// The operating system's.
pub fn add_former_addrs(data_dir: &Path, addrs: Vec<Multiaddr>) -> std::io::Result<()> {
    let known = former_addrs(data_dir);
    let mut all = addrs;
    all.extend(known.iter().cloned());
    let mut seen = HashSet::new();
    all.retain(|addr| seen.insert(addr.clone()));
    all.truncate(MAX_ADDRS);
    if all == known {
        return Ok(());
    }
    let text: String = all.iter().map(|addr| format!("{addr}\n")).collect();
    replace(&data_dir.join(ADDRS_FILE), text.as_bytes())
}

/// Derives the convergence secret of a node without a cluster. Blocks of other nodes never equal its own.
///
/// # Errors
/// [`ErrorCode::Other`] if the key is not an Ed25519 key.
pub fn own_secret(keypair: &Keypair) -> Result<ConvergenceSecret, NodeError> {
    let ed25519 = keypair.clone().try_into_ed25519().ok();
    let secret = ed25519.and_then(|ed25519| <[u8; 32]>::try_from(ed25519.secret().as_ref()).ok());
    let secret = secret.ok_or_else(|| {
        NodeError::new(ErrorCode::Other, "the identity is not an Ed25519 key").reason(Reason::IdentityDamaged)
    })?;
    Ok(ConvergenceSecret::new(Key::new(secret).derive("storgo v1 node convergence secret")))
}
