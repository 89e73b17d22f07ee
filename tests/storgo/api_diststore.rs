//! Endpoints compatible with DistStore.

use serde_json::json;

use super::{
    api::Api,
    binary::{Machine, eventually},
};

/// A form as DistStore's clients send it, with its parts in this order.
fn form(parts: &[(&str, Option<&str>, &str)]) -> String {
    let mut text = String::new();
    for (name, file, body) in parts {
        let file = file
            .map(|file| format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream"))
            .unwrap_or_default();
        text.extend([format!(
            "--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{body}\r\n"
        )]);
    }
    text + "--B--\r\n"
}

#[test]
fn diststore_clients_get_the_responses_that_they_expect() {
    let (machine, _node, api) = Api::start();
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let store =
        |parts: &[(&str, Option<&str>, &str)]| api.ask("POST", "/api/store", &kind, form(parts).as_bytes());
    let stored = store(&[("key", None, "a \"b\".txt"), ("file", Some("x"), "first")]).is(200);
    assert_eq!(stored.text(), "File stored successfully");
    // The file may come before its key.
    assert_eq!(
        store(&[("file", Some("x"), "second"), ("key", None, "b")]).is(200).text(),
        "File stored successfully"
    );
    assert_eq!(
        std::fs::read_dir(machine.data().join("uploads")).expect("a folder").count(),
        0,
        "no bytes are left"
    );

    // Of two files, one would be acknowledged without being stored.
    for parts in [
        &[("file", Some("x"), "one"), ("file", Some("y"), "two"), ("key", None, "twice")][..],
        &[("key", None, "twice"), ("key", None, "other"), ("file", Some("x"), "one")],
    ] {
        store(parts).refuses(400, "bad_request");
    }
    api.get("/api/get?key=twice").refuses(404, "not_found");
    let refused = store(&[("key", None, "first"), ("file", Some("x"), "one"), ("file", Some("y"), "two")]);
    assert!(refused.refuses(400, "bad_request").text().contains("the first file is stored"));
    api.ask("DELETE", "/api/delete?key=first", &[], b"").is(200);

    let got = api.get("/api/get?key=a%20%22b%22.txt").is(200);
    assert_eq!(got.text(), "first");
    let disposition = got.header("content-disposition").expect("one");
    assert!(disposition.starts_with("attachment; filename=\"a _b_.txt\""), "{disposition}");
    assert_eq!(api.ask("GET", "/api/get?key=b", &[("range", "bytes=0-2")], b"").is(206).text(), "sec");
    store(&[("key", None, "b"), ("file", Some("x"), "third")]).is(200);
    assert_eq!(api.get("/api/get?key=b").is(200).text(), "third", "the newest file of that name");
    let listed = api.get("/api/list").is(200);
    assert_eq!(
        (listed.json(), listed.header("content-type")),
        (json!(["a \"b\".txt", "b"]), Some("application/json"))
    );

    let gone = api.ask("DELETE", "/api/delete?key=b", &[], b"").is(200);
    assert_eq!(gone.json(), json!({ "message": "File deleted successfully" }));
    assert_eq!(api.get("/api/get?key=b").is(200).text(), "second", "the file before it");
    api.ask("DELETE", "/api/delete?key=b", &[], b"").is(200);
    api.get("/api/get?key=b").refuses(404, "not_found");
    api.ask("DELETE", "/api/delete?key=b", &[], b"").refuses(404, "not_found");
    for (method, path) in [("GET", "/api/get"), ("GET", "/api/get?key="), ("DELETE", "/api/delete")] {
        api.ask(method, path, &[], b"").refuses(400, "bad_request");
    }
    // A name may contain slashes. A client that saves the file does not write elsewhere.
    store(&[("key", None, "a/../b"), ("file", Some("x"), "deep")]).is(200);
    let deep = api.get("/api/get?key=a/../b").is(200);
    assert_eq!(deep.text(), "deep");
    let disposition = deep.header("content-disposition").expect("one");
    assert_eq!(disposition, "attachment; filename=\"a_.._b\"; filename*=UTF-8''a_.._b");
    assert_eq!(api.get("/api/list").is(200).json(), json!(["a \"b\".txt", "a/../b"]));
    api.ask("DELETE", "/api/delete?key=a/../b", &[], b"").is(200);
    store(&[("key", None, "a\0b"), ("file", Some("x"), "no name")]).refuses(400, "bad_request");
    store(&[("file", Some("x"), "no name"), ("key", None, "a\0b")]).refuses(400, "bad_request");
    store(&[("file", Some("x"), "no name")]).refuses(400, "bad_request");
    store(&[("key", None, ""), ("file", Some("x"), "no name")]).refuses(400, "bad_request");
    store(&[("key", None, "no file")]).refuses(400, "bad_request");
    for (method, path) in [
        ("GET", "/api/store"),
        ("POST", "/api/get?key=b"),
        ("GET", "/api/delete?key=b"),
        ("POST", "/api/list"),
    ] {
        api.ask(method, path, &[], b"").refuses(405, "bad_request");
    }
    // A damaged file can be deleted by its name.
    store(&[
        ("key", None, "damaged"),
        ("file", Some("x"), &"long enough for a block of its own ".repeat(1000)),
    ])
    .is(200);
    let blocks = machine.data().join("blocks");
    std::fs::remove_dir_all(&blocks).and_then(|()| std::fs::create_dir(&blocks)).expect("emptied");
    api.get("/api/get?key=damaged").refuses(422, "integrity");
    api.ask("DELETE", "/api/delete?key=damaged", &[], b"").is(200);
    api.bare().get("/api/list").refuses(401, "denied");
    let by_cid = machine.provide("c.txt", b"by its CID");
    assert_eq!(
        api.get(&format!("/api/get?key={}", by_cid["cid"].as_str().expect("one"))).is(200).text(),
        "by its CID"
    );
}

#[test]
fn a_file_that_arrives_before_its_name_counts_against_the_quota() {
    let machine = Machine::new();
    let node = machine.start(["--capacity", "1 MiB"]);
    let api = Api::of(&machine, &node);
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let head = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
    let waiting = || {
        let files = std::fs::read_dir(machine.data().join("uploads")).expect("a folder").flatten();
        let early = files.filter(|file| file.path().extension().is_some_and(|ext| ext == "spooled"));
        early.filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>()
    };
    // The form is refused before its name arrives.
    let long = format!("{head}{}", "x".repeat(12 << 20));
    let refused = api.ask("POST", "/api/store", &kind, long.as_bytes()).refuses(507, "no_space");
    assert!(refused.text().contains("storage.capacity"), "{}", refused.text());
    assert_eq!(waiting(), 0);
    // Waiting bytes count when an upload is created.
    let begin = || {
        let headers = [("tus-resumable", "1.0.0"), ("upload-length", "600000")];
        api.ask("POST", "/api/v1/uploads", &headers, b"")
    };
    let first = begin().is(201);
    let path = first.header("location").expect("a place");
    api.ask("DELETE", path, &[("tus-resumable", "1.0.0")], b"").is(204);
    let mut form = api.send("POST", "/api/store", &kind, 10_000_000);
    std::io::Write::write_all(&mut form, format!("{head}{}", "x".repeat(700_000)).as_bytes()).expect("sent");
    eventually("the file waits on disk", || waiting() > 600_000);
    begin().refuses(507, "no_space");
    drop(form);
    eventually("the file is removed", || waiting() == 0);
    begin().is(201);
}

#[test]
fn prometheus_can_read_the_metrics() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    machine.provide("a.txt", b"some bytes");
    let api = Api::of(&machine, &node);
    api.bare().get("/metrics").refuses(401, "denied");
    let text = api.get("/metrics").is(200).text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("storgo_") && value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().expect("a name");
        assert!(
            text.contains(&format!("# TYPE {name} ")) && text.contains(&format!("# HELP {name} ")),
            "{name}"
        );
    }
    assert!(
        text.contains("\nstorgo_files 1\n") && text.contains("storgo_http_answers_total{status=\"4xx\"} 1\n"),
        "{text}"
    );
}
