//! The functions of the fuzz targets, run over random bytes and damaged valid inputs.

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

use std::{cell::Cell, sync::LazyLock};

use data_encoding::HEXLOWER;
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use serde_json::Value;
use storgo::{
    config::TABLE,
    content::cid::{Cid, Codec},
    wire::{Message, PREFIX_LEN, PutBlock, Request, Response},
};

use crate::vectors::{
    case::DirName,
    formula::{Made, link_text, list, listed_chunk, listed_name, root},
};

/// Valid inputs of each target.
struct Samples {
    frames: Vec<Vec<u8>>,
    nodes: Vec<Vec<u8>>,
    trees: Vec<Vec<u8>>,
    archives: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
    streams: Vec<Vec<u8>>,
    settings: Vec<Vec<u8>>,
}

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| Samples {
    frames: frames(),
    nodes: nodes(),
    trees: trees(),
    archives: archives(),
    links: links(),
    streams: vec![frames().concat()],
    settings: settings(),
});

fn cid() -> Cid {
    Cid::of(Codec::Raw, b"x")
}

fn frames() -> Vec<Vec<u8>> {
    let requests = [
        Request::Get { cids: vec![cid(); 3] },
        Request::Have { root: cid() },
        Request::Put { root: cid(), blocks: vec![PutBlock { cid: cid(), len: 9 }], ticket: None },
        Request::Release { root: cid(), signed: serde_bytes::ByteBuf::from(*b"signed") },
        Request::Withdraw { root: cid() },
        Request::Status {},
    ];
    let responses = [
        Response::Block { cid: cid(), len: 70_000 },
        Response::Missing { cid: cid() },
        Response::Busy { retry_after_ms: 100 },
        Response::Have { blocks: 9, bitmap: serde_bytes::ByteBuf::from([0xff, 0x80]) },
        Response::Stored {},
        Response::Refused { reason: "no".into() },
        Response::Status { region: Some("eu".into()), capacity: None, free: Some(1), version: "1".into() },
    ];
    let requests = requests.iter().map(|request| request.encode().expect("encoded"));
    requests.chain(responses.iter().map(|response| response.encode().expect("encoded"))).collect()
}

fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON")
}

/// Valid and invalid node blocks.
fn nodes() -> Vec<Vec<u8>> {
    let vectors = vectors("reading.json");
    let blocks = vectors["cases"].as_array().expect("cases").iter().flat_map(|case| {
        case["given"]["blocks"]
            .as_array()
            .expect("blocks")
            .iter()
            .map(|block| HEXLOWER.decode(block.as_str().expect("text").as_bytes()).expect("hexadecimal"))
    });
    blocks.collect()
}

fn links() -> Vec<Vec<u8>> {
    let vectors = vectors("links.json");
    let cases = vectors["cases"].as_array().expect("cases").iter();
    let mut all: Vec<Vec<u8>> =
        cases.map(|case| case["given"]["text"].as_str().expect("text").as_bytes().to_vec()).collect();
    all.push(cid().to_bytes().to_vec());
    all
}

/// Public trees in the input format of `bodies::tree`: a file, a file with nested lists, a folder.
fn trees() -> Vec<Vec<u8>> {
    let chunk = |n: u8| listed_chunk(None, &[n; 700], true);
    let flat = root(None, "file", Vec::new(), "items", &[chunk(1), chunk(2)]);
    let (left, of_left) = list(None, "items", &[chunk(1), chunk(2)]);
    let (right, of_right) = list(None, "items", &[chunk(3)]);
    let (both, of_both) = list(None, "lists", &[of_left, of_right]);
    let deep = root(None, "file", Vec::new(), "lists", &[of_both]);
    let name = |name: &str| DirName {
        name: name.into(),
        link: link_text(&flat.cid, None),
        root_len: 99,
        dir: false,
        size: 1400,
        mtime: Some(1),
        mode: None,
    };
    let names: Vec<_> = ["a", "b", "ü"].map(|text| listed_name(&name(text)).expect("a link")).into();
    let folder = root(None, "dir", Vec::new(), "items", &names);
    let packed = |blocks: &[&Made]| {
        let mut out = vec![1];
        for made in blocks {
            out.extend(u16::try_from(made.block.len()).expect("short").to_be_bytes());
            out.extend_from_slice(&made.block);
        }
        out
    };
    vec![packed(&[&flat]), packed(&[&deep, &both, &left, &right]), packed(&[&folder])]
}

/// Archives with plain files, with links and long names, and with sparse files: in a GNU header and in pax records.
fn archives() -> Vec<Vec<u8>> {
    let header = |kind: tar::EntryType, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(1);
        header
    };
    let plain = |builder: &mut tar::Builder<Vec<u8>>| {
        builder.append_data(&mut header(tar::EntryType::Directory, 0), "d/", &b""[..])?;
        builder.append_data(&mut header(tar::EntryType::Regular, 700), "d/f", &[7; 700][..])?;
        builder.append_data(&mut header(tar::EntryType::Regular, 0), "empty", &b""[..])
    };
    let linked = |builder: &mut tar::Builder<Vec<u8>>| {
        let long = "long/".repeat(60) + "f";
        builder.append_data(&mut header(tar::EntryType::Regular, 3), &long, &b"abc"[..])?;
        builder.append_link(&mut header(tar::EntryType::Link, 0), "hard", &long)?;
        builder.append_link(&mut header(tar::EntryType::Symlink, 0), "soft", "hard")
    };
    let gnu_sparse = |builder: &mut tar::Builder<Vec<u8>>| {
        let mut header = header(tar::EntryType::GNUSparse, 512);
        header.set_path("holes")?;
        let gnu = header.as_gnu_mut().expect("GNU");
        gnu.set_real_size(3000);
        gnu.sparse[0].set_offset(1024);
        gnu.sparse[0].set_length(512);
        header.set_cksum();
        builder.append(&header, &[7; 512][..])
    };
    let pax_sparse = |builder: &mut tar::Builder<Vec<u8>>| {
        let records: [(&str, &[u8]); 5] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holes"),
            ("GNU.sparse.realsize", b"3000"),
            ("mtime", b"1.5"),
        ];
        builder.append_pax_extensions(records)?;
        let mut content = b"1\n1024\n512\n".to_vec();
        content.resize(1024, 0);
        builder.append_data(&mut header(tar::EntryType::Regular, 1024), "GNUSparseFile.0/holes", &content[..])
    };
    let made = |entries: &dyn Fn(&mut tar::Builder<Vec<u8>>) -> std::io::Result<()>| {
        let mut builder = tar::Builder::new(Vec::new());
        entries(&mut builder).expect("appended");
        builder.into_inner().expect("finished")
    };
    vec![made(&plain), made(&linked), made(&gnu_sparse), made(&pax_sparse)]
}

fn settings() -> Vec<Vec<u8>> {
    TABLE.iter().zip(0_u8..).map(|(setting, n)| [&[n], setting.example.as_bytes()].concat()).collect()
}

/// A change to a valid input.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u32),
    Cut(Index),
    Remove(Index),
    Insert(Index, u8),
    Splice(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), 0_u32..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<Index>().prop_map(Damage::Cut),
        any::<Index>().prop_map(Damage::Remove),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Splice(from, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for change in damage {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match change {
            Damage::Set(at, byte) => bytes[at.index(len)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1_u8 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Remove(at) => drop(bytes.remove(at.index(len))),
            Damage::Insert(at, byte) => bytes.insert(at.index(len), *byte),
            Damage::Splice(from, to) => {
                let piece = bytes[from.index(len)..].to_vec();
                bytes.splice(to.index(len).., piece);
            }
        }
    }
    bytes
}

/// Runs a target over valid inputs, damaged ones, and random bytes. Some of the damaged inputs must still be valid, or only
/// the first check of the parser would be tested.
fn run(body: fn(&[u8]) -> bool, samples: &'static [Vec<u8>], cases: u32) {
    assert!(samples.iter().filter(|sample| body(sample)).count() * 4 >= samples.len());
    let valid = Cell::new(0_u32);
    let input = (any::<Index>(), vec(damage(), 1..6), vec(any::<u8>(), 0..400));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&input, |(which, damage, noise)| {
        valid.update(|n| n + u32::from(body(&damaged(which.get(samples).clone(), &damage))));
        body(&noise);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(valid.get() > cases / 100, "{} of {cases}", valid.get());
}

#[test]
fn any_bytes_as_a_message_keep_the_properties() {
    run(|frame| bodies::wire_message(frame.get(PREFIX_LEN..).unwrap_or_default()), &SAMPLES.frames, 20_000);
}

#[test]
fn any_bytes_as_frames_keep_the_properties() {
    run(bodies::wire_frame, &SAMPLES.streams, 5000);
}

#[test]
fn any_bytes_as_a_node_block_keep_the_properties() {
    run(bodies::node_block, &SAMPLES.nodes, 20_000);
}

#[test]
fn any_bytes_as_a_tree_keep_the_properties() {
    run(bodies::tree, &SAMPLES.trees, 20_000);
}

#[test]
fn any_bytes_as_an_archive_keep_the_properties() {
    assert!(SAMPLES.archives.iter().all(|sample| bodies::archive(sample)));
    run(bodies::archive, &SAMPLES.archives, 20_000);
}

#[test]
fn any_bytes_as_a_link_keep_the_properties() {
    run(bodies::link, &SAMPLES.links, 20_000);
}

#[test]
fn any_bytes_as_a_setting_keep_the_properties() {
    run(bodies::setting, &SAMPLES.settings, 5000);
}

#[test]
#[ignore = "writes a corpus for libFuzzer, see fuzz/README.md"]
fn write_fuzz_corpus() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let messages: Vec<Vec<u8>> = SAMPLES.frames.iter().map(|frame| frame[PREFIX_LEN..].to_vec()).collect();
    for (target, samples) in [
        ("wire_message", &messages),
        ("wire_frame", &SAMPLES.streams),
        ("node_block", &SAMPLES.nodes),
        ("tree", &SAMPLES.trees),
        ("archive", &SAMPLES.archives),
        ("link", &SAMPLES.links),
        ("setting", &SAMPLES.settings),
    ] {
        std::fs::create_dir_all(folder.join(target)).expect("a folder");
        for (n, sample) in samples.iter().enumerate() {
            std::fs::write(folder.join(target).join(format!("seed-{n}")), sample).expect("written");
        }
    }
}
