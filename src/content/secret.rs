//! Keys and how they are derived.
//!
//! ```text
//! cluster key ─┬─ membership key   to connect: Noise prologue, QUIC proof, name of the DHT protocol
//!              ├─ read key ─── convergence secret   to encrypt: chunk keys of the cluster
//!              └─ id   to name the cluster; not secret
//! ```
//! A node without a cluster has a random convergence secret.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes. Zeroed when dropped; hidden by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Wraps these bytes. Callers pass random ones, because this module has no source of randomness.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives the key for another purpose with BLAKE3's key derivation mode.
    pub fn derive(&self, context: &str) -> Self {
        Self(blake3::derive_key(context, &self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Serialized as 32 bytes, for binary formats (CBOR).
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteArray::<32>::deserialize(deserializer)?;
        Ok(Self(bytes.into_array()))
    }
}

/// The secret that chunk keys are derived from. Equal chunks under equal secrets become equal blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvergenceSecret(Key);

impl ConvergenceSecret {
    /// Wraps a key.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// The key that the nodes of one cluster share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKey(Key);

impl ClusterKey {
    /// Wraps a key.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes, for the key file and for invites.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Length of [`ClusterKey::id`] in bytes.
    pub const ID_LEN: usize = 16;

    /// Derives a name of the cluster. It reveals nothing about the key.
    pub fn id(&self) -> [u8; Self::ID_LEN] {
        let mut id = [0; Self::ID_LEN];
        id.copy_from_slice(&self.0.derive("storgo v1 cluster id").as_bytes()[..Self::ID_LEN]);
        id
    }

    /// Derives the membership key.
    pub fn membership(&self) -> MembershipKey {
        MembershipKey(self.0.derive("storgo v1 membership key"))
    }

    /// Derives the convergence secret, by way of the read key.
    pub fn convergence_secret(&self) -> ConvergenceSecret {
        ConvergenceSecret(self.0.derive("storgo v1 read key").derive("storgo v1 convergence secret"))
    }
}

/// The key that proves membership in a cluster. It decrypts no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipKey(Key);

impl MembershipKey {
    /// Wraps a key.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Derives the key of one protocol, so that no two protocols use the same bytes.
    pub fn derive(&self, context: &str) -> Key {
        self.0.derive(context)
    }
}
