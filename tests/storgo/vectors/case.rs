//! The contents of the vector files.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ChunkCuts,
    SealedChunks,
    NodeBlocks,
    Reading,
    Links,
    Keys,
}

pub const KINDS: [Kind; 6] =
    [Kind::ChunkCuts, Kind::SealedChunks, Kind::NodeBlocks, Kind::Reading, Kind::Links, Kind::Keys];

impl Kind {
    pub fn path(self) -> PathBuf {
        folder().join(match self {
            Self::ChunkCuts => "chunk-cuts.json",
            Self::SealedChunks => "sealed-chunks.json",
            Self::NodeBlocks => "node-blocks.json",
            Self::Reading => "reading.json",
            Self::Links => "links.json",
            Self::Keys => "keys.json",
        })
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub about: String,
    pub cases: Vec<Case>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub given: Value,
    pub expect: Value,
}

pub fn parse<T: DeserializeOwned>(given: &Value) -> Result<T, String> {
    T::deserialize(given).map_err(|e| e.to_string())
}

/// Bytes, or a rule that generates them.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    Hex(String),
    Text(String),
    /// The first `len` bytes of BLAKE3's extendable output over the seed's UTF-8.
    Noise {
        seed: String,
        len: usize,
    },
    /// One byte, repeated.
    Repeat {
        byte: u8,
        len: usize,
    },
    /// A file beside the vectors.
    File(String),
}

impl Data {
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        Ok(match self {
            Self::Hex(text) => hex(text)?,
            Self::Text(text) => text.clone().into_bytes(),
            Self::Noise { seed, len } => {
                let mut bytes = vec![0; *len];
                blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
                bytes
            }
            Self::Repeat { byte, len } => vec![*byte; *len],
            Self::File(name) => std::fs::read(folder().join(name)).map_err(|e| e.to_string())?,
        })
    }
}

pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    HEXLOWER.decode(text.as_bytes()).map_err(|e| format!("{text}: {e}"))
}

pub fn hex32(text: &str) -> Result<[u8; 32], String> {
    hex(text)?.try_into().map_err(|_| format!("{text}: not 32 bytes"))
}

pub fn to_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuts {
    pub secret: Option<String>,
    pub chunker: String,
    pub data: Vec<Data>,
    /// Each file has the first `size` bytes of the data.
    pub sizes: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub secret: Option<String>,
    pub plaintext: Data,
    /// Whether it is the last chunk of its file.
    pub last: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub secret: Option<String>,
    pub meta: Meta,
    pub lists: Lists,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub media_type: Option<String>,
    pub mtime: Option<i64>,
    pub mode: Option<u32>,
    pub chunker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lists {
    /// A file of these chunks.
    Chunks(Vec<Data>),
    /// A file of this many chunks. Chunk n, from 0, is n in four bytes, big endian.
    Numbered(u32),
    /// A folder.
    Names(Vec<DirName>),
}

impl Lists {
    pub fn chunks(&self) -> Result<Vec<Vec<u8>>, String> {
        match self {
            Self::Chunks(chunks) => chunks.iter().map(Data::bytes).collect(),
            Self::Numbered(count) => Ok((0..*count).map(|n| n.to_be_bytes().to_vec()).collect()),
            Self::Names(_) => Err("a folder has no chunks".into()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirName {
    pub name: String,
    pub link: String,
    pub root_len: u32,
    pub dir: bool,
    pub size: u64,
    pub mtime: Option<i64>,
    pub mode: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    pub link: String,
    pub blocks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkText {
    pub text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    ClusterKey(String),
    Ed25519Secret(String),
}

/// Maximum length of a block that the vectors include, in bytes.
const SHORT: usize = 2048;

/// The description of a block in the vectors.
pub fn shown(cid: &str, block: &[u8]) -> Value {
    let mut shown = serde_json::json!({
        "cid": cid,
        "len": block.len(),
        "blake3": to_hex(blake3::hash(block).as_bytes()),
    });
    if block.len() <= SHORT {
        shown["block"] = to_hex(block).into();
    }
    shown
}

/// Changes a value slightly. Returns false if it has nothing to change.
pub fn change(value: &mut Value) -> bool {
    match value {
        Value::Bool(yes) => *yes = !*yes,
        Value::Number(n) => *value = (n.as_i64().expect("an integer") + 1).into(),
        Value::String(text) if text.is_empty() => return false,
        Value::String(text) => {
            let mut chars: Vec<char> = text.chars().collect();
            let middle = chars.len() / 2;
            chars[middle] = if chars[middle] == 'a' { 'b' } else { 'a' };
            *text = chars.into_iter().collect();
        }
        Value::Null | Value::Array(_) | Value::Object(_) => return false,
    }
    true
}
