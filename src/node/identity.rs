//! Who this node is: `identity.key`, and what follows from it.

use std::{fs, path::Path};

use libp2p::identity::Keypair;

use super::error::{ErrorCode, NodeError};
use crate::content::secret::{ConvergenceSecret, Key};
pub use crate::store::write_new as write_secret;

/// Name of the identity file inside the data directory.
pub const IDENTITY_FILE: &str = "identity.key";

/// Reads the node's Ed25519 identity, or makes one on the first start.
///
/// The file holds libp2p's protobuf encoding of the key pair, mode 0600.
///
/// # Errors
/// [`ErrorCode::Other`] where the file cannot be read, written or understood. A damaged file is never replaced:
/// a node that silently became somebody else could no longer delete what it stored.
pub fn load_or_create(data_dir: &Path) -> Result<Keypair, NodeError> {
    let path = data_dir.join(IDENTITY_FILE);
    match fs::read(&path) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes).map_err(|e| {
            NodeError::new(ErrorCode::Other, format!("{} is damaged: {e}", path.display()))
                .hint("restore it with `storgo-node key restore`, or move it away to start as a new node")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let keypair = Keypair::generate_ed25519();
            let bytes = keypair.to_protobuf_encoding().map_err(|e| {
                NodeError::new(ErrorCode::Other, format!("the new identity cannot be encoded: {e}"))
            })?;
            write_secret(&path, &bytes).map_err(|e| {
                NodeError::new(ErrorCode::Other, format!("cannot write {}: {e}", path.display()))
            })?;
            Ok(keypair)
        }
        Err(e) => Err(NodeError::new(ErrorCode::Other, format!("cannot read {}: {e}", path.display()))),
    }
}

/// The convergence secret of a node that belongs to no cluster: nobody else's blocks deduplicate against its own.
pub fn own_secret(keypair: &Keypair) -> Result<ConvergenceSecret, NodeError> {
    let ed25519 = keypair
        .clone()
        .try_into_ed25519()
        .map_err(|_| NodeError::new(ErrorCode::Other, "the identity is not an Ed25519 key"))?;
    let secret: [u8; 32] = ed25519
        .secret()
        .as_ref()
        .try_into()
        .map_err(|_| NodeError::new(ErrorCode::Other, "odd key length"))?;
    Ok(ConvergenceSecret::new(Key::new(secret).derive("storgo v1 node convergence secret")))
}
