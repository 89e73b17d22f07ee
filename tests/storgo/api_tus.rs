//! Resumable uploads (tus 1.0).

use std::io::Write;

use data_encoding::BASE64;
use sha2::Digest;

use super::{
    api::{Answer, Api, answer},
    binary::{Machine, eventually},
};

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const PART: (&str, &str) = ("content-type", "application/offset+octet-stream");

/// Creates an upload. Returns its path.
fn begin(api: &Api, name: &str, len: u64) -> String {
    let (len, metadata) = (len.to_string(), format!("filename {}", BASE64.encode(name.as_bytes())));
    let headers = [TUS, ("upload-length", len.as_str()), ("upload-metadata", metadata.as_str())];
    let begun = api.ask("POST", "/api/v1/uploads", &headers, b"").is(201);
    assert!(begun.header("upload-expires").is_some_and(|time| time.ends_with("GMT")), "{begun:?}");
    begun.header("location").expect("a place").to_owned()
}

fn patch(api: &Api, path: &str, at: usize, bytes: &[u8], more: &[(&str, &str)]) -> Answer {
    let at = at.to_string();
    let mut headers = vec![TUS, PART, ("upload-offset", at.as_str())];
    headers.extend_from_slice(more);
    api.ask("PATCH", path, &headers, bytes)
}

fn offset(api: &Api, path: &str) -> usize {
    let head = api.ask("HEAD", path, &[TUS], b"").is(200);
    assert_eq!(head.header("cache-control"), Some("no-store"));
    head.header("upload-offset").and_then(|offset| offset.parse().ok()).expect("an offset")
}

fn sample(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"tus").finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_post_can_override_its_method() {
    let (_machine, _node, api) = Api::start();
    let path = begin(&api, "posted.bin", 6);
    let post = |path: &str, method: &str, more: &[(&str, &str)], body: &[u8]| {
        let mut headers = vec![TUS, PART, ("x-http-method-override", method)];
        headers.extend_from_slice(more);
        api.ask("POST", path, &headers, body)
    };
    assert_eq!(
        post(&path, "PATCH", &[("upload-offset", "0")], b"abc").is(204).header("upload-offset"),
        Some("3")
    );
    assert_eq!(post(&path, "HEAD", &[], b"").is(200).header("upload-offset"), Some("3"));
    // The header has no effect for other methods and paths.
    post(&path, "PUT", &[("upload-offset", "3")], b"def").refuses(405, "bad_request");
    post("/api/v1/peers", "DELETE", &[], b"").refuses(415, "bad_request");
    assert!(api.get(&path).is(200).json()["hint"].is_null());
    post(&path, "DELETE", &[], b"").is(204);
    api.get(&path).refuses(404, "not_found");
}

#[test]
fn an_upload_is_described_by_its_metadata() {
    let (_machine, _node, api) = Api::start();
    let file = api.get(&begin(&api, "a.bin", 10)).is(200).json();
    assert_eq!((&file["tree"], &file["mtime"]), (&false.into(), &serde_json::Value::Null));
    let words = [("filename", "a"), ("tree", "true"), ("mtime", "1700000000")];
    let words = words.map(|(key, value)| format!("{key} {}", BASE64.encode(value.as_bytes()))).join(",");
    let headers = [TUS, ("upload-length", "1024"), ("upload-metadata", words.as_str())];
    let path = api.ask("POST", "/api/v1/uploads", &headers, b"").is(201);
    let folder = api.get(path.header("location").expect("a place")).is(200).json();
    assert_eq!((&folder["tree"], &folder["mtime"]), (&true.into(), &1_700_000_000.into()));
}

#[test]
fn acknowledged_bytes_survive_a_cut_connection_and_a_killed_node() {
    let machine = Machine::new();
    let mut node = machine.start::<&str>([]);
    let mut api = Api::of(&machine, &node);
    let bytes = sample(5 << 20);
    let path = begin(&api, "a.bin", bytes.len() as u64);
    assert_eq!(
        patch(&api, &path, 0, &bytes[..1 << 20], &[]).is(204).header("upload-offset"),
        Some("1048576")
    );
    // The connection breaks in the middle of a part. Bytes that arrived are kept.
    let headers = [TUS, PART, ("upload-offset", "1048576")];
    let mut cut = api.send("PATCH", &path, &headers, 4 << 20);
    cut.write_all(&bytes[1 << 20..2 << 20]).expect("sent");
    drop(cut);
    eventually("the bytes that arrived count", || api.get(&path).json()["offset"] == 2 << 20);
    assert_eq!(offset(&api, &path), 2 << 20);
    // A request stalls. The next request replaces it.
    let headers = [TUS, PART, ("upload-offset", "2097152")];
    let mut hangs = api.send("PATCH", &path, &headers, 3 << 20);
    hangs.write_all(&bytes[2 << 20..(2 << 20) + 1000]).expect("sent");
    hangs.set_nonblocking(true).expect("set");
    eventually("the stalled request is refused", || {
        offset(&api, &path) >= 2 << 20 && hangs.peek(&mut [0]).is_ok()
    });
    hangs.set_nonblocking(false).expect("set");
    let at = offset(&api, &path);
    assert!((2 << 20..=(2 << 20) + 1000).contains(&at), "{at}");
    answer(hangs, false).refuses(400, "bad_request");
    // The node is killed.
    node.running.kill();
    node = machine.start::<&str>([]);
    api = Api::of(&machine, &node);
    assert_eq!(offset(&api, &path), at);
    let state = api.get(&path).is(200).json();
    assert_eq!((&state["state"], &state["name"]), (&"receiving".into(), &"a.bin".into()));
    patch(&api, &path, at + 1, b"x", &[]).refuses(409, "bad_request");
    let done = patch(&api, &path, at, &bytes[at..], &[]).is(204);
    let cid = done.header("storgo-cid").expect("a CID").to_owned();
    assert!(api.get(&format!("/api/v1/files/{cid}/content")).is(200).body == bytes);
    let state = api.get("/api/v1/uploads").is(200).json()[0].clone();
    assert_eq!((&state["state"], &state["cid"]), (&"stored".into(), &cid.as_str().into()));
    // The received bytes are removed. The record is kept, also after a restart.
    let left = std::fs::read_dir(machine.data().join("uploads")).expect("a folder").flatten();
    let left: Vec<_> = left.map(|file| file.path().extension().map(ToOwned::to_owned)).collect();
    assert_eq!(left, [Some("json".into())]);
    let _ = node.stop();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    assert_eq!(offset(&api, &path), bytes.len());
    let head = api.ask("HEAD", &path, &[TUS], b"").is(200);
    assert_eq!(head.header("storgo-cid"), Some(cid.as_str()));
    assert_eq!(api.get(&format!("/api/v1/files/{cid}")).is(200).json()["name"], "a.bin");
}

#[test]
fn a_part_that_does_not_match_its_checksum_is_dropped() {
    let (_machine, _node, api) = Api::start();
    let path = begin(&api, "b.bin", 6);
    let sum = |bytes: &[u8]| format!("sha256 {}", BASE64.encode(&sha2::Sha256::digest(bytes)));
    patch(&api, &path, 0, b"abX", &[("upload-checksum", &sum(b"abc"))]).refuses(460, "integrity");
    assert_eq!(offset(&api, &path), 0);
    patch(&api, &path, 0, b"abc", &[("upload-checksum", &sum(b"abc"))]).is(204);
    let sha1 = format!("sha1 {}", BASE64.encode(&sha1::Sha1::digest(b"def")));
    for bad in ["md5 AAAA", "sha1", "sha1 !", "sha256 AAAA"] {
        patch(&api, &path, 3, b"def", &[("upload-checksum", bad)]).refuses(400, "bad_request");
    }
    patch(&api, &path, 3, b"defg", &[]).refuses(413, "bad_request");
    assert_eq!(offset(&api, &path), 3);
    patch(&api, &path, 3, b"def", &[("upload-checksum", &sha1)]).is(204);
    assert_eq!(api.get("/api/v1/files/b.bin/content").is(200).text(), "abcdef");
}

#[test]
fn tus_headers_and_statuses_follow_the_protocol() {
    let machine = Machine::new();
    let node = machine.start(["--capacity", "1 MiB"]);
    let api = Api::of(&machine, &node);
    let options = api.ask("OPTIONS", "/api/v1/uploads", &[], b"").is(204);
    assert_eq!(options.header("tus-version"), Some("1.0.0"));
    assert_eq!(options.header("tus-checksum-algorithm"), Some("sha1,sha256"));
    let extensions = options.header("tus-extension").expect("some");
    for extension in ["creation", "creation-with-upload", "checksum", "expiration", "termination"] {
        assert!(extensions.split(',').any(|one| one == extension), "{extensions}");
    }
    let refused =
        api.ask("POST", "/api/v1/uploads", &[("upload-length", "1")], b"").refuses(412, "bad_request");
    assert_eq!(
        (refused.header("tus-version"), refused.header("tus-resumable")),
        (Some("1.0.0"), Some("1.0.0"))
    );
    for wrong in [
        &[TUS][..],
        &[TUS, ("upload-length", "-1")],
        &[TUS, ("upload-length", "9999999999999999999999")],
        &[TUS, ("upload-length", "1"), ("upload-metadata", "filename !")],
        // Not ASCII, and a name with a NUL character.
        &[TUS, ("upload-length", "1"), ("upload-metadata", "filename \u{fc}")],
        &[TUS, ("upload-length", "1"), ("upload-metadata", "filename YQBi")],
    ] {
        api.ask("POST", "/api/v1/uploads", wrong, b"").refuses(400, "bad_request");
    }
    for len in ["2000000", "1000000000000000"] {
        api.ask("POST", "/api/v1/uploads", &[TUS, ("upload-length", len)], b"").refuses(507, "no_space");
    }
    // Creation with the first part, an empty upload, and one that is removed.
    let headers = [TUS, PART, ("upload-length", "5")];
    let begun = api.ask("POST", "/api/v1/uploads", &headers, b"hel").is(201);
    assert_eq!((begun.header("upload-offset"), begun.header("storgo-cid")), (Some("3"), None));
    let path = begun.header("location").expect("a place").to_owned();
    let wrong = [TUS, ("content-type", "text/plain"), ("upload-offset", "3")];
    api.ask("PATCH", &path, &wrong, b"lo").refuses(415, "bad_request");
    api.ask("PATCH", &path, &[TUS, PART], b"lo").refuses(400, "bad_request");
    assert!(patch(&api, &path, 3, b"lo", &[]).is(204).header("storgo-cid").is_some());
    let empty = api.ask("POST", "/api/v1/uploads", &[TUS, ("upload-length", "0")], b"").is(201);
    assert!(empty.header("storgo-cid").is_some(), "{empty:?}");
    let given_up = begin(&api, "c", 10);
    patch(&api, &given_up, 0, b"12345", &[]).is(204);
    api.ask("DELETE", &given_up, &[TUS], b"").is(204);
    assert_eq!(api.ask("HEAD", &given_up, &[TUS], b"").is(404).header("tus-resumable"), Some("1.0.0"));
    patch(&api, &given_up, 5, b"6", &[]).refuses(404, "not_found");
    for odd in ["..%2f..%2fapi.token", "x", "%00"] {
        api.get(&format!("/api/v1/uploads/{odd}")).refuses(404, "not_found");
    }
    let _ = node.stop();
    let node = machine.start(["--capacity", "1 MiB"]);
    let mine = Api::of(&machine, &node).get("/api/v1/uploads").is(200).json();
    assert_eq!(mine.as_array().map(Vec::len), Some(2), "removed uploads stay removed: {mine}");
}

#[test]
fn an_abandoned_upload_expires() {
    let machine = Machine::new();
    std::fs::create_dir(machine.data()).expect("made");
    std::fs::write(machine.data().join("config.toml"), "[uploads]\nkeep = \"1s\"\n").expect("written");
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let path = begin(&api, "old", 10);
    patch(&api, &path, 0, b"12345", &[]).is(204);
    eventually("the upload expires", || api.get(&path).status == 404);
    eventually("its bytes are removed", || {
        std::fs::read_dir(machine.data().join("uploads")).expect("a folder").count() == 0
    });
}

#[test]
fn bytes_that_something_else_removes_are_sent_again_and_do_not_become_zeros() {
    let (machine, _node, api) = Api::start();
    let bytes = sample(100_000);
    let path = begin(&api, "a.bin", 100_000);
    patch(&api, &path, 0, &bytes[..60_000], &[]).is(204);
    let uploads = std::fs::read_dir(machine.data().join("uploads")).expect("a folder");
    let mut parts = uploads.map(|item| item.expect("an item").path());
    let part = parts.find(|path| path.extension() == Some("part".as_ref())).expect("a file");
    std::fs::remove_file(part).expect("removed");
    patch(&api, &path, 60_000, &bytes[60_000..], &[]).refuses(409, "bad_request");
    assert_eq!(offset(&api, &path), 0);
    let stored = patch(&api, &path, 0, &bytes, &[]).is(204);
    let cid = stored.header("storgo-cid").expect("a CID");
    let content = api.ask("GET", &format!("/api/v1/files/{cid}/content"), &[], b"").is(200);
    assert_eq!(content.body, bytes);
}

#[test]
fn refused_and_finished_uploads_leave_no_bytes() {
    let machine = Machine::new();
    let node = machine.start(["--capacity", "4 MiB"]);
    let api = Api::of(&machine, &node);
    let begin_with = |len: usize, sum: &str, bytes: &[u8]| {
        let len = len.to_string();
        let headers = [TUS, PART, ("upload-length", len.as_str()), ("upload-checksum", sum)];
        api.ask("POST", "/api/v1/uploads", &headers, bytes)
    };
    // The response to a refused first part names no upload.
    let wrong = format!("sha1 {}", BASE64.encode(&[7; 20]));
    begin_with(5, &wrong, b"12345").refuses(460, "integrity");
    assert_eq!(api.get("/api/v1/uploads").is(200).json(), serde_json::json!([]));
    // Unfinished uploads reserve their length.
    let first = begin(&api, "first", 3 << 20);
    let len = (2 << 20).to_string();
    let second = api.ask("POST", "/api/v1/uploads", &[TUS, ("upload-length", &len)], b"");
    assert!(second.refuses(507, "no_space").text().contains("storage.capacity"));
    api.ask("DELETE", &first, &[TUS], b"").is(204);
    // A part whose Content-Length is too long is refused before its bytes are read.
    let path = begin(&api, "a.bin", 5);
    let long = answer(api.send("PATCH", &path, &[TUS, PART, ("upload-offset", "0")], 1 << 40), false);
    long.refuses(413, "bad_request");
    patch(&api, &path, 0, b"12345", &[]).is(204);
    assert_eq!(offset(&api, &path), 5);
    let _ = node.stop();
    let spooled = machine.data().join(format!("uploads/{:032x}.spooled", 7));
    std::fs::write(spooled, b"left by a killed node").expect("written");
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    // A stored upload takes no more bytes.
    assert_eq!(offset(&api, &path), 5);
    patch(&api, &path, 0, b"12345", &[]).refuses(409, "bad_request");
    let left = std::fs::read_dir(machine.data().join("uploads")).expect("a folder");
    let mut left: Vec<_> =
        left.map(|item| item.expect("an item").path().extension().map(ToOwned::to_owned)).collect();
    left.sort();
    assert_eq!(left, [Some("json".into())]);
}

#[test]
fn upload_metadata_is_returned_as_it_was_sent() {
    let (machine, node, api) = Api::start();
    let words = format!("filename {}, is_confidential,x {}", BASE64.encode(b"a.txt"), BASE64.encode(b"y"));
    let headers = [TUS, ("upload-length", "5"), ("upload-metadata", words.as_str())];
    let begun = api.ask("POST", "/api/v1/uploads", &headers, b"").is(201);
    let path = begun.header("location").expect("a place").to_owned();
    let metadata =
        |api: &Api| api.ask("HEAD", &path, &[TUS], b"").is(200).header("upload-metadata").map(str::to_owned);
    assert_eq!(metadata(&api).as_deref(), Some(words.as_str()));
    let nothing = api.ask("POST", "/api/v1/uploads", &[TUS, ("upload-length", "5")], b"").is(201);
    let nothing = api.ask("HEAD", nothing.header("location").expect("a place"), &[TUS], b"").is(200);
    assert_eq!(nothing.header("upload-metadata"), None);
    let _ = node.stop();
    let node = machine.start::<&str>([]);
    assert_eq!(metadata(&Api::of(&machine, &node)).as_deref(), Some(words.as_str()));
}

#[test]
fn a_name_that_is_too_long_is_refused_before_its_bytes_arrive() {
    let (_machine, _node, api) = Api::start();
    let name = "n".repeat(256);
    let metadata = format!("filename {}", BASE64.encode(name.as_bytes()));
    let headers = [TUS, ("upload-length", "5"), ("upload-metadata", metadata.as_str())];
    let path = format!("/api/v1/files?name={name}");
    for refused in [api.ask("POST", "/api/v1/uploads", &headers, b""), api.ask("POST", &path, &[], b"bytes")]
    {
        assert_eq!(refused.is(400).json()["code"], "bad_request");
    }
    assert_eq!(api.get("/api/v1/files").json()["total"], 0);
}

#[test]
fn parts_of_a_parallel_upload_are_refused_and_not_stored_as_files() {
    let (_machine, _node, api) = Api::start();
    for concat in ["partial", "final;/api/v1/uploads/a /api/v1/uploads/b"] {
        let headers = [TUS, ("upload-length", "3"), ("upload-concat", concat)];
        let refused = api.ask("POST", "/api/v1/uploads", &headers, b"").refuses(400, "bad_request");
        assert!(refused.text().contains("Upload-Concat is not supported"), "{}", refused.text());
    }
    let announced = api.ask("OPTIONS", "/api/v1/uploads", &[], b"").is(204);
    assert_eq!(
        announced.header("tus-extension"),
        Some("creation,creation-with-upload,checksum,expiration,termination")
    );
    assert_eq!(api.get("/api/v1/uploads").is(200).json(), serde_json::json!([]));
}

#[test]
fn a_folder_that_is_refused_keeps_no_bytes_and_says_why_also_after_a_restart() {
    let machine = Machine::new();
    let mut node = machine.start(["--capacity", "8 MiB"]);
    let mut api = Api::of(&machine, &node);
    let begin = |api: &Api, len: usize| {
        let len = len.to_string();
        let headers = [TUS, ("upload-length", len.as_str()), ("upload-metadata", "tree dHJ1ZQ==")];
        api.ask("POST", "/api/v1/uploads", &headers, b"")
    };
    let bytes = sample(5 << 20);
    let path = begin(&api, bytes.len()).is(201).header("location").expect("a place").to_owned();
    let parts = || {
        let files = std::fs::read_dir(machine.data().join("uploads")).expect("a folder").flatten();
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "part")).count()
    };
    patch(&api, &path, 0, &bytes, &[]).refuses(400, "bad_request");
    assert_eq!(parts(), 0);
    for _ in 0..2 {
        let state = api.get(&path).is(200).json();
        assert_eq!((&state["state"], &state["reason"]), (&"failed".into(), &"tar_invalid".into()), "{state}");
        // An offset at the end would look like success to a client that resumes.
        let head = api.ask("HEAD", &path, &[TUS], b"").is(400);
        assert_eq!(head.header("upload-offset"), None);
        // Storing the same bytes again would fail again.
        patch(&api, &path, bytes.len(), b"", &[]).refuses(400, "bad_request");
        // Its space is free.
        let other = begin(&api, bytes.len()).is(201).header("location").expect("a place").to_owned();
        api.ask("DELETE", &other, &[TUS], b"").is(204);
        let _ = node.stop();
        node = machine.start(["--capacity", "8 MiB"]);
        api = Api::of(&machine, &node);
    }
    api.ask("DELETE", &path, &[TUS], b"").is(204);
    begin(&api, 0).refuses(400, "bad_request");
    assert_eq!(api.get("/api/v1/uploads").is(200).json(), serde_json::json!([]));
}

#[test]
fn other_files_and_damaged_records_in_the_folder_of_uploads_stop_nothing() {
    let (machine, node, api) = Api::start();
    let path = begin(&api, "a.bin", 6);
    patch(&api, &path, 0, b"abc", &[]).is(204);
    let _ = node.stop();
    let dir = machine.data().join("uploads");
    let id = |digit: &str| digit.repeat(32);
    std::fs::create_dir_all(dir.join("lost+found/inner")).expect("made");
    std::fs::create_dir(dir.join(format!("{}.part", id("e")))).expect("made");
    let foreign = ["notes.txt", "notes.part", "backup.json", ".hidden"];
    for name in foreign {
        std::fs::write(dir.join(name), "not of the node").expect("written");
    }
    let mut leftovers = vec![
        format!("{}.part", id("c")),
        format!("{}.spooled", id("d")),
        format!(".{}.json.0123abcd", id("c")),
    ];
    for (id, record) in [(id("a"), ""), (id("b"), "{\"plan\": garbage")] {
        std::fs::write(dir.join(format!("{id}.json")), record).expect("written");
        leftovers.extend([format!("{id}.json"), format!("{id}.part")]);
    }
    for name in &leftovers {
        let path = dir.join(name);
        if !path.exists() {
            std::fs::write(path, "left by a crash").expect("written");
        }
    }
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    assert!(foreign.iter().all(|name| dir.join(name).exists()) && dir.join("lost+found/inner").exists());
    let left: Vec<_> = leftovers.iter().filter(|name| dir.join(name).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(offset(&api, &path), 3);
    patch(&api, &path, 3, b"def", &[]).is(204);
}
