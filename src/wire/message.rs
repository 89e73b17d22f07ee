//! The messages and their frames.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, MAX_REGION, WireError, structure};
use crate::content::cid::Cid;

/// Length of the prefix of a message in bytes.
pub const PREFIX_LEN: usize = 4;

/// Returns the length in bytes of the message after `prefix`.
///
/// # Errors
/// [`WireError::TooLong`] above `limit` bytes; [`WireError::Structure`] for an empty message.
pub fn body_len(prefix: [u8; PREFIX_LEN], limit: usize) -> Result<usize, WireError> {
    let len = u32::from_be_bytes(prefix) as usize;
    match len {
        0 => Err(WireError::Structure("empty message")),
        _ if len > limit => Err(WireError::TooLong { len, limit }),
        _ => Ok(len),
    }
}

/// A message from the peer that opened the stream. Requests are answered in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Asks for blocks. The answer is one [`Response::Block`] or [`Response::Missing`] for each, in this order.
    Get {
        /// The blocks, at most [`MAX_CIDS`].
        cids: Vec<Cid>,
    },
    /// Asks which blocks of a root the peer has. The answer is [`Response::Have`].
    Have {
        /// The root.
        root: Cid,
    },
    /// Asks the peer to keep blocks. Their bytes follow the message, one block after the other.
    Put {
        /// The root that they belong to.
        root: Cid,
        /// CIDs and lengths, in the order of the bytes.
        blocks: Vec<PutBlock>,
        /// Proof that the sender may store blocks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<ByteBuf>,
    },
    /// Allows the peer to drop the blocks of a root.
    Release {
        /// The root.
        root: Cid,
        /// The owner's signed statement.
        signed: ByteBuf,
    },
    /// Asks the peer to drop the sender's provider record for a root. Kademlia has no message for this.
    Withdraw {
        /// The root.
        root: Cid,
    },
    /// Asks for the peer's region and free space. The answer is [`Response::Status`].
    Status {},
}

/// A block of a [`Request::Put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBlock {
    /// CID of the block.
    pub cid: Cid,
    /// Length of the block in bytes.
    pub len: u32,
}

/// A message from the peer that accepted the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// A block. Its bytes follow the message.
    Block {
        /// The block.
        cid: Cid,
        /// Number of bytes that follow, at most [`MAX_BLOCK`].
        len: u32,
    },
    /// The peer does not have this block.
    Missing {
        /// The block.
        cid: Cid,
    },
    /// The peer is overloaded and leaves the rest of the request unanswered.
    Busy {
        /// When to ask this peer again, in milliseconds.
        retry_after_ms: u32,
    },
    /// The blocks of a root that the peer has.
    Have {
        /// Number of blocks, which is the number of bits in use.
        blocks: u32,
        /// One bit for each block, starting with the highest bit of the first byte. The order is preorder: the root, then
        /// each link with everything below it. A node block that occurs again is left out, with all blocks below it. So are
        /// blocks below a missing node block.
        bitmap: ByteBuf,
    },
    /// The blocks of a [`Request::Put`] are durable.
    Stored {},
    /// The blocks of a [`Request::Release`] are released.
    Released {},
    /// The provider record of a [`Request::Withdraw`] is deleted.
    Withdrawn {},
    /// The peer refuses the request. A repetition will fail too.
    Refused {
        /// The reason, for a log.
        reason: String,
    },
    /// The status of the peer.
    Status {
        /// Failure domain named by its operator, at most [`MAX_REGION`] bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        /// Bytes that it may use for blocks. `None`: limited by the disk only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capacity: Option<u64>,
        /// Free bytes. `None`: not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        free: Option<u64>,
        /// Version of its program.
        version: String,
    },
}

/// Encoding and decoding of a message of either direction.
pub trait Message: Serialize + DeserializeOwned {
    /// Names of the kinds on the wire.
    const KINDS: &'static [&'static str];

    /// Checks the limits that the types do not express: counts and lengths.
    fn check(&self) -> Result<(), &'static str>;

    /// Returns the frame: length prefix and message.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for a message above [`MAX_MESSAGE`].
    fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut frame = vec![0; PREFIX_LEN];
        serde_cbor::to_writer(&mut frame, self)
            .expect("messages are maps, strings and numbers, and writing to a Vec does not fail");
        let len = frame.len() - PREFIX_LEN;
        if len > MAX_MESSAGE {
            return Err(WireError::TooLong { len, limit: MAX_MESSAGE });
        }
        let prefix = u32::try_from(len).expect("256 KiB fit").to_be_bytes();
        frame[..PREFIX_LEN].copy_from_slice(&prefix);
        Ok(frame)
    }

    /// Decodes a message, without its length prefix. Never panics, and allocates at most a small multiple of `body`.
    ///
    /// # Errors
    /// [`WireError`].
    fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.len() > MAX_MESSAGE {
            return Err(WireError::TooLong { len: body.len(), limit: MAX_MESSAGE });
        }
        let name = structure::kind(body)?;
        let Some(kind) = Self::KINDS.iter().find(|kind| **kind == name) else {
            return Err(WireError::UnknownKind(name.chars().take(32).collect()));
        };
        let wrong = |reason: String| WireError::Fields { kind, reason };
        let message: Self = serde_cbor::from_slice(body).map_err(|e| wrong(e.to_string()))?;
        message.check().map_err(|reason| wrong(reason.into()))?;
        Ok(message)
    }
}

impl Message for Request {
    const KINDS: &'static [&'static str] = &["get", "have", "put", "release", "withdraw", "status"];

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Get { cids } if cids.len() > MAX_CIDS => Err("too many blocks"),
            Self::Put { blocks, .. } if blocks.len() > MAX_CIDS => Err("too many blocks"),
            Self::Put { blocks, .. } if blocks.iter().any(|block| block.len > MAX_BLOCK) => {
                Err("block above 2 MiB")
            }
            _ => Ok(()),
        }
    }
}

impl Message for Response {
    const KINDS: &'static [&'static str] =
        &["block", "missing", "busy", "have", "stored", "released", "withdrawn", "refused", "status"];

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Block { len, .. } if *len > MAX_BLOCK => Err("block above 2 MiB"),
            Self::Have { blocks, bitmap } if bitmap.len() != blocks.div_ceil(8) as usize => {
                Err("bitmap length does not match the number of blocks")
            }
            Self::Status { region: Some(region), .. } if region.len() > MAX_REGION => {
                Err("region above 64 bytes")
            }
            _ => Ok(()),
        }
    }
}
