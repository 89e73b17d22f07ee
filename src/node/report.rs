//! What the node answers: plain values, the same in Rust, in JSON over HTTP and behind `--json`.

mod event;

use serde::{Deserialize, Serialize};

pub use self::event::Event;
use super::error::NodeError;
use crate::{
    content::{cid::Cid, link::Link},
    store::{RootKind, RootRecord},
};

/// What a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// One file.
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

/// The answer to a put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PutReport {
    /// The root CID.
    pub cid: Cid,
    /// The link: root CID and read key (no key for public files).
    pub link: String,
    /// The name that was given, or taken from the path.
    pub name: Option<String>,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes (of all files, for a folder).
    pub size: u64,
    /// Blocks in the whole DAG, the root included; one that stands in several places counts as often.
    pub blocks: u64,
    /// How many of them were not stored here before.
    pub new_blocks: u64,
    /// Where copies are.
    pub redundancy: Redundancy,
}

/// How a file is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Redundancy {
    /// Whole copies that are known to be durable.
    pub copies: u32,
}

/// How far the announcement of a root has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placement {
    /// The root.
    pub cid: Cid,
    /// Whether the announcement has been made since the node started.
    pub done: bool,
    /// Peers that took the provider record.
    pub announced_to: u32,
}

/// One stored file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileInfo {
    /// The root CID.
    pub cid: Cid,
    /// The link, where this node knows the key (or the file is public).
    pub link: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Older files here that have this name, where it was asked for by its name and there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<u64>,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes.
    pub size: u64,
    /// Media type, where known.
    pub media_type: Option<String>,
    /// Modification time, seconds since 1970, where known.
    pub mtime: Option<i64>,
    /// When it came here, seconds since 1970.
    pub created: Option<i64>,
    /// Whether it is encrypted.
    pub sealed: bool,
    /// Whether this node keeps it (a file that is only cached, or only known by its link, is not kept).
    pub pinned: bool,
    /// Blocks in the whole DAG, where known; one that stands in several places counts as often.
    pub blocks: Option<u64>,
    /// Bytes of these blocks, where known.
    pub stored_len: Option<u64>,
    /// Blocks of it that this node should keep and has not: lost, or damaged and set aside, and not mended since. 0 for a
    /// file that is not kept here. What nobody has read since it was damaged is not known to be.
    #[serde(default)]
    pub missing: u64,
    /// Peers that announce this root, where the question was asked (`info`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<String>>,
    /// How the file was cut (`fastcdc`, `fixed:…`), where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunker: Option<String>,
    /// Entries of a folder, where the question was asked (`info`): the first 10,000, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<DirEntryInfo>>,
    /// The cursor for the entries behind those; null where all are listed.
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
            size: record.size,
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
            kind,
            size: 0,
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

/// One name inside a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DirEntryInfo {
    /// The name, one path component.
    pub name: String,
    /// File or folder.
    pub kind: FileKind,
    /// Plaintext bytes.
    pub size: u64,
    /// The link to it.
    pub link: String,
}

/// A page of the entries of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EntryList {
    /// The entries, by name.
    pub entries: Vec<DirEntryInfo>,
    /// Pass this as `cursor` for the next page; none on the last.
    pub next: Option<String>,
}

/// What a block of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// A piece of a file, sealed.
    Data,
    /// A list of other blocks.
    Node,
}

/// One block of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlockInfo {
    /// Its name.
    pub cid: Cid,
    /// Its bytes.
    pub len: u32,
    /// Whether it is stored here.
    pub here: bool,
    /// What it is.
    pub kind: BlockKind,
    /// Nodes that have it, this one included, where they were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<u32>,
}

/// A page of the blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlockList {
    /// The blocks, in their order in the file.
    pub blocks: Vec<BlockInfo>,
    /// Pass this as `cursor` for the next page; none on the last.
    pub next: Option<String>,
}

/// A page of the list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileList {
    /// The files, in the order that was asked for.
    pub files: Vec<FileInfo>,
    /// Pass this as `cursor` for the next page; none on the last.
    pub next: Option<String>,
    /// Files on all pages.
    pub total: u64,
    /// Files that this node keeps, by all names, where `health` was asked for: the others are only known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

/// The answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemoveReport {
    /// The root that was removed.
    pub cid: Cid,
    /// Its name.
    pub name: Option<String>,
    /// Peers that were told to forget the provider record.
    pub withdrawn_from: u32,
    /// Some peers could not be told yet: they are told when this node runs and they are there. Until then, and for 48
    /// hours at most, they name this node as a provider.
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
    /// Blocks whose bytes were wrong; they are in quarantine now.
    pub bad: Vec<Cid>,
    /// Blocks that a kept file needs and that are not here.
    pub missing: Vec<Cid>,
    /// Bad or missing blocks that were fetched anew from peers.
    pub repaired: Vec<Cid>,
    /// Why a block that peers have could not be kept here, for example for want of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<NodeError>,
}

/// How well a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every block is on two nodes or more.
    Ok,
    /// A block is on one node alone: when that is lost, so is the file.
    AtRisk,
    /// Blocks are missing here, and others have them: a repair brings them back.
    Damaged,
    /// A block was found nowhere.
    Lost,
}

/// The answer to `health`: what was found just now, and nothing that was assumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthReport {
    /// The root.
    pub cid: Cid,
    /// Its name, where known.
    pub name: Option<String>,
    /// How well it is.
    pub state: Health,
    /// Whether this node keeps it.
    pub kept: bool,
    /// Different blocks of the file: one that stands in several places counts once, here and in all numbers below. Under a
    /// node block that was found nowhere there are more.
    pub blocks: u64,
    /// Blocks of it on this disk.
    pub here: u64,
    /// Blocks that are not: the first 100.
    pub missing: Vec<Cid>,
    /// Blocks that are nowhere.
    pub lost: u64,
    /// Blocks that are here and nowhere else.
    pub only_here: u64,
    /// Nodes that have all of it, this one included.
    pub copies: u32,
    /// Nodes that may be lost, whichever they are, before a block is.
    pub may_lose: u32,
    /// Other nodes that announce it, or have some of it.
    pub holders: Vec<Holder>,
}

/// A node that has blocks of a file, or says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Holder {
    /// Its peer id.
    pub peer: String,
    /// Whether it was connected already.
    pub connected: bool,
    /// Whether it announces the file in the DHT.
    pub announces: bool,
    /// Different blocks that it has; null where it did not answer, and is not counted.
    pub blocks: Option<u64>,
    /// Whether it has all of them.
    pub whole: bool,
}

/// The answer to `repair`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RepairReport {
    /// Blocks that were missing and are here now.
    pub repaired: Vec<Cid>,
    /// Blocks that are still missing: nobody who could be asked has them.
    pub missing: Vec<Cid>,
}

/// The answer to `gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GcReport {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// Blocks without a file that wait for the end of the grace period.
    pub waiting: u64,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerReport {
    /// Its peer id.
    pub peer: String,
    /// The addresses of the open connections.
    pub addrs: Vec<String>,
    /// `tcp`, `quic` or `memory`; of the first connection.
    pub transport: String,
    /// Whether the connection runs over a relay.
    pub relayed: bool,
    /// Round trip, milliseconds, where measured.
    pub rtt_ms: Option<f64>,
    /// What it says it is.
    pub agent: Option<String>,
    /// Whether it speaks our DHT protocol.
    pub dht: bool,
    /// Failure domain that it names.
    #[serde(default)]
    pub region: Option<String>,
    /// Bytes that it has free for blocks, where it says so.
    #[serde(default)]
    pub free: Option<u64>,
    /// Bytes of blocks sent to it since this node started.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes of blocks received from it since this node started.
    #[serde(default)]
    pub received_bytes: u64,
}

/// The answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// This node's peer id.
    pub peer: String,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Addresses that others can dial, `/p2p/…` included.
    pub listen: Vec<String>,
    /// HTTP address of this node, where it serves one.
    pub http: Option<String>,
    /// Whether it is served over TLS.
    #[serde(default)]
    pub https: bool,
    /// The data directory.
    pub data_dir: String,
    /// Whether a cluster key is set.
    pub cluster: bool,
    /// Where another machine was met that runs with this node's identity.
    #[serde(default)]
    pub same_identity: Option<String>,
    /// Connected peers.
    pub peers: u32,
    /// Where the last node was called that belongs to another cluster than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// Files listed: those kept here, and those only known by their links.
    pub files: u64,
    /// Files kept here.
    #[serde(default)]
    pub kept: u64,
    /// Blocks here, kept and cached.
    pub blocks: u64,
    /// Bytes of these blocks, and of those that uploads under way are storing.
    pub stored_bytes: u64,
    /// Bytes of these that are evictable cache.
    pub cached_bytes: u64,
    /// Hard limit in bytes, where set.
    pub capacity: Option<u64>,
    /// Bytes free on the disk of the data directory.
    pub disk_free: Option<u64>,
    /// Blocks in quarantine.
    pub quarantined: u64,
    /// Blocks that kept files need and that are not here: lost, or damaged and not mended since.
    #[serde(default)]
    pub missing: u64,
    /// The index is older than the blocks: nothing is removed until `verify --rebuild-index` has made it anew.
    #[serde(default)]
    pub index_behind: bool,
    /// Roots announced to the DHT since start.
    pub announced: u64,
    /// Roots that wait to be announced.
    pub announce_queue: u64,
    /// Bytes of blocks sent to peers since start.
    pub sent_bytes: u64,
    /// Bytes of blocks received from peers since start.
    pub received_bytes: u64,
}
