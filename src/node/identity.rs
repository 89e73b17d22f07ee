//! Who this node is: `identity.key`, and what follows from it.

use std::{fs, path::Path};

use libp2p::identity::Keypair;

use super::error::{ErrorCode, NodeError, Reason};
use crate::content::secret::{ConvergenceSecret, Key};
pub use crate::store::write_new as write_secret;

/// Name of the identity file inside the data directory.
pub const IDENTITY_FILE: &str = "identity.key";

/// Reads the node's Ed25519 identity, or makes one on the first start.
///
/// The file holds libp2p's protobuf encoding of the key pair, mode 0600.
///
/// # Errors
/// [`ErrorCode::Denied`], [`ErrorCode::NoSpace`] or [`ErrorCode::Other`] where the file cannot be read or written;
/// [`ErrorCode::Other`] where it cannot be understood. A damaged file is never replaced:
/// a node that silently became somebody else could no longer delete what it stored.
pub fn load_or_create(data_dir: &Path) -> Result<Keypair, NodeError> {
    let path = data_dir.join(IDENTITY_FILE);
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes).ok_or_else(|| {
            let what = if bytes.is_empty() { "it is empty" } else { "it holds no Ed25519 key" };
            NodeError::new(ErrorCode::Other, format!("{} is damaged: {what}", path.display())).reason(Reason::IdentityDamaged).hint(
                "move it away, then bring back its backup with `storgo-node key restore`, or start as a new node",
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let keypair = Keypair::generate_ed25519();
            let bytes = keypair.to_protobuf_encoding().map_err(|e| {
                NodeError::new(ErrorCode::Other, format!("the new identity cannot be encoded: {e}"))
            })?;
            write_secret(&path, &bytes)
                .map_err(|e| NodeError::io(format_args!("write {}", path.display()), &e))?;
            Ok(keypair)
        }
        Err(e) => Err(NodeError::io(format_args!("read {}", path.display()), &e)),
    }
}

/// A key pair as its file and a backup hold it; none where that is no Ed25519 key.
pub(crate) fn decode(bytes: &[u8]) -> Option<Keypair> {
    let keypair = Keypair::from_protobuf_encoding(bytes).ok()?;
    keypair.clone().try_into_ed25519().ok()?;
    Some(keypair)
}

/// The convergence secret of a node that belongs to no cluster: nobody else's blocks deduplicate against its own.
pub fn own_secret(keypair: &Keypair) -> Result<ConvergenceSecret, NodeError> {
    let ed25519 = keypair.clone().try_into_ed25519().map_err(|_| {
        NodeError::new(ErrorCode::Other, "the identity is not an Ed25519 key").reason(Reason::IdentityDamaged)
    })?;
    let secret: [u8; 32] = ed25519
        .secret()
        .as_ref()
        .try_into()
        .map_err(|_| NodeError::new(ErrorCode::Other, "odd key length"))?;
    Ok(ConvergenceSecret::new(Key::new(secret).derive("storgo v1 node convergence secret")))
}
