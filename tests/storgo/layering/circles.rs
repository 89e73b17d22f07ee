//! Circles between files.
//!
//! A **circle** is a set of files of one folder that all lead to each other. A file includes everything below it. File `a`
//! leads to file `b` if `a` names an item that `b` defines. Re-exports are followed to the definition, and `#[cfg(test)]`
//! code is ignored. Two uses do not count: a file may re-export items of the files below it, and a file may use types,
//! traits and constants of a file above it. A function, macro or static of a file above counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::source::{Name, Source, sources};

#[test]
fn no_module_has_a_circle() {
    let sources = sources();
    let describe = |circle: &Circle| format!("circle {:?}:\n  {}", circle.files, circle.uses.join("\n  "));
    let report: Vec<String> = circles(&sources).iter().map(describe).collect();
    assert!(report.is_empty(), "\n{}\n", report.join("\n"));
}

#[test]
fn each_planted_circle_is_found() {
    // Every case has the main file `net.rs`, the files `a`, `b`, `c` below it, and `a/x.rs` below `a`.
    let planted: &[([&str; 5], &[&str])] = &[
        (["", "use super::b::B;", "use crate::net::a::A;", "", ""], &["net/a.rs", "net/b.rs"]),
        (
            ["", "fn f() { super::b::f() }", "use super::c;", "m!{ super::a::g() }", ""],
            &["net/a.rs", "net/b.rs", "net/c.rs"],
        ),
        // By a name that was imported, and by a re-export.
        (["", "use super::b;", "use crate::net; fn f() { net::a::f() }", "", ""], &["net/a.rs", "net/b.rs"]),
        (
            ["pub use b::{B as Bee};", "use super::Bee;", "use super::a::A;", "", ""],
            &["net/a.rs", "net/b.rs"],
        ),
        // A file includes everything below it.
        (["", "", "use super::a::X;", "", "use crate::net::b::B;"], &["net/a.rs", "net/b.rs"]),
        (
            ["", "pub use x::X; mod x;", "use super::a::X;", "", "use crate::net::b::B;"],
            &["net/a.rs", "net/b.rs"],
        ),
        // The main file: a function counts, and so does a re-export that the main file itself uses.
        (["fn f() { a::go() }", "use super::f;", "", "", ""], &["net.rs", "net/a.rs"]),
        (["pub use a::go; fn f() { go() }", "fn go() { super::f() }", "", "", ""], &["net.rs", "net/a.rs"]),
        (["fn f() { a::go() }", "", "", "", "use super::super::f;"], &[]),
        (
            ["fn f() { a::go() }", "use x::y; fn g() { y() }", "", "", "use super::super::f;"],
            &["net.rs", "net/a.rs", "net/a/x.rs"],
        ),
    ];
    let fine: &[[&str; 5]] = &[
        ["", "use super::b::B;", "use super::c::C;", "", "use super::super::b;"],
        // The main file re-exports its files and shares types and constants.
        ["pub use a::go; pub fn f() {}", "fn go() { super::f() }", "", "", ""],
        ["pub struct Net; impl Net { fn f() { a::go() } }", "impl super::Net { fn g() {} }", "", "", ""],
        ["pub const MAX: u8 = 1; fn f() { a::go() }", "fn go() { g(super::MAX) }", "", "", ""],
        ["fn f() { a::go() }", "pub(super) fn go() {} pub(in crate::net) fn g() {}", "", "", ""],
        // Tests may use any file.
        ["", "use super::b::B;", "#[cfg(test)] mod tests { use super::super::a; }", "", ""],
        ["", "use super::b::B;", "#[cfg(test)] #[allow(x)] use super::a::A;", "", ""],
        ["", "use super::b::B; #[cfg(test)] mod x;", "", "", "use super::A; use crate::net::b::B;"],
    ];
    let found = |texts: &[&str; 5]| -> Vec<Vec<String>> {
        let names = ["net.rs", "net/a.rs", "net/b.rs", "net/c.rs", "net/a/x.rs"];
        let sources: Vec<Source> =
            names.iter().zip(texts).map(|(name, text)| Source::new(name, text)).collect();
        circles(&sources)
            .iter()
            .map(|circle| circle.files.iter().map(|name| (*name).to_owned()).collect())
            .collect()
    };
    for (texts, circle) in planted {
        let expected = if circle.is_empty() { vec![] } else { vec![circle.to_vec()] };
        assert_eq!(found(texts), expected, "{texts:?}");
    }
    for texts in fine {
        assert_eq!(found(texts), Vec::<Vec<String>>::new(), "{texts:?}");
    }
}

/// Files that all lead to each other, and the names by which they do.
#[derive(Debug)]
struct Circle<'a> {
    files: Vec<&'a str>,
    uses: Vec<String>,
}

/// The circles between the files of each top-level module.
fn circles(sources: &[Source]) -> Vec<Circle<'_>> {
    let files: BTreeMap<&[String], &Source> = sources.iter().map(|s| (s.module.as_slice(), s)).collect();
    let test_modules: HashSet<Vec<String>> = sources
        .iter()
        .flat_map(|s| s.test_modules.iter().map(|name| [&s.module[..], std::slice::from_ref(name)].concat()))
        .collect();
    let is_test = |s: &Source| (1..=s.module.len()).any(|n| test_modules.contains(&s.module[..n]));
    let mut uses: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.module.is_empty() && !is_test(source)) {
        for name in source.names.iter().filter(|name| !name.test) {
            if let Some((target, item)) = definition(&files, source, name)
                && leads(source, target, item.as_deref(), name)
            {
                let text = format!("{} uses {}", source.file, name.path.join("::"));
                let (from, to) = siblings(&files, source, target);
                uses.entry((from, to)).or_default().insert(text);
            }
        }
    }
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(uses.keys().filter(|(a, b)| *a == file && seen.insert(*b)).map(|(_, b)| *b));
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        sources.iter().map(|s| (s.file.as_str(), reached(&s.file))).collect();
    let sets: BTreeSet<Vec<&str>> = reach
        .iter()
        .filter(|(file, seen)| seen.contains(*file))
        .map(|(file, seen)| seen.iter().copied().filter(|other| reach[other].contains(file)).collect())
        .collect();
    sets.into_iter()
        .map(|files| Circle {
            uses: uses
                .iter()
                .filter(|((a, b), _)| files.contains(a) && files.contains(b))
                .flat_map(|(_, names)| names.iter().cloned())
                .collect(),
            files,
        })
        .collect()
}

/// Returns the two files of one folder that contain `source` and `target`. If one is below the other, returns the two files
/// themselves.
fn siblings<'a>(
    files: &BTreeMap<&[String], &'a Source>,
    source: &'a Source,
    target: &'a Source,
) -> (&'a str, &'a str) {
    let (from, to) = (&source.module, &target.module);
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    if common == from.len() || common == to.len() {
        return (&source.file, &target.file);
    }
    (&files[&from[..=common]].file, &files[&to[..=common]].file)
}

/// The file of the same top-level module that defines what `name` means in `source`, and the item in it.
/// `None` if it is `source` itself or lies outside the module; no item if `name` is the file.
fn definition<'a>(
    files: &BTreeMap<&[String], &'a Source>,
    source: &Source,
    name: &Name,
) -> Option<(&'a Source, Option<String>)> {
    let (mut path, mut local, mut from) = (name.path.clone(), name.local, source);
    // Imports and re-exports are followed this far.
    for _ in 0..8 {
        if !local {
            // A path that starts with an imported name or with a module below this file.
            let import = from.names.iter().find(|other| {
                other.import.as_ref() == Some(&path[0]) && (other.local || other.path[0] != path[0])
            });
            if let Some(import) = import {
                path.splice(..1, import.path.iter().cloned());
                local = import.local;
                continue;
            }
            path.splice(..0, from.module.iter().cloned());
            files.get(&path[..=from.module.len()])?;
        }
        let depth = (1..=path.len()).rev().find(|n| files.contains_key(&path[..*n]))?;
        let target = files[&path[..depth]];
        let Some(item) = path.get(depth) else {
            return Some((target, None)).filter(|_| target.module[0] == source.module[0]);
        };
        let import = target.names.iter().find(|other| other.import.as_ref() == Some(item) && !other.test);
        match import {
            Some(import) if !target.items.contains_key(item) => {
                path.splice(..=depth, import.path.iter().cloned());
                (local, from) = (import.local, target);
            }
            _ => return Some((target, Some(item.clone()))).filter(|_| target.module[0] == source.module[0]),
        }
    }
    None
}

/// Whether a use of `item` makes `source` lead to `target`; the rule is at the top of this file.
fn leads(source: &Source, target: &Source, item: Option<&str>, name: &Name) -> bool {
    if source.file == target.file {
        return false;
    }
    if target.module.starts_with(&source.module) {
        return name.import.as_ref().is_none_or(|import| source.used.contains(import));
    }
    if source.module.starts_with(&target.module) {
        return item
            .and_then(|item| target.items.get(item))
            .is_some_and(|kind| kind == "fn" || kind == "static" || kind == "macro_rules");
    }
    true
}
