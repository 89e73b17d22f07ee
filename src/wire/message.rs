//! The messages, and their way into bytes and back.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, MAX_REGION, PREFIX_LEN, WireError, structure};
use crate::content::cid::Cid;

/// What the opener of a stream asks for. Requests are answered in the order in which they were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Send these blocks: one [`Response::Block`] or [`Response::Missing`] for each, in this order.
    Get {
        /// The blocks, at most [`MAX_CIDS`].
        cids: Vec<Cid>,
    },
    /// Which blocks of this root do you have? Answered by [`Response::Have`].
    Have {
        /// The root.
        root: Cid,
    },
    /// Keep these blocks. Their bytes follow the message, one block after the other.
    Put {
        /// The root that they belong to.
        root: Cid,
        /// Names and lengths, in the order of the bytes.
        blocks: Vec<PutBlock>,
        /// What entitles the sender.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<ByteBuf>,
    },
    /// You need not keep the blocks of this root any more.
    Release {
        /// The root.
        root: Cid,
        /// The owner's signed statement.
        signed: ByteBuf,
    },
    /// Forget that I provide this root: drop my provider record. Kademlia has no message for it.
    Withdraw {
        /// The root.
        root: Cid,
    },
    /// Who are you, and how much room is there? Answered by [`Response::Status`].
    Status {},
}

/// A block of a [`Request::Put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBlock {
    /// Its name.
    pub cid: Cid,
    /// Its length in bytes.
    pub len: u32,
}

/// What the acceptor of a stream answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Here it is: the block's bytes follow the message.
    Block {
        /// The block.
        cid: Cid,
        /// How many bytes follow, at most [`MAX_BLOCK`].
        len: u32,
    },
    /// This block is not here.
    Missing {
        /// The block.
        cid: Cid,
    },
    /// Not now. What is left of the request is not answered: ask again, here or elsewhere.
    Busy {
        /// When to ask here again, in milliseconds.
        retry_after_ms: u32,
    },
    /// Which blocks of a root are here.
    Have {
        /// How many bits count.
        blocks: u32,
        /// One bit per block in DAG order, the first in the highest bit of the first byte. The order is preorder: the
        /// root, then each link with all below it. Of what is below a missing node block, nothing is listed.
        bitmap: ByteBuf,
    },
    /// The blocks of a [`Request::Put`] are durable here.
    Stored {},
    /// The blocks of a [`Request::Release`] are released.
    Released {},
    /// The record of a [`Request::Withdraw`] is gone.
    Withdrawn {},
    /// No, and asking again will not help.
    Refused {
        /// Why, for a log.
        reason: String,
    },
    /// About this node.
    Status {
        /// Failure domain, where its operator has named it: at most [`MAX_REGION`] bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        /// Bytes that it may use for blocks; none: as many as the disk holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capacity: Option<u64>,
        /// Bytes of it that are free; none: not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        free: Option<u64>,
        /// Version of the program.
        version: String,
    },
}

/// A message of either direction.
pub trait Message: Serialize + DeserializeOwned {
    /// The kinds of this direction, as they stand on the wire.
    const KINDS: &'static [&'static str];

    /// What the types cannot say: counts and lengths.
    fn check(&self) -> Result<(), &'static str>;

    /// The frame: length and message.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for a message above [`MAX_MESSAGE`].
    fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut frame = vec![0; PREFIX_LEN];
        serde_cbor::to_writer(&mut frame, self)
            .expect("our messages are maps, strings and numbers, and a Vec takes all");
        let len = frame.len() - PREFIX_LEN;
        if len > MAX_MESSAGE {
            return Err(WireError::TooLong { len, limit: MAX_MESSAGE });
        }
        let prefix = u32::try_from(len).expect("256 KiB fit").to_be_bytes();
        frame[..PREFIX_LEN].copy_from_slice(&prefix);
        Ok(frame)
    }

    /// Reads the message of a frame, without its length. Never panics, and never allocates more than a small multiple
    /// of `body`.
    ///
    /// # Errors
    /// Every [`WireError`].
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
                Err("a block above 2 MiB")
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
            Self::Block { len, .. } if *len > MAX_BLOCK => Err("a block above 2 MiB"),
            Self::Have { blocks, bitmap } if bitmap.len() != blocks.div_ceil(8) as usize => {
                Err("a bitmap of another length")
            }
            Self::Status { region: Some(region), .. } if region.len() > MAX_REGION => {
                Err("a region above 64 bytes")
            }
            _ => Ok(()),
        }
    }
}
