//! The cluster that a data directory belongs to. The file `cluster.id` names it, apart from the key: a node whose key is gone
//! must not start as an open node.

use std::{fs, io::ErrorKind, path::Path};

use data_encoding::HEXLOWER;

use super::error::{ErrorCode, NodeError, Reason};
use crate::{content::secret::ClusterKey, store::replace};

/// Name of the file in the data directory that holds the cluster key, for the command line: a node is given the key.
pub const CLUSTER_FILE: &str = "cluster.key";
/// Name of the file in the data directory that names its cluster.
pub const CLUSTER_ID_FILE: &str = "cluster.id";

fn encode(key: &ClusterKey) -> String {
    HEXLOWER.encode(&key.id()) + "\n"
}

/// Returns the content of the file; `None` if the data directory belongs to no cluster.
fn read(data_dir: &Path) -> Result<Option<Vec<u8>>, NodeError> {
    let path = data_dir.join(CLUSTER_ID_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(NodeError::io(format_args!("read {}", path.display()), &e)),
    }
}

/// Checks that a node with this cluster key, or with none, may use a data directory.
///
/// # Errors
/// [`Reason::ClusterKeyMissing`] if it belongs to a cluster and there is no key, [`Reason::OtherCluster`] if the key is of
/// another cluster.
pub fn check(data_dir: &Path, key: Option<&ClusterKey>) -> Result<(), NodeError> {
    let Some(known) = read(data_dir)? else { return Ok(()) };
    let dir = data_dir.display();
    let (message, reason) = match key {
        None => (
            format!("the node in {dir} is in a cluster, and the key of the cluster is gone"),
            Reason::ClusterKeyMissing,
        ),
        Some(key) if known == encode(key).as_bytes() => return Ok(()),
        // A damaged file names no cluster. It is written again when the node starts.
        Some(_) if HEXLOWER.decode(known.trim_ascii()).map(|id| id.len()) != Ok(ClusterKey::ID_LEN) => {
            return Ok(());
        }
        Some(_) => (format!("the node in {dir} is in another cluster"), Reason::OtherCluster),
    };
    Err(NodeError::new(ErrorCode::BadRequest, message).reason(reason))
}

/// Notes durably that a data directory belongs to the cluster of `key`.
///
/// # Errors
/// [`ErrorCode::Denied`], [`ErrorCode::NoSpace`] or [`ErrorCode::Other`] if the file cannot be written.
pub fn record(data_dir: &Path, key: &ClusterKey) -> Result<(), NodeError> {
    let text = encode(key);
    if read(data_dir)?.as_deref() == Some(text.as_bytes()) {
        return Ok(());
    }
    let path = data_dir.join(CLUSTER_ID_FILE);
    replace(&path, text.as_bytes()).map_err(|e| NodeError::io(format_args!("write {}", path.display()), &e))
}
