//! The source files as Rust tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// All files below `src`.
pub(super) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
                sources.push(Source::new(&name, &fs::read_to_string(&path).expect("readable source")));
            }
        }
    }
    assert!(sources.len() > 20, "no source in {}", root.display());
    sources
}

/// A path in the source, made absolute: `["store", "disk", "open"]` for `super::disk::open` in `store/kept.rs`.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) path: Vec<String>,
    /// The name that a `use` gives it; `None` for a path in an expression or a type.
    pub(super) import: Option<String>,
    /// Whether it starts in this crate; if not, the path is as written.
    pub(super) local: bool,
    /// Whether it is `#[cfg(test)]` code.
    pub(super) test: bool,
}

/// One file of the source.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to `src`, with `/`.
    pub(super) file: String,
    pub(super) module: Vec<String>,
    pub(super) lines: usize,
    pub(super) names: Vec<Name>,
    /// Every identifier, including the parts of paths.
    pub(super) words: BTreeSet<String>,
    /// Identifiers outside `use` that stand alone or start a path.
    pub(super) used: BTreeSet<String>,
    /// Items defined in this file, with the keyword of each.
    pub(super) items: BTreeMap<String, String>,
    /// Files below this one that are only compiled for tests.
    pub(super) test_modules: Vec<String>,
}

impl Source {
    pub(super) fn new(file: &str, text: &str) -> Self {
        let module: Vec<String> = match file.trim_end_matches(".rs") {
            "lib" | "main" => Vec::new(),
            path => path.split('/').map(str::to_owned).collect(),
        };
        let mut source = Self {
            file: file.to_owned(),
            module: module.clone(),
            lines: text.lines().count(),
            names: Vec::new(),
            words: BTreeSet::new(),
            used: BTreeSet::new(),
            items: BTreeMap::new(),
            test_modules: Vec::new(),
        };
        source.read(text.parse().unwrap_or_else(|error| panic!("{file}: {error}")), &module, false);
        source
    }

    /// Reads the tokens of `module`, which is this file or an inline module of it.
    fn read(&mut self, stream: TokenStream, module: &[String], test: bool) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let word = |at: usize| match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => ident.to_string(),
            _ => String::new(),
        };
        let (mut at, mut in_use, mut test_item) = (0, false, false);
        while at < tokens.len() {
            let test = test || test_item;
            match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == ';' => (in_use, test_item) = (false, false),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                TokenTree::Group(group) => {
                    test_item |=
                        group.delimiter() == Delimiter::Bracket && group.stream().to_string() == "cfg (test)";
                    let named = (word(at.wrapping_sub(2)) == "mod").then(|| word(at - 1));
                    let inner: Vec<String> = module.iter().cloned().chain(named).collect();
                    self.read(group.stream(), &inner, test);
                    test_item &= group.delimiter() != Delimiter::Brace;
                }
                TokenTree::Ident(ident) => {
                    let keyword = ident.to_string();
                    let mut paths = Vec::new();
                    let next = path_tree(&tokens, at, &[], &mut paths);
                    match keyword.as_str() {
                        "use" => in_use = true,
                        "mod" if test => self.test_modules.push(word(at + 1)),
                        "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" => {
                            self.items.insert(word(at + 1), keyword.clone());
                        }
                        "macro_rules" => {
                            self.items.insert(word(at + 2), keyword.clone());
                        }
                        _ => {}
                    }
                    for (path, import) in paths {
                        self.words.extend(path.iter().cloned());
                        if !in_use && word(at.wrapping_sub(1)) != "mod" {
                            self.used.insert(path[0].clone());
                        }
                        if in_use || path.len() > 1 {
                            self.names.push(Name::new(path, import.filter(|_| in_use), module, test));
                        }
                    }
                    at = next;
                    continue;
                }
            }
            at += 1;
        }
    }
}

impl Name {
    fn new(mut path: Vec<String>, import: Option<String>, module: &[String], test: bool) -> Self {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let local = supers > 0 || path[0] == "crate" || path[0] == "self";
        if local {
            let base = if path[0] == "crate" { 0 } else { module.len().saturating_sub(supers) };
            path.splice(..supers.max(1), module[..base].iter().cloned());
        }
        Self { path, import, local, test }
    }
}

/// The paths that start at token `at`, each with its last name or its alias; a tree `a::{b, c as d}` has several.
/// Returns the index of the token after them.
pub(super) fn path_tree(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<(Vec<String>, Option<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let is =
        |at: usize, char: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == char);
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => path.push(ident.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut next = 0;
                while next < inner.len() {
                    next = path_tree(&inner, next, &path, paths) + 1;
                }
                return at + 1;
            }
            Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => path.push("*".to_owned()),
            // A turbofish; the path ends before it.
            _ => break,
        }
        at += 1;
        if !(is(at, ':') && is(at + 1, ':')) {
            break;
        }
        at += 2;
    }
    let mut import = path.last().cloned();
    if let (Some(TokenTree::Ident(keyword)), Some(TokenTree::Ident(alias))) =
        (tokens.get(at), tokens.get(at + 1))
        && *keyword == "as"
    {
        (import, at) = (Some(alias.to_string()), at + 2);
    }
    if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
        path.pop();
        import = path.last().cloned();
    }
    if !path.is_empty() {
        paths.push((path, import));
    }
    at
}
