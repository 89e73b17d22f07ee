//! Links: `storgo://<root CID>#<read key>`. Whoever has one can read.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;

use super::{
    cid::{Cid, CidError},
    secret::Key,
};

const SCHEME: &str = "storgo://";

/// A root and, for sealed content, the key to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The root block.
    pub cid: Cid,
    /// The read key; none for public content, or where only the CID is known.
    pub key: Option<Key>,
}

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The CID in it is none.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// The part behind `#` is no key.
    #[error("the part behind # is not a read key (43 characters of base64url); is the link complete?")]
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
    if text.len() != 43 {
        return Err(LinkError::Key);
    }
    // The decoder refuses trailing bits that are not zero: one key has one text.
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| LinkError::Key)?;
    bytes.try_into().map(Key::new).map_err(|_| LinkError::Key)
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

/// Without the key: links are printed on purpose, never by accident.
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
    fn links_come_back_and_debug_hides_the_key() {
        let link = Link { cid: Cid::of(Codec::DagCbor, b"x"), key: Some(Key::new([9; 32])) };
        let text = link.to_string();
        assert_eq!(text.parse::<Link>(), Ok(link.clone()));
        assert!(!format!("{link:?}").contains(&text[text.len() - 43..]));
        let public = Link { key: None, ..link };
        assert_eq!(public.to_string().parse::<Link>(), Ok(public.clone()));
        assert_eq!(public.cid.to_string().parse::<Link>(), Ok(public));
    }

    #[test]
    fn a_key_that_is_cut_or_altered_is_refused() {
        let link = Link { cid: Cid::of(Codec::DagCbor, b"x"), key: Some(Key::new([9; 32])) }.to_string();
        assert_eq!(link[..link.len() - 1].parse::<Link>(), Err(LinkError::Key));
        assert_eq!(format!("{link}A").parse::<Link>(), Err(LinkError::Key));
        // The last character carries two bits that no key uses.
        assert_eq!(format!("{}l", &link[..link.len() - 1]).parse::<Link>(), Err(LinkError::Key));
        assert!("storgo://#".parse::<Link>().is_err() && "http://x".parse::<Link>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            drop(text.parse::<Link>());
        }
    }
}
