//! Checks the structure of the source: imports point to lower layers, modules have no circles, pure code stays pure.
//!
//! The layers are those in the documentation of `src/lib.rs`. The test reads Rust tokens, so it ignores comments and strings
//! and sees paths inside macros.

mod circles;
mod source;

use source::{Name, Source, sources};

/// The layers, lowest first. A module imports from lower layers only, and not from its own layer.
const LAYERS: &[&[&str]] = &[
    &["content"],
    &["wire"],
    &["store"],
    &["net"],
    &["transfer"],
    &["fetch"],
    &["catalogue"],
    &["node"],
    &["http"],
    // Only `cli` uses these.
    &["config", "telemetry"],
    &["cli"],
];

/// Modules without async, files, sockets, clock and randomness.
const PURE: &[&str] = &["content", "wire"];
/// Words that pure modules do not use.
const IMPURE_WORDS: &[&str] =
    &["async", "await", "tokio", "libp2p", "rand", "getrandom", "SystemTime", "Instant"];
/// Parts of the standard library that pure modules do not use.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

/// Maximum number of lines in a file.
const MAX_LINES: usize = 500;

#[test]
fn the_source_has_no_violation() {
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
        ("attic.rs", "", "attic has no layer"),
        ("store.rs", "use crate::attic;", "store imports attic"),
        ("content/seal.rs", "async fn f() {}", "pure code uses async"),
        ("content/seal.rs", "use std::time::{Duration, Instant};", "pure code uses Instant"),
        ("wire.rs", "use std::{collections::BTreeMap, fs};", "pure code uses std::fs"),
        ("wire/bounds.rs", "fn f() { std::net::TcpStream::connect(a); }", "pure code uses std::net"),
        ("wire.rs", "use tokio::io::AsyncRead;", "pure code uses tokio"),
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
    /// The violations in this file, except circles.
    fn violations(&self) -> Vec<String> {
        let file = &self.file;
        let mut wrong = Vec::new();
        if self.lines > MAX_LINES {
            wrong.push(format!("{file}: {} lines, the limit is {MAX_LINES}: split it", self.lines));
        }
        if file.ends_with("/mod.rs") {
            wrong.push(format!("{file}: is a mod.rs; the main file of `x/` is `x.rs`"));
        }
        // lib.rs and main.rs may import from all layers.
        let Some(module) = self.module.first() else {
            return wrong;
        };
        let layer = |module: &String| LAYERS.iter().position(|layer| layer.contains(&module.as_str()));
        let Some(own) = layer(module) else {
            wrong.push(format!("{file}: {module} has no layer in the layering test"));
            return wrong;
        };
        for Name { path, .. } in self.names.iter().filter(|name| name.local) {
            if let Some(target) = path.first().filter(|target| *target != module)
                && layer(target).is_none_or(|other| other >= own)
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
            wrong.extend(words.map(|word| format!("{file}: pure code uses {word}")));
            for Name { path, .. } in self.names.iter().filter(|name| name.path[0] == "std") {
                if path.get(1).is_some_and(|part| IMPURE_STD.contains(&part.as_str())) {
                    wrong.push(format!("{file}: pure code uses {}", path.join("::")));
                }
            }
        }
        wrong
    }
}
