//! Checks the structure of the source: imports go down only, no module has a circle inside, pure code stays pure.
//!
//! The floors are those on the first page of `src/lib.rs`. Each file is read as Rust tokens, so comments and strings
//! do not count and paths inside macros do.

mod circles;
mod source;

use source::{Name, Source, sources};

/// The floors, lowest first. A module imports from lower floors only; modules of one floor do not import each other.
const FLOORS: &[&[&str]] = &[
    &["content"],
    &["wire"],
    &["store"],
    &["net"],
    &["transfer"],
    &["fetch"],
    &["catalogue"],
    &["redundancy"],
    &["node"],
    &["http"],
    // Beside the floors: they describe a node from outside, and only the top floor uses them.
    &["config", "telemetry"],
    &["cli"],
];

/// Modules that compute and nothing else: no async, no files, no sockets, no clock.
const PURE: &[&str] = &["content", "wire"];
/// Words that no pure module uses.
const IMPURE_WORDS: &[&str] =
    &["async", "await", "tokio", "libp2p", "rand", "getrandom", "SystemTime", "Instant"];
/// Parts of the standard library that no pure module uses.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

/// Lines of the longest file; a longer one holds two ideas.
const MAX_LINES: usize = 500;

#[test]
fn the_source_obeys_the_layering() {
    let sources = sources();
    let wrong: Vec<String> = sources.iter().flat_map(Source::violations).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn each_planted_violation_is_found() {
    let planted = [
        ("store/disk.rs", "use crate::node::Node;", "store imports node"),
        ("store.rs", "use crate::{content::cid::Cid, net::{Net, transfer}};", "store imports net"),
        ("net/task.rs", "fn f() { crate::fetch::go(); }", "net imports fetch"),
        ("net/transfer/client.rs", "use super::super::super::http::serve;", "net imports http"),
        ("wire.rs", "use super::store;", "wire imports store"),
        ("wire.rs", "#[cfg(test)] mod tests { use super::super::store; }", "wire imports store"),
        ("node.rs", "pub(crate) use crate::cli as door;", "node imports cli"),
        ("node.rs", "use crate::config::Config;", "node imports config"),
        ("telemetry.rs", "use crate::config::Config;", "telemetry imports config"),
        ("http.rs", "fn f() -> crate::telemetry::Meter { g() }", "http imports telemetry"),
        ("fetch.rs", "macro_rules! m { () => { $crate::node::Node } }", "fetch imports node"),
        ("store.rs", "use crate::Node;", "store imports Node"),
        ("attic.rs", "", "attic has no floor"),
        ("store.rs", "use crate::attic;", "store imports attic"),
        ("content/seal.rs", "async fn f() {}", "pure code says async"),
        ("content/seal.rs", "use std::time::{Duration, Instant};", "pure code says Instant"),
        ("wire.rs", "use std::{collections::BTreeMap, fs};", "pure code uses std::fs"),
        ("wire/bounds.rs", "fn f() { std::net::TcpStream::connect(a); }", "pure code uses std::net"),
        ("wire.rs", "use tokio::io::AsyncRead;", "pure code says tokio"),
        ("net.rs", "use serde_cbor::Value;", "serde_cbor outside wire"),
        ("store/mod.rs", "", "is a mod.rs"),
    ];
    for (file, text, expected) in planted {
        let found = Source::new(file, text).violations();
        assert!(
            found.iter().any(|v| v.contains(expected)),
            "{file}: `{text}`: {expected:?} not in {found:?}"
        );
    }
    let long = Source::new("node/put.rs", &"// a line\n".repeat(MAX_LINES + 1));
    assert!(long.violations().iter().any(|v| v.contains("501 lines")));
}

#[test]
fn allowed_source_has_no_violation() {
    let fine = [
        ("store.rs", "//! Like `crate::node::Node`.\nuse crate::content::{cid::Cid, hash};"),
        ("cli/get.rs", "use crate::{config::Config, node::Node, telemetry}; use super::output;"),
        ("config.rs", "use crate::{content::secret::ClusterKey, node::NodeOptions};"),
        ("net/transfer/client.rs", "use super::{super::Net, limit}; use crate::wire::Request;"),
        (
            "store/disk.rs",
            "mod tests { use super::super::layout; mod deep { use super::super::super::lock; } }",
        ),
        (
            "store.rs",
            "const A: &str = \"use crate::node;\"; const B: &str = r#\"crate::\"net\"\"#; /* crate::net /* */ */",
        ),
        ("wire.rs", "use serde_cbor::Value; use std::{fmt, collections::BTreeMap};"),
        ("content/cid.rs", "/// Not `async`.\nfn f<'a>(c: char) -> bool { c == 'a' || c == '\"' }"),
        ("net.rs", "use std::{fs, time::Instant}; async fn f() { tokio::spawn(g()).await; }"),
        ("main.rs", "use storgo::cli; fn main() { cli::main() }"),
        ("lib.rs", "pub mod cli; pub use node::Node;"),
        ("node/put.rs", &"// a line\n".repeat(MAX_LINES)),
    ];
    for (file, text) in fine {
        assert_eq!(Source::new(file, text).violations(), Vec::<String>::new(), "{file}: `{text}`");
    }
}

impl Source {
    /// Everything that is wrong with this file alone.
    fn violations(&self) -> Vec<String> {
        let file = &self.file;
        let mut wrong = Vec::new();
        if self.lines > MAX_LINES {
            wrong.push(format!("{file}: {} lines, the limit is {MAX_LINES}: split it", self.lines));
        }
        if file.ends_with("/mod.rs") {
            wrong.push(format!("{file}: is a mod.rs; the face of `x/` is `x.rs`"));
        }
        // lib.rs and main.rs stand above all floors.
        let Some(module) = self.module.first() else {
            return wrong;
        };
        let floor = |module: &String| FLOORS.iter().position(|floor| floor.contains(&module.as_str()));
        let Some(own) = floor(module) else {
            wrong.push(format!("{file}: {module} has no floor in the layering test"));
            return wrong;
        };
        for Name { path, .. } in self.names.iter().filter(|name| name.local) {
            if let Some(target) = path.first().filter(|target| *target != module)
                && floor(target).is_none_or(|other| other >= own)
            {
                wrong.push(format!(
                    "{file}: {module} imports {target}, which is not below it: {}",
                    path.join("::")
                ));
            }
        }
        if module != "wire" && self.words.contains("serde_cbor") {
            wrong.push(format!("{file}: serde_cbor outside wire"));
        }
        if PURE.contains(&module.as_str()) {
            let words = IMPURE_WORDS.iter().filter(|word| self.words.contains(**word));
            wrong.extend(words.map(|word| format!("{file}: pure code says {word}")));
            for Name { path, .. } in self.names.iter().filter(|name| name.path[0] == "std") {
                if path.get(1).is_some_and(|part| IMPURE_STD.contains(&part.as_str())) {
                    wrong.push(format!("{file}: pure code uses {}", path.join("::")));
                }
            }
        }
        wrong
    }
}
