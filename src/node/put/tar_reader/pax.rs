//! The records of pax headers: `LENGTH KEY=VALUE\n`.

use super::{
    errors::invalid,
    sparse::{SparseRecords, number},
};
use crate::node::error::NodeError;

/// The records of one entry that count. Others, such as owners and comments, are ignored.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) sparse: SparseRecords,
    /// Why the entry cannot be stored.
    pub(super) unsupported: Option<&'static str>,
}

impl Pax {
    /// Parses records. The last record of a key counts; an empty value removes it.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, NodeError> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or_else(|| invalid("a pax record is malformed"))?;
            pax.set(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    /// Returns what these records say that cannot hold for all entries.
    pub(super) fn only_for_one_entry(&self) -> Option<&'static str> {
        let any = self.path.is_some() || self.link.is_some() || self.size.is_some() || self.sparse.is_set();
        any.then_some("a pax header in it gives all entries one path or length")
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), NodeError> {
        let present = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = present.map(<[u8]>::to_vec),
            b"linkpath" => self.link = present.map(<[u8]>::to_vec),
            b"size" => self.size = present.map(number).transpose()?,
            b"mtime" => self.mtime = present.map(seconds).transpose()?,
            b"GNU.dumpdir" => self.unsupported = Some("it belongs to an incremental archive"),
            b"GNU.volume.filename" | b"GNU.volume.size" | b"GNU.volume.offset" => {
                self.unsupported = Some("it continues from another volume");
            }
            b"SCHILY.realsize" | b"SUN.holesdata" => {
                self.unsupported = Some("it is a sparse file of a format other than that of GNU tar");
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Splits off the first record: its key, its value, and the rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

/// Parses a time in seconds with a fraction, and rounds it down.
fn seconds(value: &[u8]) -> Result<i64, NodeError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().map_err(|_| invalid("a time in a pax header is malformed"))?;
    let below = text.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    Ok(whole.saturating_sub(i64::from(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let pax = Pax::parse(b"14 path=a\nb=c\n20 mtime=-1.5000000\n12 comment=\n19 size=8589934592\n");
        let pax = pax.expect("read");
        assert_eq!((pax.path.as_deref(), pax.mtime), (Some(&b"a\nb=c"[..]), Some(-2)));
        assert_eq!(pax.size, Some(8_589_934_592));
        let oldest = Pax::parse(b"32 mtime=-9223372036854775808.5\n").expect("read");
        assert_eq!(oldest.mtime, Some(i64::MIN));
        assert_eq!(Pax::parse(b"10 path=a\n8 path=\n").expect("read").path, None);
        for bad in ["x", "5 a=b", "99 a=b\n", "5 a=b\n", "0 \n", "11 mtime=x\n", "11 size=-1\n"] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
