//! The calls of DistStore: what their clients send and read, frozen.

use serde_json::json;

use super::{api::Api, binary::Machine};

/// A form as DistStore's clients send it, in this order of its parts.
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
fn the_calls_of_diststore_keep_their_shapes() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let store =
        |parts: &[(&str, Option<&str>, &str)]| api.ask("POST", "/api/store", &kind, form(parts).as_bytes());
    let stored = store(&[("key", None, "a \"b\".txt"), ("file", Some("x"), "first")]).is(200);
    assert_eq!(stored.text(), "File stored successfully");
    // The order of the parts is not theirs to choose.
    assert_eq!(
        store(&[("file", Some("x"), "second"), ("key", None, "b")]).is(200).text(),
        "File stored successfully"
    );
    assert_eq!(
        std::fs::read_dir(machine.data().join("uploads")).expect("a folder").count(),
        0,
        "nothing is left"
    );

    let got = api.get("/api/get?key=a%20%22b%22.txt").is(200);
    assert_eq!(got.text(), "first");
    let said = got.header("content-disposition").expect("one");
    assert!(said.starts_with("attachment; filename=\"a _b_.txt\""), "{said}");
    assert_eq!(api.ask("GET", "/api/get?key=b", &[("range", "bytes=0-2")], b"").is(206).text(), "sec");
    store(&[("key", None, "b"), ("file", Some("x"), "third")]).is(200);
    assert_eq!(api.get("/api/get?key=b").is(200).text(), "third", "the newest of a name");
    let listed = api.get("/api/list").is(200);
    assert_eq!(
        (listed.json(), listed.header("content-type")),
        (json!(["a \"b\".txt", "b"]), Some("application/json"))
    );

    let gone = api.ask("DELETE", "/api/delete?key=b", &[], b"").is(200);
    assert_eq!(gone.json(), json!({ "message": "File deleted successfully" }));
    assert_eq!(api.get("/api/get?key=b").is(200).text(), "second", "and then the one before");
    api.ask("DELETE", "/api/delete?key=b", &[], b"").is(200);
    api.get("/api/get?key=b").refuses(404, "not_found");
    api.ask("DELETE", "/api/delete?key=b", &[], b"").refuses(404, "not_found");
    for (method, path) in [("GET", "/api/get"), ("GET", "/api/get?key="), ("DELETE", "/api/delete")] {
        api.ask(method, path, &[], b"").refuses(400, "bad_request");
    }
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
    // What cannot be read can still be deleted by its name.
    store(&[("key", None, "hurt"), ("file", Some("x"), &"long enough for a block of its own ".repeat(1000))])
        .is(200);
    let blocks = machine.data().join("blocks");
    std::fs::remove_dir_all(&blocks).and_then(|()| std::fs::create_dir(&blocks)).expect("emptied");
    assert_ne!(api.get("/api/get?key=hurt&").status, 200);
    api.ask("DELETE", "/api/delete?key=hurt", &[], b"").is(200);
    api.bare().get("/api/list").refuses(401, "denied");
    let by_cid = machine.provide("c.txt", b"by its CID");
    assert_eq!(
        api.get(&format!("/api/get?key={}", by_cid["cid"].as_str().expect("one"))).is(200).text(),
        "by its CID"
    );
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
