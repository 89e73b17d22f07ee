//! The answers of a node: plain values, the same in Rust, in JSON over HTTP and with `--json`.

mod event;

use serde::{Deserialize, Serialize};

pub use self::event::Event;
use super::error::NodeError;
use crate::{
    content::{cid::Cid, link::Link},
    store::{RootKind, RootRecord},
};

/// The kind of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A file.
    File,
    /// A folder.
    Dir,
}

impl From<FileKind> for RootKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Dir => Self::Dir,
        }
    }
}

impl From<RootKind> for FileKind {
    fn from(kind: RootKind) -> Self {
        match kind {
            RootKind::File => Self::File,
            RootKind::Dir => Self::Dir,
        }
    }
}

/// The answer to storing a file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PutReport {
    /// The root CID.
    pub cid: Cid,
    /// The link: root CID and read key (no key for public files).
    pub link: String,
    /// The name that it was stored under, if any.
    pub name: Option<String>,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes (of all files, for a folder).
    pub size: u64,
    /// Blocks of the whole DAG, the root included; a block in several positions counts each time.
    pub blocks: u64,
    /// Blocks among them that were not stored here before.
    pub new_blocks: u64,
    /// The copies that exist.
    pub redundancy: Redundancy,
}

/// An entry of a folder that a read left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeftOut {
    /// Its path in the folder; ends with a slash if some entries of that folder are unknown.
    pub path: String,
    /// Why it could not be read.
    pub error: String,
}

/// The redundancy of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Redundancy {
    /// Whole copies known to be durable.
    pub copies: u32,
}

/// The state of the announcement of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placement {
    /// The root.
    pub cid: Cid,
    /// Whether the root has been announced since the node started.
    pub done: bool,
    /// Peers that accepted the provider record.
    pub announced_to: u32,
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileInfo {
    /// The root CID.
    pub cid: Cid,
    /// The link, if this node knows the key or the file is public.
    pub link: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Number of older files here of the same name, if the file was looked up by name and there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<u64>,
    /// Name of the folder where the path begins, of an entry of a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder_name: Option<String>,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes; null if only the CID is known here.
    pub size: Option<u64>,
    /// Media type, if known.
    pub media_type: Option<String>,
    /// Modification time in seconds since 1970, if known.
    pub mtime: Option<i64>,
    /// When it was stored or opened here, in seconds since 1970.
    pub created: Option<i64>,
    /// Whether it is encrypted.
    pub sealed: bool,
    /// Whether this node keeps it. A file that is only cached, or only known by its link, is not kept.
    pub pinned: bool,
    /// Blocks of the whole DAG, if known; a block in several positions counts each time.
    pub blocks: Option<u64>,
    /// Bytes of these blocks, if known.
    pub stored_len: Option<u64>,
    /// Blocks that this node should keep and lacks, because they were lost or found damaged. 0 for a file that is not kept.
    #[serde(default)]
    pub missing: u64,
    /// Peers that announce the root, if the request asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<String>>,
    /// How the file was cut (`fastcdc`, `fixed:…`), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunker: Option<String>,
    /// The first 10,000 entries of a folder by name, in the answer to `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<DirEntryInfo>>,
    /// The cursor of the next entries; null if all are listed.
    #[serde(default)]
    pub entries_next: Option<String>,
}

impl FileInfo {
    /// Describes a file by its record; `missing` is the number of its blocks that are missing here.
    pub(super) fn of_record(record: &RootRecord, missing: u64) -> Self {
        let readable = record.key.is_some() || record.public;
        let link = Link { cid: record.cid, key: record.key.clone() };
        Self {
            link: readable.then(|| link.to_string()),
            name: record.name.clone(),
            size: Some(record.size),
            media_type: record.media_type.clone(),
            created: Some(record.created / 1_000_000),
            sealed: !record.public,
            pinned: record.pinned,
            blocks: (record.blocks > 0).then_some(record.blocks),
            stored_len: (record.stored_len > 0).then_some(record.stored_len),
            missing,
            ..Self::bare(&link, record.kind.into())
        }
    }

    /// Describes a file of which only the CID and perhaps the key are known.
    pub(super) fn bare(link: &Link, kind: FileKind) -> Self {
        Self {
            cid: link.cid,
            sealed: link.key.is_some(),
            link: None,
            name: None,
            older: None,
            folder_name: None,
            kind,
            size: None,
            media_type: None,
            mtime: None,
            created: None,
            pinned: false,
            blocks: None,
            stored_len: None,
            missing: 0,
            providers: None,
            chunker: None,
            entries: None,
            entries_next: None,
        }
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DirEntryInfo {
    /// The name, one path component.
    pub name: String,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes.
    pub size: u64,
    /// Its link.
    pub link: String,
    /// Whether this node should keep all blocks of it and lacks some.
    #[serde(default)]
    pub damaged: bool,
}

/// A page of the entries of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EntryList {
    /// The entries, by name.
    pub entries: Vec<DirEntryInfo>,
    /// The `cursor` of the next page; null on the last page.
    pub next: Option<String>,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// A chunk of a file, encrypted unless the file is public.
    Data,
    /// A list of other blocks.
    Node,
}

/// One block of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlockInfo {
    /// Its CID.
    pub cid: Cid,
    /// Its length in bytes.
    pub len: u32,
    /// Whether it is stored here.
    pub here: bool,
    /// Its kind.
    pub kind: BlockKind,
    /// Nodes that have it, this one included if it keeps the block, if the request asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<u32>,
}

/// A page of the blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlockList {
    /// The blocks, in the order of the file.
    pub blocks: Vec<BlockInfo>,
    /// The `cursor` of the next page; null on the last page.
    pub next: Option<String>,
}

/// A page of the list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileList {
    /// The files, in the requested order.
    pub files: Vec<FileInfo>,
    /// The `cursor` of the next page; null on the last page.
    pub next: Option<String>,
    /// Files on all pages.
    pub total: u64,
    /// Files of any name that this node keeps, if the request filters by `health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

/// The answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemoveReport {
    /// The removed root.
    pub cid: Cid,
    /// Its name.
    pub name: Option<String>,
    /// Bytes of its blocks. Those that no other file needs are freed.
    pub stored_len: u64,
    /// Seconds until they are freed, by a collection (every 10 minutes). 0: they were cached, and are freed already.
    pub freed_after_s: u64,
    /// Peers that were asked to drop the provider record.
    pub withdrawn_from: u32,
    /// Whether more peers will be asked when they connect. Until then, and for at most 48 hours, they name this node as a
    /// provider.
    #[serde(default)]
    pub withdrawal_pending: bool,
}

/// The answer to `verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyReport {
    /// Blocks that were read and hashed.
    pub checked: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Damaged blocks, which were moved to quarantine.
    pub bad: Vec<Cid>,
    /// Blocks of kept files that are not here.
    pub missing: Vec<Cid>,
    /// Damaged or missing blocks that were fetched from peers.
    pub repaired: Vec<Cid>,
    /// The error that kept a fetched block from being stored, for example a full disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<NodeError>,
    /// Whether the index may be older than the blocks: then files and blocks may be missing from this report.
    #[serde(default)]
    pub index_behind: bool,
}

/// The health of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every block is on at least two nodes.
    Ok,
    /// A block is on one node only: if that node is lost, so is the file.
    AtRisk,
    /// Every block was found, but some only on this node, which does not keep them: the file can be read here for now.
    Unkept,
    /// Blocks are missing here and can be repaired from other nodes.
    Damaged,
    /// A block was found on no node that answered, and a node that announces the file did not answer.
    Unknown,
    /// A block was found on no node.
    Lost,
}

/// The answer to `health`: only what nodes have just answered, nothing assumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthReport {
    /// The root.
    pub cid: Cid,
    /// Its name, if known.
    pub name: Option<String>,
    /// Its health.
    pub state: Health,
    /// Whether this node keeps it.
    pub kept: bool,
    /// Whether all blocks were counted. `false`: the file has more than 2,000,000, and this report is about the first ones.
    pub counted_all: bool,
    /// Distinct blocks of the file, here and in all numbers below. Blocks below a node block that was found nowhere are not
    /// counted.
    pub blocks: u64,
    /// Blocks of it on this disk, also those that this node does not keep: they are in its cache or wait for collection.
    pub here: u64,
    /// The first 100 blocks that are not here.
    pub missing: Vec<Cid>,
    /// Blocks that none of the nodes that answered has. Copies that this node has and does not keep do not count, here and
    /// below.
    pub lost: u64,
    /// Blocks that only this node has.
    pub only_here: u64,
    /// Nodes that have all of it, this one included.
    pub copies: u32,
    /// Number of nodes, whichever they are, that may be lost without losing a block.
    pub may_lose: u32,
    /// Other nodes that announce the file or have blocks of it.
    pub holders: Vec<Holder>,
}

/// A node that has blocks of a file or announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Holder {
    /// Its peer id.
    pub peer: String,
    /// Whether it was connected before the request.
    pub connected: bool,
    /// Whether it announces the file in the DHT.
    pub announces: bool,
    /// Distinct blocks that it has; null if it did not answer, in which case it is not counted.
    pub blocks: Option<u64>,
    /// Whether it has all of them.
    pub whole: bool,
}

/// The answer to `repair`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RepairReport {
    /// Blocks that were fetched and stored.
    pub repaired: Vec<Cid>,
    /// Blocks that are still missing: no peer that was asked has them.
    pub missing: Vec<Cid>,
}

/// The answer to `gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GcReport {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// Unreferenced blocks whose grace period is not over.
    pub waiting: u64,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerReport {
    /// Its peer id.
    pub peer: String,
    /// The addresses of the open connections.
    pub addrs: Vec<String>,
    /// Transport of the first connection: `tcp`, `quic` or `memory`.
    pub transport: String,
    /// Whether the connection runs over a relay.
    pub relayed: bool,
    /// Round-trip time in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// The name of its software.
    pub agent: Option<String>,
    /// Whether it takes part in the DHT.
    pub dht: bool,
    /// Its failure domain, if it has sent one.
    #[serde(default)]
    pub region: Option<String>,
    /// Its free bytes for blocks, if it has sent the number.
    #[serde(default)]
    pub free: Option<u64>,
    /// Bytes of blocks sent to it since this node started.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes of blocks received from it since this node started.
    #[serde(default)]
    pub received_bytes: u64,
}

/// The space of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes stored or promised to uploads, without the cache.
    pub kept_bytes: u64,
    /// Limit of these; `None` means no limit.
    pub capacity: Option<u64>,
    /// Free bytes on the disk; `None` if the system does not say.
    pub disk_free: Option<u64>,
}

/// The answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Status {
    /// This node's peer id.
    pub peer: String,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Addresses that peers can dial, `/p2p/…` included.
    pub listen: Vec<String>,
    /// Address of the HTTP API, once it is served.
    pub http: Option<String>,
    /// Whether the HTTP API uses TLS.
    #[serde(default)]
    pub https: bool,
    /// The data directory.
    pub data_dir: String,
    /// Whether a cluster key is set.
    pub cluster: bool,
    /// Whether the data directory got another cluster or identity since this node started: it takes effect at the next start.
    #[serde(default)]
    pub restart_pending: bool,
    /// Address of another machine that runs with this node's identity, if one was met.
    #[serde(default)]
    pub same_identity: Option<String>,
    /// Connected peers.
    pub peers: u32,
    /// Address of the last node of another cluster that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// Listed files: kept ones, and those only known by their links.
    pub files: u64,
    /// Files kept here.
    #[serde(default)]
    pub kept: u64,
    /// Blocks stored here, kept and cached.
    pub blocks: u64,
    /// Bytes of these blocks and of running uploads.
    pub stored_bytes: u64,
    /// Bytes among them that are evictable cache.
    pub cached_bytes: u64,
    /// Quota for blocks in bytes, if set.
    pub capacity: Option<u64>,
    /// Free bytes on the disk of the data directory.
    pub disk_free: Option<u64>,
    /// Blocks in quarantine.
    pub quarantined: u64,
    /// Blocks of kept files that are not here, because they were lost or found damaged.
    #[serde(default)]
    pub missing: u64,
    /// Why nothing can be stored at this moment; null if nothing is known to be wrong.
    #[serde(default)]
    pub write_problem: Option<String>,
    /// Whether the index may be older than the blocks. Nothing is removed until the index has been rebuilt.
    #[serde(default)]
    pub index_behind: bool,
    /// Roots announced to the DHT since start.
    pub announced: u64,
    /// Roots waiting to be announced.
    pub announce_queue: u64,
    /// Bytes of blocks sent to peers since start.
    pub sent_bytes: u64,
    /// Bytes of blocks received from peers since start.
    pub received_bytes: u64,
}
