//! Content, lists of files, and invalid requests.

use serde_json::{Value, json};

use super::{
    api::Api,
    binary::{Machine, block_files, link},
};

fn path(report: &Value, rest: &str) -> String {
    format!("/api/v1/files/{}{rest}", report["cid"].as_str().expect("a CID"))
}

/// Stores a file of zeros with these marks.
fn sparse(machine: &Machine, name: &str, len: u64, marks: &[(u64, &[u8])]) -> Value {
    use std::os::unix::fs::FileExt;

    let file = std::fs::File::create(machine.home().join(name)).expect("made");
    file.set_len(len).expect("long");
    for (at, mark) in marks {
        file.write_all_at(mark, *at).expect("written");
    }
    machine.run(["provide", name, "--json"]).ok().json()
}

#[test]
fn ranges_and_conditional_requests_follow_the_rfc() {
    let machine = Machine::new();
    let node = machine.start(["--chunker", "fixed:1MiB"]);
    let api = Api::of(&machine, &node);
    let len = (5 << 20) + 7;
    let beyond = (4 << 20) - 2;
    let report = sparse(&machine, "large.bin", len, &[(0, b"head"), (beyond, b"over"), (len - 4, b"tail")]);
    let content = path(&report, "/content");
    let etag = format!("\"{}\"", report["cid"].as_str().expect("a CID"));
    let range = |range: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("range", range)];
        headers.extend_from_slice(more);
        api.ask("GET", &content, &headers, b"")
    };
    let head = api.ask("HEAD", &content, &[], b"").is(200);
    assert_eq!(head.header("content-length"), Some(len.to_string().as_str()));
    assert_eq!((head.header("etag"), head.header("accept-ranges")), (Some(etag.as_str()), Some("bytes")));
    assert_eq!(
        head.header("content-security-policy").map(|policy| policy.starts_with("sandbox")),
        Some(true)
    );
    assert_eq!(head.header("x-content-type-options"), Some("nosniff"));

    for (asked, bytes, content_range) in [
        (format!("bytes={beyond}-{}", beyond + 3), "over", format!("bytes {beyond}-{}/{len}", beyond + 3)),
        ("bytes=-4".into(), "tail", format!("bytes {}-{}/{len}", len - 4, len - 1)),
        ("bytes=0-3".into(), "head", format!("bytes 0-3/{len}")),
        (
            format!("bytes={}-99999999999999999999", len - 4),
            "tail",
            format!("bytes {}-{}/{len}", len - 4, len - 1),
        ),
    ] {
        let part = range(&asked, &[]).is(206);
        assert_eq!(
            (part.text().as_str(), part.header("content-range")),
            (bytes, Some(content_range.as_str())),
            "{asked}"
        );
    }
    // Ranges are defined for GET alone.
    let head = api.ask("HEAD", &content, &[("range", "bytes=0-3")], b"").is(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some(len.to_string().as_str()), 0));
    for dest in ["script", "style", "serviceworker"] {
        api.ask("GET", &content, &[("sec-fetch-dest", dest)], b"").refuses(403, "denied");
    }
    for beyond in [format!("bytes={len}-"), "bytes=99999999999999999999-".into(), "bytes=-0".into()] {
        let refused = range(&beyond, &[]).refuses(416, "bad_request");
        assert_eq!(refused.header("content-range"), Some(format!("bytes */{len}").as_str()));
    }
    assert_eq!(range("bytes=0-3", &[("if-range", &etag)]).is(206).text(), "head");
    for other in ["\"other\"", "W/\"other\"", "Tue, 15 Nov 1994 12:45:26 GMT"] {
        let headers = [("range", "bytes=0-3"), ("if-range", other)];
        let mut whole = api.send("GET", &content, &headers, 0);
        let mut head = [0; 12];
        std::io::Read::read_exact(&mut whole, &mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200", "{other}");
    }
    for known in [etag.clone(), format!("W/{etag}"), "*".into(), format!("\"x\", {etag}")] {
        let unchanged = api.ask("GET", &content, &[("if-none-match", &known)], b"").is(304);
        assert!(unchanged.body.is_empty() && unchanged.header("etag") == Some(etag.as_str()), "{known}");
        let head = api.ask("HEAD", &content, &[("if-none-match", &known)], b"").is(304);
        for answer in [&unchanged, &head] {
            assert_eq!(answer.header("content-length"), None, "the content has another length: {answer:?}");
        }
        range("bytes=0-3", &[("if-none-match", &known)]).is(304);
        range("bytes=0-3", &[("if-match", &known)]).is(if known.starts_with("W/") { 412 } else { 206 });
    }
    range("bytes=0-3", &[("if-none-match", "\"x\"")]).is(206);
    api.ask("GET", &content, &[("if-match", "\"x\"")], b"").refuses(412, "bad_request");
    api.ask("POST", "/api/v1/files?media_type=a%0d%0ab", &[], b"x").refuses(400, "bad_request");
}

#[test]
fn a_browser_shows_safe_media_types_and_downloads_the_rest() {
    let (machine, _node, api) = Api::start();
    for (name, shown) in [
        ("a.png", Some("image/png")),
        ("a.mp4", Some("video/mp4")),
        ("a.rs", Some("text/plain; charset=utf-8")),
        ("a.pdf", Some("application/pdf")),
        ("a.html", None),
        ("a.svg", None),
        ("a.xml", None),
        ("a", None),
    ] {
        let report = machine.provide(name, name.as_bytes());
        let kept = api.get(&path(&report, "/content")).is(200);
        let asked = api.get(&path(&report, "/content?inline=1")).is(200);
        for answer in [&kept, &asked] {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            let policy = answer.header("content-security-policy").expect("a policy");
            assert!(
                policy.starts_with("sandbox; default-src 'none'") && !policy.contains("script"),
                "{policy}"
            );
        }
        let how = |answer: &super::api::Answer| {
            answer.header("content-disposition").and_then(|how| how.split(';').next()).map(String::from)
        };
        assert_eq!(how(&kept).as_deref(), Some("attachment"), "{name}");
        assert_eq!(
            how(&asked).as_deref(),
            Some(if shown.is_some() { "inline" } else { "attachment" }),
            "{name}"
        );
        if let Some(shown) = shown {
            assert_eq!(asked.header("content-type"), Some(shown), "{name}");
        }
    }
    let run = api.ask("POST", "/api/v1/files?name=run&mode=0755", &[], b"run").is(201).json();
    let head =
        api.ask("HEAD", &format!("/api/v1/files/{}/content", run["cid"].as_str().expect("a CID")), &[], b"");
    assert_eq!(head.is(200).header("storgo-mode"), Some("755"));
    for mode in ["999", "", "17777", "rwx"] {
        let path = format!("/api/v1/files?name=run&mode={mode}");
        api.ask("POST", &path, &[], b"run").refuses(400, "bad_request");
    }
    let odd = api.ask("POST", "/api/v1/files?name=a%22%0d%0ax:%20y%2f%c3%bc.txt", &[], b"x").is(201).json();
    let answer = api.get(&path(&odd, "/content")).is(200);
    assert_eq!(answer.header("x"), None);
    let disposition = answer.header("content-disposition").expect("one");
    assert!(
        disposition.contains("filename=\"a___x: y__.txt\"")
            && disposition.ends_with("filename*=UTF-8''a%22%0D%0Ax%3A%20y_%C3%BC.txt"),
        "{disposition}"
    );
}

#[test]
fn a_form_stores_each_of_its_files() {
    let (_machine, _node, api) = Api::start();
    let form = "--B\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nnothing\r\n\
        --B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"one.txt\"\r\n\r\nfirst\r\n\
        --B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"..\\\\x/two.txt\"\r\ncontent-type: text/x-odd\r\n\r\nsecond\r\n--B--\r\n";
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let stored = api.ask("POST", "/api/v1/files", &kind, form.as_bytes()).is(201).json();
    let names: Vec<_> = stored["files"].as_array().expect("files").iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["one.txt", "two.txt"]);
    assert_eq!(api.get("/api/v1/files/two.txt/content").is(200).text(), "second");
    api.ask("POST", "/api/v1/files", &kind, b"--B--\r\n").refuses(400, "bad_request");
    api.ask("POST", "/api/v1/files", &kind, &form.as_bytes()[..200]).refuses(400, "bad_request");
    api.ask("POST", "/api/v1/files", &[("content-type", "multipart/form-data")], b"x")
        .refuses(400, "bad_request");
}

#[test]
fn the_list_is_sorted_searched_and_paged() {
    let (_machine, _node, api) = Api::start();
    let names = ["b.txt", "A.txt", "d.log", "C.txt", "e.txt"];
    for (at, name) in names.iter().enumerate() {
        let bytes = vec![b'x'; (7 * at) % 5 + 1];
        api.ask("POST", &format!("/api/v1/files?name={name}"), &[], &bytes).is(201);
    }
    let walk = |query: &str| {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/api/v1/files?limit=2&{query}{cursor}")).is(200).json();
            let files = page["files"].as_array().expect("files");
            assert!(files.len() <= 2);
            found.extend(files.iter().map(|file| file["name"].as_str().expect("a name").to_owned()));
            let total = page["total"].as_u64().expect("a total");
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (found, total),
            }
        }
    };
    assert_eq!(walk("sort=name").0, ["A.txt", "b.txt", "C.txt", "d.log", "e.txt"]);
    assert_eq!(
        walk("sort=name&order=desc&q=TXT"),
        (["e.txt", "C.txt", "b.txt", "A.txt"].map(String::from).to_vec(), 4)
    );
    assert_eq!(walk("sort=created").0, names);
    assert_eq!(walk("sort=created&order=desc").0, names.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(walk("sort=size").0, ["b.txt", "C.txt", "A.txt", "e.txt", "d.log"]);
    for query in ["", "order=desc", "sort=cid&q=."] {
        let (mut all, total) = walk(query);
        all.sort();
        assert_eq!((all.len(), total), (5, 5), "{query}");
        all.dedup();
        assert_eq!(all.len(), 5);
    }
    assert_eq!(walk("q=nothing"), (Vec::new(), 0));
    for bad in ["sort=colour", "order=up", "limit=0", "limit=1001", "limit=-1", "cursor=AAAA"] {
        api.get(&format!("/api/v1/files?{bad}")).refuses(400, "bad_request");
    }
}

#[test]
fn the_blocks_of_a_file_are_listed_in_order() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    machine.file("a.bin", &bytes);
    let report = machine.run(["--chunker", "fixed:64KiB", "provide", "a.bin", "--json"]).ok().json();
    assert_eq!(report["blocks"], 63);
    let (mut blocks, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&path(&report, &format!("/blocks?limit=10{cursor}"))).is(200).json();
        blocks.extend(page["blocks"].as_array().expect("blocks").clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(blocks.len() as u64, report["blocks"].as_u64().expect("a number"));
    assert_eq!((&blocks[0]["cid"], &blocks[0]["kind"]), (&report["cid"], &json!("node")));
    let data: Vec<_> = blocks.iter().filter(|block| block["kind"] == "data").collect();
    assert_eq!(
        data.iter().map(|block| block["len"].as_u64().expect("a length")).sum::<u64>(),
        bytes.len() as u64
    );
    assert!(blocks.iter().all(|block| block["here"] == true));
    let mut cids: Vec<_> = blocks.iter().map(|block| block["cid"].to_string()).collect();
    cids.sort();
    cids.dedup();
    assert_eq!(cids.len(), blocks.len());
    api.get("/api/v1/files/nothing/blocks").refuses(404, "not_found");
}

#[test]
fn settings_hide_secrets_and_invites_join_the_cluster() {
    let machine = Machine::new();
    machine.run(["init", "--cluster"]).ok();
    let key = std::fs::read_to_string(machine.data().join("cluster.key")).expect("a key");
    let node = machine.start(["--cache-size", "1 GiB"]);
    let api = Api::of(&machine, &node);
    let settings = api.get("/api/v1/settings").is(200);
    assert!(!settings.text().contains(key.trim()), "{}", settings.text());
    let of = |key: &str| {
        let all = settings.json();
        all.as_array().and_then(|all| all.iter().find(|one| one["key"] == key)).expect("one").clone()
    };
    assert_eq!(of("cache.size"), json!({ "key": "cache.size", "value": "1 GiB", "origin": "--cache-size" }));
    assert_eq!(of("cluster.key")["value"], "set", "the key is in a file of its own");
    let invite = api.ask("POST", "/api/v1/invite", &[], b"").is(200).json();
    let other = Machine::new();
    other.run(["join", invite["invite"].as_str().expect("a line")]).ok();
    let alone = other.start::<&str>([]);
    let code = api.post("/api/v1/qr", &json!({ "text": "storgo://x#y" })).is(200);
    assert_eq!(code.header("content-type"), Some("image/svg+xml"));
    assert!(code.text().contains("<svg") && !code.text().contains("<script"));
    api.post("/api/v1/qr", &json!({ "text": "x".repeat(5000) })).refuses(400, "bad_request");
    let _ = alone.stop();
    let open = Machine::new();
    let node = open.start::<&str>([]);
    Api::of(&open, &node).ask("POST", "/api/v1/invite", &[], b"").refuses(400, "bad_request");
    // A link can be opened on the node that has the file.
    let report = open.provide("a.txt", b"read me");
    let api = Api::of(&open, &node);
    let opened = api.post("/api/v1/links/open", &json!({ "link": link(&report) })).is(200).json();
    assert_eq!(opened["cid"], report["cid"]);
}

#[test]
fn content_without_blocks_is_an_error_status() {
    let (machine, _node, api) = Api::start();
    let report = machine.provide("a.bin", &vec![7; 5 << 20]);
    let folder = machine.home().join("folder");
    std::fs::create_dir(&folder).and_then(|()| std::fs::write(folder.join("x"), "x")).expect("made");
    let folder = machine.run(["provide".as_ref(), folder.as_os_str(), "--json".as_ref()]).ok().json();
    // The length of a folder's tar is not known in advance.
    let head = api.ask("HEAD", &path(&folder, "/content"), &[], b"").is(200);
    assert_eq!((head.header("content-length"), head.header("storgo-kind")), (None, Some("dir")));
    let blocks = machine.data().join("blocks");
    std::fs::remove_dir_all(&blocks).and_then(|()| std::fs::create_dir(&blocks)).expect("emptied");
    for range in [&[][..], &[("range", "bytes=4000000-4000010")]] {
        let answer = api.ask("GET", &path(&report, "/content"), range, b"");
        answer.refuses(422, "integrity");
    }
}

#[test]
fn a_folder_without_a_readable_file_is_an_error_status() {
    let (machine, _node, api) = Api::start();
    let folder = machine.home().join("folder");
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir_all(folder.join("a/b"))
        .and_then(|()| std::fs::write(folder.join("a/b/x"), bytes))
        .expect("made");
    let report = machine.run(["provide".as_ref(), folder.as_os_str(), "--json".as_ref()]).ok().json();
    let ask = || api.ask("GET", &path(&report, "/content"), &[("range", "bytes=0-0")], b"");
    ask().is(200);
    std::fs::remove_file(&block_files(&machine)[0]).expect("removed");
    // The blocks of the folders are still here.
    ask().refuses(422, "integrity");
}

#[test]
fn a_long_folder_is_listed_page_by_page() {
    let (machine, _node, api) = Api::start();
    let many = 10_010;
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..many {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        tar.append_data(&mut header, format!("{number:05}"), std::io::empty()).expect("appended");
    }
    let tar = tar.into_inner().expect("a tar");
    let report = api.ask("POST", "/api/v1/files?tree=1&name=many", &[], &tar).is(201).json();
    let info = api.get(&path(&report, "")).is(200).json();
    let names = |list: &Value| -> Vec<String> {
        let entries = list["entries"].as_array().expect("entries");
        entries.iter().map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect()
    };
    let mut found = names(&info);
    assert_eq!((found.len(), &info["entries_next"]), (10_000, &json!("10000")));
    let mut next = info["entries_next"].clone();
    while let Some(cursor) = next.as_str() {
        let page = api.get(&path(&report, &format!("/entries?limit=4&cursor={cursor}"))).is(200).json();
        found.extend(names(&page));
        next = page["next"].clone();
    }
    assert_eq!((found.len(), &next), (many, &Value::Null));
    assert!(found.iter().zip(0..).all(|(name, number)| *name == format!("{number:05}")));
    let first = api.get(&path(&report, "/entries")).is(200).json();
    assert_eq!((names(&first).len(), &first["next"]), (100, &json!("100")));
    let entry = first["entries"][7]["link"].as_str().expect("a link");
    assert!(entry.starts_with("storgo://"), "{entry}");
    assert_eq!(names(&api.get(&path(&report, "/entries?cursor=999999")).is(200).json()), [""; 0]);
    for bad in ["limit=0", "limit=1001", "cursor=x", "cursor=-1"] {
        api.get(&path(&report, &format!("/entries?{bad}"))).refuses(400, "bad_request");
    }
    // Links need the scope `write`. A file has no entries.
    let token = api.post("/api/v1/tokens", &json!({ "name": "r", "scope": "read" })).is(201).json();
    let read = api.with(token["token"].as_str().expect("a token"));
    assert_eq!(read.get(&path(&report, "/entries?limit=1")).is(200).json()["entries"][0]["link"], "");
    let file = machine.provide("a.txt", b"a file");
    assert_eq!(api.get(&path(&file, "")).is(200).json()["entries_next"], Value::Null);
    api.get(&path(&file, "/entries")).refuses(400, "bad_request");
    api.get("/api/v1/files/nothing/entries").refuses(404, "not_found");
}

#[test]
fn every_endpoint_treats_names_alike() {
    let (_machine, _node, api) = Api::start();
    let put = |query: &str, bytes: &[u8]| api.ask("POST", &format!("/api/v1/files?{query}"), &[], bytes);
    // An empty name counts as none.
    let nameless = put("name=", b"nameless").is(201).json();
    assert_eq!(nameless["name"], Value::Null);
    assert_eq!(api.get(&path(&nameless, "")).is(200).json()["name"], Value::Null);
    for (name, kept) in [("..%2f..%2fetc%2fx", ".._.._etc_x"), ("a%5Cb", "a_b")] {
        let report = put(&format!("name={name}"), name.as_bytes()).is(201).json();
        let answer = api.get(&path(&report, "/content")).is(200);
        let disposition = answer.header("content-disposition").expect("a header");
        assert!(
            disposition.contains(&format!("filename=\"{kept}\"")) && !disposition.contains("%2F"),
            "{disposition}"
        );
    }
    let report = put("name=..", b"up").is(201).json();
    let answer = api.get(&path(&report, "/content")).is(200);
    let cid = report["cid"].as_str().expect("a CID");
    assert!(answer.header("content-disposition").is_some_and(|value| value.contains(cid)), "{answer:?}");
    put("name=a%00b", b"x").refuses(400, "bad_request");
    let form = "--B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a\0b\"\r\n\r\nx\r\n--B--\r\n";
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    assert_eq!(api.ask("POST", "/api/v1/files", &kind, form.as_bytes()).status, 400);
}

#[test]
fn an_invalid_field_or_parameter_is_named_and_its_value_is_not() {
    let (_machine, _node, api) = Api::start();
    let says = |answer: super::api::Answer, what: &str| {
        let text = answer.refuses(400, "bad_request").text();
        assert!(text.contains(what), "{text}");
    };
    says(api.post("/api/v1/tokens", &json!({ "name": "x", "scope": "root" })), "scope");
    says(
        api.post("/api/v1/tokens", &json!({ "name": "x", "scope": "read", "ttl_s": u64::MAX })),
        "100 years",
    );
    says(api.post("/api/v1/peers", &json!({ "addr": "x" })), "expected a multiaddr");
    says(api.ask("POST", "/api/v1/files?copies=3", &[], b"x"), "redundancy is not available yet");
    says(api.ask("POST", "/api/v1/files?erasure=4%2B2", &[], b"x"), "redundancy is not available yet");
    assert!(!api.get("/api/v1/nothing").refuses(404, "not_found").text().contains("/api/v1/nothing"));
    // A secret may have been pasted into the wrong place.
    let link =
        "storgo://bafyrcifi5zl5wmkkcjxqmxbyzhq5p2fyhlemoyq#gVBoqPqLcFWlvd0UiNQN4g9FpbGTPY3lNtCmUb3vsBk";
    let key = link.split_once('#').expect("a key").1;
    for (call, body) in [
        ("peers", json!({ "addr": link })),
        ("peers", json!({ "addr": format!("/ip4/127.0.0.1/{link}") })),
        ("peers", json!({ link: "x" })),
        ("links/open", json!({ "link": format!("{link}{link}") })),
        ("tokens", json!({ "name": "x", "scope": link })),
        ("session", json!({ link: "x" })),
    ] {
        let refused = api.post(&format!("/api/v1/{call}"), &body).refuses(400, "bad_request");
        assert!(!refused.text().contains(key), "{call}: {}", refused.text());
    }
    for query in ["limit=KEY", "KEY=1", "sort=KEY", "cursor=KEY"] {
        let refused =
            api.get(&format!("/api/v1/files?{}", query.replace("KEY", key))).refuses(400, "bad_request");
        assert!(!refused.text().contains(key), "{query}: {}", refused.text());
    }
    let unknown = api.get("/api/v1/files/x/entries?foo=1");
    says(unknown, "unknown query parameter `foo`; this endpoint takes `cursor`, `limit`");
    says(api.get("/api/v1/files?order=up"), "query parameter `order`: expected one of `asc`, `desc`");
    says(api.ask("POST", "/api/v1/files?public=perhaps", &[], b"x"), "public");
    let cid = api.ask("POST", "/api/v1/files?public=1", &[], b"x").is(201).json()["cid"].clone();
    for inline in ["1", "true", "0", "false"] {
        api.get(&format!("/api/v1/files/{}/content?inline={inline}", cid.as_str().expect("one"))).is(200);
    }
    says(api.get(&format!("/api/v1/files/{}/content?inline=2", cid.as_str().expect("one"))), "inline");
    // A client that closes only its sending side still gets the response.
    let mut half = api.send("POST", "/api/v1/files", &[], 1000);
    std::io::Write::write_all(&mut half, b"abc").expect("sent");
    half.shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(super::api::answer(half, false).status, 400);
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let open = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nbytes";
    api.ask("POST", "/api/v1/files", &kind, open.as_bytes()).is(400);
}

#[test]
fn a_folder_lists_which_entries_lack_blocks() {
    let (machine, _node, api) = Api::start();
    let folder = machine.home().join("album");
    let large: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir_all(folder.join("inner"))
        .and_then(|()| std::fs::write(folder.join("inner/large"), large))
        .and_then(|()| std::fs::write(folder.join("inner/small"), "small"))
        .and_then(|()| std::fs::write(folder.join("whole"), "whole"))
        .expect("made");
    let report = machine.run(["provide".as_ref(), folder.as_os_str(), "--json".as_ref()]).ok().json();
    let damaged = |query: &str| -> Vec<String> {
        let info = api.get(&path(&report, query)).is(200).json();
        let list = api.get(&path(&report, &format!("/entries{query}"))).is(200).json();
        assert_eq!(info["entries"], list["entries"]);
        let entries = info["entries"].as_array().expect("entries").iter();
        let damaged = entries.filter(|entry| entry["damaged"] == true);
        damaged.map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!((damaged(""), damaged("?path=inner")), (vec![], vec![]));
    std::fs::remove_file(&block_files(&machine)[0]).expect("removed");
    // A read notices it.
    let content = path(&report, "/content?path=inner/large");
    api.ask("GET", &content, &[("range", "bytes=0-0")], b"").refuses(422, "integrity");
    assert_eq!(damaged(""), ["inner"]);
    assert_eq!(damaged("?path=inner"), ["large"]);
}

#[test]
fn an_entry_without_its_root_block_is_described_by_its_folder() {
    let (machine, _node, api) = Api::start();
    let folder = machine.home().join("album");
    let large: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("large"), large))
        .expect("made");
    // So many chunks that the root block is a file of its own.
    let args = ["provide", "--chunker", "fixed:4KiB", "--json"].map(std::ffi::OsStr::new);
    let report = machine.run(args.into_iter().chain([folder.as_os_str()])).ok().json();
    let before = api.get(&path(&report, "?path=large")).is(200).json();
    let blocks = api.get(&path(&report, "/blocks?path=large&limit=1")).is(200).json();
    let len = blocks["blocks"][0]["len"].as_u64();
    let is_root = |file: &std::path::PathBuf| Some(file.metadata().expect("there").len()) == len;
    let root = block_files(&machine).into_iter().find(is_root).expect("the root block");
    std::fs::remove_file(root).expect("removed");
    let after = api.get(&path(&report, "?path=large")).is(200).json();
    for field in ["cid", "name", "size", "link", "pinned", "folder_name", "mtime"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let folder = api.get(&path(&report, "")).is(200).json();
    assert_eq!(folder["entries"][0]["damaged"], true);
}

#[test]
fn an_entry_of_a_folder_is_read_by_its_path_without_its_link() {
    let (machine, _node, api) = Api::start();
    let folder = machine.home().join("album");
    std::fs::create_dir_all(folder.join("day 1/50% & more"))
        .and_then(|()| std::fs::write(folder.join("day 1/50% & more/a+b.txt"), "hello"))
        .expect("made");
    let report = machine.run(["provide".as_ref(), folder.as_os_str(), "--json".as_ref()]).ok().json();
    let token = api.post("/api/v1/tokens", &json!({ "name": "r", "scope": "read" })).is(201).json();
    let read = api.with(token["token"].as_str().expect("a token"));
    let file = "?path=day%201/50%25%20%26%20more/a%2Bb.txt";
    let info = read.get(&path(&report, file)).is(200).json();
    for (field, value) in [
        ("name", json!("a+b.txt")),
        ("folder_name", json!("album")),
        ("kind", json!("file")),
        ("size", json!(5)),
        ("media_type", json!("text/plain")),
        ("pinned", json!(true)),
        ("link", json!(null)),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    assert_eq!(read.get(&path(&report, &format!("/content{file}"))).is(200).body, b"hello");
    let health = read.get(&path(&report, &format!("/health{file}"))).is(200).json();
    assert_eq!((&health["kept"], &health["state"]), (&json!(true), &json!("at_risk")));
    let blocks = read.get(&path(&report, &format!("/blocks{file}"))).is(200).json();
    assert_eq!(blocks["blocks"][0]["cid"], info["cid"]);
    let inner = read.get(&path(&report, "?path=/day%201/")).is(200).json();
    assert_eq!((&inner["kind"], &inner["entries"][0]["name"]), (&json!("dir"), &json!("50% & more")));
    let list = read.get(&path(&report, "/entries?path=day%201")).is(200).json();
    assert_eq!(list["entries"].as_array().map(Vec::len), Some(1));
    // The folder itself.
    assert_eq!(read.get(&path(&report, "?path=")).is(200).json()["name"], "album");
    for wrong in ["?path=day%202", "?path=day", "?path=..", "?path=day%201/50%25%20%26%20more/a%2Bb.txt/x"] {
        let refused = read.get(&path(&report, wrong));
        assert_eq!(refused.refuses(404, "not_found").json()["reason"], "entry_unknown", "{wrong}");
    }
    // Nothing was added to the list, and an entry cannot be removed: that would remove the whole folder.
    assert_eq!(api.get("/api/v1/files").is(200).json()["total"], 1);
    let refused = api.ask("DELETE", &path(&report, file), &[], b"");
    let detail = refused.refuses(400, "bad_request").json()["detail"].clone();
    assert_eq!(detail, "unknown query parameter `path`; this endpoint takes none");
    assert_eq!(api.get("/api/v1/files").is(200).json()["total"], 1);
}
