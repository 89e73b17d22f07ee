//! The cluster that a data directory belongs to. The file `cluster.id` names it, apart from the key: a node whose key is gone
//! must not start as an open node.

use std::{io::ErrorKind, path::Path};

use data_encoding::HEXLOWER;

use super::{
    data_dir::{DataDir, META_CLUSTER},
    error::{ErrorCode, NodeError, Reason},
};
use crate::{
    content::secret::ClusterKey,
    store::{self, replace},
};

/// Name of the file in the data directory that holds the cluster key, for the command line: a node is given the key.
pub const CLUSTER_FILE: &str = "cluster.key";
/// Name of the file in the data directory that names its cluster.
pub const CLUSTER_ID_FILE: &str = "cluster.id";
/// Content of the file after the node has left its cluster.
const NONE: &str = "none";

/// Returns the id of a cluster, as text.
pub(super) fn id(key: &ClusterKey) -> String {
    HEXLOWER.encode(&key.id())
}

/// Returns the content of the file; `None` if there is no file. A damaged one is empty.
fn read(data_dir: &Path) -> Result<Option<String>, NodeError> {
    let path = data_dir.join(CLUSTER_ID_FILE);
    match store::read(&path) {
        Ok(bytes) => Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes.trim_ascii()).into_owned())),
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(e) => Err(NodeError::io(format_args!("read {}", path.display()), &e)),
    }
}

/// Returns the id of the cluster that a data directory belongs to; `None` if it belongs to none. If the file is lost, the
/// index may remember it. An index that cannot be read is reported when the store is opened.
fn known(data_dir: DataDir<'_>) -> Result<Option<String>, NodeError> {
    let known = match read(data_dir.path())? {
        None => data_dir.recall(META_CLUSTER).unwrap_or_default(),
        known => known,
    };
    Ok(known.filter(|id| id != NONE))
}

/// Checks that a node with this cluster key, or with none, may use a data directory.
///
/// # Errors
/// [`Reason::ClusterKeyMissing`] if it belongs to a cluster and there is no key, [`Reason::OtherCluster`] if the key is of
/// another cluster.
pub fn check(data_dir: DataDir<'_>, key: Option<&ClusterKey>) -> Result<(), NodeError> {
    let Some(known) = known(data_dir)? else { return Ok(()) };
    let dir = data_dir.path().display();
    let (message, reason) = match key {
        None => (
            format!("the node in {dir} is in a cluster, and the key of the cluster is gone"),
            Reason::ClusterKeyMissing,
        ),
        Some(key) if known == id(key) => return Ok(()),
        // A damaged file names no cluster. It is written again when the node starts.
        Some(_) if HEXLOWER.decode(known.as_bytes()).map(|id| id.len()) != Ok(ClusterKey::ID_LEN) => {
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
    write(data_dir, &id(key))
}

/// Notes durably that a data directory belongs to no cluster any more; returns whether it belonged to one. `had_key`: it had
/// the key of one.
///
/// # Errors
/// As [`record`].
pub fn leave(data_dir: DataDir<'_>, had_key: bool) -> Result<bool, NodeError> {
    let was_member = had_key || known(data_dir)?.is_some();
    if was_member {
        write(data_dir.path(), NONE)?;
    }
    Ok(was_member)
}

fn write(data_dir: &Path, id: &str) -> Result<(), NodeError> {
    if read(data_dir)?.as_deref() == Some(id) {
        return Ok(());
    }
    let path = data_dir.join(CLUSTER_ID_FILE);
    let written = replace(&path, format!("{id}\n").as_bytes());
    written.map_err(|e| NodeError::io(format_args!("write {}", path.display()), &e))
}
