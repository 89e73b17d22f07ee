//! Commands, flags and files named in the documentation exist.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents and their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "fuzz", "tests/vectors"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).expect("a folder"));
    let paths = files.map(|file| file.expect("a file").path());
    let documents: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a document")))
        .collect();
    assert!(documents.len() > 5, "documents are missing");
    documents
}

/// The flags in the output of `--help`, and whether each takes a value.
struct Help(HashMap<String, bool>);

fn help(verb: &[&str]) -> Option<Help> {
    let output = Command::new(env!("CARGO_BIN_EXE_storgo-node"))
        .args(verb)
        .arg("--help")
        .output()
        .expect("the binary runs");
    output.status.success().then(|| {
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut flags = HashMap::new();
        for line in text.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
            let takes_value = line.contains(" <");
            for word in line.split([' ', ',']).filter(|word| word.starts_with('-')) {
                flags.insert(word.to_owned(), takes_value);
            }
        }
        Help(flags)
    })
}

/// The command lines in a document: the words after `storgo-node`, up to the end of the code.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.replace("cargo run -- ", "storgo-node ");
        for rest in line.split("storgo-node ").skip(1) {
            let end = rest.find(['`', '#', '|', ')', '"', '&', ';']).unwrap_or(rest.len());
            found.push(rest[..end].split_whitespace().map(str::to_owned).collect());
        }
    }
    found
}

/// Returns the error in a command line.
fn fault(words: &[String], global: &Help, verbs: &mut HashMap<String, Option<Help>>) -> Option<String> {
    let mut rest = words.iter();
    let mut verb: Option<String> = None;
    while let Some(word) = rest.next() {
        let known = verb.as_ref().and_then(|verb| verbs[verb].as_ref());
        if let Some(flag) = word.strip_prefix("--").map(|_| word.split('=').next().unwrap_or(word)) {
            let of_verb = known.and_then(|help| help.0.get(flag));
            match of_verb.or_else(|| global.0.get(flag)) {
                None => {
                    let command = verb.as_deref().unwrap_or("storgo-node");
                    return Some(format!("{command} has no flag {flag}"));
                }
                Some(true) if !word.contains('=') => drop(rest.next()),
                Some(_) => {}
            }
        } else if verb.is_none() && word.chars().all(|c| c.is_ascii_lowercase()) {
            let help = verbs.entry(word.clone()).or_insert_with(|| help(&[word]));
            if help.is_none() {
                return Some(format!("there is no command {word}"));
            }
            verb = Some(word.clone());
        }
    }
    None
}

#[test]
fn every_command_line_in_the_documents_is_valid() {
    let global = help(&[]).expect("help");
    let (mut verbs, mut checked, mut faults) = (HashMap::new(), 0, Vec::new());
    for (path, text) in documents() {
        for words in commands(&text) {
            checked += 1;
            if let Some(fault) = fault(&words, &global, &mut verbs) {
                faults.push(format!("{}: storgo-node {}: {fault}", path.display(), words.join(" ")));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(checked > 12, "{checked}");
}

#[test]
fn every_flag_in_inline_code_exists() {
    let mut known: HashSet<String> = help(&[]).expect("help").0.into_keys().collect();
    let verbs = ["provide", "get", "verify", "peers", "init", "demo", "config show"];
    for verb in verbs {
        known.extend(help(&verb.split(' ').collect::<Vec<_>>()).expect("a command").0.into_keys());
    }
    for (path, text) in documents().iter().filter(|(path, _)| {
        let name = path.file_name().and_then(|name| name.to_str());
        matches!(name, Some("README.md" | "architecture.md" | "protocol.md" | "format.md" | "transfer.md"))
            && !path.starts_with(root().join("fuzz"))
    }) {
        for span in text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("--")) {
            let flag = span.split([' ', '=']).next().unwrap_or(span);
            assert!(known.contains(flag), "{}: {flag}", path.display());
        }
    }
}

#[test]
fn an_invalid_command_line_is_found() {
    let global = help(&[]).expect("help");
    for (line, is_wrong) in [
        ("storgo-node --data-dir a provide x --name y", false),
        ("storgo-node fly away", true),
        ("storgo-node provide x --copies 3", true),
        ("storgo-node --data-dri a", true),
        ("storgo-node get x --name y", true),
    ] {
        let words = commands(line).pop().expect("one");
        assert_eq!(fault(&words, &global, &mut HashMap::new()).is_some(), is_wrong, "{line}");
    }
}

#[test]
fn every_linked_file_exists() {
    let mut checked = 0;
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or(target);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            checked += 1;
            let linked = path.parent().expect("a folder").join(target);
            assert!(linked.exists(), "{}: {target}", path.display());
        }
    }
    assert!(checked > 10, "{checked}");
}
