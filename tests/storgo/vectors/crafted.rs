//! Trees that a reader must accept although the encoder does not produce them, and trees that it must refuse.

use ciborium::Value as Cbor;
use serde_json::{Value, json};

use super::{
    case::{self, Case, to_hex},
    formula::{
        DAG_CBOR, Listed, Made, RAW, aes_ctr, bytes, cbor, cbor_link, cid, cid_text, link_text, list,
        listed_chunk, listed_name, map, node_block, root, seal, seal_body, text,
    },
};

const SECRET: [u8; 32] = [0x5e; 32];

fn case(name: &str, root: &Made, others: &[&Made], expect: Value) -> Case {
    let blocks: Vec<String> = [root].iter().chain(others).map(|made| to_hex(&made.block)).collect();
    let given = json!({ "link": link_text(&root.cid, root.key), "blocks": blocks });
    Case { name: name.into(), given, expect }
}

pub fn cases() -> Vec<Case> {
    let mut cases = trees();
    cases.extend(depth());
    cases.extend(wrong_keys());
    cases.extend(visible_parts());
    cases.extend(bodies());
    cases.extend(padding());
    cases.extend(lists());
    cases.extend(names());
    cases.extend(mixed());
    cases
}

/// Encrypted roots over public blocks, and the other way round.
fn mixed() -> Vec<Case> {
    let mut cases = Vec::new();
    for (outer, inner, what) in [
        (Some(SECRET), None, "a sealed root over a public"),
        (None, Some(SECRET), "a public root over a sealed"),
    ] {
        let chunk = listed_chunk(inner, &[1; 3], true);
        let (made, listed) = list(inner, "items", std::slice::from_ref(&chunk));
        let file = root(inner, "file", Vec::new(), "items", &[]);
        let name = case::DirName {
            name: "a".into(),
            link: link_text(&file.cid, file.key),
            root_len: u32::try_from(file.block.len()).expect("short"),
            dir: false,
            size: 0,
            mtime: None,
            mode: None,
        };
        let entry = listed_name(&name).expect("a link");
        for (part, root, others) in [
            ("chunk", root(outer, "file", Vec::new(), "items", &[chunk]), vec![]),
            ("list", root(outer, "file", Vec::new(), "lists", &[listed]), vec![&made]),
            ("entry", root(outer, "dir", Vec::new(), "items", &[entry]), vec![&file]),
        ] {
            cases.push(case(&format!("refused: {what} {part}"), &root, &others, refused("malformed")));
        }
    }
    cases
}

fn refused(why: &str) -> Value {
    json!({ "refused": why })
}

fn chunk(n: u8) -> Listed {
    listed_chunk(Some(SECRET), &[n; 3], true)
}

/// The expected result of reading a file of chunks `[n; 3]`.
fn found(chunks: &[u8]) -> Value {
    let items: Vec<Value> = chunks
        .iter()
        .zip((0_u64..).step_by(3))
        .map(|(n, offset)| {
            let sealed = seal(Some(SECRET), &[*n; 3], true);
            json!({
                "offset": offset, "cid": cid_text(&sealed.cid), "len": 3, "size": 3,
                "key": sealed.key.map(|key| to_hex(&key)), "hash": to_hex(&sealed.hash),
            })
        })
        .collect();
    let meta = json!({
        "size": 3 * chunks.len(), "name": null, "type": null, "mtime": null, "mode": null, "chunker": null,
    });
    json!({ "kind": "file", "meta": meta, "items": items })
}

/// A root over the list node `made`.
fn over(made: &Made, listed: &Listed) -> Made {
    let listed = Listed { block: (made.cid.clone(), made.block.len() as u64), ..listed.clone() };
    root(Some(SECRET), "file", Vec::new(), "lists", &[listed])
}

fn trees() -> Vec<Case> {
    let (left, of_left) = list(Some(SECRET), "items", &[chunk(1), chunk(2)]);
    let (right, of_right) = list(Some(SECRET), "items", &[chunk(3)]);
    let (both, of_both) = list(Some(SECRET), "lists", &[of_left, of_right]);
    let (alone, of_alone) = list(Some(SECRET), "items", &[chunk(4)]);
    let uneven = root(Some(SECRET), "file", Vec::new(), "lists", &[of_both, of_alone]);
    let (none, of_none) = list(Some(SECRET), "items", &[]);
    let empty = root(Some(SECRET), "file", Vec::new(), "lists", std::slice::from_ref(&of_none));
    let with_one_item = |mut listed: Listed| {
        if let Cbor::Array(fields) = &mut listed.entry {
            fields[4] = 1.into();
        }
        over(&none, &listed)
    };
    let one_item = with_one_item(of_none.clone());
    let no_lists = root(Some(SECRET), "file", Vec::new(), "lists", &[]);
    vec![
        case(
            "nested lists of different depth",
            &uneven,
            &[&both, &left, &right, &alone],
            found(&[1, 2, 3, 4]),
        ),
        case("refused: an empty list", &empty, &[&none], refused("malformed")),
        case("refused: an empty list listed with one item", &one_item, &[&none], refused("malformed")),
        case("refused: a root with an empty list of lists", &no_lists, &[], refused("malformed")),
    ]
}

fn depth() -> Vec<Case> {
    let tower = |lists: usize| {
        let (made, mut listed) = list(Some(SECRET), "items", &[chunk(1)]);
        let mut all = vec![made];
        for _ in 1..lists {
            let (made, next) = list(Some(SECRET), "lists", &[listed]);
            all.push(made);
            listed = next;
        }
        let root = root(Some(SECRET), "file", Vec::new(), "lists", &[listed]);
        (root, all)
    };
    let mut cases = Vec::new();
    for (name, lists, expect) in [
        ("eight levels, including the root", 7, found(&[1])),
        ("refused: nine levels", 8, refused("malformed")),
    ] {
        let (root, all) = tower(lists);
        cases.push(case(name, &root, &all.iter().collect::<Vec<_>>(), expect));
    }
    cases
}

fn wrong_keys() -> Vec<Case> {
    let sealed = root(Some(SECRET), "file", Vec::new(), "items", &[chunk(1)]);
    let public = root(None, "file", Vec::new(), "items", &[]);
    let with = |made: &Made, key| Made { key, ..made.clone() };
    let mut altered = sealed.key.expect("a key");
    altered[31] ^= 1;
    // A key that decrypts but is not derived from the content. With such keys, one CID could decrypt to two files.
    let chosen = [7; 32];
    let body = cbor(&map(vec![("meta", map(vec![("size", 0.into())])), ("items", Cbor::Array(Vec::new()))]));
    let mut bytes_of = [&[9; 16][..], &body].concat();
    aes_ctr(chosen, &mut bytes_of);
    let uncommitted = node("file", &[], vec![("sealed", bytes(&bytes_of))], Some(chosen));
    let mut short = vec![1; 15];
    aes_ctr(chosen, &mut short);
    let short = node("file", &[], vec![("sealed", bytes(&short))], Some(chosen));
    let list_key = list(Some(SECRET), "items", &[chunk(1)]);
    let (made, mut listed) = list_key;
    if let Cbor::Array(fields) = &mut listed.entry {
        fields[2] = bytes(&altered);
    }
    let parent = over(&made, &listed);
    vec![
        case("refused: a sealed root without a key", &with(&sealed, None), &[], refused("no key")),
        case("refused: a key with one bit changed", &with(&sealed, Some(altered)), &[], refused("wrong key")),
        case("refused: a key for a public root", &with(&public, Some(altered)), &[], refused("wrong key")),
        case("refused: a key that is not derived from the content", &uncommitted, &[], refused("wrong key")),
        case("refused: a sealed part shorter than a salt", &short, &[], refused("malformed")),
        case("refused: a list with the key of another list", &parent, &[&made], refused("wrong key")),
    ]
}

/// A node block with these parts in addition to the common ones.
fn node(kind: &str, listed: &[(Vec<u8>, u64)], parts: Vec<(&str, Cbor)>, key: Option<[u8; 32]>) -> Made {
    let mut fields = vec![
        ("v", 1.into()),
        ("kind", text(kind)),
        ("lens", Cbor::Array(listed.iter().map(|(_, len)| (*len).into()).collect())),
        ("links", Cbor::Array(listed.iter().map(|(cid, _)| cbor_link(cid)).collect())),
    ];
    for (name, value) in parts {
        fields.retain(|(known, _)| *known != name);
        fields.push((name, value));
    }
    raw(cbor(&map(fields)), key)
}

fn raw(block: Vec<u8>, key: Option<[u8; 32]>) -> Made {
    Made { cid: cid(DAG_CBOR, &block), key, block }
}

fn body_of(chunks: &[Listed]) -> Vec<u8> {
    let size: u64 = chunks.iter().map(|chunk| chunk.size).sum();
    let items = Cbor::Array(chunks.iter().map(|chunk| chunk.entry.clone()).collect());
    cbor(&map(vec![("meta", map(vec![("size", size.into())])), ("items", items)]))
}

fn visible_parts() -> Vec<Case> {
    let chunks = [chunk(1), chunk(2)];
    let (key, sealed) = seal_body(SECRET, &body_of(&chunks));
    let right: Vec<(Vec<u8>, u64)> = chunks.iter().map(|chunk| chunk.block.clone()).collect();
    let part = || ("sealed", bytes(&sealed));
    let with = |listed: &[(Vec<u8>, u64)], more: Vec<(&'static str, Cbor)>| {
        node("file", listed, [vec![part()], more].concat(), Some(key))
    };
    let good = with(&right, Vec::new());
    let swapped: Vec<_> = right.iter().rev().cloned().collect();
    let longer = [right[0].clone(), (right[1].0.clone(), 4)];
    let lens = |lens: &[u64]| vec![("lens", Cbor::Array(lens.iter().map(|len| (*len).into()).collect()))];
    let foreign = |codec: u8, hash: u8, digest: &[u8]| {
        let cid = [&[1, codec, hash, u8::try_from(digest.len()).expect("short")], digest].concat();
        with(&[(cid, 3), right[1].clone()], Vec::new())
    };
    let mut reordered = vec![(text("kind"), text("file")), (text("v"), 1.into())];
    if let Ok(Cbor::Map(fields)) = ciborium::from_reader(&good.block[..]) {
        reordered.extend(fields.into_iter().skip(2));
    }
    let wide_version = |block: &[u8]| {
        // The head of the map and the key "v" take three bytes. The number 1 becomes 0x18 0x01.
        raw([&block[..3], &[0x18, 0x01], &block[4..]].concat(), Some(key))
    };
    let without = node("file", &right, Vec::new(), None);
    let refuse = |name: &str, made: &Made| case(&format!("refused: {name}"), made, &[], refused("malformed"));
    vec![
        case("valid: a file of two chunks (the next cases alter it)", &good, &[], found(&[1, 2])),
        refuse("visible links in another order than in the body", &with(&swapped, Vec::new())),
        refuse("a visible link missing", &with(&right[..1], Vec::new())),
        refuse("a visible length that differs from the body", &with(&longer, Vec::new())),
        refuse("fewer lengths than links", &with(&right, lens(&[3]))),
        refuse("a length of 0", &with(&right, lens(&[0, 3]))),
        refuse("a length above 1984 KiB", &with(&right, lens(&[(1984 << 10) + 1, 3]))),
        refuse("version 2", &with(&right, vec![("v", 2.into())])),
        refuse("an unknown kind", &with(&right, vec![("kind", text("folder"))])),
        refuse("an unknown field", &with(&right, vec![("more", 1.into())])),
        refuse("sealed and plain", &with(&right, vec![("plain", bytes(&body_of(&chunks)))])),
        refuse("neither sealed nor plain", &without),
        refuse("a list as root", &node("list", &right, vec![part()], Some(key))),
        refuse("a link with SHA-256", &foreign(RAW, 0x12, &[1; 32])),
        refuse("a link with another codec", &foreign(0x70, 0x11, &[1; 20])),
        refuse("keys in another order", &raw(cbor(&Cbor::Map(reordered)), Some(key))),
        refuse("a number that is not in its shortest form", &wide_version(&good.block)),
        refuse("a byte after the end", &raw([&good.block[..], &[0]].concat(), Some(key))),
        refuse("truncated", &raw(good.block[..good.block.len() - 1].to_vec(), Some(key))),
        refuse("not CBOR", &raw(b"storgo".to_vec(), Some(key))),
    ]
}

fn bodies() -> Vec<Case> {
    let one = chunk(1);
    let meta = |size: u64| ("meta", map(vec![("size", size.into())]));
    let items = || ("items", Cbor::Array(vec![one.entry.clone()]));
    let refuse_bytes = |name: &str, body: &[u8], listed: &[(Vec<u8>, u64)]| {
        let made = node_block(Some(SECRET), "file", listed, body);
        case(&format!("refused: {name}"), &made, &[], refused("malformed"))
    };
    let refuse = |name: &str, fields: Vec<(&str, Cbor)>| {
        refuse_bytes(name, &cbor(&map(fields)), std::slice::from_ref(&one.block))
    };
    let with_entry = |name: &str, len: u64| {
        let mut entry = one.entry.clone();
        if let Cbor::Array(fields) = &mut entry {
            fields[1] = len.into();
            fields[2] = len.into();
        }
        let body = cbor(&map(vec![meta(len), ("items", Cbor::Array(vec![entry]))]));
        refuse_bytes(name, &body, &[(one.block.0.clone(), len)])
    };
    let Cbor::Map(mut fields) = map(vec![meta(3), items()]) else { unreachable!("a map was made") };
    fields.reverse();
    let longer_cid = [&one.block.0[..], &[0]].concat();
    let mut longer = one.entry.clone();
    if let Cbor::Array(fields) = &mut longer {
        fields[0] = cbor_link(&longer_cid);
    }
    vec![
        refuse("a root without metadata", vec![items()]),
        refuse("a size that is not the sum", vec![meta(4), items()]),
        refuse("neither items nor lists", vec![meta(3)]),
        refuse("items and lists", vec![meta(3), items(), ("lists", Cbor::Array(Vec::new()))]),
        refuse("an unknown field in the body", vec![meta(3), items(), ("more", 1.into())]),
        refuse(
            "an unknown field in the metadata",
            vec![("meta", map(vec![("size", 3.into()), ("more", 1.into())])), items()],
        ),
        with_entry("an empty chunk", 0),
        with_entry("a chunk above 1984 KiB", (1984 << 10) + 1),
        refuse_bytes(
            "a body with its keys in another order",
            &cbor(&Cbor::Map(fields)),
            std::slice::from_ref(&one.block),
        ),
        refuse("a byte after a CID in the body", vec![meta(3), ("items", Cbor::Array(vec![longer]))]),
        refuse_bytes("an empty body", b"", std::slice::from_ref(&one.block)),
    ]
}

/// Files with one chunk of 9 bytes in a block of 10, and what differs from that.
fn padding() -> Vec<Case> {
    let bytes = [1; 9];
    let file = |chunks: &[Listed]| root(Some(SECRET), "file", Vec::new(), "items", chunks);
    let padded = listed_chunk(Some(SECRET), &bytes, true);
    let with_size = |size: u64| {
        let mut chunk = padded.clone();
        if let Cbor::Array(fields) = &mut chunk.entry {
            fields[2] = size.into();
        }
        chunk.size = size;
        file(&[chunk])
    };
    let sealed = seal(Some(SECRET), &bytes, true);
    let item = json!({
        "offset": 0, "cid": cid_text(&sealed.cid), "len": 10, "size": 9,
        "key": sealed.key.map(|key| to_hex(&key)), "hash": to_hex(&sealed.hash),
    });
    let meta = json!({ "size": 9, "name": null, "type": null, "mtime": null, "mode": null, "chunker": null });
    let found = json!({ "kind": "file", "meta": meta, "items": [item] });
    let refuse = |name: &str, made: &Made| case(&format!("refused: {name}"), made, &[], refused("malformed"));
    vec![
        case(
            "valid: a padded chunk (the next cases alter it)",
            &file(std::slice::from_ref(&padded)),
            &[],
            found,
        ),
        refuse("a last chunk without its padding", &file(&[listed_chunk(Some(SECRET), &bytes, false)])),
        refuse("padding before the last chunk", &file(&[padded.clone(), chunk(1)])),
        refuse("more padding than there must be", &with_size(8)),
        refuse("a chunk longer than its block", &with_size(11)),
    ]
}

fn lists() -> Vec<Case> {
    let (made, listed) = list(Some(SECRET), "items", &[chunk(1), chunk(2)]);
    let listed_with = |field: usize, value: u64| {
        let mut listed = listed.clone();
        if let Cbor::Array(fields) = &mut listed.entry {
            fields[field] = value.into();
        }
        if field == 3 {
            listed.size = value;
        }
        over(&made, &listed)
    };
    let file = root(Some(SECRET), "file", Vec::new(), "items", &[chunk(1), chunk(2)]);
    let key = bytes(&file.key.expect("a key"));
    let len = file.block.len() as u64;
    let as_list = Listed {
        block: (file.cid.clone(), len),
        entry: Cbor::Array(vec![cbor_link(&file.cid), len.into(), key, 6.into(), 2.into()]),
        ..listed.clone()
    };
    vec![
        case(
            "valid: a root over one list (the next cases alter it)",
            &over(&made, &listed),
            &[&made],
            found(&[1, 2]),
        ),
        case(
            "refused: a list of another size than listed",
            &listed_with(3, 7),
            &[&made],
            refused("malformed"),
        ),
        case(
            "refused: a list of another number of items than listed",
            &listed_with(4, 3),
            &[&made],
            refused("malformed"),
        ),
        case("refused: a root as a list", &over(&file, &as_list), &[&file], refused("malformed")),
        case("refused: a missing list", &over(&made, &listed), &[], refused("missing")),
    ]
}

fn names() -> Vec<Case> {
    let target = root(Some(SECRET), "file", Vec::new(), "items", &[]);
    let link = link_text(&target.cid, target.key);
    let name = |name: &str| {
        let root_len = u32::try_from(target.block.len()).expect("short");
        let name = case::DirName {
            name: name.into(),
            link: link.clone(),
            root_len,
            dir: false,
            size: 0,
            mtime: None,
            mode: None,
        };
        listed_name(&name).expect("a link")
    };
    let folder = |names: &[&str]| {
        let items: Vec<Listed> = names.iter().map(|text| name(text)).collect();
        root(Some(SECRET), "dir", Vec::new(), "items", &items)
    };
    let refuse = |what: &str, names: &[&str], why| {
        case(&format!("refused: {what}"), &folder(names), &[], refused(why))
    };
    let (first, of_first) = list(Some(SECRET), "items", &[name("b")]);
    let (second, of_second) = list(Some(SECRET), "items", &[name("a")]);
    let across = root(Some(SECRET), "dir", Vec::new(), "lists", &[of_first, of_second]);
    vec![
        refuse("names in descending order", &["b", "a"], "unordered"),
        refuse("a duplicate name", &["a", "a"], "unordered"),
        case(
            "refused: names in descending order across lists",
            &across,
            &[&first, &second],
            refused("unordered"),
        ),
        refuse("an empty name", &[""], "bad name"),
        refuse("the name .", &["."], "bad name"),
        refuse("the name ..", &[".."], "bad name"),
        refuse("a slash", &["a/b"], "bad name"),
        refuse("a NUL", &["a\0b"], "bad name"),
        refuse("a name of 256 bytes", &["x".repeat(256).as_str()], "bad name"),
    ]
}
