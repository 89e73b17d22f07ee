//! Invites: one line that lets another machine join a cluster. It contains the cluster key, so its holder can join. It does not expire.

use data_encoding::BASE64URL_NOPAD;
use libp2p::{Multiaddr, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

use crate::content::secret::ClusterKey;

const INVITE: &str = "storgo-invite:";
/// Maximum length of an invite, in bytes.
const MAX_INVITE: usize = 8 << 10;
/// Maximum number of addresses in an invite.
const MAX_ADDRS: usize = 16;

/// Whether an address leads every machine to itself.
pub fn is_local(addr: &str) -> bool {
    match addr.parse::<Multiaddr>().ok().and_then(|addr| addr.iter().next().map(Protocol::acquire)) {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// The content of an invite.
#[derive(Serialize, Deserialize)]
pub struct Invite {
    /// The cluster key, base64url.
    pub key: String,
    /// Addresses of members.
    pub addrs: Vec<String>,
}

impl Invite {
    /// An invite to the cluster of `key`, whose members are at `addrs`.
    pub fn new(key: &ClusterKey, mut addrs: Vec<String>) -> Self {
        addrs.sort_by_key(|addr| is_local(addr));
        addrs.truncate(MAX_ADDRS);
        Self { key: BASE64URL_NOPAD.encode(key.as_bytes()), addrs }
    }

    /// Whether another machine may be able to use one of the addresses.
    pub fn is_usable_elsewhere(&self) -> bool {
        self.addrs.iter().any(|addr| !is_local(addr))
    }

    /// Encodes the invite as one line.
    pub fn line(&self) -> String {
        let json = serde_json::to_vec(self).expect("two plain fields are JSON");
        format!("{INVITE}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Whether a text is meant as an invite.
    pub fn is_one(text: &str) -> bool {
        text.trim().starts_with(INVITE)
    }

    /// Decodes a line; `None` if it is not a whole invite.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let line = text.strip_prefix(INVITE).filter(|_| text.len() <= MAX_INVITE)?;
        serde_json::from_slice(&BASE64URL_NOPAD.decode(line.as_bytes()).ok()?).ok()
    }
}
