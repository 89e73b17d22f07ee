//! Keys: what they are, and which follows from which.
//!
//! ```text
//! cluster key ─┬─ membership key   may speak: Noise prologue, QUIC proof, name of the DHT protocol
//!              └─ read key ─── convergence secret   may read: chunk keys of the cluster
//! ```
//! A node without a cluster has a random convergence secret of its own.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes. Cleared from memory when dropped; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes. Callers pass random bytes: this module has no randomness of its own.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a cipher or a file that only the owner can read.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for another purpose, by BLAKE3's key derivation mode.
    pub fn derive(&self, context: &str) -> Self {
        Self(blake3::derive_key(context, &self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// As 32 bytes; for formats that hold bytes (CBOR). Text forms are made where they are wanted, by name.
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

/// What chunk keys are derived from: equal chunks under equal secrets become equal blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvergenceSecret(Key);

impl ConvergenceSecret {
    /// The secret made of these 32 bytes.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes inside.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// The key that nodes of one cluster share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKey(Key);

impl ClusterKey {
    /// The cluster key of these 32 bytes.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes inside, for the file that keeps them and the invite that hands them on.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key that lets a node speak to the others.
    pub fn membership(&self) -> MembershipKey {
        MembershipKey(self.0.derive("storgo v1 membership key"))
    }

    /// The secret that the cluster's chunk keys are derived from (by way of the read key).
    pub fn convergence_secret(&self) -> ConvergenceSecret {
        ConvergenceSecret(self.0.derive("storgo v1 read key").derive("storgo v1 convergence secret"))
    }
}

/// The key that proves that a node belongs to a cluster. It reads nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipKey(Key);

impl MembershipKey {
    /// The membership key of these 32 bytes.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The bytes inside.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// A key for one protocol, so that no two protocols use the same bytes.
    pub fn derive(&self, context: &str) -> Key {
        self.0.derive(context)
    }
}
