//! Needs of reverse proxies and load balancers.

use std::io::{BufRead, BufReader, Write};

use data_encoding::BASE64;
use serde_json::json;

use super::{
    api::{Api, answer},
    binary::{DEADLINE, Machine},
};

/// Sends a request without `Host`.
fn without_host(api: &Api, path: &str, version: &str) -> super::api::Answer {
    let mut socket = std::net::TcpStream::connect(&api.addr).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    socket.write_all(format!("GET {path} {version}\r\nconnection: close\r\n\r\n").as_bytes()).expect("sent");
    answer(socket, false)
}

#[test]
fn probes_need_no_host_and_everything_else_does() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node).bare();
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        for path in ["/livez", "/readyz"] {
            without_host(&api, path, version).is(200);
            api.ask("GET", path, &[("host", "evil.example")], b"").refuses(421, "denied");
        }
        for path in ["/", "/api/v1/status", "/livez/x"] {
            let refused = without_host(&api, path, version).refuses(421, "denied").text();
            assert!(refused.contains("no valid header Host") && refused.contains("http.hosts"), "{refused}");
        }
    }
}

#[test]
fn a_page_behind_a_proxy_can_sign_in_if_the_proxy_passes_its_name() {
    let machine = Machine::new();
    let node = machine.start(["--http-host", "box.example"]);
    let api = Api::of(&machine, &node);
    let body = json!({ "token": api.token }).to_string();
    let sign_in = |origin: &str, host: &str| {
        let headers = [("content-type", "application/json"), ("origin", origin), ("host", host)];
        api.bare().ask("POST", "/api/v1/session", &headers, body.as_bytes())
    };
    for (origin, host) in [
        ("https://box.example", "box.example"),
        ("https://box.example", "box.example:443"),
        ("http://box.example:80", "Box.Example"),
    ] {
        sign_in(origin, host).is(200);
    }
    for (origin, host) in [("https://box.example", &*api.addr), ("https://other.example", "box.example")] {
        let refused = sign_in(origin, host).refuses(403, "denied").text();
        for word in ["header Origin", "header Host", "http.hosts"] {
            assert!(refused.contains(word), "{refused} does not name {word}");
        }
    }
    let refused = sign_in("https://new.example", "new.example").refuses(421, "denied").text();
    assert!(refused.contains("header Host") && refused.contains("http.hosts"), "{refused}");
}

#[test]
fn events_ask_proxies_not_to_hold_them_back() {
    let (_machine, _node, api) = Api::start();
    let mut lines = BufReader::new(api.send("GET", "/api/v1/events", &[], 0)).lines().map_while(Result::ok);
    let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("x-accel-buffering: no")), "{head:?}");
}

#[test]
fn everything_works_below_a_base_path_whether_the_proxy_cuts_it_off_or_not() {
    let machine = Machine::new();
    let node = machine.start(["--http-base-path", "/apps/storgo"]);
    let api = Api::of(&machine, &node);
    for base in ["", "/apps/storgo"] {
        let at = |path: &str| format!("{base}{path}");
        let stored = api.ask("POST", &at("/api/v1/files?name=a"), &[], b"content").is(201);
        let place = stored.header("location").expect("a place").to_owned();
        assert!(place.starts_with("/apps/storgo/api/v1/files/baf"), "{place}");
        assert_eq!(api.get(&place).is(200).json()["name"], "a");
        assert_eq!(api.get(&format!("{place}/content")).is(200).text(), "content");
        let metadata = format!("filename {}", BASE64.encode(b"b"));
        let headers =
            [("tus-resumable", "1.0.0"), ("upload-length", "3"), ("upload-metadata", metadata.as_str())];
        let place = api.ask("POST", &at("/api/v1/uploads"), &headers, b"").is(201);
        let place = place.header("location").expect("a place").to_owned();
        assert!(place.starts_with("/apps/storgo/api/v1/uploads/"), "{place}");
        // The method is replaced below the base path too.
        let headers = [("tus-resumable", "1.0.0"), ("x-http-method-override", "DELETE")];
        api.ask("POST", &place, &headers, b"").is(204);
        let document = api.bare().get(&at("/api/openapi.json")).is(200).json();
        assert_eq!(document["servers"], json!([{ "url": "/apps/storgo" }]));
        for path in ["/", "/ui/main.js", "/api/docs", "/api/docs.js", "/livez"] {
            api.bare().get(&at(path)).is(200);
        }
        // Each page finds its parts relative to its own address.
        for path in ["/", "/api/docs"] {
            let html = api.bare().get(&at(path)).is(200).text();
            let absolute = html.split(['"', '\'']).find(|text| text.starts_with('/'));
            assert_eq!(absolute, None, "{path}");
        }
    }
    let redirect = api.bare().get("/apps/storgo");
    assert_eq!((redirect.status, redirect.header("location")), (308, Some("/apps/storgo/")));
    api.get("/apps/storgox").refuses(404, "not_found");
    machine.run(["run", "--http-base-path", "storgo"]).fails(2, &["http.base_path", "begin with a slash"]);
    machine.run(["run", "--http-base-path", "/storgo/"]).fails(2, &["http.base_path", "slash at its end"]);
    machine.run(["run", "--http-base-path", "/api"]).fails(2, &["http.base_path", "a path of the API"]);
}
