//! A second implementation of `docs/format.md`, from BLAKE3, SHA-1, single AES blocks and a generic CBOR writer.
//! It uses no code of storgo, so that it does not repeat storgo's mistakes.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use ciborium::Value as Cbor;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use serde_json::{Value, json};
use sha1::Digest;

use super::case::{self, Keys, Kind, Lists, Meta, hex, hex32, parse, to_hex};

pub const RAW: u8 = 0x55;
pub const DAG_CBOR: u8 = 0x71;

const MIN: usize = 256 << 10;
const CENTER: usize = 896 << 10;
const SPREAD: usize = 128 << 10;
const MAX: usize = 1984 << 10;
/// Maximum bytes of a node's list, and the bytes that each kind of item counts for.
const LIST_LIMIT: usize = (1 << 20) - (16 << 10);
const CHUNK_COST: usize = 142;
const NAME_COST: usize = 134;
const CHILD_COST: usize = 121;

pub fn expect(kind: Kind, given: &Value) -> Result<Value, String> {
    match kind {
        Kind::ChunkCuts => cuts(&parse(given)?),
        Kind::SealedChunks => chunk(&parse(given)?),
        Kind::NodeBlocks => node(&parse(given)?),
        Kind::Reading => Err("see `crafted`".into()),
        Kind::Links => Ok(link(&parse::<case::LinkText>(given)?.text)),
        Kind::Keys => keys(&parse(given)?),
    }
}

fn derive(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    blake3::derive_key(context, &parts.concat())
}

/// AES-256 in counter mode.
pub fn aes_ctr(key: [u8; 32], bytes: &mut [u8]) {
    let cipher = aes::Aes256::new(&key.into());
    for (count, part) in (0_u128..).zip(bytes.chunks_mut(16)) {
        let mut pad = count.to_be_bytes().into();
        cipher.encrypt_block(&mut pad);
        part.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
    }
}

pub fn cid(codec: u8, block: &[u8]) -> Vec<u8> {
    [&[1, codec, 0x11, 20], sha1::Sha1::digest(block).as_slice()].concat()
}

pub fn cid_text(cid: &[u8]) -> String {
    format!("b{}", BASE32_NOPAD.encode(cid).to_lowercase())
}

pub fn link_text(cid: &[u8], key: Option<[u8; 32]>) -> String {
    let key = key.map_or(String::new(), |key| format!("#{}", BASE64URL_NOPAD.encode(&key)));
    format!("storgo://{}{key}", cid_text(cid))
}

fn secret(text: Option<&String>) -> Result<Option<[u8; 32]>, String> {
    text.map(|text| hex32(text)).transpose()
}

/// Returns the length of the first chunk.
type Cut = Box<dyn Fn(&[u8]) -> usize>;

fn cuts(given: &case::Cuts) -> Result<Value, String> {
    let mut data = Vec::new();
    for piece in &given.data {
        data.extend(piece.bytes()?);
    }
    let cut: Cut = if let Some(size) = given.chunker.strip_prefix("fixed:") {
        let size: usize = size.parse().map_err(|_| "no size")?;
        Box::new(move |rest| rest.len().min(size))
    } else {
        let secret = secret(given.secret.as_ref())?.ok_or("no secret")?;
        let mut hasher = blake3::Hasher::new_derive_key("storgo v1 chunker");
        let mut stream = [0; 2080];
        hasher.update(&secret).finalize_xof().fill(&mut stream);
        let (words, spread_key) = stream.split_at(2048);
        let gear: Vec<u64> =
            words.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        let spread_key: [u8; 32] = spread_key.try_into().expect("32 bytes");
        Box::new(move |rest| gear_cut(rest, &gear, &spread_key))
    };
    let mut lengths = Vec::new();
    for size in &given.sizes {
        let (mut at, mut of_this) = (0, Vec::new());
        while at < *size {
            let len = cut(&data[at..*size]);
            of_this.push(len);
            at += len;
        }
        lengths.push(of_this);
    }
    Ok(json!({ "lengths": lengths }))
}

fn gear_cut(rest: &[u8], gear: &[u64], spread_key: &[u8; 32]) -> usize {
    let mut hash = 0_u64;
    for at in MIN..rest.len().min(MAX - SPREAD) / 2 * 2 {
        hash = (hash << 1).wrapping_add(gear[usize::from(rest[at])]);
        let mask = if at < CENTER { 0x0000_d917_6753_7000 } else { 0x0000_d917_0753_7000 };
        if hash & mask == 0 {
            let window = blake3::keyed_hash(spread_key, &rest[at - 64..at]);
            let behind = u32::from_le_bytes(window.as_bytes()[..4].try_into().expect("4 bytes"));
            return rest.len().min(at + behind as usize % SPREAD);
        }
    }
    rest.len().min(MAX)
}

/// One chunk and its block.
pub struct Sealed {
    pub hash: [u8; 32],
    pub key: Option<[u8; 32]>,
    pub cid: Vec<u8>,
    pub block: Vec<u8>,
}

/// Seals a chunk that is (`last`) or is not the last one of its file.
pub fn seal(secret: Option<[u8; 32]>, plaintext: &[u8], last: bool) -> Sealed {
    let mut block = plaintext.to_vec();
    if last && secret.is_some() {
        block.resize(padme(plaintext.len()), 0);
    }
    let hash = *blake3::hash(&block).as_bytes();
    let key = secret.map(|secret| derive("storgo v1 chunk key", &[&secret, &hash]));
    if let Some(key) = key {
        aes_ctr(key, &mut block);
    }
    Sealed { hash, key, cid: cid(RAW, &block), block }
}

/// The smallest length from `len` on whose binary form ends with enough zeros.
fn padme(len: usize) -> usize {
    let exponent = len.max(1).ilog2();
    // Of the digits after the first, as many may be set as the binary form of their number has.
    let free = exponent.checked_ilog2().map_or(0, |log| log + 1);
    let fits = |padded: &usize| padded.trailing_zeros() >= exponent - free;
    (len..=2 * len).find(fits).expect("a power of two at the latest")
}

fn chunk(given: &case::Chunk) -> Result<Value, String> {
    let plaintext = given.plaintext.bytes()?;
    let secret = secret(given.secret.as_ref())?;
    if secret.is_none() && sha1_checked::Sha1::try_digest(&plaintext).has_collision() {
        return Ok(json!({ "refused": "collision" }));
    }
    let sealed = seal(secret, &plaintext, given.last);
    Ok(json!({
        "hash": to_hex(&sealed.hash),
        "key": sealed.key.map(|key| to_hex(&key)),
        "cid_bytes": to_hex(&sealed.cid),
        "block": case::shown(&cid_text(&sealed.cid), &sealed.block),
    }))
}

pub fn text(text: &str) -> Cbor {
    Cbor::Text(text.into())
}

pub fn bytes(bytes: &[u8]) -> Cbor {
    Cbor::Bytes(bytes.to_vec())
}

pub fn maybe<T>(value: Option<T>, as_cbor: impl FnOnce(T) -> Cbor) -> Cbor {
    value.map_or(Cbor::Null, as_cbor)
}

pub fn cbor_link(cid: &[u8]) -> Cbor {
    Cbor::Tag(42, Box::new(Cbor::Bytes([&[0], cid].concat())))
}

/// A map in the key order of DAG-CBOR: by length, then by bytes.
pub fn map(mut fields: Vec<(&str, Cbor)>) -> Cbor {
    fields.sort_by_key(|(name, _)| (name.len(), *name));
    Cbor::Map(fields.into_iter().map(|(name, value)| (text(name), value)).collect())
}

pub fn cbor(value: &Cbor) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).expect("writing to a Vec does not fail");
    out
}

/// An encoded node block.
#[derive(Clone)]
pub struct Made {
    pub cid: Vec<u8>,
    pub key: Option<[u8; 32]>,
    pub block: Vec<u8>,
}

/// Returns the key and the encrypted `salt ‖ body`.
pub fn seal_body(secret: [u8; 32], body: &[u8]) -> ([u8; 32], Vec<u8>) {
    let hash = *blake3::hash(body).as_bytes();
    let salt = &derive("storgo v1 node salt", &[&secret, &hash])[..16];
    let key = derive("storgo v1 node key", &[salt, &hash]);
    let mut sealed = [salt, body].concat();
    aes_ctr(key, &mut sealed);
    (key, sealed)
}

/// Encodes a node block over these blocks.
pub fn node_block(secret: Option<[u8; 32]>, kind: &str, listed: &[(Vec<u8>, u64)], body: &[u8]) -> Made {
    let (key, part) = match secret {
        None => (None, ("plain", bytes(body))),
        Some(secret) => {
            let (key, sealed) = seal_body(secret, body);
            (Some(key), ("sealed", bytes(&sealed)))
        }
    };
    let block = cbor(&map(vec![
        ("v", 1.into()),
        ("kind", text(kind)),
        ("lens", Cbor::Array(listed.iter().map(|(_, len)| (*len).into()).collect())),
        ("links", Cbor::Array(listed.iter().map(|(cid, _)| cbor_link(cid)).collect())),
        part,
    ]));
    Made { cid: cid(DAG_CBOR, &block), key, block }
}

/// A listed block: CID and length, its entry in the body, plaintext size, number of items, and counted bytes.
#[derive(Clone)]
pub struct Listed {
    pub block: (Vec<u8>, u64),
    pub entry: Cbor,
    pub size: u64,
    pub items: u64,
    pub cost: usize,
}

pub fn listed_chunk(secret: Option<[u8; 32]>, plaintext: &[u8], last: bool) -> Listed {
    let sealed = seal(secret, plaintext, last);
    let (len, size) = (sealed.block.len() as u64, plaintext.len() as u64);
    let key = maybe(sealed.key, |key| bytes(&key));
    let entry = Cbor::Array(vec![cbor_link(&sealed.cid), len.into(), size.into(), key, bytes(&sealed.hash)]);
    Listed { block: (sealed.cid, len), entry, size, items: 1, cost: CHUNK_COST }
}

/// The chunks of a file.
pub fn listed_chunks(secret: Option<[u8; 32]>, chunks: &[Vec<u8>]) -> Vec<Listed> {
    (1..).zip(chunks).map(|(n, chunk)| listed_chunk(secret, chunk, n == chunks.len())).collect()
}

/// A list node over items, and its entry in the parent.
pub fn list(secret: Option<[u8; 32]>, what: &str, items: &[Listed]) -> (Made, Listed) {
    let body = cbor(&map(vec![(what, Cbor::Array(items.iter().map(|item| item.entry.clone()).collect()))]));
    let blocks: Vec<_> = items.iter().map(|item| item.block.clone()).collect();
    let made = node_block(secret, "list", &blocks, &body);
    let len = made.block.len() as u64;
    let size: u64 = items.iter().map(|item| item.size).sum();
    let count: u64 = items.iter().map(|item| item.items).sum();
    let key = maybe(made.key, |key| bytes(&key));
    let entry = Cbor::Array(vec![cbor_link(&made.cid), len.into(), key, size.into(), count.into()]);
    let listed = Listed { block: (made.cid.clone(), len), entry, size, items: count, cost: CHILD_COST };
    (made, listed)
}

/// A root over items (`what` is `items`) or over list nodes (`lists`).
pub fn root(
    secret: Option<[u8; 32]>,
    kind: &str,
    mut meta: Vec<(&str, Cbor)>,
    what: &str,
    items: &[Listed],
) -> Made {
    let size: u64 = items.iter().map(|item| item.size).sum();
    meta.push(("size", size.into()));
    let entries = Cbor::Array(items.iter().map(|item| item.entry.clone()).collect());
    let body = cbor(&map(vec![("meta", map(meta)), (what, entries)]));
    let blocks: Vec<_> = items.iter().map(|item| item.block.clone()).collect();
    node_block(secret, kind, &blocks, &body)
}

fn metadata(meta: &Meta) -> Vec<(&'static str, Cbor)> {
    let fields = [
        ("name", meta.name.as_deref().map(text)),
        ("type", meta.media_type.as_deref().map(text)),
        ("mtime", meta.mtime.map(Cbor::from)),
        ("mode", meta.mode.map(Cbor::from)),
        ("chunker", meta.chunker.as_deref().map(text)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn node(given: &case::Node) -> Result<Value, String> {
    let secret = secret(given.secret.as_ref())?;
    let (kind, items) = match &given.lists {
        Lists::Names(names) => ("dir", names.iter().map(listed_name).collect::<Result<Vec<_>, _>>()?),
        lists => ("file", listed_chunks(secret, &lists.chunks()?)),
    };
    let mut groups: Vec<Vec<Listed>> = vec![Vec::new()];
    let mut cost = 0;
    for item in items.iter().cloned() {
        if cost + item.cost > LIST_LIMIT {
            groups.push(Vec::new());
            cost = 0;
        }
        cost += item.cost;
        groups.last_mut().expect("one at least").push(item);
    }
    let mut blocks = Vec::new();
    let root = if groups.len() == 1 {
        root(secret, kind, metadata(&given.meta), "items", &items)
    } else {
        assert!(groups.len() * CHILD_COST <= LIST_LIMIT, "the vectors need one level of lists");
        let mut lists = Vec::new();
        for group in &groups {
            let (made, listed) = list(secret, "items", group);
            blocks.push(made);
            lists.push(listed);
        }
        root(secret, kind, metadata(&given.meta), "lists", &lists)
    };
    let size: u64 = items.iter().map(|item| item.size).sum();
    let (link, root_len) = (link_text(&root.cid, root.key), root.block.len());
    blocks.push(root);
    let shown: Vec<Value> =
        blocks.iter().map(|made| case::shown(&cid_text(&made.cid), &made.block)).collect();
    Ok(json!({ "link": link, "size": size, "root_len": root_len, "blocks": shown }))
}

pub fn listed_name(name: &case::DirName) -> Result<Listed, String> {
    let link = parts(&name.link).map_err(String::from)?;
    let entry = Cbor::Array(vec![
        text(&name.name),
        cbor_link(&link.0),
        name.root_len.into(),
        maybe(link.1, |key| bytes(&key)),
        name.dir.into(),
        name.size.into(),
        maybe(name.mtime, Cbor::from),
        maybe(name.mode, Cbor::from),
    ]);
    let cost = NAME_COST + name.name.len();
    Ok(Listed { block: (link.0, name.root_len.into()), entry, size: name.size, items: 1, cost })
}

/// Returns CID and key of a link, or the name of the invalid part.
fn parts(text: &str) -> Result<(Vec<u8>, Option<[u8; 32]>), &'static str> {
    let rest = text.strip_prefix("storgo://").unwrap_or(text);
    let (cid, key) = rest.split_once('#').map_or((rest, None), |(cid, key)| (cid, Some(key)));
    let key = key
        .map(|key| BASE64URL_NOPAD.decode(key.as_bytes()).ok()?.try_into().ok())
        .map_or(Ok(None), |key: Option<[u8; 32]>| key.map(Some).ok_or("key"))?;
    let cid = cid
        .strip_prefix('b')
        .and_then(|cid| BASE32_NOPAD.decode(cid.to_uppercase().as_bytes()).ok())
        .ok_or("cid")?;
    match cid[..] {
        [1, RAW | DAG_CBOR, 0x11, 20, ref digest @ ..] if digest.len() == 20 => Ok((cid, key)),
        _ => Err("cid"),
    }
}

fn link(text: &str) -> Value {
    match parts(text) {
        Err(refused) => json!({ "refused": refused }),
        Ok((cid, key)) => json!({
            "cid": cid_text(&cid),
            "codec": cid[1],
            "sha1": to_hex(&cid[4..]),
            "key": key.map(|key| to_hex(&key)),
            "canonical": link_text(&cid, key),
        }),
    }
}

fn keys(given: &Keys) -> Result<Value, String> {
    Ok(match given {
        Keys::ClusterKey(text) => {
            let cluster = hex(text)?;
            let membership = derive("storgo v1 membership key", &[&cluster]);
            let read = derive("storgo v1 read key", &[&cluster]);
            let tag = &derive("storgo v1 kad protocol", &[&membership])[..8];
            json!({
                "membership_key": to_hex(&membership),
                "convergence_secret": to_hex(&derive("storgo v1 convergence secret", &[&read])),
                "noise_prologue": to_hex(&derive("storgo v1 noise prologue", &[&membership])),
                "quic_proof_key": to_hex(&derive("storgo v1 quic proof", &[&membership])),
                "kad_protocol": format!("/storgo/kad/1.0.0/{}", to_hex(tag)),
            })
        }
        Keys::Ed25519Secret(text) => json!({
            "convergence_secret": to_hex(&derive("storgo v1 node convergence secret", &[&hex(text)?])),
        }),
    })
}
