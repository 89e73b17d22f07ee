//! Large files, and blocks that files share.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read, Write},
    path::Path,
};

use super::{
    binary::{Machine, block_files, link},
    swarm::noise,
};

/// Writes `prefix`, then pseudorandom bytes.
fn big_file(path: &Path, prefix: &[u8], mib: usize) {
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut file = File::create(path).expect("made");
    file.write_all(prefix).expect("written");
    let mut piece = vec![0; 1 << 20];
    for _ in 0..mib {
        stream.fill(&mut piece);
        file.write_all(&piece).expect("written");
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let open = |path| BufReader::with_capacity(1 << 20, File::open(path).expect("a file"));
    let (mut a, mut b) = (open(a), open(b));
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = a.read(&mut x).expect("read");
        if len == 0 {
            return b.read(&mut y).expect("read") == 0;
        }
        if b.read_exact(&mut y[..len]).is_err() || x[..len] != y[..len] {
            return false;
        }
    }
}

#[test]
fn a_file_of_100_mib_is_read_back_and_a_shifted_copy_shares_its_blocks() {
    let (writer, reader) = (Machine::new(), Machine::new());
    let node = writer.start::<&str>([]);
    let _reader = reader.start(["--bootstrap", &node.addr()]);
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let provide = |name: &str| writer.run(["provide", name, "--json"]).ok().json();

    let path = writer.home().join("100");
    big_file(&path, b"", 100);
    let report = provide("100");
    assert_eq!(report["blocks"], report["new_blocks"]);
    reader.run(["get", link(&report), "-o", "100"]).ok();
    assert!(same(&path, &reader.home().join("100")));
    let again = provide("100");
    assert_eq!((&again["new_blocks"], &again["cid"]), (&0.into(), &report["cid"]));

    // It begins like the last one, so only the rest is new.
    big_file(&writer.home().join("256"), b"", 256);
    let whole = provide("256");
    assert!(number(&whole["new_blocks"]) < number(&whole["blocks"]) * 2 / 3, "{whole}");
    big_file(&writer.home().join("256"), b"!", 256);
    let shifted = provide("256");
    assert_eq!(shifted["size"], (256 << 20) + 1);
    // The first chunk and the root; and one chunk more, rarely two, where the cuts do not meet again at once. That
    // depends on the node's secret.
    assert!(number(&shifted["new_blocks"]) <= 4 && number(&shifted["blocks"]) > 200, "{shifted}");
}

/// The names of all block files.
fn blocks(machine: &Machine) -> BTreeSet<std::ffi::OsString> {
    block_files(machine).iter().map(|file| file.file_name().expect("a name").to_owned()).collect()
}

#[test]
fn members_of_a_cluster_share_blocks_and_other_nodes_do_not() {
    let machines = [Machine::new(), Machine::new(), Machine::new(), Machine::new()];
    machines[0].run(["init", "--cluster"]).ok();
    let invite = machines[0].run(["invite"]).ok().one_line();
    machines[1].run(["join", &invite]).ok();
    let bytes = noise(1, 6 << 20);
    let reports = machines.each_ref().map(|machine| {
        machine.file("file", &bytes);
        machine.run(["provide", "file", "--no-serve", "--json"]).ok().json()
    });
    let names = machines.each_ref().map(blocks);
    assert!(names[0].len() > 3);
    assert_eq!((&reports[0]["cid"], &names[0]), (&reports[1]["cid"], &names[1]));
    for (a, b) in [(0, 2), (0, 3), (2, 3)] {
        assert!(names[a].is_disjoint(&names[b]), "{a} and {b}");
        assert_ne!(reports[a]["cid"], reports[b]["cid"]);
    }
    // With --no-dedup, not even with itself.
    let apart = machines[2].run(["provide", "file", "--no-serve", "--no-dedup", "--json"]).ok().json();
    assert_eq!(apart["new_blocks"], apart["blocks"]);
}
