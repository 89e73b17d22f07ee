//! The cluster key: from the settings, or in a file of the data directory.

use std::{io, path::Path};

use data_encoding::BASE64URL_NOPAD;

use super::{Context, error::CliError};
use crate::{
    config::Settings,
    content::secret::{ClusterKey, Key},
    node::{
        ErrorCode, NodeError, Reason,
        data_dir::DataDir,
        identity::write_secret,
        membership::{self, CLUSTER_FILE},
    },
    store::{read, replace},
};

/// Returns the cluster key from the settings, or else from its file in the data directory.
///
/// Errors: a damaged key, and a key that a node on this data directory may not start with (see [`membership::check`]).
pub(super) fn cluster_key(settings: &Settings, data_dir: &Path) -> Result<Option<ClusterKey>, CliError> {
    let key = given_key(settings, data_dir)?;
    membership::check(DataDir::Closed(data_dir), key.as_ref())?;
    Ok(key)
}

/// As [`cluster_key`], whatever cluster the data directory belongs to: for a node, which checks that when it starts.
pub(super) fn given_key(settings: &Settings, data_dir: &Path) -> Result<Option<ClusterKey>, CliError> {
    const EXPECTED: &str = "is damaged: expected 32 bytes in base64url";
    if let Some(text) = settings.get("cluster.key") {
        let damaged = || CliError::bad_request(format!("the setting cluster.key {EXPECTED}"));
        return parse_cluster_key(text)
            .map(Some)
            .ok_or_else(|| damaged().hint("`key backup` on a member writes its cluster key to a file"));
    }
    let path = data_dir.join(CLUSTER_FILE);
    let damaged = |what: String| {
        let message = format!("{} {what}", path.display());
        CliError::from(NodeError::new(ErrorCode::BadRequest, message).reason(Reason::ClusterKeyDamaged))
    };
    let text = match read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(damaged(format!("is damaged: {e}"))),
        Err(e) => return Err(CliError::io(format_args!("read {}", path.display()), &e)),
    };
    let key = std::str::from_utf8(&text).ok().and_then(|text| parse_cluster_key(text.trim()));
    key.map(Some).ok_or_else(|| damaged(EXPECTED.into()))
}

pub(super) fn parse_cluster_key(text: &str) -> Option<ClusterKey> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    Some(ClusterKey::new(Key::new(bytes.try_into().ok()?)))
}

/// Checks that the data directory belongs to the cluster of `key` or to none. Returns whether the key file must be written:
/// it is missing or damaged.
pub(super) fn lacks(context: &Context, key: &ClusterKey) -> Result<bool, CliError> {
    let other = || NodeError::new(ErrorCode::BadRequest, "this node is in another cluster");
    membership::check(DataDir::Closed(&context.data_dir), Some(key))?;
    match given_key(&context.settings, &context.data_dir) {
        Ok(Some(known)) if known == *key => Ok(false),
        Ok(Some(_)) => Err(other().reason(Reason::OtherCluster).into()),
        Ok(None) => Ok(true),
        Err(error) if error.reason == Some(Reason::ClusterKeyDamaged) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes the key file, and notes that the data directory belongs to this cluster. Replaces a damaged file only: the caller
/// has checked that [`lacks`] returns `true`.
pub(super) fn save(context: &Context, key: &ClusterKey) -> Result<(), CliError> {
    let path = context.data_dir.join(CLUSTER_FILE);
    let text = BASE64URL_NOPAD.encode(key.as_bytes()) + "\n";
    let write = if path.symlink_metadata().is_ok() { replace } else { write_secret };
    write(&path, text.as_bytes()).map_err(|e| CliError::path("write", &path, &e))?;
    Ok(membership::record(&context.data_dir, key)?)
}
