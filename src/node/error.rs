//! The errors that a user can meet, each with a stable code, an exit code and an HTTP status.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::{
    content::{ContentError, cid::Cid},
    fetch::FetchError,
    net::NetError,
    store::StoreError,
};

/// What went wrong, as every door names it. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// Nothing more is known than the message.
    Other,
    /// The request itself is wrong: a bad link, name, range or option.
    BadRequest,
    /// Some of it was done, some was not.
    Partial,
    /// No such file, block or provider.
    NotFound,
    /// No storgo node (or no other peer) can be reached.
    Unreachable,
    /// The caller may not do this, or lacks the key.
    Denied,
    /// Bytes were not what their name or key says, and no good copy was found.
    Integrity,
    /// Two different blocks with one CID (possible in public mode only).
    Collision,
    /// Stored, but below the redundancy that was asked for.
    BelowTarget,
    /// Not done in the time given.
    Timeout,
    /// Another process holds the data directory.
    Locked,
    /// The disk or the quota is full.
    NoSpace,
    /// The node is stopping.
    ShuttingDown,
}

impl ErrorCode {
    /// The name in JSON and in problem documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::BadRequest => "bad_request",
            Self::Partial => "partial",
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Integrity => "integrity",
            Self::Collision => "collision",
            Self::BelowTarget => "below_target",
            Self::Timeout => "timeout",
            Self::Locked => "locked",
            Self::NoSpace => "no_space",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// What an error of the operating system comes to: denied, no room, or nothing in particular.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;

        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Other,
        }
    }

    /// The exit code of the command line (DESIGN 6).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Other | Self::Collision => 1,
            Self::BadRequest => 2,
            Self::Partial => 3,
            Self::NotFound => 4,
            Self::Unreachable | Self::ShuttingDown => 5,
            Self::Denied => 6,
            Self::Integrity => 7,
            Self::BelowTarget => 8,
            Self::Timeout => 9,
            Self::Locked => 11,
            Self::NoSpace => 13,
        }
    }

    /// The HTTP status that carries this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Other => 500,
            Self::BadRequest => 400,
            Self::Partial => 207,
            Self::NotFound => 404,
            Self::Unreachable => 502,
            Self::Denied => 403,
            Self::Integrity => 422,
            Self::Collision | Self::Locked => 409,
            Self::BelowTarget => 202,
            Self::Timeout => 504,
            Self::NoSpace => 507,
            Self::ShuttingDown => 503,
        }
    }
}

/// The cause of an error, finer than its [`ErrorCode`]. The names are part of the API; more may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The content is encrypted and the link has no read key.
    KeyMissing,
    /// The read key does not open the block.
    KeyWrong,
    /// The data is crafted to share its SHA-1 digest with other data.
    CraftedData,
    /// Another process uses the data directory.
    DirectoryInUse,
    /// A newer version of storgo wrote the data directory.
    DirectoryTooNew,
    /// The blocks on disk have another layout than `storage.layout` asks for.
    LayoutDiffers,
    /// Moving the blocks to another layout was interrupted.
    LayoutMoveInterrupted,
    /// The block index cannot be read.
    IndexDamaged,
    /// The block index is missing although there are blocks.
    IndexLost,
    /// The block index is older than the blocks.
    IndexBehind,
    /// A block on this disk is damaged and was set aside.
    BlockDamaged,
    /// The disk or the quota for blocks is full.
    StorageFull,
    /// A disk is full.
    DiskFull,
    /// The operating system denies access to a file or folder.
    PermissionDenied,
    /// The identity file cannot be understood.
    IdentityDamaged,
    /// No peer that can be reached has the file or block.
    NoProvider,
    /// No peer could be reached.
    NoPeers,
    /// No data arrived for the whole timeout.
    Stalled,
    /// Every copy that was found is damaged.
    NoGoodCopy,
    /// Providers announce the file, and none of them answered.
    ProvidersSilent,
    /// Fetching the parts of the file that are not here took too long.
    FetchTooSlow,
    /// This node was started without a network.
    Offline,
    /// Another program listens on the port.
    PortInUse,
    /// The operating system does not let this user listen on the port.
    PortDenied,
    /// The address cannot be listened on.
    AddressUnavailable,
    /// The API would be reachable from other machines without TLS.
    TlsRequired,
    /// The TLS certificate or its key cannot be used.
    CertificateInvalid,
    /// The peer cannot be connected to, or does not speak the protocol.
    PeerUnreachable,
    /// The file was removed before its announcement ended.
    NotAnnounced,
    /// This node does not keep the file.
    NotKept,
    /// The block is not on this disk.
    BlockNotHere,
    /// The root block is not on this disk.
    RootNotHere,
    /// No file on this node has the name.
    NameUnknown,
    /// The text looks like a CID and is not a valid one.
    CidInvalid,
    /// The text looks like a link and is not a valid one.
    LinkInvalid,
    /// Several files on this node have the name.
    NameAmbiguous,
    /// The name is longer than file systems allow.
    NameTooLong,
    /// The name contains a NUL character.
    NameHasNul,
    /// A path in the uploaded folder cannot be stored.
    PathInvalid,
    /// The tar stream of the uploaded folder is damaged or cut short.
    TarInvalid,
    /// The input ended early or could not be read.
    InputFailed,
    /// The cursor does not come from a list.
    CursorInvalid,
    /// The request needs a folder and names a file.
    NotAFolder,
    /// The file has more blocks than one request may look at.
    TooManyBlocks,
    /// This node belongs to no cluster.
    NoCluster,
    /// A thread of this node panicked, which is a bug.
    WorkerFailed,
}

/// An error at the edge of the node: what happened and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeError {
    /// The stable code.
    pub code: ErrorCode,
    /// The cause, where it is known more closely than by the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// One sentence: what happened.
    pub message: String,
    /// One sentence: what the user can do next; empty where nothing useful can be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl NodeError {
    /// An error of this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, reason: None, message: message.into(), hint: String::new() }
    }

    /// An error of the operating system, about what was tried.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorCode::of_io(error), format!("cannot {what}: {error}")).explained()
    }

    /// The next step that every error of its code has.
    fn explained(self) -> Self {
        match self.code {
            ErrorCode::Denied => self
                .reason(Reason::PermissionDenied)
                .hint("check to whom it belongs and what its permissions are"),
            ErrorCode::NoSpace => self.reason(Reason::DiskFull).hint("free some space on that disk"),
            _ => self,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub const fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The same error with a next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

impl NodeError {
    /// The node is stopping.
    pub(super) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the node is stopping")
            .hint("start it again and repeat the request")
    }

    /// This node does not keep the file.
    pub(super) fn not_kept(root: &Cid) -> Self {
        Self::new(ErrorCode::NotFound, format!("{root} is not kept on this node")).reason(Reason::NotKept)
    }

    /// A thread of this node panicked, which is a bug.
    pub(super) fn worker_failed() -> Self {
        Self::new(ErrorCode::Other, "a thread of this node panicked")
            .reason(Reason::WorkerFailed)
            .hint("the node's log says where; please report it")
    }
}

impl From<ContentError> for NodeError {
    fn from(error: ContentError) -> Self {
        let message = error.to_string();
        match error {
            ContentError::Collision => Self::new(ErrorCode::Collision, message)
                .reason(Reason::CraftedData)
                .hint("this data was crafted to share its SHA-1 with other data; store it without --public"),
            ContentError::NoKey => Self::new(ErrorCode::Denied, message)
                .reason(Reason::KeyMissing)
                .hint("ask for the whole link: the part behind # is the read key"),
            ContentError::WrongKey { .. } => Self::new(ErrorCode::Integrity, message)
                .reason(Reason::KeyWrong)
                .hint("check that the link is complete; if it is, this is not the file that it was made for"),
            // Only what is to be written can be: readers call it malformed.
            ContentError::TooLarge(_) => Self::new(ErrorCode::BadRequest, message),
            _ => Self::new(ErrorCode::Integrity, message),
        }
    }
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Locked { .. } => Self::new(ErrorCode::Locked, message)
                .reason(Reason::DirectoryInUse)
                .hint("one process per data directory: stop the other one, or use another --data-dir"),
            StoreError::NoSpace { .. } => {
                Self::new(ErrorCode::NoSpace, message).reason(Reason::StorageFull).hint(
                    "free some space, raise storage.capacity, or remove files and run `storgo-node gc --now`",
                )
            }
            StoreError::Corrupt { .. } => {
                Self::new(ErrorCode::Integrity, message).reason(Reason::BlockDamaged)
            }
            StoreError::IndexBehind => Self::new(ErrorCode::Integrity, message).reason(Reason::IndexBehind),
            StoreError::IndexLost => Self::new(ErrorCode::Other, message).reason(Reason::IndexLost),
            StoreError::IndexCorrupt(_) => Self::new(ErrorCode::Other, message).reason(Reason::IndexDamaged),
            StoreError::NewerVersion { .. } => {
                Self::new(ErrorCode::Other, message).reason(Reason::DirectoryTooNew)
            }
            StoreError::OtherLayout { .. } => {
                Self::new(ErrorCode::Other, message).reason(Reason::LayoutDiffers)
            }
            StoreError::HalfMoved => {
                Self::new(ErrorCode::Other, message).reason(Reason::LayoutMoveInterrupted)
            }
            StoreError::Collision { .. } => Self::new(ErrorCode::Collision, message)
                .reason(Reason::CraftedData)
                .hint("two different blocks share one SHA-1; store this file without --public"),
            StoreError::Io { source, .. } => Self::new(ErrorCode::of_io(&source), message).explained(),
            _ => Self::new(ErrorCode::Other, message),
        }
    }
}

impl From<FetchError> for NodeError {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        match error {
            FetchError::NotFound { .. } => Self::new(ErrorCode::NotFound, message).reason(Reason::NoProvider)
                .hint("check that a node that has it is running and that this node knows a peer (`storgo-node peers`)"),
            FetchError::Timeout { .. } => Self::new(ErrorCode::Timeout, message).reason(Reason::Stalled)
                .hint("what has arrived is kept: the same command goes on from there"),
            FetchError::NoPeers { .. } => Self::new(ErrorCode::Unreachable, message).reason(Reason::NoPeers)
                .hint("name a peer with --bootstrap or `storgo-node peers --add`, or let this node find them by --mdns true"),
            FetchError::Corrupt { .. } => Self::new(ErrorCode::Integrity, message).reason(Reason::NoGoodCopy)
                .hint("`storgo-node verify` where the file is kept says what is damaged; another copy of the file brings it back"),
            FetchError::Store(error) => error.into(),
            FetchError::Worker => Self::new(ErrorCode::Other, message).reason(Reason::WorkerFailed),
        }
    }
}

impl From<NetError> for NodeError {
    fn from(error: NetError) -> Self {
        let message = error.to_string();
        match error {
            NetError::Listen { kind: io::ErrorKind::AddrInUse, .. } => Self::new(ErrorCode::Other, message)
                .reason(Reason::PortInUse)
                .hint("another program has this port; choose others with `--listen`, for example /ip4/0.0.0.0/tcp/0"),
            NetError::Listen { kind: io::ErrorKind::PermissionDenied, .. } => {
                Self::new(ErrorCode::Denied, message)
                    .reason(Reason::PortDenied)
                    .hint("this user may not listen at that port: choose one from 1024 on with `--listen`")
            }
            NetError::Listen { .. } => Self::new(ErrorCode::Other, message).reason(Reason::AddressUnavailable).hint(
                "a node listens at addresses that its machine has; /ip4/0.0.0.0/tcp/3000 stands for all of them",
            ),
            NetError::Closed => Self::shutting_down(),
            NetError::NotProvided(_) => Self::new(ErrorCode::NotFound, message).reason(Reason::NotAnnounced)
                .hint("it has been removed; store it again to have it announced"),
            _ => Self::new(ErrorCode::Unreachable, message).reason(Reason::PeerUnreachable),
        }
    }
}
