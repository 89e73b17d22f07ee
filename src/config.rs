//! Settings, and where each value came from.
//!
//! `table` lists all settings. Sources in rising order: built-in, profile, file (TOML or YAML), environment, flags. Each
//! source is a flat list of `key = values`; the last one that sets a key wins, and its origin is kept.

mod file;
mod service_links;
mod table;
mod values;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use file::{FileError, is_group};
use service_links::is_service_variable;
pub(crate) use table::check_peer_address;
pub use table::{FLAGS, PROFILES, Setting, TABLE};
pub use values::{ByteSize, HttpAddr, parse_duration};

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    BuiltIn,
    /// A profile.
    Profile(String),
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Why the settings are invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An unknown key.
    #[error("{origin}: unknown setting {key:?}{}", near.map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownKey {
        /// Its source.
        origin: Origin,
        /// The key.
        key: String,
        /// The key that is most like it.
        near: Option<&'static str>,
    },
    /// A value that its setting does not take.
    #[error("{origin}: invalid value {key} = {value:?}: {reason} (for example {example:?})")]
    BadValue {
        /// Its source.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// The value; `…` for secrets.
        value: String,
        /// The reason.
        reason: String,
        /// A valid value.
        example: &'static str,
    },
    /// An unknown group of settings.
    #[error("{origin}: unknown group of settings [{group}]{}", near.map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownGroup {
        /// Its source.
        origin: Origin,
        /// Its name.
        group: String,
        /// The setting that is most like it.
        near: Option<&'static str>,
    },
    /// Several values, or none, for a setting that takes one.
    #[error("{origin}: {key} takes one value, got {given} (for example {example:?})")]
    OneValue {
        /// Its source.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// The number of values.
        given: usize,
        /// A valid value.
        example: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read {}{}: {source}", path.display(), named_by(origin.as_ref()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The source that names it, if another source does.
        origin: Option<Origin>,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file that is not valid TOML or YAML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The reason, with the line if it is known.
        reason: String,
    },
    /// A setting that is also the name of a group (`http`) is written both ways in one file.
    #[error("{}: {key} has a value, and there is a group [{key}] too", path.display())]
    SettingAndGroup {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
    },
    /// An unknown profile.
    #[error("unknown profile {0:?}")]
    UnknownProfile(String),
}

fn named_by(origin: Option<&Origin>) -> String {
    origin.map_or_else(String::new, |origin| format!(", named by {origin}"))
}

/// The value of every setting, with its origin.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, (Vec<String>, Origin)>,
}

/// The sources of the settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Name of a profile.
    pub profile: Option<String>,
    /// A settings file that must exist.
    pub file: Option<PathBuf>,
    /// The settings file that is read if `file` is not set, and only if it exists.
    pub default_file: Option<PathBuf>,
    /// The environment variables.
    pub env: Vec<(String, String)>,
    /// Flags: setting, values, flag.
    pub flags: Vec<(&'static str, Vec<String>, String)>,
}

/// Variables that are not settings.
const OTHER_ENV: [&str; 3] = ["STORGO_DATA_DIR", "STORGO_CONFIG", "STORGO_PROFILE"];

impl Settings {
    /// Merges all sources and checks every value. Also returns all mistakes, each with its source; what is mistaken is left out.
    pub fn load(sources: &Sources) -> (Self, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let built_in = |setting: &Setting| (setting.key, (split(setting, setting.default), Origin::BuiltIn));
        let mut settings = Self { values: TABLE.iter().map(built_in).collect() };
        if let Some(name) = &sources.profile {
            match PROFILES.iter().find(|(known, _)| known == name) {
                Some((_, profile)) => errors.extend(profile.iter().filter_map(|(key, value)| {
                    settings.set_text(key, value, Origin::Profile(name.clone())).err()
                })),
                None => errors.push(ConfigError::UnknownProfile(name.clone())),
            }
        }
        // A link that leads nowhere is no missing file.
        let default_file = sources.default_file.as_ref().filter(|path| path.symlink_metadata().is_ok());
        for path in sources.file.iter().chain(default_file.filter(|_| sources.file.is_none())) {
            match read_file(path) {
                Ok(flat) => {
                    for (key, values) in flat {
                        errors.extend(settings.set(&key, values, Origin::File(path.into())).err());
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if let Some((_, port)) = sources.env.iter().find(|(name, port)| name == "PORT" && !port.is_empty()) {
            let addr = vec![format!("127.0.0.1:{port}")];
            errors.extend(settings.set("http", addr, Origin::Env("PORT".into())).err());
        }
        let variables = sources.env.iter().filter(|(name, value)| is_setting(name, value));
        errors.extend(variables.filter_map(|(name, value)| settings.set_from_env(name, value).err()));
        errors.extend(sources.flags.iter().filter_map(|(key, values, flag)| {
            settings.set(key, values.clone(), Origin::Flag(flag.clone())).err()
        }));
        (settings, errors)
    }

    /// Sets a setting from a text in which commas separate the values of a list.
    fn set_text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let setting = TABLE.iter().find(|setting| setting.key == key);
        let values = setting.map_or_else(|| vec![text.to_owned()], |setting| split(setting, text));
        self.set(key, values, origin)
    }

    fn set(&mut self, key: &str, values: Vec<String>, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = TABLE.iter().find(|setting| setting.key == key) else {
            return Err(match key.split_once('.').filter(|(group, _)| !is_group(group)) {
                Some((group, _)) if matches!(origin, Origin::File(_)) => {
                    ConfigError::UnknownGroup { origin, group: group.into(), near: near_group(group, key) }
                }
                _ => ConfigError::UnknownKey { origin, key: key.into(), near: table::nearest(key) },
            });
        };
        let fits = setting.list || values.len() == 1 || (values.is_empty() && setting.default.is_empty());
        if !fits {
            let (given, example) = (values.len(), setting.example);
            return Err(ConfigError::OneValue { origin, key: setting.key, given, example });
        }
        for value in &values {
            setting.check(value).map_err(|reason| ConfigError::BadValue {
                origin: origin.clone(),
                key: setting.key,
                value: if setting.secret { "…".into() } else { value.clone() },
                reason,
                example: setting.example,
            })?;
        }
        self.values.insert(setting.key, (values, origin));
        Ok(())
    }

    fn set_from_env(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let origin = Origin::Env(name.into());
        let direct = TABLE.iter().find(|setting| setting.env() == name);
        let secret_file =
            TABLE.iter().find(|setting| setting.secret && format!("{}_FILE", setting.env()) == name);
        match (direct, secret_file) {
            // An empty variable counts as not set.
            (Some(setting), _) if value.is_empty() && !setting.list && !setting.default.is_empty() => Ok(()),
            (Some(setting), _) => self.set(setting.key, split(setting, value), origin),
            (None, Some(_)) if value.is_empty() => Ok(()),
            (None, Some(setting)) => {
                let path = PathBuf::from(value);
                let secret = fs::read_to_string(&path).map_err(|source| ConfigError::Read {
                    path,
                    origin: Some(origin.clone()),
                    source,
                })?;
                self.set(setting.key, vec![secret.trim().into()], origin)
            }
            (None, None) => {
                let key = name["STORGO_".len()..].to_lowercase().replace('_', ".");
                Err(ConfigError::UnknownKey { origin, near: table::nearest(&key), key })
            }
        }
    }

    /// Returns the source of a value.
    pub fn origin(&self, key: &str) -> &Origin {
        self.values.get(key).map_or(&Origin::BuiltIn, |(_, origin)| origin)
    }

    /// Makes the error for a value that is invalid for a reason that the table cannot know.
    pub fn bad_value(&self, key: &'static str, reason: impl Into<String>) -> ConfigError {
        let setting = TABLE.iter().find(|setting| setting.key == key);
        ConfigError::BadValue {
            origin: self.origin(key).clone(),
            key,
            value: if setting.is_some_and(|setting| setting.secret) {
                "…".into()
            } else {
                self.list(key).join(", ")
            },
            reason: reason.into(),
            example: setting.map_or("", |setting| setting.example),
        }
    }

    /// Returns the values of a setting, unparsed.
    pub fn list(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], |(values, _)| values)
    }

    /// Returns the only value of a setting; `None` if it is empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.list(key).first().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Parses the only value of a setting; `None` if it is empty.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key).and_then(|value| value.parse().ok())
    }

    /// Returns whether a switch is on.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    /// Returns every setting with its values and their source. Secrets are replaced by `(set)`.
    pub fn show(&self) -> impl Iterator<Item = (&'static Setting, Vec<String>, &Origin)> {
        TABLE.iter().filter_map(|setting| {
            let (values, origin) = self.values.get(setting.key)?;
            let hide = setting.secret && values.iter().any(|value| !value.is_empty());
            Some((setting, if hide { vec!["(set)".into()] } else { values.clone() }, origin))
        })
    }
}

/// Reads a file of settings: keys and their values.
fn read_file(path: &Path) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        origin: None,
        source,
    })?;
    file::parse(path, &text).map_err(|error| match error {
        FileError::SettingAndGroup(key) => ConfigError::SettingAndGroup { path: path.into(), key },
        FileError::Syntax(reason) => ConfigError::Syntax { path: path.into(), reason },
    })
}

/// Whether an environment variable is meant as a setting.
fn is_setting(name: &str, value: &str) -> bool {
    name.starts_with("STORGO_")
        && !OTHER_ENV.contains(&name)
        && !name.starts_with("STORGO_TEST_")
        && !name.starts_with("STORGO_SOAK_")
        && !is_service_variable(name, value)
}

/// The setting that was probably meant, if its group has a similar name.
fn near_group(group: &str, key: &str) -> Option<&'static str> {
    table::nearest(key).filter(|near| {
        let meant = near.split_once('.').map_or(*near, |(group, _)| group);
        strsim::jaro_winkler(meant, group) > 0.8
    })
}

/// Splits the values of a list at commas.
fn split(setting: &Setting, text: &str) -> Vec<String> {
    if !setting.list {
        return if text.is_empty() { Vec::new() } else { vec![text.trim().into()] };
    }
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn load(sources: &Sources) -> Settings {
        let (settings, errors) = Settings::load(sources);
        assert!(errors.is_empty(), "{errors:?}");
        settings
    }

    #[test]
    fn each_source_overrides_the_one_below() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let file = dir.path().join("config.toml");
        let mut sources = Sources::default();
        let origin = |sources: &Sources| {
            let settings = load(sources);
            let (_, values, origin) = settings.show().find(|(s, ..)| s.key == "cache.size").expect("there");
            (values.join(","), origin.clone())
        };
        assert_eq!(origin(&sources), ("10 GiB".into(), Origin::BuiltIn));
        sources.profile = Some("dev".into());
        assert_eq!(origin(&sources), ("1 GiB".into(), Origin::Profile("dev".into())));
        fs::write(&file, "[cache]\nsize = \"2 GiB\"\n").expect("written");
        sources.default_file = Some(file.clone());
        assert_eq!(origin(&sources), ("2 GiB".into(), Origin::File(file)));
        sources.env = env(&[("STORGO_CACHE_SIZE", "3 GiB"), ("PATH", "x")]);
        assert_eq!(origin(&sources), ("3 GiB".into(), Origin::Env("STORGO_CACHE_SIZE".into())));
        sources.flags = vec![("cache.size", vec!["4 GiB".into()], "--cache-size".into())];
        assert_eq!(origin(&sources), ("4 GiB".into(), Origin::Flag("--cache-size".into())));
    }

    #[test]
    fn toml_and_yaml_files_give_the_same_settings() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let texts = [
            (
                "a.toml",
                "bootstrap = [\"/ip4/127.0.0.1/tcp/1\", \"/dns4/x/tcp/2\"]\nmdns = false\n[gc]\ngrace = \"10m\"\n",
            ),
            (
                "a.yaml",
                "bootstrap:\n  - /ip4/127.0.0.1/tcp/1\n  - /dns4/x/tcp/2\nmdns: false\ngc:\n  grace: 10m\n",
            ),
        ];
        for (name, text) in texts {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("written");
            let settings = load(&Sources { file: Some(path), ..Sources::default() });
            assert_eq!(settings.list("bootstrap").len(), 2, "{name}");
            assert!(!settings.is_on("mdns") && settings.get("gc.grace") == Some("10m"), "{name}");
        }
    }

    #[test]
    fn errors_name_the_source_and_the_setting_that_was_meant() {
        let message = |pairs: &[(&str, &str)]| {
            let (_, errors) = Settings::load(&Sources { env: env(pairs), ..Sources::default() });
            errors.first().expect("refused").to_string()
        };
        assert!(message(&[("STORGO_CACHE_SISE", "1")]).contains("did you mean \"cache.size\""));
        for (typed, meant) in [
            ("LISTN", "listen"),
            ("CAPACITY", "storage.capacity"),
            ("BOOTSTRAPS", "bootstrap"),
            ("LOGLEVEL", "log.level"),
        ] {
            let message = message(&[(&format!("STORGO_{typed}"), "1")]);
            assert!(message.contains(&format!("did you mean {meant:?}")), "{message}");
        }
        assert!(message(&[("STORGO_CACHE_SIZE", "much")]).contains("for example"));
        assert!(message(&[("STORGO_LISTEN", "nowhere")]).contains("listen"));
        let secret = message(&[("STORGO_CLUSTER_KEY", "hunter2")]);
        assert!(!secret.contains("hunter2"), "{secret}");
        assert!(message(&[("PORT", "x")]).contains("$PORT"));
        assert!(message(&[("STORGO_PORT", "8080")]).contains("unknown setting \"port\""));
        let empty =
            env(&[("PORT", ""), ("STORGO_CLUSTER_KEY_FILE", ""), ("STORGO_PORT", "tcp://192.0.2.1:1")]);
        let settings = load(&Sources { env: empty, ..Sources::default() });
        assert!(settings.show().all(|(.., origin)| *origin == Origin::BuiltIn));
    }

    #[test]
    fn every_mistake_is_reported_and_what_is_right_counts() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let file = dir.path().join("config.toml");
        fs::write(&file, "typo = 1\nregion = \"attic\"\n[gc]\ngrace = \"soon\"\n").expect("written");
        let (settings, errors) = Settings::load(&Sources {
            profile: Some("none".into()),
            file: Some(file),
            env: env(&[("STORGO_CACHE_SIZE", "much"), ("STORGO_TIMEOUT", "7s")]),
            flags: vec![("listen", vec!["nowhere".into()], "--listen".into())],
            ..Sources::default()
        });
        let named = ["none", "typo", "gc.grace", "STORGO_CACHE_SIZE", "--listen"];
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), named.len(), "{errors:?}");
        for name in named {
            assert!(errors.iter().any(|error| error.contains(name)), "{name}: {errors:?}");
        }
        assert_eq!((settings.get("region"), settings.get("timeout")), (Some("attic"), Some("7s")));
        assert_eq!(*settings.origin("gc.grace"), Origin::BuiltIn);
    }

    #[test]
    fn a_secret_can_be_read_from_a_file() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("key");
        fs::write(&path, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n").expect("written");
        let env = env(&[("STORGO_CLUSTER_KEY_FILE", path.to_str().expect("UTF-8"))]);
        let settings = load(&Sources { env, ..Sources::default() });
        assert_eq!(settings.get("cluster.key").map(str::len), Some(43));
        let shown: Vec<_> = settings.show().filter(|(s, ..)| s.secret).map(|(_, v, _)| v.concat()).collect();
        assert_eq!(shown, ["(set)"]);
    }
}
