//! The fuzz targets. Each function parses untrusted bytes, returns whether they are valid, and panics if a property does
//! not hold.
//!
//! `fuzz_targets/` runs these functions under libFuzzer, and `tests/storgo/fuzz_bodies.rs` under proptest.

use std::io::{self, Read};

use storgo::{
    config::{ByteSize, Settings, Sources, TABLE, parse_duration},
    content::{
        ContentError, MAX_CHUNK,
        chunk::{Chunker, FIXED},
        cid::{Cid, Codec},
        decoder::{DirTree, FileTree, Root, Step, open_root},
        link::Link,
        node_block::{self, MAX_NODE_LEN},
        secret::Key,
    },
    node::read_tar,
    wire::{MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, Message, PREFIX_LEN, Request, Response, body_len},
};

/// A message without its length prefix. A decoded message must encode and decode to itself.
pub fn wire_message(data: &[u8]) -> bool {
    if let Ok(request) = Request::decode(data) {
        if let Request::Get { cids } = &request {
            assert!(cids.len() <= MAX_CIDS);
        }
        assert_round_trip(&request);
        return true;
    }
    if let Ok(response) = Response::decode(data) {
        if let Response::Block { len, .. } = response {
            assert!(len <= MAX_BLOCK);
        }
        assert_round_trip(&response);
        return true;
    }
    false
}

fn assert_round_trip<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let frame = message.encode().expect("a decoded message is short enough to be encoded");
    let (prefix, body) = frame.split_first_chunk::<PREFIX_LEN>().expect("a prefix");
    assert_eq!(body_len(*prefix, MAX_MESSAGE), Ok(body.len()));
    assert_eq!(M::decode(body).as_ref(), Ok(message));
}

/// A stream of frames, as a server reads it. No length exceeds the limit.
pub fn wire_frame(mut data: &[u8]) -> bool {
    let mut valid = true;
    while let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_LEN>() {
        let Ok(len) = body_len(*prefix, MAX_MESSAGE) else {
            return false;
        };
        assert!((1..=MAX_MESSAGE).contains(&len));
        let Some((body, rest)) = rest.split_at_checked(len) else {
            return false;
        };
        valid &= wire_message(body);
        data = rest;
    }
    valid
}

/// A node block, read without its key.
pub fn node_block(data: &[u8]) -> bool {
    let link = Link { cid: Cid::of(Codec::DagCbor, data), key: None };
    let with_key = Link { key: Some(Key::new([7; 32])), ..link.clone() };
    let visible = node_block::visible(data);
    match &visible {
        Ok(visible) => {
            assert!(data.len() <= MAX_NODE_LEN);
            assert_eq!(visible.links.len(), visible.lens.len());
            assert!(visible.lens.iter().all(|len| (1..=MAX_CHUNK).contains(&(*len as usize))));
        }
        Err(_) => assert!(open_root(&link, data).is_err()),
    }
    // No input was encrypted with this key.
    assert!(open_root(&with_key, data).is_err());
    visible.is_ok()
}

/// Maximum steps of a walk. A longer walk never ends.
const MAX_STEPS: usize = 100_000;

/// Public node blocks, each after its length (two bytes, big endian): the root, then the list nodes in the order in which
/// the tree needs them. The first byte is the offset to seek to, in units of 1000 bytes.
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
                // Items follow each other without gap or overlap, and none ends before the offset.
                assert!(end.is_none_or(|end| end == placed.offset));
                assert!(end.is_some() || placed.offset <= seek);
                let ends = placed.offset + u64::from(placed.item.size);
                assert!(ends > seek && ends <= size);
                end = Some(ends);
            }
            Ok(Step::Need { .. }) => match blocks.next().map(|block| tree.feed(block)) {
                Some(Ok(())) => {}
                Some(Err(_)) => {
                    assert!(matches!(tree.step(), Ok(Step::Need { .. })), "it still needs the node");
                }
                None => return false,
            },
            Ok(Step::End) => {
                assert_eq!(end.unwrap_or(size), size);
                return true;
            }
            Err(_) => return false,
        }
    }
    panic!("the walk does not end");
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
                assert!(!matches!(error, ContentError::WrongKey { .. }), "the tree has no key");
                return false;
            }
        }
    }
    panic!("the walk does not end");
}

/// A tar archive, read as it is and with the checksums of its headers corrected: otherwise hardly any change would get past
/// the checksum.
pub fn archive(data: &[u8]) -> bool {
    let mut corrected = data.to_vec();
    for block in corrected.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    [data, &corrected].map(read_archive).contains(&true)
}

/// Maximum bytes of an entry that are read: holes take time and no input.
const MAX_READ: u64 = 64 << 10;

fn read_archive(data: &[u8]) -> bool {
    let (mut path_bytes, mut cut) = (0, false);
    let read = read_tar(&mut ModestReader { data, given: 0 }, |path, size, content| {
        assert!(!cut, "an entry follows one that is cut short");
        path_bytes += path.as_os_str().len();
        let wanted = size.min(MAX_READ);
        let len = io::copy(&mut content.take(MAX_READ), &mut io::sink()).expect("read from memory");
        assert!(len <= wanted, "an entry has {len} bytes, not {wanted}");
        cut = len < wanted;
    });
    assert!(path_bytes <= data.len(), "paths take more memory than the archive");
    assert!(!(cut && read.is_ok()), "an archive that is cut short looks whole");
    read.is_ok()
}

/// A reader that allows no buffer much longer than what it has given: a length that an archive only claims takes no memory.
struct ModestReader<'a> {
    data: &'a [u8],
    given: usize,
}

impl Read for ModestReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        assert!(buf.len() <= 2 * self.given + (64 << 10), "{} after {}", buf.len(), self.given);
        let len = self.data.read(buf)?;
        self.given += len;
        Ok(len)
    }
}

/// A link, or a CID in binary form.
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
            assert!(!format!("{link:?}").contains(key), "debug output contains the key");
        }
    }
    parsed.is_ok()
}

/// The value of a setting. The first byte selects the setting.
pub fn setting(data: &[u8]) -> bool {
    let Some((which, Ok(text))) = data.split_first().map(|(which, text)| (which, std::str::from_utf8(text)))
    else {
        return false;
    };
    drop((text.parse::<ByteSize>(), parse_duration(text)));
    if let Ok(chunker) = text.parse::<Chunker>() {
        assert_eq!(chunker.to_string().parse(), Ok(chunker));
        assert!(!matches!(chunker, Chunker::Fixed(size) if !FIXED.contains(&size)));
    }
    let setting = &TABLE[usize::from(*which) % TABLE.len()];
    let flags = vec![(setting.key, vec![text.to_owned()], "--flag".to_owned())];
    let (settings, errors) = Settings::load(&Sources { flags, ..Sources::default() });
    let Some(error) = errors.first() else {
        assert_eq!(settings.list(setting.key), [text]);
        return true;
    };
    // A short value can occur in the message by chance, and the example is part of it.
    let may_appear = !setting.secret || text.len() < 16 || setting.example.contains(text);
    assert!(may_appear || !error.to_string().contains(text), "the message contains a secret");
    false
}
