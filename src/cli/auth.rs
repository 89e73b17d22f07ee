//! `web` and `token`: access to the HTTP API.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{body::Body, http::Method};

use super::{
    Context,
    args::TokenAction,
    client::{Endpoint, escape},
    connection::{Network, ask, call, require_running_node},
    error::CliError,
    output::{self, table},
    sanitize::sanitize,
};
use crate::{
    config::parse_duration,
    http::{SignInLink, TokenInfo},
};

pub(super) async fn web(context: &Context) -> Result<(), CliError> {
    require_running_node(context)?;
    let link: SignInLink =
        call(context, Network::Offline, Method::POST, &Endpoint::path("/api/v1/signin")).await?;
    output::result(context, &link, |link| format!("{}\n", link.url))?;
    output::message(context, "open this link within ten minutes; it signs in one browser");
    Ok(())
}

pub(super) async fn token(context: &Context, action: TokenAction) -> Result<(), CliError> {
    match action {
        TokenAction::Create { scope, ttl, name } => create(context, &scope, ttl.as_deref(), name).await,
        TokenAction::Ls => list(context).await,
        TokenAction::Revoke { id } => {
            let endpoint = Endpoint::path(format!("/api/v1/tokens/{}", escape(&id)));
            ask(context, Network::Offline, async |client| {
                client.send(Method::DELETE, &endpoint, &[], Body::empty()).await.map(drop)
            })
            .await?;
            output::result(context, &serde_json::json!({ "id": id }), |_| String::new())?;
            output::message(context, "revoked");
            Ok(())
        }
    }
}

async fn create(
    context: &Context,
    scope: &str,
    ttl: Option<&str>,
    name: Option<String>,
) -> Result<(), CliError> {
    let ttl = ttl.map(parse_duration).transpose();
    let ttl = ttl.map_err(|e| {
        CliError::bad_request(format!("--ttl: {e}")).hint("a number and a unit, for example 12h or 30d")
    })?;
    // Rounded up, so that a short time does not become 0.
    let ttl_s = ttl.map(|ttl| ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
    let name = name.unwrap_or_else(|| scope.to_owned());
    let body = serde_json::json!({ "name": name, "scope": scope, "ttl_s": ttl_s });
    let created: serde_json::Value = ask(context, Network::Offline, async |client| {
        client.json_body(Method::POST, &Endpoint::path("/api/v1/tokens"), Body::from(body.to_string())).await
    })
    .await?;
    output::result(context, &created, |created| {
        format!("{}\n", created["token"].as_str().unwrap_or_default())
    })?;
    output::message(context, "the token is shown only once; send it as `Authorization: Bearer TOKEN`");
    Ok(())
}

async fn list(context: &Context) -> Result<(), CliError> {
    let tokens: Vec<TokenInfo> =
        call(context, Network::Offline, Method::GET, &Endpoint::path("/api/v1/tokens")).await?;
    if tokens.is_empty() {
        output::message(context, "no tokens yet; create one with `storgo-node token create --scope read`");
    }
    output::result(context, &tokens, |tokens| {
        let row = |token: &TokenInfo| {
            vec![
                token.id.clone(),
                token.scope.as_str().into(),
                token.expires_unix_s.map_or_else(|| "never".into(), expiry),
                token.last_used_unix_s.map_or_else(|| "never".into(), output::date),
                sanitize(&token.name),
            ]
        };
        let rows: Vec<_> = tokens.iter().map(row).collect();
        table(&["ID", "SCOPE", "EXPIRES", "LAST USED", "NAME"], &rows)
    })
}

fn expiry(unix_s: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expired = u64::try_from(unix_s).unwrap_or_default() <= now.as_secs();
    format!("{}{}", if expired { "expired " } else { "" }, output::date(unix_s))
}
