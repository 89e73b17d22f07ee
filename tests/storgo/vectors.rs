//! The golden vectors in `tests/vectors/` pin the formats.
//!
//! ```text
//! case: given ─┬─ ours     storgo's code                                ─▶ must equal `expect`
//!              └─ formula  a second implementation of docs/format.md    ─▶ must equal `expect`
//! ```
//! `cargo test --test storgo rewrite_the_vectors -- --ignored` computes `expect` from `given` after a change of the format.

pub mod case;
mod crafted;
pub mod formula;
mod ours;

use std::fs;

use serde_json::Value;

use case::{Case, File, KINDS, Kind};

fn load(kind: Kind) -> File {
    let text = fs::read_to_string(kind.path()).expect("a vector file");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", kind.path().display()))
}

fn check(found: Result<Value, String>, case: &Case, kind: Kind, who: &str) {
    let found = found.unwrap_or_else(|e| panic!("{who}, {kind:?}, {}: {e}", case.name));
    assert_eq!(found, case.expect, "{who}, {kind:?}, {}", case.name);
}

#[test]
fn storgo_matches_the_vectors() {
    for kind in KINDS {
        for case in &load(kind).cases {
            check(ours::expect(kind, &case.given), case, kind, "storgo");
        }
    }
}

#[test]
fn the_second_implementation_matches_the_vectors() {
    for kind in KINDS {
        let file = load(kind);
        if kind == Kind::Reading {
            // The second implementation built these trees.
            let crafted = crafted::cases();
            assert_eq!(serde_json::json!(file.cases), serde_json::json!(crafted));
            continue;
        }
        for case in &file.cases {
            check(formula::expect(kind, &case.given), case, kind, "the formula");
        }
    }
}

/// A change of one character in a vector makes a test fail.
#[test]
fn a_changed_vector_fails() {
    let mut changed = 0;
    for kind in KINDS {
        for case in &load(kind).cases {
            let mut leaves = Vec::new();
            collect(&case.expect, "", &mut leaves);
            let found = ours::expect(kind, &case.given);
            for leaf in leaves.drain(..) {
                let mut expect = case.expect.clone();
                if case::change(expect.pointer_mut(&leaf).expect("a leaf")) {
                    assert_ne!(found.as_ref(), Ok(&expect), "{kind:?}, {}: {leaf}", case.name);
                    changed += 1;
                }
            }
            if case.expect.get("refused").is_some() {
                // A changed input may be refused for the same reason.
                continue;
            }
            collect(&case.given, "", &mut leaves);
            if kind == Kind::ChunkCuts {
                // These changes do not move cut points: another repeated byte, other bytes at the start of a chunk, other
                // content for `fixed`.
                let fixed = case.given["secret"].is_null();
                let without_effect = |leaf: &str| {
                    leaf.ends_with("/byte") || leaf.ends_with("/hex") || fixed && leaf.ends_with("/seed")
                };
                leaves.retain(|leaf| !without_effect(leaf));
            }
            if kind == Kind::SealedChunks && !case.name.starts_with("padded") {
                leaves.retain(|leaf| leaf != "/last");
            }
            for leaf in leaves {
                let mut given = case.given.clone();
                if case::change(given.pointer_mut(&leaf).expect("a leaf")) {
                    let found = ours::expect(kind, &given);
                    assert_ne!(found.as_ref(), Ok(&case.expect), "{kind:?}, {}: {leaf}", case.name);
                    changed += 1;
                }
            }
        }
    }
    assert!(changed > 500, "{changed}");
}

/// Pointers to all strings, numbers and booleans.
fn collect(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Array(items) => {
            // Of a long list, the first and the last item are enough.
            let last = items.len().saturating_sub(1);
            for (i, item) in
                items.iter().enumerate().filter(|(i, _)| items.len() < 20 || [0, last].contains(i))
            {
                collect(item, &format!("{at}/{i}"), into);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                collect(field, &format!("{at}/{name}"), into);
            }
        }
        _ => into.push(at.to_owned()),
    }
}

#[test]
#[ignore = "writes the files that the other tests read; for changes of the format only"]
fn rewrite_the_vectors() {
    for kind in KINDS {
        let mut file = load(kind);
        if kind == Kind::Reading {
            file.cases = crafted::cases();
        }
        for case in &mut file.cases {
            case.expect = ours::expect(kind, &case.given).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
        let text = serde_json::to_string_pretty(&file).expect("JSON") + "\n";
        fs::write(kind.path(), text).expect("written");
    }
}
