//! `web` and `token`: who may call the API.

use axum::{body::Body, http::Method};

use super::{
    Context,
    args::TokenAction,
    client::{Target, escape},
    door::Need,
    output,
    show::ask,
};
use crate::{
    config::parse_duration,
    http::{SignInLink, TokenInfo},
    node::{ErrorCode, NodeError},
};

pub(super) async fn web(context: &Context) -> Result<(), NodeError> {
    super::show::needs_a_running_node(context)?;
    let link: SignInLink = ask(context, Need::Store, async |client| {
        client.json(Method::POST, &Target::path("/api/v1/signin")).await
    })
    .await?;
    output::result(context, &link, |link| format!("{}\n", link.url))?;
    output::say(context, "it signs in one browser, within ten minutes");
    Ok(())
}

pub(super) async fn token(context: &Context, action: TokenAction) -> Result<(), NodeError> {
    match action {
        TokenAction::Create { scope, ttl, name } => create(context, &scope, ttl.as_deref(), name).await,
        TokenAction::Ls => list(context).await,
        TokenAction::Revoke { id } => {
            let target = Target::path(format!("/api/v1/tokens/{}", escape(&id)));
            ask(context, Need::Store, async |client| {
                client.send(Method::DELETE, &target, &[], Body::empty()).await.map(drop)
            })
            .await?;
            output::result(context, &serde_json::json!({ "id": id }), |_| String::new())?;
            output::say(context, "revoked");
            Ok(())
        }
    }
}

async fn create(
    context: &Context,
    scope: &str,
    ttl: Option<&str>,
    name: Option<String>,
) -> Result<(), NodeError> {
    let ttl = ttl.map(parse_duration).transpose();
    let ttl = ttl.map_err(|e| NodeError::new(ErrorCode::BadRequest, format!("--ttl: {e}")))?;
    // What is left of a second is rounded up: a token that was asked for lasts a while.
    let ttl_s = ttl.map(|ttl| ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
    let name = name.unwrap_or_else(|| scope.to_owned());
    let body = serde_json::json!({ "name": name, "scope": scope, "ttl_s": ttl_s });
    let made: serde_json::Value = ask(context, Need::Store, async |client| {
        client.json_body(Method::POST, &Target::path("/api/v1/tokens"), Body::from(body.to_string())).await
    })
    .await?;
    output::result(context, &made, |made| format!("{}\n", made["token"].as_str().unwrap_or_default()))?;
    output::say(context, "this is shown once; send it as `Authorization: Bearer …`");
    Ok(())
}

async fn list(context: &Context) -> Result<(), NodeError> {
    let tokens: Vec<TokenInfo> = ask(context, Need::Store, async |client| {
        client.json(Method::GET, &Target::path("/api/v1/tokens")).await
    })
    .await?;
    if tokens.is_empty() {
        output::say(context, "no tokens yet: make one with `storgo-node token create --scope read`");
    }
    output::result(context, &tokens, |tokens| {
        if tokens.is_empty() {
            return String::new();
        }
        let row = |token: &TokenInfo| {
            vec![
                token.id.clone(),
                token.scope.as_str().into(),
                token
                    .expires_unix_s
                    .map_or_else(|| "never".into(), |at| ended(at).unwrap_or_else(|| time(at))),
                token.last_used_unix_s.map_or_else(|| "never".into(), time),
                output::clean(&token.name),
            ]
        };
        let rows: Vec<_> = tokens.iter().map(row).collect();
        output::table(&["ID", "SCOPE", "ENDS", "LAST USED", "NAME"], &rows)
    })
}

/// Says so where this time has passed.
fn ended(unix_s: i64) -> Option<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (u64::try_from(unix_s).unwrap_or_default() <= now.as_secs()).then(|| format!("ended {}", time(unix_s)))
}

/// The last second that has a date of four digits in its year.
const LAST: u64 = 253_402_300_799;

fn time(unix_s: i64) -> String {
    let since = std::time::Duration::from_secs(u64::try_from(unix_s).unwrap_or_default().min(LAST));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
