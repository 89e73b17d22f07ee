//! Server-sent events.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::api::Api;

/// A stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(api: &Api, last: Option<&str>) -> Self {
        let headers: Vec<_> = last.map(|last| ("last-event-id", last)).into_iter().collect();
        let mut events = Self(BufReader::new(api.send("GET", "/api/v1/events", &headers, 0)));
        // The stream begins with a comment.
        while !events.line().starts_with(':') {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).expect("read") > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// Returns the next event of this type, with its id.
    fn next(&mut self, kind: &str) -> (String, Value) {
        let (mut id, mut data) = (String::new(), Value::Null);
        loop {
            let line = self.line();
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).expect("JSON");
            } else if line.is_empty() && data["type"] == kind {
                return (id, data);
            }
        }
    }
}

#[test]
fn a_client_that_reconnects_gets_the_events_it_missed() {
    let (_machine, _node, api) = Api::start();
    let put = |name: &str| {
        let stored =
            api.ask("POST", &format!("/api/v1/files?name={name}"), &[], name.as_bytes()).is(201).json();
        stored["cid"].clone()
    };
    let mut events = Events::open(&api, None);
    let first = put("first");
    let (id, event) = events.next("stored");
    assert_eq!(event["cid"], first);
    assert!(!id.is_empty());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let at = u128::from(event["at_unix_ms"].as_u64().expect("a moment"));
    assert!(now.as_millis().abs_diff(at) < 600_000, "{event}");
    drop(events);
    let missed = [put("second"), put("third")];
    let mut events = Events::open(&api, Some(&id));
    for cid in &missed {
        let (next, event) = events.next("stored");
        assert_eq!(&event["cid"], cid);
        assert_ne!(next, id);
    }
    let fourth = put("fourth");
    assert_eq!(events.next("stored").1["cid"], fourth, "live events follow the missed ones");
    // After an id of another run: a `skipped` event, and all kept events.
    let mut events = Events::open(&api, Some("00000000-5"));
    events.next("skipped");
    assert_eq!(events.next("stored").1["cid"], first);
    api.with("x").get("/api/v1/events").refuses(401, "denied");
}

#[test]
fn an_event_stream_ends_with_its_token() {
    let (_machine, _node, api) = Api::start();
    let token = |ttl: Option<u64>| {
        let new = serde_json::json!({ "name": "t", "scope": "read", "ttl_s": ttl });
        api.post("/api/v1/tokens", &new).is(201).json()
    };
    // Returns when the stream has begun.
    let listen = |api: &Api| {
        let mut stream = api.send("GET", "/api/v1/events", &[], 0);
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    let of = |made: &serde_json::Value| api.with(made["token"].as_str().expect("one"));
    let mine = listen(&api);
    let (made, short) = (token(None), token(Some(10)));
    let (expired, revoked) = (listen(&of(&short)), listen(&of(&made)));
    api.ask("DELETE", &format!("/api/v1/tokens/{}", made["id"].as_str().expect("one")), &[], b"").is(204);
    // The streams end; reading does not time out.
    for mut stream in [revoked, expired] {
        stream.read_to_end(&mut Vec::new()).expect("it ends");
    }
    mine.set_nonblocking(true).expect("set");
    let mut rest = vec![0; 4096];
    let end = loop {
        match (&mine).read(&mut rest) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(e) => break e.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    assert!(!end, "the stream of another token goes on");
}

/// Sends 8 MiB, slowly until the first progress event arrives. Returns that event.
fn write_slowly(stream: &mut TcpStream, events: &mut Events) -> Value {
    const LEN: usize = 8 << 20;
    let (logged, first_event) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            // At this rate all of it would take 40 s.
            while sent < LEN && first_event.recv_timeout(Duration::from_millis(20)).is_err() {
                stream.write_all(&[7; 4 << 10]).expect("sent");
                sent += 4 << 10;
            }
            stream.write_all(&vec![7; LEN - sent]).expect("sent");
        });
        let first = events.next("transfer").1;
        logged.send(()).expect("the sender waits");
        first
    })
}

#[test]
fn the_parts_of_an_upload_are_one_transfer() {
    let (_machine, _node, api) = Api::start();
    let tus = ("tus-resumable", "1.0.0");
    let length = (16 << 20).to_string();
    let begun = api.ask("POST", "/api/v1/uploads", &[tus, ("upload-length", &length)], b"").is(201);
    let path = begun.header("location").expect("a place");
    let mut events = Events::open(&api, None);
    let (mut id, mut before) = (None, false);
    for at in [0_u64, 8 << 20] {
        let offset = at.to_string();
        let headers =
            [tus, ("upload-offset", offset.as_str()), ("content-type", "application/offset+octet-stream")];
        let mut stream = api.send("PATCH", path, &headers, 8 << 20);
        let mut event = write_slowly(&mut stream, &mut events);
        super::api::answer(stream, false).is(204);
        let whole = at + (8 << 20);
        loop {
            let number = event["id"].clone();
            assert_eq!(*id.get_or_insert_with(|| number.clone()), number);
            assert!(!before, "the transfer has ended already");
            before = event["ended"] == true;
            if event["done"] == whole && (before || at == 0) {
                break;
            }
            event = events.next("transfer").1;
        }
        assert_eq!(before, at > 0, "the transfer ends with its last part");
    }
}

#[test]
fn a_transfer_reports_its_progress() {
    let (_machine, _node, api) = Api::start();
    let mut events = Events::open(&api, None);
    let mut stream = api.send("POST", "/api/v1/files?name=slow.bin", &[], 8 << 20);
    let event = write_slowly(&mut stream, &mut events);
    super::api::answer(stream, false).is(201);
    assert_eq!(
        (&event["what"], &event["name"], &event["total"]),
        (&"put".into(), &"slow.bin".into(), &(8 << 20).into())
    );
    let mut last = event;
    while last["ended"] == false {
        assert!(last["rate"].as_u64().is_some_and(|rate| rate > 0), "{last}");
        last = events.next("transfer").1;
    }
    assert_eq!(last["done"], 8 << 20);
}
