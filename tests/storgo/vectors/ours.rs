//! The results of storgo's code.

use std::collections::HashMap;

use serde_json::{Value, json};
use storgo::{
    content::{
        ContentError,
        chunk::{Chunker, Cutter},
        cid::Cid,
        decoder::{Placed, Root, Step, open_root},
        encoder::{Block, DirEncoder, DirEntry, EntryKind, FileEncoder, Finished, Metadata},
        link::{Link, LinkError},
        seal::{Entry, Sealing, open_chunk, seal_chunk},
        secret::{ClusterKey, ConvergenceSecret, Key},
    },
    node::identity::own_secret,
};

use super::case::{self, DirName, Keys, Kind, Lists, Meta, hex, hex32, parse, to_hex};

pub fn expect(kind: Kind, given: &Value) -> Result<Value, String> {
    match kind {
        Kind::ChunkCuts => cuts(&parse(given)?),
        Kind::SealedChunks => chunk(&parse(given)?),
        Kind::NodeBlocks => node(parse(given)?),
        Kind::Reading => read(&parse(given)?),
        Kind::Links => link(&parse(given)?),
        Kind::Keys => keys(&parse(given)?),
    }
}

fn sealing(secret: Option<&String>) -> Result<Sealing, String> {
    Ok(match secret {
        None => Sealing::Public,
        Some(secret) => Sealing::Secret(ConvergenceSecret::new(Key::new(hex32(secret)?))),
    })
}

fn key(key: Option<&Key>) -> Value {
    key.map_or(Value::Null, |key| to_hex(key.as_bytes()).into())
}

fn cuts(given: &case::Cuts) -> Result<Value, String> {
    let chunker: Chunker = given.chunker.parse().map_err(|e| format!("{e}"))?;
    // Chunks of a fixed length depend on no secret.
    let secret = match (&given.secret, chunker) {
        (Some(secret), Chunker::FastCdc) => hex32(secret)?,
        (None, Chunker::Fixed(_)) => [0; 32],
        _ => return Err("fastcdc needs a secret, and fixed takes none".into()),
    };
    let cutter = Cutter::new(chunker, &ConvergenceSecret::new(Key::new(secret)));
    let mut data = Vec::new();
    for piece in &given.data {
        data.extend(piece.bytes()?);
    }
    if given.sizes.iter().max() != Some(&data.len()) {
        return Err("the largest size must be the length of the data".into());
    }
    let mut lengths = Vec::new();
    for size in &given.sizes {
        let mut rest = &data[..*size];
        let mut of_this = Vec::new();
        while let Some(len) = cutter.cut(rest, true) {
            of_this.push(len);
            rest = &rest[len..];
        }
        lengths.push(of_this);
    }
    Ok(json!({ "lengths": lengths }))
}

fn chunk(given: &case::Chunk) -> Result<Value, String> {
    let plaintext = given.plaintext.bytes()?;
    let sealed = match seal_chunk(&sealing(given.secret.as_ref())?, plaintext.clone(), given.last) {
        Ok(sealed) => sealed,
        Err(ContentError::Collision) => return Ok(json!({ "refused": "collision" })),
        Err(error) => return Err(error.to_string()),
    };
    let entry = sealed.entry;
    assert_eq!(open_chunk(&entry, sealed.block.clone()), Ok(plaintext));
    Ok(json!({
        "hash": to_hex(&entry.hash),
        "key": key(entry.key.as_ref()),
        "cid_bytes": to_hex(&entry.cid.to_bytes()),
        "block": case::shown(&entry.cid.to_string(), &sealed.block),
    }))
}

fn metadata(meta: Meta) -> Metadata {
    Metadata {
        name: meta.name,
        size: 0,
        media_type: meta.media_type,
        mtime: meta.mtime,
        mode: meta.mode,
        chunker: meta.chunker,
    }
}

fn node(given: case::Node) -> Result<Value, String> {
    let sealing = sealing(given.secret.as_ref())?;
    let fail = |e: ContentError| e.to_string();
    let meta = metadata(given.meta);
    let (mut blocks, finished) = match &given.lists {
        Lists::Names(names) => {
            let (mut encoder, mut blocks) = (DirEncoder::new(sealing), Vec::new());
            for name in names {
                blocks.extend(encoder.push(dir_entry(name)?).map_err(fail)?);
            }
            (blocks, encoder.finish(meta).map_err(fail)?)
        }
        lists => {
            let (mut encoder, mut blocks) = (FileEncoder::new(sealing.clone()), Vec::new());
            let chunks = lists.chunks()?;
            let count = chunks.len();
            for (n, chunk) in (1..).zip(chunks) {
                let sealed = seal_chunk(&sealing, chunk, n == count).map_err(fail)?;
                blocks.extend(encoder.push(sealed.entry).map_err(fail)?);
            }
            (blocks, encoder.finish(meta).map_err(fail)?)
        }
    };
    let Finished { blocks: last, link, root_len, size } = finished;
    blocks.extend(last);
    let shown = |block: &Block| case::shown(&block.cid.to_string(), &block.bytes);
    Ok(json!({
        "link": link.to_string(),
        "size": size,
        "root_len": root_len,
        "blocks": blocks.iter().map(shown).collect::<Vec<_>>(),
    }))
}

fn dir_entry(name: &DirName) -> Result<DirEntry, String> {
    Ok(DirEntry {
        name: name.name.clone(),
        link: name.link.parse().map_err(|e: LinkError| e.to_string())?,
        root_len: name.root_len,
        kind: if name.dir { EntryKind::Dir } else { EntryKind::File },
        size: name.size,
        mtime: name.mtime,
        mode: name.mode,
    })
}

fn read(given: &case::Read) -> Result<Value, String> {
    let mut blocks = HashMap::new();
    for block in &given.blocks {
        let block = hex(block)?;
        blocks.insert(storgo::content::hash::sha1(&block), block);
    }
    let link: Link = given.link.parse().map_err(|e: LinkError| e.to_string())?;
    Ok(walk(&link, &blocks).unwrap_or_else(|error| {
        let refused = match error {
            ContentError::NoKey => "no key",
            ContentError::WrongKey { .. } => "wrong key",
            ContentError::Malformed("no such block") => "missing",
            ContentError::Malformed(_) => "malformed",
            ContentError::BadName(_) => "bad name",
            ContentError::Unordered(_) => "unordered",
            _ => "something else",
        };
        json!({ "refused": refused })
    }))
}

/// Reads all items of a tree.
macro_rules! items {
    ($tree:ident, $blocks:ident, $describe:expr) => {{
        let (mut found, mut tree) = (Vec::new(), $tree);
        loop {
            match tree.step()? {
                Step::Item(placed) => found.push($describe(placed)),
                Step::Need { cid, .. } => tree.feed(find($blocks, &cid)?)?,
                Step::End => break found,
            }
        }
    }};
}

type Blocks = HashMap<[u8; 20], Vec<u8>>;

fn find<'a>(blocks: &'a Blocks, cid: &Cid) -> Result<&'a [u8], ContentError> {
    blocks.get(cid.digest()).map(Vec::as_slice).ok_or(ContentError::Malformed("no such block"))
}

fn walk(link: &Link, blocks: &Blocks) -> Result<Value, ContentError> {
    let describe = |kind: &str, meta: &Metadata, items: Vec<Value>| {
        json!({
            "kind": kind,
            "meta": {
                "size": meta.size, "name": meta.name, "type": meta.media_type, "mtime": meta.mtime, "mode": meta.mode,
                "chunker": meta.chunker,
            },
            "items": items,
        })
    };
    match open_root(link, find(blocks, &link.cid)?)? {
        Root::File(tree) => {
            let meta = tree.metadata().clone();
            let item = |Placed { item, offset }: Placed<Entry>| {
                json!({
                    "offset": offset, "cid": item.cid.to_string(), "len": item.len, "size": item.size,
                    "key": key(item.key.as_ref()),
                    "hash": to_hex(&item.hash),
                })
            };
            Ok(describe("file", &meta, items!(tree, blocks, item)))
        }
        Root::Dir(tree) => {
            let meta = tree.metadata().clone();
            let item = |Placed { item, .. }: Placed<DirEntry>| {
                json!({
                    "name": item.name, "link": item.link.to_string(), "root_len": item.root_len,
                    "dir": item.kind == EntryKind::Dir, "size": item.size, "mtime": item.mtime, "mode": item.mode,
                })
            };
            Ok(describe("dir", &meta, items!(tree, blocks, item)))
        }
    }
}

fn link(given: &case::LinkText) -> Result<Value, String> {
    Ok(match given.text.parse::<Link>() {
        Ok(link) => json!({
            "cid": link.cid.to_string(),
            "codec": link.cid.codec() as u8,
            "sha1": to_hex(link.cid.digest()),
            "key": key(link.key.as_ref()),
            "canonical": link.to_string(),
        }),
        Err(LinkError::Cid(_)) => json!({ "refused": "cid" }),
        Err(LinkError::Key) => json!({ "refused": "key" }),
        Err(error) => return Err(error.to_string()),
    })
}

fn keys(given: &Keys) -> Result<Value, String> {
    Ok(match given {
        Keys::ClusterKey(text) => {
            let cluster = ClusterKey::new(Key::new(hex32(text)?));
            let membership = cluster.membership();
            let derive = |context| membership.derive(context);
            json!({
                "membership_key": to_hex(membership.as_bytes()),
                "convergence_secret": to_hex(cluster.convergence_secret().as_bytes()),
                "noise_prologue": to_hex(derive("storgo v1 noise prologue").as_bytes()),
                "quic_proof_key": to_hex(derive("storgo v1 quic proof").as_bytes()),
                "kad_protocol":
                    format!("/storgo/kad/1.0.0/{}", to_hex(&derive("storgo v1 kad protocol").as_bytes()[..8])),
            })
        }
        Keys::Ed25519Secret(text) => {
            let keypair =
                libp2p::identity::Keypair::ed25519_from_bytes(hex32(text)?).map_err(|e| e.to_string())?;
            json!({
                "convergence_secret": to_hex(own_secret(&keypair).map_err(|e| e.to_string())?.as_bytes()),
            })
        }
    })
}
