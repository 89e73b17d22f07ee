//! The house stands: imports go downwards only, what is pure stays pure, a file stays one idea.
//!
//! The floors are those of the essay in `src/lib.rs`. The check reads the source as tokens (comments and strings
//! do not count) and follows `crate::…` and `super::…` paths, in `use` trees and anywhere else.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The floors, lowest first. A module imports from lower floors only; modules of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["content"],
    &["wire"],
    &["store", "net"],
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
const IMPURE_WORDS: &[&str] = &["async", "await", "tokio", "libp2p", "SystemTime", "Instant"];
/// Parts of the standard library that no pure module uses.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

/// Lines of the longest file; past that it is two ideas.
const MAX_LINES: usize = 500;

#[test]
fn the_source_obeys_the_layering() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 20, "the source was not found in {}", src.display());
    let violations: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let name =
                path.strip_prefix(&src).expect("collected below src").to_string_lossy().replace('\\', "/");
            check(&name, &fs::read_to_string(path).expect("readable source"))
        })
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_planted_violation_is_seen() {
    let planted = [
        ("store/disk.rs", "use crate::node::Node;", "store imports node"),
        ("store.rs", "use crate::{content::cid::Cid, net::{Net, NetError}};", "store imports net"),
        ("net.rs", "use crate::store::Store;", "net imports store"),
        ("net/task.rs", "fn f() { crate::fetch::go(); }", "net imports fetch"),
        ("transfer/client.rs", "use super::super::http::serve;", "transfer imports http"),
        ("wire.rs", "use super::store;", "wire imports store"),
        ("wire.rs", "mod tests { use super::super::store; }", "wire imports store"),
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
    for (file, source, expected) in planted {
        let found = check(file, source);
        assert!(
            found.iter().any(|v| v.contains(expected)),
            "{file}: `{source}`: {expected:?} not in {found:?}"
        );
    }
    let long = "// a line\n".repeat(MAX_LINES + 1);
    assert!(check("node/put.rs", &long).iter().any(|v| v.contains("501 lines")));
}

#[test]
fn what_is_allowed_is_not_complained_about() {
    let fine = [
        ("store.rs", "//! Like `crate::node::Node`.\nuse crate::content::{cid::Cid, hash};"),
        ("cli/get.rs", "use crate::{config::Config, node::Node, telemetry}; use super::output;"),
        ("config.rs", "use crate::{content::secret::ClusterKey, node::NodeOptions};"),
        ("transfer/client.rs", "use super::{super::net::Net, limit}; use crate::wire::Request;"),
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
    for (file, source) in fine {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file}: `{source}`");
    }
}

/// All `.rs` files below a folder.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

/// Everything that is wrong with one file; `name` is relative to `src`, with `/`.
fn check(name: &str, source: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{name}: {lines} lines, {MAX_LINES} are the limit: it is two ideas"));
    }
    if name.ends_with("/mod.rs") {
        wrong.push(format!("{name}: is a mod.rs; the face of `x/` is `x.rs`"));
    }
    // The crate's face and the binary stand above all floors.
    if matches!(name, "lib.rs" | "main.rs") {
        return wrong;
    }
    let modules: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    let module = modules[0];
    let Some(own) = floor(module) else {
        wrong.push(format!("{name}: {module} has no floor in the layering test"));
        return wrong;
    };
    for (line, target) in imports(&modules, source) {
        if target != module && floor(&target).is_none_or(|other| other >= own) {
            wrong.push(format!("{name}:{line}: {module} imports {target}, which is not below it"));
        }
    }
    let tokens = tokens(source);
    if module != "wire" {
        wrong.extend(
            tokens
                .iter()
                .filter(|(_, word)| word == "serde_cbor")
                .map(|(line, _)| format!("{name}:{line}: serde_cbor outside wire")),
        );
    }
    if PURE.contains(&module) {
        for (at, (line, word)) in tokens.iter().enumerate() {
            if IMPURE_WORDS.contains(&word.as_str()) {
                wrong.push(format!("{name}:{line}: pure code says {word}"));
            }
            if word == "std" {
                for (line, part) in heads(&tokens, at + 1) {
                    if IMPURE_STD.contains(&part.as_str()) {
                        wrong.push(format!("{name}:{line}: pure code uses std::{part}"));
                    }
                }
            }
        }
    }
    wrong
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|names| names.contains(&module))
}

/// The top-level modules that a file names by `crate::…` or by a chain of `super::` that reaches the crate's root.
fn imports(modules: &[&str], source: &str) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut depth = 0_usize;
    // Brace depths at which an inline `mod name {` was opened.
    let mut inline: Vec<usize> = Vec::new();
    for (at, (_, word)) in tokens.iter().enumerate() {
        let text = |i: usize| tokens.get(i).map_or("", |(_, t)| t.as_str());
        match word.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
            }
            "mod" if text(at + 2) == "{" => inline.push(depth),
            "crate" => found.extend(heads(&tokens, at + 1)),
            "super" if at == 0 || text(at - 1) != "::" => {
                found.extend(climb(&tokens, at, modules.len() + inline.len()));
            }
            _ => {}
        }
    }
    found
}

/// Follows `super::` from token `at` in a module `depth` levels below the root; what is named at the root.
fn climb(tokens: &[(usize, String)], at: usize, depth: usize) -> Vec<(usize, String)> {
    let Some(depth) = depth.checked_sub(1) else {
        return Vec::new();
    };
    if depth == 0 {
        return heads(tokens, at + 1);
    }
    branches(tokens, at + 1)
        .into_iter()
        .filter(|branch| tokens[*branch].1 == "super")
        .flat_map(|branch| climb(tokens, branch, depth))
        .collect()
}

/// The names that directly follow a path prefix which ends before token `at`: one, or those of a `{…}` tree.
fn heads(tokens: &[(usize, String)], at: usize) -> Vec<(usize, String)> {
    branches(tokens, at).into_iter().map(|i| tokens[i].clone()).collect()
}

/// Where the names stand that directly follow a path prefix which ends before token `at`.
fn branches(tokens: &[(usize, String)], at: usize) -> Vec<usize> {
    let text = |i: usize| tokens.get(i).map_or("", |(_, t)| t.as_str());
    if text(at) != "::" {
        return Vec::new();
    }
    if text(at + 1) != "{" {
        return if at + 1 < tokens.len() { vec![at + 1] } else { Vec::new() };
    }
    let mut found = Vec::new();
    let (mut i, mut depth, mut fresh) = (at + 1, 0_usize, false);
    while i < tokens.len() {
        match text(i) {
            "{" => {
                depth += 1;
                fresh = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => fresh = true,
            _ if fresh => {
                found.push(i);
                fresh = false;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Words, `::` and punctuation with their lines; no comments, strings, characters or lifetimes.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = source.chars().collect();
    let get = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let c = chars[i];
        if c == '/' && get(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && get(i + 1) == '*' {
            i = end_of_comment(&chars, i);
        } else if let Some(end) = end_of_string(&chars, i) {
            i = end;
        } else if c == '\'' {
            // A character ends with a quote, a lifetime does not.
            let escaped = get(i + 1) == '\\';
            if escaped || get(i + 2) == '\'' {
                i += if escaped { 3 } else { 2 };
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
            } else {
                while get(i + 1).is_alphanumeric() || get(i + 1) == '_' {
                    i += 1;
                }
            }
            i += 1;
        } else if c.is_alphanumeric() || c == '_' {
            while get(i).is_alphanumeric() || get(i) == '_' {
                i += 1;
            }
            out.push((line, chars[start..i].iter().collect()));
        } else if c == ':' && get(i + 1) == ':' {
            out.push((line, "::".to_owned()));
            i += 2;
        } else {
            if !c.is_whitespace() {
                out.push((line, c.to_string()));
            }
            i += 1;
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// Behind a block comment that starts at `i`; they nest.
fn end_of_comment(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0_usize;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) if depth == 1 => return i + 2,
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    i
}

/// Behind a string literal that starts at `i` (`"…"`, `b"…"`, `c"…"`, `r#"…"#`, `br"…"`), if one does.
fn end_of_string(chars: &[char], mut i: usize) -> Option<usize> {
    let word = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    if i > 0 && word(chars.get(i - 1)) && chars[i] != '"' {
        return None;
    }
    if matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    let raw = chars.get(i) == Some(&'r');
    i += usize::from(raw);
    let hashes = if raw { chars[i..].iter().take_while(|c| **c == '#').count() } else { 0 };
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        match chars[i] {
            '\\' if !raw => i += 2,
            '"' if chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes => {
                return Some(i + 1 + hashes);
            }
            _ => i += 1,
        }
    }
    Some(i)
}
