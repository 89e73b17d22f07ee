//! The errors of a node: each has a stable code and, if it is known, the cause. Doors map both to statuses, exit codes and
//! hints in their own words.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::{
    content::{ContentError, cid::Cid},
    fetch::FetchError,
    net::{DialCause, NetError},
    store::StoreError,
};

/// The kind of an error. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// None of the other codes: the message says more.
    Other,
    /// The request is invalid: a bad link, name, range or option.
    BadRequest,
    /// A part of the request was done.
    Partial,
    /// There is no such file, block or provider.
    NotFound,
    /// No node or no peer can be reached.
    Unreachable,
    /// The caller lacks a permission or the read key.
    Denied,
    /// Data does not match its CID or key, and no good copy was found.
    Integrity,
    /// Two different blocks have one CID, which is possible for public files only.
    Collision,
    /// The file is stored with less than the requested redundancy.
    BelowTarget,
    /// The time limit is over.
    Timeout,
    /// Another process uses the data directory.
    Locked,
    /// The disk or the quota is full.
    NoSpace,
    /// The node is stopping.
    ShuttingDown,
}

impl ErrorCode {
    /// Returns the code of an error of the operating system.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Other,
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
    /// Another version of storgo wrote the data directory.
    DirectoryVersion,
    /// The file that names the version of the data directory is damaged.
    VersionDamaged,
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
    /// The file system of the data directory is read-only.
    ReadOnly,
    /// The operating system denies access to a file or folder.
    PermissionDenied,
    /// The identity file cannot be understood.
    IdentityDamaged,
    /// The identity file is gone.
    IdentityLost,
    /// No peer that can be reached has the file or block.
    NoProvider,
    /// No peer could be reached.
    NoPeers,
    /// No data arrived for the whole timeout.
    Stalled,
    /// Every copy that was found is damaged.
    NoGoodCopy,
    /// Entries of a folder could not be read; the rest was sent.
    EntriesLeftOut,
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
    /// The private key of the TLS certificate is encrypted.
    CertificateKeyEncrypted,
    /// No token has the id.
    TokenUnknown,
    /// The peer cannot be connected to, or does not speak the protocol.
    PeerUnreachable,
    /// The address is that of this node.
    OwnAddress,
    /// The peer and this node do not have the same cluster key.
    ForeignPeer,
    /// Another peer is at the address.
    OtherPeer,
    /// The host name of the address does not exist.
    UnknownHost,
    /// Nothing listens on the port of the address.
    ConnectionRefused,
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
    /// The tar archive of the uploaded folder is damaged or cut short.
    TarInvalid,
    /// The tar archive of the uploaded folder has something that a folder here cannot hold.
    TarUnsupported,
    /// The input ended early or could not be read.
    InputFailed,
    /// The cursor does not come from a list.
    CursorInvalid,
    /// The request needs a folder and names a file.
    NotAFolder,
    /// The folder has no entry of this name.
    EntryUnknown,
    /// This node belongs to no cluster.
    NoCluster,
    /// This node belongs to a cluster, and its cluster key is gone.
    ClusterKeyMissing,
    /// The file with the cluster key cannot be understood.
    ClusterKeyDamaged,
    /// This node belongs to another cluster than the given key.
    OtherCluster,
    /// A thread of this node panicked, which is a bug.
    WorkerFailed,
}

/// An error of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, utoipa::ToSchema)]
#[error("{message}")]
pub struct NodeError {
    /// The stable code.
    pub code: ErrorCode,
    /// The cause, if it is known more closely than by the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The message for people: what happened and why.
    pub message: String,
}

impl NodeError {
    /// An error without a closer cause.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, reason: None, message: message.into() }
    }

    /// Adds the cause.
    #[must_use]
    pub const fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// An error of the operating system in the attempt to do `what`.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::of_io(error, format!("cannot {what}: {error}"))
    }

    fn of_io(error: &io::Error, message: String) -> Self {
        let code = ErrorCode::of_io(error);
        let reason = match code {
            ErrorCode::Denied => Some(Reason::PermissionDenied),
            ErrorCode::NoSpace => Some(Reason::DiskFull),
            _ => None,
        };
        Self { code, reason, message }
    }

    /// The node is stopping.
    pub(super) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the node is stopping")
    }

    /// This node does not keep the file.
    pub(super) fn not_kept(root: &Cid) -> Self {
        Self::new(ErrorCode::NotFound, format!("{root} is not kept on this node")).reason(Reason::NotKept)
    }

    /// A thread of this node panicked, which is a bug.
    pub(super) fn worker_failed() -> Self {
        Self::new(ErrorCode::Other, "a thread of this node panicked").reason(Reason::WorkerFailed)
    }
}

impl From<ContentError> for NodeError {
    fn from(error: ContentError) -> Self {
        let (code, reason) = match error {
            ContentError::Collision => (ErrorCode::Collision, Some(Reason::CraftedData)),
            ContentError::NoKey => (ErrorCode::Denied, Some(Reason::KeyMissing)),
            ContentError::WrongKey { .. } => (ErrorCode::Integrity, Some(Reason::KeyWrong)),
            // Only data that is being stored is too large: a stored block that is too large is malformed.
            ContentError::TooLarge(_) => (ErrorCode::BadRequest, None),
            _ => (ErrorCode::Integrity, None),
        };
        Self { code, reason, message: error.to_string() }
    }
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let (code, reason) = match error {
            StoreError::Locked { .. } => (ErrorCode::Locked, Reason::DirectoryInUse),
            StoreError::NoSpace(_) => (ErrorCode::NoSpace, Reason::DiskFull),
            StoreError::OverCapacity(_) => (ErrorCode::NoSpace, Reason::StorageFull),
            StoreError::ReadOnly(_) => (ErrorCode::Denied, Reason::ReadOnly),
            StoreError::Corrupt { .. } => (ErrorCode::Integrity, Reason::BlockDamaged),
            StoreError::IndexBehind => (ErrorCode::Integrity, Reason::IndexBehind),
            StoreError::IndexLost => (ErrorCode::Integrity, Reason::IndexLost),
            StoreError::IndexCorrupt(_) => (ErrorCode::Integrity, Reason::IndexDamaged),
            StoreError::OtherVersion { .. } => (ErrorCode::Other, Reason::DirectoryVersion),
            StoreError::VersionDamaged => (ErrorCode::Integrity, Reason::VersionDamaged),
            StoreError::OtherLayout { .. } => (ErrorCode::Other, Reason::LayoutDiffers),
            StoreError::HalfMoved => (ErrorCode::Other, Reason::LayoutMoveInterrupted),
            StoreError::Collision { .. } => (ErrorCode::Collision, Reason::CraftedData),
            StoreError::Io { source, .. } => return Self::of_io(&source, message),
            _ => return Self::new(ErrorCode::Other, message),
        };
        Self::new(code, message).reason(reason)
    }
}

impl From<FetchError> for NodeError {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        let (code, reason) = match error {
            FetchError::NotFound { .. } => (ErrorCode::NotFound, Reason::NoProvider),
            FetchError::Timeout { .. } => (ErrorCode::Timeout, Reason::Stalled),
            FetchError::NoPeers { .. } => (ErrorCode::Unreachable, Reason::NoPeers),
            FetchError::Corrupt { .. } => (ErrorCode::Integrity, Reason::NoGoodCopy),
            FetchError::Worker => (ErrorCode::Other, Reason::WorkerFailed),
            FetchError::Store(error) => return error.into(),
        };
        Self::new(code, message).reason(reason)
    }
}

impl From<NetError> for NodeError {
    fn from(error: NetError) -> Self {
        let (code, reason) = match error {
            NetError::Listen { kind: io::ErrorKind::AddrInUse, .. } => (ErrorCode::Other, Reason::PortInUse),
            NetError::Listen { kind: io::ErrorKind::PermissionDenied, .. } => {
                (ErrorCode::Denied, Reason::PortDenied)
            }
            NetError::Listen { .. } => (ErrorCode::Other, Reason::AddressUnavailable),
            NetError::NotProvided(_) => (ErrorCode::NotFound, Reason::NotAnnounced),
            NetError::Closed => return Self::shutting_down(),
            NetError::Dial { cause, .. } => (
                ErrorCode::Unreachable,
                match cause {
                    DialCause::OwnAddress => Reason::OwnAddress,
                    DialCause::OtherCluster => Reason::ForeignPeer,
                    DialCause::OtherPeer => Reason::OtherPeer,
                    DialCause::UnknownHost => Reason::UnknownHost,
                    DialCause::Refused => Reason::ConnectionRefused,
                    DialCause::Other => Reason::PeerUnreachable,
                },
            ),
            _ => (ErrorCode::Unreachable, Reason::PeerUnreachable),
        };
        Self::new(code, error.to_string()).reason(reason)
    }
}
