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
        TokenAction::Revoke { token } => revoke(context, token).await,
    }
}

/// Revokes a token by its id or its name.
async fn revoke(context: &Context, token: String) -> Result<(), CliError> {
    let id = ask(context, Network::Offline, async |client| {
        let all: Vec<TokenInfo> = client.json(Method::GET, &Endpoint::path("/api/v1/tokens")).await?;
        let named: Vec<&str> =
            all.iter().filter(|info| info.name == token).map(|info| info.id.as_str()).collect();
        let id = match named[..] {
            _ if all.iter().any(|info| info.id == token) => token.clone(),
            [id] => id.to_owned(),
            // The node says that there is no such token.
            [] => token.clone(),
            _ => {
                let message = format!("{} tokens are named {token:?}: {}", named.len(), named.join(", "));
                return Err(CliError::bad_request(message).hint("revoke them by their ids"));
            }
        };
        let endpoint = Endpoint::path(format!("/api/v1/tokens/{}", escape(&id)));
        client.send(Method::DELETE, &endpoint, &[], Body::empty()).await?;
        Ok(id)
    })
    .await?;
    output::result(context, &serde_json::json!({ "id": id }), |_| String::new())?;
    output::message(context, &format!("revoked {id}"));
    Ok(())
}

async fn create(
    context: &Context,
    scope: &str,
    ttl: Option<&str>,
    name: Option<String>,
) -> Result<(), CliError> {
    let invalid = |e: String| {
        CliError::bad_request(format!("--ttl: {e}")).hint("a number and a unit, for example 12h or 30d")
    };
    if let Some(number) = ttl.filter(|text| text.trim().parse::<f64>().is_ok()) {
        return Err(invalid(format!("{number} has no unit")));
    }
    let ttl = ttl.map(parse_duration).transpose().map_err(invalid)?;
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
    let expires = created["expires_unix_s"]
        .as_i64()
        .map_or_else(|| "does not expire".into(), |at| format!("expires {}", expiry(at)));
    let message = format!(
        "{name:?} has the scope {scope} and {expires}\n\
         the token is shown only once; send it as `Authorization: Bearer TOKEN`"
    );
    output::message(context, &message);
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
