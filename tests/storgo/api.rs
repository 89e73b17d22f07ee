//! Requests to the HTTP API of a real node, written to the socket byte by byte.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use super::binary::{DEADLINE, Live, Machine};

/// The API of a node, with the token that requests carry.
#[derive(Clone)]
pub struct Api {
    pub addr: String,
    pub token: Option<String>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Api {
    /// Starts a node. It and its machine last as long as the returned values.
    pub fn start() -> (Machine, Live, Self) {
        let machine = Machine::new();
        let node = machine.start::<&str>([]);
        let api = Self::of(&machine, &node);
        (machine, node, api)
    }

    /// The API of this node, with the node's own token.
    pub fn of(machine: &Machine, node: &Live) -> Self {
        let token = std::fs::read_to_string(machine.data().join("api.token")).expect("a token");
        let addr = node.status["http"].as_str().expect("it serves").into();
        Self { addr, token: Some(token.trim().into()) }
    }

    /// The same API with another token.
    pub fn with(&self, token: &str) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// The same API without a token.
    pub fn bare(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends a request and reads its response. `headers` replace the default ones.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.send(method, path, headers, body.len() as u64);
        // A server that refuses a body may close the connection before all of it is sent.
        drop(stream.write_all(body));
        answer(stream, method == "HEAD")
    }

    /// Sends the head of a request.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], len: u64) -> TcpStream {
        let mut stream = TcpStream::connect(&self.addr).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        let given = |name: &str| headers.iter().any(|(given, _)| *given == name);
        if !given("host") {
            head.extend([format!("host: {}\r\n", self.addr)]);
        }
        if let (Some(token), false) = (&self.token, given("authorization") || given("cookie")) {
            head.extend([format!("authorization: Bearer {token}\r\n")]);
        }
        if (len > 0 || method == "POST" || method == "PATCH") && !given("transfer-encoding") {
            head.extend([format!("content-length: {len}\r\n")]);
        }
        for (name, value) in headers {
            head.extend([format!("{name}: {value}\r\n")]);
        }
        stream.write_all((head + "\r\n").as_bytes()).expect("sent");
        stream
    }
}

/// Reads a response to its end.
#[track_caller]
pub fn answer(mut stream: impl Read, no_body: bool) -> Answer {
    let mut bytes = Vec::new();
    // A response may have arrived before the connection was reset.
    if let Err(e) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "no answer: {e}");
    }
    Answer::parse(&bytes, no_body)
}

impl Answer {
    #[track_caller]
    fn parse(bytes: &[u8], no_body: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut answer = Self { status: status.expect("a status"), headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding").is_some() && !no_body {
            answer.body = unchunk(&answer.body);
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        assert!(self.header("x-request-id").is_some(), "{:?}", self.headers);
        self
    }

    /// Asserts that this is a problem document with this status and code.
    #[track_caller]
    pub fn refuses(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()), "{problem}");
        for field in ["hint", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
        answer
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let len = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..end]), 16).expect("a length");
        if len == 0 || bytes.len() < end + 2 + len {
            break;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + len]);
        bytes = &bytes[end + 4 + len..];
    }
    whole
}
