//! The OpenAPI document lists every endpoint, and nothing else.

use super::{api::Api, binary::Machine};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

#[test]
fn the_document_lists_every_method_of_every_path() {
    let (_machine, _node, api) = Api::start();
    let document = api.bare().get("/api/openapi.json").is(200).json();
    assert!(
        document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
        "{}",
        document["openapi"]
    );
    let signed_in = api.ask("DELETE", "/api/v1/session", &[], b"").is(204);
    let cookie = signed_in.header("set-cookie").and_then(|set| set.split('=').next()).expect("a name");
    assert_eq!(document["components"]["securitySchemes"]["session"]["name"], cookie);
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 30, "{}", paths.len());
    for (path, item) in paths {
        let path = path.replace(['{', '}'], "x");
        for method in METHODS {
            let listed = item.get(method.to_lowercase()).is_some();
            if method == "HEAD" && !listed || path.ends_with("/events") && method == "GET" {
                continue;
            }
            let answer = api.ask(method, &path, &[], b"");
            let absent = answer.text().contains("no endpoint has this path");
            assert_eq!(listed, answer.status != 405 && !absent, "{method} {path}: {answer:?}");
            if listed {
                let operation = &item[method.to_lowercase()];
                let known = operation["responses"].get(answer.status.to_string());
                assert!(known.is_some(), "{method} {path}: {} is not in the document", answer.status);
                assert!(operation["summary"].is_string() || operation["description"].is_string(), "{path}");
            }
        }
    }
}

#[test]
fn the_page_of_the_document_loads_nothing_from_elsewhere() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node).bare();
    for (path, kind) in
        [("/api/docs", "text/html"), ("/api/docs.js", "text/javascript"), ("/api/docs.css", "text/css")]
    {
        let answer = api.get(path).is(200);
        assert!(
            answer.header("content-type").is_some_and(|media_type| media_type.starts_with(kind)),
            "{answer:?}"
        );
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!answer.text().contains("://"), "{path} is whole");
        let etag = answer.header("etag").expect("one");
        api.ask("GET", path, &[("if-none-match", etag)], b"").is(304);
    }
}

#[test]
fn every_route_is_declared_with_its_documentation() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.join("http")];
    let mut texts = vec![std::fs::read_to_string(src.join("http.rs")).expect("read")];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).expect("a folder").flatten() {
            if item.path().is_dir() {
                folders.push(item.path());
            } else if item.path().extension().is_some_and(|ext| ext == "rs") && item.file_name() != "ui.rs" {
                let text = std::fs::read_to_string(item.path()).expect("read");
                // Unit tests serve routes of their own.
                texts.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(texts.len() > 15);
    assert!(texts.iter().all(|text| !text.contains(".route(") && !text.contains(".route_service(")));
}
