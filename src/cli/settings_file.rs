//! Changes a settings file for `init`, `join` and `key restore`. The rest of the file stays as it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml_edit::{Array, DocumentMut, Item, TableLike, Value, value};

use super::{Context, error::CliError, output};
use crate::{config::TABLE, store::replace};

/// The settings file that a start of the node reads.
pub(super) struct SettingsFile {
    path: PathBuf,
    text: String,
    /// The flags that it got.
    flags: Vec<String>,
}

impl SettingsFile {
    /// Reads the settings file, adds addresses to `bootstrap`, and sets what the flags of this command set. Writes nothing.
    pub(super) fn prepare(context: &Context, bootstrap: &[String]) -> Result<Self, CliError> {
        let path = context.sources.file.clone().unwrap_or_else(|| context.data_dir.join("config.toml"));
        let flags: Vec<(&str, Vec<String>)> =
            context.sources.flags.iter().map(|(key, values, _)| (*key, values.clone())).collect();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(CliError::path("read", &path, &e)),
        };
        let text = edit(&text, bootstrap, &flags).map_err(|reason| {
            let addrs = (!bootstrap.is_empty()).then(|| ("bootstrap", bootstrap.to_vec()));
            let by_hand =
                addrs.iter().chain(&flags).map(|(key, values)| format!("{key}: {}", values.join(", ")));
            let hint = format!("add these settings yourself: {}", by_hand.collect::<Vec<_>>().join("; "));
            CliError::bad_request(format!("{}: {reason}", path.display())).hint(hint)
        })?;
        Ok(Self { path, text, flags: context.sources.flags.iter().map(|(.., flag)| flag.clone()).collect() })
    }

    /// Writes the file. Symbolic links and permissions stay.
    pub(super) fn write(&self, context: &Context) -> Result<(), CliError> {
        let path = &self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let permissions = fs::metadata(path).ok().map(|meta| meta.permissions());
        replace(path, self.text.as_bytes())
            .and_then(|()| permissions.map_or(Ok(()), |permissions| fs::set_permissions(path, permissions)))
            .map_err(|e| CliError::path("write", &self.path, &e))?;
        if !self.flags.is_empty() {
            let (flags, path) = (self.flags.join(", "), self.path.display());
            output::message(context, &format!("kept {flags} in {path}"));
        }
        Ok(())
    }

    /// Whether the command had a setting to keep.
    pub(super) fn has_flags(&self) -> bool {
        !self.flags.is_empty()
    }
}

/// Returns the text of a file with the addresses and settings. Errors: why it cannot be changed.
fn edit(text: &str, bootstrap: &[String], flags: &[(&str, Vec<String>)]) -> Result<String, String> {
    // Nothing to add, so the file need not be TOML.
    if bootstrap.is_empty() && flags.is_empty() {
        return Ok(text.into());
    }
    let mut file: DocumentMut = text.parse().map_err(|e| format!("not valid TOML: {e}"))?;
    let (peers, flags): (Vec<_>, Vec<_>) = flags.iter().partition(|(key, _)| *key == "bootstrap");
    let peers: Vec<&String> = peers.iter().flat_map(|(_, values)| values).chain(bootstrap).collect();
    if !peers.is_empty() {
        add(&mut file, "bootstrap", &peers)?;
    }
    for (key, values) in flags {
        remove(file.as_table_mut(), key);
        // If the key names a group, its members get their whole names.
        if let Some(group) = file.get(key).cloned().as_ref().and_then(Item::as_table_like) {
            file.remove(key);
            for (name, item) in group.iter() {
                file.insert(&format!("{key}.{name}"), item.clone());
            }
        }
        file.insert(key, value(of_setting(key, values)));
    }
    Ok(file.to_string())
}

/// Adds values to a list.
fn add(file: &mut DocumentMut, key: &str, values: &[&String]) -> Result<(), String> {
    let list = file.entry(key).or_insert_with(|| value(Array::new()));
    if let Some(single) = list.as_str().map(String::from) {
        *list = value(Array::from_iter([single]));
    }
    let list = list.as_array_mut().ok_or_else(|| format!("{key} is not a list"))?;
    let known: Vec<String> = list.iter().filter_map(|item| item.as_str().map(String::from)).collect();
    for value in values.iter().filter(|value| !known.contains(value)) {
        list.push(value.as_str());
    }
    Ok(())
}

/// Removes a setting, however its name is divided among tables.
fn remove(table: &mut dyn TableLike, key: &str) {
    if table.get(key).is_some_and(|item| !item.is_table_like()) {
        table.remove(key);
    }
    for (dot, _) in key.match_indices('.') {
        if let Some(inner) = table.get_mut(&key[..dot]).and_then(Item::as_table_like_mut) {
            remove(inner, &key[dot + 1..]);
        }
    }
}

/// The value of a setting in TOML. The paths of files become absolute: the node may start in another folder.
fn of_setting(key: &str, values: &[String]) -> Value {
    let is_list = TABLE.iter().any(|setting| setting.key == key && setting.list);
    let single = values.first().cloned().unwrap_or_default();
    match key {
        _ if is_list => Value::from_iter(values),
        "tls.cert" | "tls.key" => {
            let path = std::path::absolute(Path::new(&single)).map(|path| path.display().to_string());
            path.unwrap_or(single).into()
        }
        _ => match (single.parse::<bool>(), single.parse::<i64>()) {
            (Ok(switch), _) => switch.into(),
            // `007` is a name.
            (_, Ok(number)) if number.to_string() == single => number.into(),
            _ => single.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_wherever_the_file_has_them() {
        let flags = [
            ("bootstrap", vec!["/ip4/192.0.2.9/tcp/1".into()]),
            ("http", vec!["127.0.0.1:1".into()]),
            ("listen", vec!["/ip4/127.0.0.1/tcp/1".into(), "/ip4/127.0.0.1/tcp/2".into()]),
            ("storage.capacity", vec!["1 GiB".into()]),
            ("tls.self.signed", vec!["true".into()]),
            ("max.connections", vec!["7".into()]),
            ("region", vec!["007".into()]),
        ];
        for text in [
            "",
            "# mine\nbootstrap = \"/ip4/192.0.2.8/tcp/1\"\nhttp = \"127.0.0.1:2\"\n\"storage.capacity\" = \"2 GiB\"\n",
            "listen = [\"/ip4/127.0.0.1/tcp/3\"]\n[http]\nhosts = [\"x\"]\n[storage]\ncapacity = \"2 GiB\"\nlayout = \"flat\"\n",
            "[tls]\nself.signed = false\n[tls.other]\n",
            "http = { hosts = [\"x\"] }\nstorage = { capacity = \"2 GiB\", layout = \"flat\" }\n",
        ] {
            let edited = edit(text, &["/ip4/192.0.2.7/tcp/1".into()], &flags).expect(text);
            let tree: serde_json::Value = toml::from_str(&edited).unwrap_or_else(|e| panic!("{e}: {edited}"));
            assert_eq!(
                (tree["http"].as_str(), tree["tls.self.signed"].as_bool()),
                (Some("127.0.0.1:1"), Some(true))
            );
            assert_eq!(
                (tree["listen"].as_array().map(Vec::len), tree["max.connections"].as_i64()),
                (Some(2), Some(7))
            );
            let peers = tree["bootstrap"].as_array().expect("a list");
            assert_eq!(peers.len(), 2 + usize::from(text.contains("192.0.2.8")), "{edited}");
            assert_eq!((&tree["storage.capacity"], &tree["region"]), (&"1 GiB".into(), &"007".into()));
            assert!(
                !edited.contains("2 GiB") && edited.contains("# mine") == text.contains("# mine"),
                "{edited}"
            );
            assert_eq!(tree["storage"].get("layout").is_some(), text.contains("layout"));
            assert_eq!(tree.get("http.hosts").is_some(), text.contains("hosts"), "{edited}");
        }
        let refused = edit("bootstrap = 1\n", &["x".into()], &[]);
        assert_eq!(refused, Err("bootstrap is not a list".into()));
    }
}
