//! The cache of blocks that were only read is freed when somebody asks for it.

use super::{
    binary::{Machine, link},
    swarm::noise,
};

const LEN: usize = 300_000;

#[test]
fn the_cache_is_freed_as_a_whole_and_for_one_file_and_kept_files_stay() {
    let (far, near) = (Machine::new(), Machine::new());
    let node = far.start::<&str>([]);
    let _reader = near.start(["--bootstrap", &node.addr()]);
    let reports = [1, 2].map(|n| far.provide(&format!("file-{n}"), &noise(n, LEN)));
    let own = near.provide("own", &noise(3, LEN));
    let cached = || near.status()["cached_bytes"].as_u64().expect("a number");
    let read = || reports.each_ref().map(|report| near.run(["get", link(report), "-o", "-"]).ok());
    read();
    let both = cached();
    assert!(both >= 2 * LEN as u64, "{both}");

    near.run(["rm", link(&reports[0])]).ok();
    assert!(cached() >= LEN as u64 && cached() <= both - LEN as u64, "{} of {both}", cached());
    near.run(["rm", link(&reports[0])]).fails(4, &["not kept"]);
    let freed = near.run(["gc", "--cache", "--json"]).ok().json();
    assert!(freed["bytes"].as_u64().expect("a number") >= LEN as u64, "{freed}");
    assert_eq!(cached(), 0);

    assert!(near.run(["get", link(&own), "-o", "-"]).ok().stdout == noise(3, LEN));
    assert_eq!(near.status()["kept"], 1);
    assert!(read()[0].stdout == noise(1, LEN), "what the cache lost is fetched again");
}
