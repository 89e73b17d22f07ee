//! Protocol buffers by hand: the messages of Noise, Identify, Kademlia and `AutoNAT`.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Returns a number as a varint.
pub fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        if n == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Returns a field with bytes or a nested message.
pub fn bytes_field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// Returns a field with a number.
pub fn number_field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// Returns a message with its length in front, as it goes over a stream.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&varint(message.len() as u64), message].concat()
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// Returns the fields of a message in order.
pub fn fields(mut message: &[u8]) -> Vec<(u64, Value)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message);
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut message)),
            kind @ (1 | 2 | 5) => {
                let len = match kind {
                    1 => 8,
                    5 => 4,
                    _ => usize::try_from(take_varint(&mut message)).expect("short"),
                };
                let (bytes, rest) = message.split_at(len);
                message = rest;
                Value::Bytes(bytes.to_vec())
            }
            kind => panic!("wire type {kind}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

/// Returns the bytes of all fields with this number.
pub fn all_bytes(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    let bytes = |(found, value)| match value {
        Value::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(bytes).collect()
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    n
}

pub async fn read_varint(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = pipe.read_u8().await?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(io::Error::other("a varint without end"))
}

/// Reads one message with its length in front.
pub async fn read_message(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = read_varint(pipe).await?;
    let mut message = vec![0; usize::try_from(len).expect("short")];
    pipe.read_exact(&mut message).await?;
    Ok(message)
}
