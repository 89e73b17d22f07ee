//! Node blocks: canonical DAG-CBOR maps that list other blocks.
//!
//! `links` and `lens` are for everybody: a holder without any key can check, count and repair what a file is made of.
//! The rest is in `sealed` (or `plain`, in public mode) and is what a reader follows.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    ContentError, MAX_CHUNK,
    cid::{Cid, Codec},
    seal::{Sealing, apply_keystream, derive, public_cid},
    secret::Key,
};

/// Longest node block, in bytes.
pub const MAX_NODE_LEN: usize = 1 << 20;
/// Version of the format.
const VERSION: u8 = 1;
/// Bytes of salt in front of a sealed part.
const SALT_LEN: usize = 16;

/// What a node block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// The root of a file.
    File,
    /// The root of a folder.
    Dir,
    /// A part of a long list, inside a file or a folder.
    List,
}

/// What anybody can see in a node block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// What it is.
    pub kind: NodeKind,
    /// The blocks that it lists.
    pub links: Vec<Cid>,
    /// Their lengths in bytes, one per link.
    pub lens: Vec<u32>,
}

/// A whole block: its name and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The name.
    pub cid: Cid,
    /// The bytes.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    v: u8,
    kind: NodeKind,
    lens: Vec<u32>,
    links: Vec<cid::Cid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<ByteBuf>,
}

/// Reads what everybody may see.
///
/// # Errors
/// [`ContentError::Malformed`] for anything that is not exactly what the encoder makes.
pub fn visible(block: &[u8]) -> Result<Visible, ContentError> {
    Ok(decode(block)?.0)
}

fn decode(block: &[u8]) -> Result<(Visible, Node), ContentError> {
    if block.len() > MAX_NODE_LEN {
        return Err(ContentError::Malformed("longer than 1 MiB"));
    }
    let node: Node = serde_ipld_dagcbor::from_slice(block)
        .map_err(|_| ContentError::Malformed("not a node block in DAG-CBOR"))?;
    if node.v != VERSION {
        return Err(ContentError::Malformed("of an unknown version"));
    }
    if node.links.len() != node.lens.len() {
        return Err(ContentError::Malformed("links and lens differ in number"));
    }
    if node.kind == NodeKind::List && node.links.is_empty() {
        return Err(ContentError::Malformed("a list of nothing"));
    }
    if node.lens.iter().any(|len| *len == 0 || *len as usize > MAX_CHUNK) {
        return Err(ContentError::Malformed("a block length out of bounds"));
    }
    if node.plain.is_some() == node.sealed.is_some() {
        return Err(ContentError::Malformed("neither sealed nor plain, or both"));
    }
    // One content, one encoding: otherwise one list could have several CIDs.
    if serde_ipld_dagcbor::to_vec(&node).ok().as_deref() != Some(block) {
        return Err(ContentError::Malformed("not in canonical form"));
    }
    let links: Result<_, _> = node.links.iter().map(|cid| Cid::try_from(*cid)).collect();
    let links = links.map_err(|_| ContentError::Malformed("a link of a foreign kind"))?;
    Ok((Visible { kind: node.kind, links, lens: node.lens.clone() }, node))
}

/// Makes a node block of a body and of what everybody may see, and the key to it (none in plain mode).
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
    let node = Node {
        v: VERSION,
        kind,
        lens: listed.iter().map(|(_, len)| *len).collect(),
        links: listed.iter().map(|(cid, _)| (*cid).into()).collect(),
        plain: plain.map(ByteBuf::from),
        sealed: sealed.map(ByteBuf::from),
    };
    let bytes = serde_ipld_dagcbor::to_vec(&node).map_err(|_| ContentError::TooLarge("its encoding"))?;
    if bytes.len() > MAX_NODE_LEN {
        return Err(ContentError::TooLarge("its list"));
    }
    let cid = match sealing {
        Sealing::Public => public_cid(Codec::DagCbor, &bytes)?,
        Sealing::Secret(_) => Cid::of(Codec::DagCbor, &bytes),
    };
    Ok((Block { cid, bytes }, key))
}

/// Opens a node block: what everybody sees, and the body.
///
/// # Errors
/// [`ContentError::NoKey`] for a sealed block without a key, [`ContentError::WrongKey`] where the key does not commit
/// to what came out, [`ContentError::Malformed`].
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
                .ok_or(ContentError::Malformed("a sealed part without a salt"))?;
            let hash = blake3::hash(body);
            let made = derive("storgo v1 node key", salt, hash.as_bytes());
            // Compared as hashes, which BLAKE3 does in constant time.
            if blake3::hash(made.as_bytes()) != blake3::hash(key.as_bytes()) {
                return Err(ContentError::WrongKey { cid: *cid });
            }
            sealed.split_off(SALT_LEN)
        }
        // A key for a plain block: the link was made for something else.
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
    fn keys_come_in_canonical_order() {
        let (block, _) = sealed_node();
        let order: Vec<usize> = [&b"av"[..], b"dkind", b"dlens", b"elinks", b"fsealed"]
            .iter()
            .map(|name| {
                block.bytes.windows(name.len() - 1).position(|w| w == &name[1..]).expect("the key is there")
            })
            .collect();
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn a_root_may_be_empty_and_a_list_may_not() {
        let empty = |kind| encode(&Sealing::Public, kind, &[], b"the body".to_vec()).expect("encoded").0;
        for root in [NodeKind::File, NodeKind::Dir] {
            assert!(visible(&empty(root).bytes).is_ok());
        }
        assert_eq!(visible(&empty(NodeKind::List).bytes), Err(ContentError::Malformed("a list of nothing")));
    }

    #[test]
    fn only_the_right_key_opens() {
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
        fn no_flipped_bit_passes(at: prop::sample::Index, bit in 0_u32..8) {
            let (mut block, key) = sealed_node();
            let clean = open(&block.cid, Some(&key), &block.bytes).expect("opens");
            let at = at.index(block.bytes.len());
            block.bytes[at] ^= 1_u8 << bit;
            if let Ok(opened) = open(&block.cid, Some(&key), &block.bytes) {
                // A flipped bit in the visible part is caught by the CID and by the comparison with the body's own list.
                prop_assert!(opened.1 == clean.1 && opened.0 != clean.0);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(visible(&bytes));
        }
    }
}
