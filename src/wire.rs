//! Frames and messages of `/storgo/transfer/1.0.0`. Pure: bytes in, values out.
//!
//! A frame is a length (`u32`, big endian), that many bytes of CBOR, and, behind a [`Response::Block`], exactly as many
//! raw bytes as it says. `proto/transfer.cddl` fixes the messages. Nothing that a peer sends is trusted: length, nesting
//! and the number of items are bounded (`bounds`) before the CBOR library sees a byte.

mod bounds;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::content::cid::Cid;

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Longest block, in bytes.
pub const MAX_BLOCK: u32 = 2 << 20;
/// Blocks that one request may ask for.
pub const MAX_CIDS: usize = 1024;
/// Length in bytes of what stands before each message.
pub const PREFIX: usize = 4;

/// What a peer asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// These blocks, in this order; one answer for each.
    Get {
        /// The blocks.
        cids: Vec<Cid>,
    },
    /// Which blocks of a root the peer has.
    Have {
        /// The root.
        root: Cid,
    },
    /// Keep these blocks of a root.
    Put {
        /// The root.
        root: Cid,
        /// Its blocks and their lengths; their bytes follow in this order.
        blocks: Vec<(Cid, u32)>,
        /// What allows it.
        ticket: ByteBuf,
    },
    /// Forget a root.
    Release {
        /// The root.
        root: Cid,
        /// The owner's statement.
        signed: ByteBuf,
    },
    /// Drop the record in the DHT that says that the asker provides this root.
    Withdraw {
        /// The root.
        root: Cid,
    },
    /// How the peer is.
    Status {},
}

/// What a peer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// The block, `len` raw bytes right behind this message.
    Block {
        /// Its name.
        cid: Cid,
        /// Its length in bytes.
        len: u32,
    },
    /// The peer does not have it.
    Missing {
        /// Its name.
        cid: Cid,
    },
    /// Not now.
    Busy {
        /// Milliseconds after which to ask again.
        retry_after_ms: u32,
    },
    /// One bit per block of the root, in the order of its DAG, the first in the lowest bit; set where the peer has it.
    Have {
        /// The root.
        root: Cid,
        /// The bits.
        bitmap: ByteBuf,
    },
    /// The blocks are durable.
    Stored {
        /// The root.
        root: Cid,
    },
    /// The request was understood and is not granted.
    Refused {
        /// Why.
        reason: String,
    },
    /// The record is gone.
    Withdrawn {
        /// The root.
        root: Cid,
    },
    /// How the peer is.
    Status {
        /// Failure domain, where set.
        region: Option<String>,
        /// Bytes that it would hold at most, where limited.
        capacity: Option<u64>,
        /// Bytes free.
        free: Option<u64>,
        /// Version of its program.
        version: String,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than allowed.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Nested, numerous or cut off beyond what a message can be.
    #[error("not a bounded CBOR item: {0}")]
    Unbounded(&'static str),
    /// CBOR, but none of our messages.
    #[error("not a message of this protocol")]
    Unknown,
}

/// A message as a frame: its length and its bytes.
///
/// # Errors
/// [`WireError::TooLong`] above [`MAX_MESSAGE`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; PREFIX];
    serde_cbor::to_writer(&mut frame, message).map_err(|_| WireError::Unknown)?;
    let len = frame.len() - PREFIX;
    if len > MAX_MESSAGE {
        return Err(WireError::TooLong(len));
    }
    let prefix = u32::try_from(len)
        .map_err(|_| WireError::TooLong(len))?
        .to_be_bytes();
    frame[..PREFIX].copy_from_slice(&prefix);
    Ok(frame)
}

/// Bytes of the message behind this prefix.
///
/// # Errors
/// [`WireError::TooLong`] above [`MAX_MESSAGE`]: checked before anything is allocated.
pub fn message_len(prefix: [u8; PREFIX]) -> Result<usize, WireError> {
    let len = u32::from_be_bytes(prefix) as usize;
    if len > MAX_MESSAGE {
        Err(WireError::TooLong(len))
    } else {
        Ok(len)
    }
}

/// Reads a message.
///
/// # Errors
/// [`WireError::Unbounded`], [`WireError::Unknown`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    bounds::check(bytes)?;
    serde_cbor::from_slice(bytes).map_err(|_| WireError::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::cid::Codec;

    fn cid() -> impl Strategy<Value = Cid> {
        any::<[u8; 20]>().prop_map(|digest| Cid::new(Codec::Raw, digest))
    }

    fn request() -> impl Strategy<Value = Request> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..64).prop_map(ByteBuf::from);
        prop_oneof![
            proptest::collection::vec(cid(), 0..MAX_CIDS).prop_map(|cids| Request::Get { cids }),
            cid().prop_map(|root| Request::Have { root }),
            cid().prop_map(|root| Request::Withdraw { root }),
            (
                cid(),
                proptest::collection::vec((cid(), any::<u32>()), 0..50),
                bytes()
            )
                .prop_map(|(root, blocks, ticket)| Request::Put { root, blocks, ticket }),
            (cid(), bytes()).prop_map(|(root, signed)| Request::Release { root, signed }),
            Just(Request::Status {}),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(request in request()) {
            let frame = encode(&request).expect("encoded");
            let (prefix, body) = frame.split_at(PREFIX);
            prop_assert_eq!(message_len(prefix.try_into().expect("four bytes")), Ok(body.len()));
            prop_assert_eq!(decode::<Request>(body), Ok(request));
            prop_assert!(decode::<Request>(&body[..body.len() - 1]).is_err());
        }

        #[test]
        fn responses_come_back(cid in cid(), len: u32, reason in ".{0,100}", free: Option<u64>) {
            for response in [
                Response::Block { cid, len },
                Response::Missing { cid },
                Response::Busy { retry_after_ms: len },
                Response::Have { root: cid, bitmap: ByteBuf::from(vec![7; 100]) },
                Response::Stored { root: cid },
                Response::Refused { reason: reason.clone() },
                Response::Withdrawn { root: cid },
                Response::Status { region: None, capacity: free, free, version: reason.clone() },
            ] {
                let frame = encode(&response).expect("encoded");
                prop_assert_eq!(decode::<Response>(&frame[PREFIX..]), Ok(response));
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            drop(decode::<Request>(&bytes));
            drop(decode::<Response>(&bytes));
        }
    }

    #[test]
    fn a_million_nested_arrays_are_refused_without_recursion() {
        let bytes = vec![0x81; 200_000];
        assert!(matches!(decode::<Request>(&bytes), Err(WireError::Unbounded(_))));
        assert_eq!(message_len([0xff; 4]), Err(WireError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn promised_lengths_must_be_there() {
        for bytes in [
            &b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x5a\xff\xff\xff\xff",
            b"\xbf\xff",
            b"\x9f\xff",
            b"",
        ] {
            assert!(
                matches!(decode::<Request>(bytes), Err(WireError::Unbounded(_))),
                "{bytes:x?}"
            );
        }
    }
}
