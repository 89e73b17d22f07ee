//! What is done with bytes from a stranger, one function for each kind. A function returns for every input, and says
//! whether it understood it to its end; it panics where storgo breaks a promise.
//!
//! `fuzz_targets/` hand these functions to libFuzzer, and `tests/storgo/fuzz_bodies.rs` to proptest, so that every run of
//! the tests exercises them too.

use storgo::{
    config::{Settings, Sources, TABLE, parse_bytes, parse_duration},
    content::{
        ContentError, MAX_CHUNK,
        chunk::{Chunker, FIXED},
        cid::{Cid, Codec},
        decoder::{DirTree, FileTree, Root, Step, open_root},
        link::Link,
        node_block::{self, MAX_NODE_LEN},
        secret::Key,
    },
    wire::{MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, Message, PREFIX_LEN, Request, Response, body_len},
};

/// A message without its length. What is understood is said again, and understood as the same.
pub fn wire_message(data: &[u8]) -> bool {
    if let Ok(request) = Request::decode(data) {
        if let Request::Get { cids } = &request {
            assert!(cids.len() <= MAX_CIDS);
        }
        comes_back(&request);
        return true;
    }
    if let Ok(response) = Response::decode(data) {
        if let Response::Block { len, .. } = response {
            assert!(len <= MAX_BLOCK);
        }
        comes_back(&response);
        return true;
    }
    false
}

fn comes_back<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let frame = message.encode().expect("what was short enough to come in is short enough to go out");
    let (prefix, body) = frame.split_first_chunk::<PREFIX_LEN>().expect("a prefix");
    assert_eq!(body_len(*prefix, MAX_MESSAGE), Ok(body.len()));
    assert_eq!(M::decode(body).as_ref(), Ok(message));
}

/// A stream of frames, as an answerer reads it. No frame makes it take more than the limit at once.
pub fn wire_frame(mut data: &[u8]) -> bool {
    let mut understood = true;
    while let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_LEN>() {
        let Ok(len) = body_len(*prefix, MAX_MESSAGE) else {
            return false;
        };
        assert!((1..=MAX_MESSAGE).contains(&len));
        let Some((body, rest)) = rest.split_at_checked(len) else {
            return false;
        };
        understood &= wire_message(body);
        data = rest;
    }
    understood
}

/// A node block as one without a key sees it.
pub fn node_block(data: &[u8]) -> bool {
    let link = Link { cid: Cid::of(Codec::DagCbor, data), key: None };
    let with_key = Link { key: Some(Key::new([7; 32])), ..link.clone() };
    let seen = node_block::visible(data);
    match &seen {
        Ok(visible) => {
            assert!(data.len() <= MAX_NODE_LEN);
            assert_eq!(visible.links.len(), visible.lens.len());
            assert!(visible.lens.iter().all(|len| (1..=MAX_CHUNK).contains(&(*len as usize))));
        }
        Err(_) => assert!(open_root(&link, data).is_err()),
    }
    // Whatever it is, it was not made for this key.
    assert!(open_root(&with_key, data).is_err());
    seen.is_ok()
}

/// Most steps of a walk: blocks may be fed again and again, but only as long as there are some.
const MAX_STEPS: usize = 100_000;

/// Public node blocks, each behind its length (two bytes, big endian): the root, and the lists in the order in which they
/// are asked for. The first byte says how far to seek.
pub fn tree(data: &[u8]) -> bool {
    let Some((seek, rest)) = data.split_first() else {
        return false;
    };
    let mut blocks = blocks(rest);
    let Some(root) = blocks.next() else {
        return false;
    };
    let link = Link { cid: Cid::of(Codec::DagCbor, root), key: None };
    // The same walk from the start and from an offset.
    let all: Vec<&[u8]> = blocks.collect();
    [0, u64::from(*seek) * 1000].into_iter().all(|seek| match open_root(&link, root) {
        Ok(Root::File(tree)) => walk_file(tree, seek, &all),
        Ok(Root::Dir(tree)) => walk_dir(tree, &all),
        Err(_) => false,
    })
}

fn blocks(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (block, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        rest = after;
        Some(block)
    })
}

fn walk_file(mut tree: FileTree, seek: u64, blocks: &[&[u8]]) -> bool {
    let size = tree.metadata().size;
    tree.seek(seek);
    let (mut blocks, mut end) = (blocks.iter(), None);
    for _ in 0..MAX_STEPS {
        match tree.step() {
            Ok(Step::Item(placed)) => {
                assert!((1..=MAX_CHUNK).contains(&(placed.item.len as usize)));
                // No gap, no overlap, nothing that ends before what was asked for.
                assert!(end.is_none_or(|end| end == placed.offset));
                assert!(end.is_some() || placed.offset <= seek);
                let ends = placed.offset + u64::from(placed.item.len);
                assert!(ends > seek && ends <= size);
                end = Some(ends);
            }
            Ok(Step::Need { .. }) => match blocks.next().map(|block| tree.feed(block)) {
                Some(Ok(())) => {}
                Some(Err(_)) => assert!(matches!(tree.step(), Ok(Step::Need { .. })), "it still asks"),
                None => return false,
            },
            Ok(Step::End) => {
                assert_eq!(end.unwrap_or(size), size);
                return true;
            }
            Err(_) => return false,
        }
    }
    panic!("a walk without an end");
}

fn walk_dir(mut tree: DirTree, blocks: &[&[u8]]) -> bool {
    let (mut blocks, mut last) = (blocks.iter(), None::<String>);
    for _ in 0..MAX_STEPS {
        match tree.step() {
            Ok(Step::Item(placed)) => {
                let name = placed.item.name;
                assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']));
                assert!(last.as_ref().is_none_or(|last| last.as_bytes() < name.as_bytes()));
                last = Some(name);
            }
            Ok(Step::Need { .. }) => match blocks.next().map(|block| tree.feed(block)) {
                Some(_) => {}
                None => return false,
            },
            Ok(Step::End) => return true,
            Err(error) => {
                assert!(!matches!(error, ContentError::WrongKey { .. }), "there was none");
                return false;
            }
        }
    }
    panic!("a walk without an end");
}

/// A link, or a CID as bytes.
pub fn link(data: &[u8]) -> bool {
    if let Ok(cid) = Cid::from_bytes(data) {
        assert_eq!(cid.to_bytes(), data);
        return true;
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let parsed = text.parse::<Link>();
    if let Ok(link) = &parsed {
        let canonical = link.to_string();
        assert_eq!(canonical.parse::<Link>().as_ref(), Ok(link));
        if let Some((_, key)) = canonical.split_once('#') {
            assert!(text.ends_with(key), "a key has one text");
            assert!(!format!("{link:?}").contains(key), "a key in a log");
        }
    }
    parsed.is_ok()
}

/// The value of any setting, from the command line.
pub fn setting(data: &[u8]) -> bool {
    let Some((which, Ok(text))) = data.split_first().map(|(which, text)| (which, std::str::from_utf8(text)))
    else {
        return false;
    };
    drop((parse_bytes(text), parse_duration(text)));
    if let Ok(chunker) = text.parse::<Chunker>() {
        assert_eq!(chunker.to_string().parse(), Ok(chunker));
        assert!(!matches!(chunker, Chunker::Fixed(size) if !FIXED.contains(&size)));
    }
    let setting = &TABLE[usize::from(*which) % TABLE.len()];
    let flags = vec![(setting.key, vec![text.to_owned()], "--flag".to_owned())];
    match Settings::load(&Sources { flags, ..Sources::default() }) {
        Ok(settings) => {
            assert_eq!(settings.list(setting.key), [text]);
            true
        }
        Err(error) => {
            // A short text may stand in the message by accident, and the example stands there on purpose.
            let harmless = !setting.secret || text.len() < 16 || setting.example.contains(text);
            assert!(harmless || !error.to_string().contains(text), "a secret in a message");
            false
        }
    }
}
