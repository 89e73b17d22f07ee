//! Names and contents in forms and queries arrive as the client has them, or are refused.

use super::{
    api::{Api, answer},
    binary::DEADLINE,
};

const FORM: [(&str, &str); 1] = [("content-type", "multipart/form-data; boundary=B")];

fn part(headers: &[u8], content: &[u8]) -> Vec<u8> {
    [b"--B\r\n", headers, b"\r\n\r\n", content, b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], b"--B--\r\n"].concat()
}

fn names(api: &Api) -> Vec<String> {
    let list = api.get("/api/v1/files?sort=name").is(200).json();
    let files = list["files"].as_array().expect("a list").iter();
    files.map(|file| file["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_part_of_a_form_is_stored_under_its_name_or_refused() {
    let (_machine, _node, api) = Api::start();
    let send = |parts: &[Vec<u8>]| api.ask("POST", "/api/v1/files", &FORM, &form(parts));
    let disposition = |rest: &str| format!("Content-Disposition: form-data; name=\"f\"; {rest}").into_bytes();
    for (rest, name) in [
        ("filename*=UTF-8''%C3%BC.txt", "ü.txt"),
        ("filename=\"old\"; filename*=UTF-8''new.txt", "new.txt"),
        ("Filename=\"case.txt\"", "case.txt"),
        ("filename=\"a%22b%0Ac\"", "a\"b\nc"),
        ("filename=\"trailing\\\"", "trailing\\"),
    ] {
        let stored = send(&[part(&disposition(rest), name.as_bytes())]).is(201).json();
        assert_eq!(stored["files"][0]["name"].as_str().unwrap_or_default(), name, "{rest}");
    }
    assert_eq!(
        send(&[part(&disposition("filename=\"\""), b"nameless")]).is(201).json()["files"][0]["name"],
        serde_json::Value::Null
    );
    let stored = names(&api);
    let latin1 = [&disposition("filename=\"")[..], b"\xfc.txt\""].concat();
    let encoded = |header: &str| [&disposition("filename=e")[..], b"\r\n", header.as_bytes()].concat();
    for headers in [
        latin1,
        disposition("filename=\"open"),
        disposition("filename*=UTF-8''%FC"),
        disposition("filename*0=\"a\"; filename*1=\"b\""),
        b"Content-Type: text/plain".to_vec(),
        encoded("Content-Transfer-Encoding: base64"),
        encoded("Content-Encoding: gzip"),
        encoded("Content-Type: multipart/mixed; boundary=C"),
    ] {
        send(&[part(&headers, b"content")]).refuses(400, "bad_request");
    }
    assert_eq!(names(&api), stored, "nothing more");
    // The files before it are stored, and the answer says so.
    let first = part(&disposition("filename=first"), b"first");
    let refused = send(&[first, part(&disposition("filename=\"open"), b"x")]).refuses(400, "bad_request");
    assert!(refused.text().contains("files stored before it: 1"), "{}", refused.text());
    // A file input without a file, as browsers send it.
    let nothing = part(&disposition("filename=\"\"\r\nContent-Type: application/octet-stream"), b"");
    let chosen = part(&disposition("filename=\"chosen\""), b"");
    let stored = send(&[nothing.clone(), chosen]).is(201).json();
    assert_eq!(
        (stored["files"].as_array().map(Vec::len), &stored["files"][0]["name"]),
        (Some(1), &"chosen".into())
    );
    send(&[nothing]).refuses(400, "bad_request");
}

#[test]
fn a_name_in_a_query_that_is_not_utf8_is_refused() {
    let (_machine, _node, api) = Api::start();
    let refused = api.ask("POST", "/api/v1/files?name=%FC", &[], b"x").refuses(400, "bad_request");
    assert!(refused.text().contains("query parameter `name`: it is not UTF-8"), "{}", refused.text());
    for path in ["/api/v1/files?q=%FC", "/api/get?key=%FF", "/api/v1/files/%FC"] {
        api.get(path).refuses(400, "bad_request");
    }
    api.ask("DELETE", "/api/delete?key=%FC", &[], b"").refuses(400, "bad_request");
    api.ask("POST", "/api/v1/files?name=%C3%BC", &[], b"x").is(201);
    assert_eq!(names(&api), ["ü"]);
}

#[test]
fn a_body_that_would_not_be_stored_as_it_was_meant_is_refused() {
    let (_machine, _node, api) = Api::start();
    for (method, path) in [("POST", "/api/v1/files"), ("POST", "/api/v1/uploads"), ("POST", "/api/store")] {
        let refused =
            api.ask(method, path, &[("content-encoding", "gzip")], b"x").refuses(415, "bad_request");
        assert_eq!(refused.header("accept-encoding"), Some("identity"));
        assert!(refused.text().contains("Content-Encoding"), "{}", refused.text());
    }
    api.ask("POST", "/api/v1/files?name=plain", &[("content-encoding", "identity")], b"x").is(201);
    // A request of HTTP/1.0 without a length seems to have no body.
    let send = |path: &str, headers: &str| {
        let mut socket = std::net::TcpStream::connect(&api.addr).expect("connected");
        socket.set_read_timeout(Some(DEADLINE)).expect("set");
        let token = api.token.as_deref().expect("a token");
        let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
        std::io::Write::write_all(&mut socket, format!("{head}{headers}\r\n").as_bytes()).expect("sent");
        answer(socket, false)
    };
    let refused = send("/api/v1/files?name=lost", "").refuses(411, "bad_request");
    assert!(refused.text().contains("the length of the body is missing"), "{}", refused.text());
    send("/api/store", "Content-Type: multipart/form-data; boundary=B\r\n").refuses(411, "bad_request");
    send("/api/v1/files?name=empty", "Content-Length: 0\r\n").is(201);
    send("/api/v1/gc", "").is(200);
    assert_eq!(names(&api), ["empty", "plain"]);
}

#[test]
fn an_error_does_not_repeat_a_token_that_is_in_the_path() {
    let (_machine, _node, api) = Api::start();
    let token = api.token.clone().expect("a token");
    for path in [format!("/api/v1/files/{token}"), format!("/api/get?key={token}"), format!("/{token}")] {
        let refused = api.get(&path).refuses(404, "not_found");
        assert!(!refused.text().contains(&token[..20]), "{}", refused.text());
    }
    assert!(api.get("/api/v1/files/a.txt").refuses(404, "not_found").text().contains("a.txt"));
}
