//! Access: tokens, scopes, sessions, origins.

use serde_json::{Value, json};

use super::{
    api::{Answer, Api},
    binary::{Machine, eventually},
};

fn token(api: &Api, scope: &str, ttl_s: Option<u64>) -> (String, String) {
    let made =
        api.post("/api/v1/tokens", &json!({ "name": scope, "scope": scope, "ttl_s": ttl_s })).is(201).json();
    let text = |field: &str| made[field].as_str().expect("text").to_owned();
    (text("id"), text("token"))
}

/// The session cookie that a response sets, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    set.split(';').next().expect("a pair").to_owned()
}

#[test]
fn a_token_allows_what_its_scope_allows_until_it_expires() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let report = machine.provide("a.txt", b"some bytes");
    let file = format!("/api/v1/files/{}", report["cid"].as_str().expect("a CID"));
    let admin = Api::of(&machine, &node);
    let (read_id, secret) = token(&admin, "read", None);
    let read = admin.with(&secret);
    let write = admin.with(&token(&admin, "write", None).1);

    assert_eq!(read.get(&format!("{file}/content")).is(200).text(), "some bytes");
    assert_eq!(read.get(&file).is(200).json()["link"], json!(null), "links need the scope `write`");
    assert_eq!(read.get("/api/v1/files").is(200).json()["files"][0]["link"], json!(null));
    assert_eq!(write.get(&file).is(200).json()["link"], report["link"]);
    for (method, path) in
        [("POST", "/api/v1/files?name=x"), ("DELETE", file.as_str()), ("POST", "/api/v1/gc")]
    {
        let refused = read.ask(method, path, &[], b"x").refuses(403, "denied");
        assert!(refused.text().contains("the scope `write`"), "{}", refused.text());
    }
    for api in [&read, &write] {
        api.get("/api/v1/tokens").refuses(403, "denied");
        api.get("/api/v1/settings").refuses(403, "denied");
        api.post("/api/v1/tokens", &json!({ "name": "x", "scope": "admin" })).refuses(403, "denied");
        api.ask("POST", "/api/v1/signin", &[], b"").refuses(403, "denied");
    }
    write.ask("POST", "/api/v1/files?name=b.txt", &[], b"more").is(201);

    // The node keeps only the hash of the secret.
    let listed = admin.get("/api/v1/tokens").is(200);
    assert!(!listed.text().contains(&secret) && listed.text().contains(&read_id), "{}", listed.text());
    assert!(
        listed.json().as_array().is_some_and(|all| all.len() == 2 && all[0]["last_used_unix_s"].is_i64())
    );
    let index = std::fs::read(machine.data().join("index.redb")).expect("an index");
    assert!(!index.windows(secret.len()).any(|part| part == secret.as_bytes()));

    admin.ask("DELETE", &format!("/api/v1/tokens/{read_id}"), &[], b"").is(204);
    admin.ask("DELETE", &format!("/api/v1/tokens/{read_id}"), &[], b"").refuses(404, "not_found");
    read.get(&file).refuses(401, "denied");
    let short = admin.with(&token(&admin, "read", Some(1)).1);
    eventually("the token ends", || short.get("/api/v1/status").status == 401);
    for wrong in ["", "storgo_", "x", &secret[..secret.len() - 1]] {
        let refused = admin.with(wrong).get("/api/v1/status").refuses(401, "denied");
        assert!(wrong.len() < 8 || !refused.text().contains(wrong));
    }
    admin.bare().get("/api/v1/status").refuses(401, "denied");
    admin.ask("GET", "/api/v1/status", &[("authorization", "Basic eDp5")], b"").refuses(401, "denied");
    let _ = node.stop();

    // Tokens and revocations survive a restart.
    let node = machine.start::<&str>([]);
    let again = Api::of(&machine, &node);
    again.with(write.token.as_deref().expect("one")).get(&file).is(200);
    again.with(&secret).get(&file).refuses(401, "denied");
}

#[test]
fn the_command_line_makes_lists_and_revokes_tokens() {
    let machine = Machine::new();
    // Also without a running node.
    machine.run(["init"]).ok();
    let early = machine.run(["token", "create", "--name", "early"]).ok().one_line();
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    api.with(&early).get("/api/v1/status").is(200);
    let made = machine.run(["token", "create", "--scope", "write", "--ttl", "1h", "--json"]).ok().json();
    let (id, secret) = (made["id"].as_str().expect("an id"), made["token"].as_str().expect("a token"));
    api.with(secret).get("/api/v1/status").is(200);
    let table = machine.run(["token", "ls"]).ok().text();
    assert!(table.contains(id) && table.contains("early") && !table.contains(secret), "{table}");
    machine.run(["token", "revoke", id]).ok();
    api.with(secret).get("/api/v1/status").refuses(401, "denied");
    machine.run(["token", "revoke", id]).fails(4, &["no token has this id"]);
    // By name, as long as it names one token.
    machine.run(["token", "revoke", "early"]).ok();
    api.with(&early).get("/api/v1/status").refuses(401, "denied");
    for _ in 0..2 {
        let made = machine.run(["token", "create", "--name", "twice", "--ttl", "30d"]).ok();
        assert!(made.stderr.contains("\"twice\" has the scope read and expires 2"), "{}", made.stderr);
    }
    machine.run(["token", "revoke", "twice"]).fails(2, &["2 tokens are named \"twice\"", "ids"]);
    machine.run(["token", "create", "--scope", "all"]).fails(2, &["read, write, admin"]);
    machine.run(["token", "create", "--ttl", "soon"]).fails(2, &["--ttl"]);
    machine.run(["token", "create", "--ttl", "30"]).fails(2, &["30 has no unit", "30d"]);
    machine.run(["token", "create", "--ttl", "0s"]).fails(2, &["1 to 3153600000 seconds"]);
}

#[test]
fn a_session_survives_a_restart_and_only_its_hash_is_stored() {
    let (machine, node, api) = Api::start();
    let sign_in = |api: &Api, body: Value| cookie(&api.bare().post("/api/v1/session", &body).is(200));
    let ask = |api: &Api, cookie: &str, method: &str| {
        let ours = format!("http://{}", api.addr);
        api.bare().ask(method, "/api/v1/session", &[("cookie", cookie), ("origin", &ours)], b"")
    };
    let (id, secret) = token(&api, "read", None);
    let of_token = sign_in(&api, json!({ "token": secret }));
    let of_node = sign_in(&api, json!({ "token": api.token.as_deref() }));
    let ended = sign_in(&api, json!({ "token": secret }));
    ask(&api, &ended, "DELETE").is(204);
    let index = std::fs::read(machine.data().join("index.redb")).expect("the index");
    for cookie in [&of_token, &of_node, &ended] {
        let id = cookie.split_once('=').expect("a cookie").1.as_bytes();
        assert!(!index.windows(id.len()).any(|bytes| bytes == id), "the id of a session is on the disk");
    }
    node.running.kill();

    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    assert_eq!(ask(&api, &of_token, "GET").is(200).json()["token"], json!(id));
    assert_eq!(ask(&api, &of_node, "GET").is(200).json()["scope"], "admin");
    ask(&api, &ended, "GET").refuses(401, "denied");
    api.ask("DELETE", &format!("/api/v1/tokens/{id}"), &[], b"").is(204);
    node.running.kill();

    // A new token of the node ends the sessions that were made from the old one.
    std::fs::remove_file(machine.data().join("api.token")).expect("removed");
    let node = machine.start::<&str>([]);
    let api = Api::of(&machine, &node);
    for cookie in [&of_token, &of_node] {
        ask(&api, cookie, "GET").refuses(401, "denied");
    }
}

#[test]
fn a_sign_in_link_works_once_and_no_other_site_can_use_the_session() {
    let (machine, _node, api) = Api::start();
    let bare = api.bare();
    let url = machine.run(["web"]).ok().one_line();
    let code = url.strip_prefix(&format!("http://{}/#signin=", api.addr)).expect("a link");
    let session = bare.post("/api/v1/session", &json!({ "code": code })).is(200);
    assert_eq!((&session.json()["scope"], &session.json()["token"]), (&json!("admin"), &json!(null)));
    bare.post("/api/v1/session", &json!({ "code": code })).refuses(401, "denied");
    bare.post("/api/v1/session", &json!({ "token": "x" })).refuses(401, "denied");
    let cookie = cookie(&session);
    let ours = format!("http://{}", api.addr);
    let ask = |method: &str, path: &str, extra: &[(&str, &str)]| {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend_from_slice(extra);
        bare.ask(method, path, &headers, b"")
    };
    ask("GET", "/api/v1/session", &[]).is(200);
    ask("GET", "/api/v1/files", &[("sec-fetch-site", "same-origin")]).is(200);
    ask("POST", "/api/v1/gc", &[("origin", &ours)]).is(200);
    ask("POST", "/api/v1/gc", &[("sec-fetch-site", "same-origin")]).is(200);
    // No origin, another site, another port of this machine, and a page with the origin `null`.
    ask("POST", "/api/v1/gc", &[]).refuses(403, "denied");
    for origin in ["http://evil.example", "http://127.0.0.1:1", "null"] {
        ask("POST", "/api/v1/gc", &[("origin", origin)]).refuses(403, "denied");
        ask("GET", "/api/v1/files", &[("origin", origin)]).refuses(403, "denied");
        let code = machine.run(["web"]).ok().one_line();
        let code = code.split_once('=').expect("a code").1.to_owned();
        let headers = [("origin", origin), ("content-type", "application/json")];
        let body = json!({ "code": code }).to_string();
        bare.ask("POST", "/api/v1/session", &headers, body.as_bytes()).refuses(403, "denied");
    }
    ask("GET", "/api/v1/files", &[("sec-fetch-site", "cross-site")]).refuses(403, "denied");
    // Another site's name that resolves to this node.
    ask("GET", "/api/v1/files", &[("host", "evil.example")]).refuses(421, "denied");
    ask("DELETE", "/api/v1/session", &[("origin", &ours)]).is(204);
    ask("GET", "/api/v1/session", &[]).refuses(401, "denied");
    bare.get("/api/v1/session").refuses(401, "denied");

    // A session made from a token can do what the token can, and ends with it.
    let (id, secret) = token(&api, "read", None);
    let session = bare.post("/api/v1/session", &json!({ "token": secret })).is(200);
    assert_eq!((&session.json()["scope"], &session.json()["token"]), (&json!("read"), &json!(id)));
    let cookie = self::cookie(&session);
    let headers = [("cookie", cookie.as_str()), ("origin", ours.as_str())];
    assert_eq!(bare.ask("GET", "/api/v1/session", &headers, b"").is(200).json()["token"], json!(id));
    bare.ask("GET", "/api/v1/status", &headers, b"").is(200);
    bare.ask("POST", "/api/v1/gc", &headers, b"").refuses(403, "denied");
    api.ask("DELETE", &format!("/api/v1/tokens/{id}"), &[], b"").is(204);
    bare.ask("GET", "/api/v1/status", &headers, b"").refuses(401, "denied");
}

#[test]
fn every_invalid_request_gets_a_problem_document() {
    let (_machine, _node, api) = Api::start();
    let json_type = [("content-type", "application/json")];
    for broken in ["{", "[]", "{\"name\":1}", "{\"name\":\"a\",\"scope\":\"root\"}", "", "\u{0}"] {
        api.ask("POST", "/api/v1/tokens", &json_type, broken.as_bytes()).refuses(400, "bad_request");
    }
    api.ask("POST", "/api/v1/tokens", &[], b"{}").refuses(415, "bad_request");
    let large = format!("{{\"name\":\"{}\",\"scope\":\"read\"}}", "x".repeat(100_000));
    api.ask("POST", "/api/v1/tokens", &json_type, large.as_bytes()).refuses(413, "bad_request");
    let secret = "hunter2-hunter2";
    let echoed = api.post("/api/v1/session", &json!({ "token": [secret] })).refuses(400, "bad_request");
    assert!(!echoed.text().contains(secret), "{}", echoed.text());
    let wrong = api.ask("PUT", "/api/v1/files", &[], b"x").refuses(405, "bad_request");
    assert!(wrong.header("allow").is_some_and(|allow| allow.contains("POST")), "{:?}", wrong.headers);
    for path in [
        "/api/v1/nothing",
        "/nothing",
        "/api/v1/files/../../../etc/passwd",
        "/api/v1/files/..%2f..%2fapi.token/content",
        "/api/v1/files/%2e%2e/content",
        "/api/v1/files/%00/content",
        "//api/v1/status",
        "/api/v1/files//content",
        "/api/v1/uploads/../../api.token",
    ] {
        api.get(path).refuses(404, "not_found");
    }
    api.get("/api/v1/files/%ff/content").refuses(400, "bad_request");
    for query in ["limit=x", "cursor=x", "nonsense=1"] {
        api.get(&format!("/api/v1/files?{query}")).refuses(400, "bad_request");
    }
    api.get("/api/v1/blocks/x").refuses(400, "bad_request");
}
