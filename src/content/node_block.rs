//! Node blocks: canonical DAG-CBOR maps that list other blocks.
//!
//! `links` and `lens` are visible: a node without the key can check, count and repair the blocks of a file. Readers follow
//! the list in `sealed` (or `plain`, in public mode).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    ContentError, MAX_CHUNK,
    cid::{Cid, Codec},
    seal::{Sealing, apply_keystream, derive, public_cid},
    secret::Key,
};

/// Maximum length of a node block in bytes.
pub const MAX_NODE_LEN: usize = 1 << 20;
/// Version of the format.
const VERSION: u8 = 1;
/// Length of the salt at the start of the sealed part, in bytes.
const SALT_LEN: usize = 16;

/// The kind of a node block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// The root of a file.
    File,
    /// The root of a folder.
    Dir,
    /// A part of the list of a file or folder.
    List,
}

/// The part of a node block that is not encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// Kind of the node.
    pub kind: NodeKind,
    /// The listed blocks.
    pub links: Vec<Cid>,
    /// The length in bytes of each listed block.
    pub lens: Vec<u32>,
}

/// A block and its CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// CID of the bytes.
    pub cid: Cid,
    /// Bytes of the block.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EncodedNode {
    v: u8,
    kind: NodeKind,
    lens: Vec<u32>,
    links: Vec<cid::Cid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<ByteBuf>,
}

/// Returns the visible part of a node block.
///
/// # Errors
/// [`ContentError::Malformed`] for bytes that the encoder would not produce.
pub fn visible(block: &[u8]) -> Result<Visible, ContentError> {
    Ok(decode(block)?.0)
}

fn decode(block: &[u8]) -> Result<(Visible, EncodedNode), ContentError> {
    if block.len() > MAX_NODE_LEN {
        return Err(ContentError::Malformed("longer than 1 MiB"));
    }
    let node: EncodedNode = serde_ipld_dagcbor::from_slice(block)
        .map_err(|_| ContentError::Malformed("not DAG-CBOR of a node block"))?;
    let violation = match &node {
        _ if node.v != VERSION => Some("unknown version"),
        _ if node.links.len() != node.lens.len() => Some("links and lens differ in length"),
        _ if node.kind == NodeKind::List && node.links.is_empty() => Some("empty list"),
        _ if node.lens.iter().any(|len| *len == 0 || *len as usize > MAX_CHUNK) => {
            Some("block length out of bounds")
        }
        _ if node.plain.is_some() == node.sealed.is_some() => {
            Some("exactly one of sealed and plain is required")
        }
        // The encoding must be canonical, so that a list has one CID.
        _ if serde_ipld_dagcbor::to_vec(&node).ok().as_deref() != Some(block) => Some("not canonical"),
        _ => None,
    };
    if let Some(violation) = violation {
        return Err(ContentError::Malformed(violation));
    }
    let links: Result<_, _> = node.links.iter().map(|cid| Cid::try_from(*cid)).collect();
    let links = links.map_err(|_| ContentError::Malformed("unsupported CID"))?;
    Ok((Visible { kind: node.kind, links, lens: node.lens.clone() }, node))
}

/// Encodes a node block. Returns the block and its key (`None` in public mode).
///
/// # Errors
/// [`ContentError::TooLarge`] above 1 MiB; [`ContentError::Collision`] for crafted public data.
pub(super) fn encode(
    sealing: &Sealing,
    kind: NodeKind,
    listed: &[(Cid, u32)],
    body: Vec<u8>,
) -> Result<(Block, Option<Key>), ContentError> {
    let (key, plain, sealed) = match sealing {
        Sealing::Public => (None, Some(body), None),
        Sealing::Secret(secret) => {
            let hash = blake3::hash(&body);
            let salt = derive("storgo v1 node salt", secret.as_bytes(), hash.as_bytes());
            let salt = &salt.as_bytes()[..SALT_LEN];
            let key = derive("storgo v1 node key", salt, hash.as_bytes());
            let mut sealed = Vec::with_capacity(SALT_LEN + body.len());
            sealed.extend_from_slice(salt);
            sealed.extend_from_slice(&body);
            apply_keystream(&key, &mut sealed);
            (Some(key), None, Some(sealed))
        }
    };
    let node = EncodedNode {
        v: VERSION,
        kind,
        lens: listed.iter().map(|(_, len)| *len).collect(),
        links: listed.iter().map(|(cid, _)| (*cid).into()).collect(),
        plain: plain.map(ByteBuf::from),
        sealed: sealed.map(ByteBuf::from),
    };
    let bytes = serde_ipld_dagcbor::to_vec(&node).map_err(|_| ContentError::TooLarge("the node block"))?;
    if bytes.len() > MAX_NODE_LEN {
        return Err(ContentError::TooLarge("the node block"));
    }
    let cid = match sealing {
        Sealing::Public => public_cid(Codec::DagCbor, &bytes)?,
        Sealing::Secret(_) => Cid::of(Codec::DagCbor, &bytes),
    };
    Ok((Block { cid, bytes }, key))
}

/// Returns the visible part and the decrypted body of a node block.
///
/// # Errors
/// [`ContentError::NoKey`] for a sealed block without a key, [`ContentError::WrongKey`] if the key does not commit to the
/// decrypted body, [`ContentError::Malformed`].
pub(super) fn open(cid: &Cid, key: Option<&Key>, block: &[u8]) -> Result<(Visible, Vec<u8>), ContentError> {
    let (visible, node) = decode(block)?;
    let body = match (node.plain, node.sealed, key) {
        (Some(body), _, None) => body.into_vec(),
        (None, Some(_), None) => return Err(ContentError::NoKey),
        (None, Some(sealed), Some(key)) => {
            let mut sealed = sealed.into_vec();
            apply_keystream(key, &mut sealed);
            let (salt, body) = sealed
                .split_at_checked(SALT_LEN)
                .ok_or(ContentError::Malformed("sealed part without a salt"))?;
            let hash = blake3::hash(body);
            let made = derive("storgo v1 node key", salt, hash.as_bytes());
            // Compares hashes, because BLAKE3 does that in constant time.
            if blake3::hash(made.as_bytes()) != blake3::hash(key.as_bytes()) {
                return Err(ContentError::WrongKey { cid: *cid });
            }
            sealed.split_off(SALT_LEN)
        }
        // A key for a public block: the link belongs to another block.
        _ => return Err(ContentError::WrongKey { cid: *cid }),
    };
    Ok((visible, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::secret::ConvergenceSecret;

    fn sealed_node() -> (Block, Key) {
        let sealing = Sealing::Secret(ConvergenceSecret::new(Key::new([1; 32])));
        let listed = [(Cid::of(Codec::Raw, b"a"), 1), (Cid::of(Codec::Raw, b"bc"), 2)];
        let (block, key) = encode(&sealing, NodeKind::List, &listed, b"the body".to_vec()).expect("encoded");
        (block, key.expect("a key"))
    }

    #[test]
    fn a_root_may_be_empty_and_a_list_node_may_not() {
        let empty = |kind| encode(&Sealing::Public, kind, &[], b"the body".to_vec()).expect("encoded").0;
        for root in [NodeKind::File, NodeKind::Dir] {
            assert!(visible(&empty(root).bytes).is_ok());
        }
        assert_eq!(visible(&empty(NodeKind::List).bytes), Err(ContentError::Malformed("empty list")));
    }

    #[test]
    fn only_the_right_key_decrypts() {
        let (block, key) = sealed_node();
        assert_eq!(
            open(&block.cid, Some(&key), &block.bytes).map(|(_, body)| body),
            Ok(b"the body".to_vec())
        );
        assert_eq!(open(&block.cid, None, &block.bytes), Err(ContentError::NoKey));
        let other = Key::new([3; 32]);
        assert_eq!(
            open(&block.cid, Some(&other), &block.bytes),
            Err(ContentError::WrongKey { cid: block.cid })
        );
        assert_eq!(visible(&block.bytes).map(|v| v.lens), Ok(vec![1, 2]));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_never_changes_the_body(at: prop::sample::Index, bit in 0_u32..8) {
            let (mut block, key) = sealed_node();
            let clean = open(&block.cid, Some(&key), &block.bytes).expect("opens");
            let at = at.index(block.bytes.len());
            block.bytes[at] ^= 1_u8 << bit;
            if let Ok(opened) = open(&block.cid, Some(&key), &block.bytes) {
                // Changes of the visible part do not match the CID, and differ from the list in the body.
                prop_assert!(opened.1 == clean.1 && opened.0 != clean.0);
            }
        }
    }
}
