//! Settings files: TOML or YAML, read as a flat list of settings.

use std::path::Path;

use super::table::TABLE;

/// Why a file cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileError {
    /// It sets this setting and also has a group of that name.
    SettingAndGroup(&'static str),
    /// It is no valid TOML or YAML; the reason.
    Syntax(String),
}

/// Reads the text of a file: its settings and their values.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<(String, Vec<String>)>, FileError> {
    let is_yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
    let tree: Result<serde_json::Value, String> = if is_yaml {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    } else {
        toml::from_str(text).map_err(|e| e.to_string())
    };
    let mut flat = Vec::new();
    let read = tree.and_then(|tree| flatten("", &tree, &mut flat));
    let explained =
        |reason| setting_and_group(text).map_or(FileError::Syntax(reason), FileError::SettingAndGroup);
    read.map(|()| flat).map_err(explained)
}

/// The setting that a file sets although it also has a group of that name, which neither TOML nor YAML allows.
fn setting_and_group(text: &str) -> Option<&'static str> {
    let lines = |key: &str, ends: &[&str]| {
        let rest = text.lines().filter_map(|line| line.strip_prefix(key).map(str::trim_start));
        rest.filter(|rest| ends.iter().any(|end| rest.starts_with(end))).count()
    };
    let is_both = |key: &str| {
        let (set, grouped) =
            (lines(key, &["="]), lines(&format!("[{key}"), &["]", "."]) + lines(key, &["."]));
        (set > 0 && grouped > 0) || lines(key, &[":"]) > 1
    };
    TABLE.iter().map(|setting| setting.key).find(|key| is_group(key) && is_both(key))
}

/// Whether a group of settings has this name.
pub(super) fn is_group(name: &str) -> bool {
    TABLE.iter().any(|setting| setting.key.split_once('.').is_some_and(|(group, _)| group == name))
}

fn flatten(
    prefix: &str,
    tree: &serde_json::Value,
    out: &mut Vec<(String, Vec<String>)>,
) -> Result<(), String> {
    use serde_json::Value;

    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(switch) => Ok(switch.to_string()),
        _ => Err(format!("{prefix}: expected a text, a number, true, false or a list of them")),
    };
    match tree {
        // Report an unknown group even if it is empty.
        Value::Object(table) if table.is_empty() && !prefix.is_empty() && !is_group(prefix) => {
            out.push((format!("{prefix}."), Vec::new()));
        }
        Value::Object(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, out)?;
            }
        }
        Value::Array(values) => {
            out.push((prefix.into(), values.iter().map(scalar).collect::<Result<_, _>>()?));
        }
        Value::Null if prefix.is_empty() => {}
        value => out.push((prefix.into(), vec![scalar(value)?])),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_beside_a_group_of_its_name_is_told_from_other_syntax_errors() {
        let both = Some(FileError::SettingAndGroup("http"));
        for (name, text) in [
            ("a.toml", "http = \"127.0.0.1:0\"\n[http]\nhosts = [\"x\"]\n"),
            ("a.toml", "http = \"127.0.0.1:0\"\nhttp.hosts = [\"x\"]\n"),
            ("a.yaml", "http: 127.0.0.1:0\nhttp:\n  hosts: [x]\n"),
        ] {
            assert_eq!(parse(Path::new(name), text).err(), both, "{text}");
        }
        let twice = parse(Path::new("a.toml"), "[http]\nhosts = [\"x\"]\nhosts = [\"y\"]\n");
        assert!(matches!(twice, Err(FileError::Syntax(_))), "{twice:?}");
        let quoted = parse(Path::new("a.toml"), "http = \"127.0.0.1:1\"\n\"http.hosts\" = [\"x\"]\n");
        let expected = [("http", "127.0.0.1:1"), ("http.hosts", "x")];
        assert_eq!(quoted, Ok(expected.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()));
    }
}
