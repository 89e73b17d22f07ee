//! Links: `storgo://<root CID>#<read key>`. Everybody who has the link can read the file.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;

use super::{
    cid::{Cid, CidError},
    secret::Key,
};

const SCHEME: &str = "storgo://";

/// A root CID and, for sealed content, its read key.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The root block.
    pub cid: Cid,
    /// The read key. `None` for public content, or if only the CID is known.
    pub key: Option<Key>,
}

/// Why a text is not a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The CID is invalid.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// The part after `#` is not a key.
    #[error("invalid read key after #: expected 43 characters of base64url; was the link cut off?")]
    Key,
}

impl FromStr for Link {
    type Err = LinkError;

    /// Reads `storgo://CID#KEY`, `storgo://CID`, and a bare CID.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (cid, key) = match rest.split_once('#') {
            Some((cid, key)) => (cid, Some(parse_key(key)?)),
            None => (rest, None),
        };
        Ok(Self { cid: cid.parse()?, key })
    }
}

fn parse_key(text: &str) -> Result<Key, LinkError> {
    // The decoder rejects trailing bits that are not zero, so a key has one text.
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Key::new).ok_or(LinkError::Key)
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.cid)?;
        match &self.key {
            Some(key) => write!(f, "#{}", BASE64URL_NOPAD.encode(key.as_bytes())),
            None => Ok(()),
        }
    }
}

/// Hides the key, so that links do not end up in logs.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.cid, if self.key.is_some() { "#…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::cid::Codec;

    #[test]
    fn links_round_trip_and_debug_hides_the_key() {
        let link = Link { cid: Cid::of(Codec::DagCbor, b"x"), key: Some(Key::new([9; 32])) };
        let text = link.to_string();
        assert_eq!(text.parse::<Link>(), Ok(link.clone()));
        assert!(!format!("{link:?}").contains(&text[text.len() - 43..]));
        let public = Link { key: None, ..link };
        assert_eq!(public.to_string().parse::<Link>(), Ok(public.clone()));
        assert_eq!(public.cid.to_string().parse::<Link>(), Ok(public));
    }

    #[test]
    fn a_truncated_or_altered_key_is_rejected() {
        let link = Link { cid: Cid::of(Codec::DagCbor, b"x"), key: Some(Key::new([9; 32])) }.to_string();
        assert_eq!(link[..link.len() - 1].parse::<Link>(), Err(LinkError::Key));
        assert_eq!(format!("{link}A").parse::<Link>(), Err(LinkError::Key));
        // Two bits of the last character are unused.
        assert_eq!(format!("{}l", &link[..link.len() - 1]).parse::<Link>(), Err(LinkError::Key));
        assert!("storgo://#".parse::<Link>().is_err() && "http://x".parse::<Link>().is_err());
    }

    proptest! {
        #[test]
        fn the_parser_does_not_panic_on_any_text(text in ".{0,200}") {
            drop(text.parse::<Link>());
        }
    }
}
