//! `config`: the settings, those of the node that runs or those that the next one starts with.

use axum::http::Method;
use serde::Deserialize;

use super::{
    Context,
    args::ConfigAction,
    client::Target,
    door::{Door, Need, to_run},
    output,
};
use crate::{config::TABLE, node::NodeError, store::read_lock};

/// A setting as it is shown.
struct Shown {
    key: String,
    values: Vec<String>,
    origin: String,
}

/// As a node says it.
#[derive(Deserialize)]
struct InForce {
    key: String,
    value: String,
    origin: String,
}

pub(super) async fn config(context: &Context, action: &ConfigAction) -> Result<(), NodeError> {
    match action {
        ConfigAction::Check => {
            // Loading has checked each by itself; what is left is what only a start would see.
            to_run(&context.settings, &context.data_dir)?;
            output::result(context, &serde_json::json!({ "valid": true }), |_| String::new())
        }
        ConfigAction::Path => {
            let path = context.sources.file.as_ref().or(context.sources.default_file.as_ref());
            let path = path.map(|path| path.display().to_string()).unwrap_or_default();
            output::result(context, &serde_json::json!({ "path": path }), |_| format!("{path}\n"))
        }
        ConfigAction::Show { origin, next } => {
            let running = if *next { None } else { of_the_running_node(context).await };
            let shown = running.unwrap_or_else(|| of_the_next_start(context));
            show(context, shown, *origin)
        }
    }
}

fn of_the_next_start(context: &Context) -> Vec<Shown> {
    let shown = context.settings.show();
    shown
        .map(|(setting, values, origin)| Shown {
            key: setting.key.into(),
            values,
            origin: origin.to_string(),
        })
        .collect()
}

/// What the node here was started with; none where none runs, or none that says it.
async fn of_the_running_node(context: &Context) -> Option<Vec<Shown>> {
    read_lock(&context.data_dir)?;
    let answer = async {
        let door = Door::open(context, Need::Store).await?;
        let settings: Vec<InForce> = door.client.json(Method::GET, &Target::path("/api/v1/settings")).await?;
        // It may have ended before it was asked, and a node for this command alone have taken its place.
        let running = door.node.is_none();
        door.close().await;
        Ok::<_, NodeError>(running.then_some(settings))
    };
    let said = match answer.await {
        Ok(settings) => settings?,
        Err(error) => {
            let words = "a node runs here and does not say its settings: these are those of the next start";
            output::say(context, &format!("{words} ({})", error.message));
            return None;
        }
    };
    output::say(context, "the settings of the node that runs here; --next shows those of the next start");
    Some(said.into_iter().map(Shown::from).collect())
}

impl From<InForce> for Shown {
    fn from(InForce { key, value, origin }: InForce) -> Self {
        let setting = TABLE.iter().find(|setting| setting.key == key);
        let values = match setting {
            Some(setting) if setting.secret => {
                if value == "set" {
                    vec!["(set)".into()]
                } else {
                    Vec::new()
                }
            }
            _ if value.is_empty() => Vec::new(),
            Some(setting) if setting.list => value.split(", ").map(String::from).collect(),
            _ => vec![value],
        };
        Self { key, values, origin }
    }
}

fn show(context: &Context, shown: Vec<Shown>, origin: bool) -> Result<(), NodeError> {
    if context.json {
        let all: serde_json::Map<String, serde_json::Value> = shown
            .into_iter()
            .map(|Shown { key, values, origin }| {
                (key, serde_json::json!({ "value": values, "origin": origin }))
            })
            .collect();
        return output::print(&format!("{}\n", serde_json::Value::Object(all)));
    }
    let row = |Shown { key, values, origin: from }: Shown| {
        let doc = TABLE.iter().find(|setting| setting.key == key).map_or("", |setting| setting.doc);
        let value = if values.is_empty() { "-".into() } else { values.join(", ") };
        vec![key, value, if origin { from } else { doc.into() }]
    };
    let rows: Vec<_> = shown.into_iter().map(row).collect();
    output::print(&output::table(&["SETTING", "VALUE", if origin { "FROM" } else { "" }], &rows))
}
