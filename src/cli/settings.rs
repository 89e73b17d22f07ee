//! `config`: the settings of the running node, or those of the next start.

use axum::http::Method;

use super::{
    Context,
    args::ConfigAction,
    client::Endpoint,
    connection::{Connection, Network},
    error::CliError,
    options::{api_options, mistakes},
    output::{self, table},
    sanitize::sanitize,
};
use crate::{
    config::{Setting, TABLE},
    http::SettingInfo,
    store::read_lock,
};

pub(super) async fn config(context: &Context, action: &ConfigAction) -> Result<(), CliError> {
    match action {
        ConfigAction::Check => {
            // Each value has been checked when it was loaded; this also checks what only a start would see.
            let mut found = context.mistakes.clone();
            found.extend(mistakes(&context.settings, &context.data_dir));
            match &found[..] {
                [] => {}
                [mistake] => return Err(mistake.clone()),
                several => {
                    let lines: String = several.iter().map(|mistake| format!("\n  {mistake}")).collect();
                    let message = format!("{} mistakes in the settings:{lines}", several.len());
                    return Err(CliError::bad_request(message)
                        .hint("correct or remove each; docs/configuration.md describes all settings"));
                }
            }
            let read = match context.settings_file().filter(|path| path.exists()) {
                Some(path) => format!("read {}", sanitize(&path.display().to_string())),
                None => "no settings file".into(),
            };
            output::result(context, &serde_json::json!({ "valid": true }), |_| {
                format!("all settings are valid ({read})\n")
            })
        }
        ConfigAction::Path => {
            let path = context.settings_file().map(|path| path.display().to_string()).unwrap_or_default();
            output::result(context, &serde_json::json!({ "path": path }), |_| format!("{path}\n"))
        }
        ConfigAction::Show { origin, next } => {
            let running = if *next { None } else { running_settings(context).await };
            let shown = match running {
                Some(running) => running,
                None => api_options(&context.settings, &context.data_dir)?.settings,
            };
            show(context, shown, *origin)
        }
    }
}

/// Returns the settings of the running node; `None` if no node runs or it does not answer.
async fn running_settings(context: &Context) -> Option<Vec<SettingInfo>> {
    read_lock(&context.data_dir)?;
    let answer = async {
        let connection = Connection::open(context, Network::Offline).await?;
        let endpoint = Endpoint::path("/api/v1/settings");
        let settings: Vec<SettingInfo> = connection.client.json(Method::GET, &endpoint).await?;
        // The running node may have ended just now, and one for this command started in its place.
        let is_running = connection.node.is_none();
        connection.close().await;
        Ok::<_, CliError>(is_running.then_some(settings))
    };
    match answer.await {
        Ok(settings) => {
            let settings = settings?;
            output::message(context, "settings of the running node; --next shows those of the next start");
            Some(settings)
        }
        Err(error) => {
            let message =
                format!("cannot ask the running node ({error}); these are the settings of the next start");
            output::message(context, &message);
            None
        }
    }
}

/// Returns the values of a setting. A secret is `set` or `not set`.
fn values(setting: Option<&Setting>, value: String) -> Vec<String> {
    match setting {
        Some(setting) if setting.secret && value == "set" => vec!["(set)".into()],
        Some(setting) if setting.secret => Vec::new(),
        _ if value.is_empty() => Vec::new(),
        Some(setting) if setting.list => value.split(", ").map(String::from).collect(),
        _ => vec![value],
    }
}

fn show(context: &Context, shown: Vec<SettingInfo>, with_origin: bool) -> Result<(), CliError> {
    let setting = |key: &str| TABLE.iter().find(|setting| setting.key == key);
    if context.json {
        let member = |SettingInfo { key, value, origin }| {
            let values = values(setting(&key), value);
            (key, serde_json::json!({ "value": values, "origin": origin }))
        };
        let all: serde_json::Map<_, _> = shown.into_iter().map(member).collect();
        return output::print(&format!("{}\n", serde_json::Value::Object(all)));
    }
    let row = |SettingInfo { key, value, origin }| {
        let doc = setting(&key).map_or("", |setting| setting.doc);
        let last = if with_origin { origin } else { doc.into() };
        vec![key, if value.is_empty() { "-".into() } else { value }, last]
    };
    let rows: Vec<_> = shown.into_iter().map(row).collect();
    output::print(&table(&["SETTING", "VALUE", if with_origin { "FROM" } else { "DESCRIPTION" }], &rows))
}
