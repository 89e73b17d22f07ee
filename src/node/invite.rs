//! Invites: one line with what another machine needs to enter a cluster. Whoever has it can read everything.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    Node,
    error::{ErrorCode, NodeError, Reason},
};
use crate::content::secret::ClusterKey;

const INVITE: &str = "storgo-invite:";
/// Longest invite that is read, in bytes.
const MAX_INVITE: usize = 8 << 10;
/// Addresses in an invite at most.
const MAX_ADDRS: usize = 16;

/// What an invite says.
#[derive(Serialize, Deserialize)]
pub struct Invite {
    /// The cluster key, base64url.
    pub key: String,
    /// Where members are.
    pub addrs: Vec<String>,
}

impl Invite {
    /// An invite into the cluster of `key`, by members at `addrs`.
    pub fn new(key: &ClusterKey, mut addrs: Vec<String>) -> Self {
        // Addresses that only this machine can reach come last.
        addrs.sort_by_key(|addr| addr.contains("/127.0.0.1/") || addr.contains("/::1/"));
        addrs.truncate(MAX_ADDRS);
        Self { key: BASE64URL_NOPAD.encode(key.as_bytes()), addrs }
    }

    /// The one line.
    pub fn line(&self) -> String {
        let json = serde_json::to_vec(self).expect("two plain fields are JSON");
        format!("{INVITE}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Reads a line; none where it is no invite, or not all of it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let line = text.strip_prefix(INVITE).filter(|_| text.len() <= MAX_INVITE)?;
        serde_json::from_slice(&BASE64URL_NOPAD.decode(line.as_bytes()).ok()?).ok()
    }
}

impl Node {
    /// The line that brings another machine into this node's cluster.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] where it is in none.
    pub async fn invite(&self) -> Result<String, NodeError> {
        let options = &self.inner.options;
        let Some(key) = &options.cluster else {
            return Err(NodeError::new(ErrorCode::BadRequest, "this node is in no cluster")
                .reason(Reason::NoCluster)
                .hint("make one with `storgo-node init --cluster`, then start the node again"));
        };
        let mut addrs: Vec<String> = options.external.iter().map(ToString::to_string).collect();
        addrs.extend(self.status().await?.listen);
        Ok(Invite::new(key, addrs).line())
    }
}
