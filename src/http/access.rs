//! `/session`, `/signin` and `/tokens`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    auth::{
        Authenticator, Caller, NewToken, SESSION_TTL_S, Scope, TokenInfo,
        host::{self, HostNames},
    },
    extract::{JsonBody, PathParam},
    headers::header_value,
    problem::Problem,
    serve::{ClientConnection, url},
};
use crate::node::{Node, error::ErrorCode};

/// Credentials: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum SignIn {
    /// The code of a sign-in link. It works once.
    Code(String),
    /// A token.
    Token(String),
}

/// A browser session.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// The scope of its requests.
    scope: Scope,
    /// The id of the token that it was made from. `null` for the node's own token and for a sign-in link of the node.
    token: Option<String>,
    /// When it expires, in seconds since 1970.
    expires_unix_s: Option<i64>,
    /// Always `null`: requests of other sites are recognized by their origin.
    csrf: Option<String>,
}

/// Signs a browser in. The response sets the session cookie.
#[utoipa::path(post, path = "/session", tag = "access", security(()), request_body = SignIn,
    responses((status = 200, body = Session), (status = 401), (status = 413), (status = 415)))]
pub(super) async fn sign_in(
    State(auth): State<Arc<Authenticator>>,
    connection: Option<Extension<ClientConnection>>,
    method: Method,
    headers: HeaderMap,
    JsonBody(credentials): JsonBody<SignIn>,
) -> Result<Response, Problem> {
    let from_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if from_page && !host::same_origin(&method, &headers) {
        return Err(host::foreign_origin());
    }
    let caller = match credentials {
        SignIn::Code(code) => auth.sessions.redeem(&code).ok_or_else(|| {
            let hint = "make another link with POST /api/v1/signin";
            Problem::unauthorized("this sign-in link was used already or has expired", hint)
        }),
        SignIn::Token(token) => auth.tokens.caller(token.trim()).await.ok_or_else(|| {
            let hint = "make another token with POST /api/v1/tokens";
            Problem::unauthorized("this token is unknown or has expired", hint)
        }),
    }?;
    let (id, expires) = auth.start_session(&caller).await;
    let session =
        Session { scope: caller.scope, token: caller.token, expires_unix_s: Some(expires), csrf: None };
    Ok((cookie(&auth, &id, SESSION_TTL_S, connection), Json(session)).into_response())
}

/// Returns the session, or the token, of this request.
#[utoipa::path(get, path = "/session", tag = "access", responses((status = 200, body = Session), (status = 401)))]
pub(super) async fn session(
    State(auth): State<Arc<Authenticator>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Json<Session>, Problem> {
    let caller = auth.caller(&method, &headers).await?;
    Ok(Json(Session { scope: caller.scope, token: caller.token, expires_unix_s: caller.expires, csrf: None }))
}

/// Signs a browser out.
#[utoipa::path(delete, path = "/session", tag = "access", responses((status = 204), (status = 401)))]
pub(super) async fn sign_out(
    State(auth): State<Arc<Authenticator>>,
    connection: Option<Extension<ClientConnection>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = auth.caller(&method, &headers).await?;
    // A task of its own finishes even if the client disconnects.
    let ending = Arc::clone(&auth);
    tokio::spawn(async move { ending.sign_out(&caller).await }).await??;
    Ok((StatusCode::NO_CONTENT, cookie(&auth, "", 0, connection)).into_response())
}

fn cookie(
    auth: &Authenticator,
    id: &str,
    max_age_s: i64,
    connection: Option<Extension<ClientConnection>>,
) -> [(HeaderName, HeaderValue); 2] {
    let tls = connection.is_some_and(|Extension(connection)| connection.tls());
    let (name, secure) = (auth.sessions.cookie_name(tls), if tls { "; Secure" } else { "" });
    let text = format!("{name}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={max_age_s}{secure}");
    [(header::SET_COOKIE, header_value(&text)), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// A link that signs a browser in once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignInLink {
    /// The link. Its code is in the fragment, which browsers do not send.
    pub url: String,
}

/// Makes a sign-in link for `maker`, or for the node itself. `None` if the node serves no page.
pub(super) fn sign_in_link(
    node: &Node,
    names: &HostNames,
    auth: &Authenticator,
    maker: Option<&Caller>,
) -> Option<String> {
    let server = node.http()?;
    let url = match names.0.first() {
        Some(name) if !server.addr.ip().is_loopback() => {
            let scheme = if server.tls { "https" } else { "http" };
            format!("{scheme}://{name}:{}", server.addr.port())
        }
        _ => url(server.addr, server.tls),
    };
    Some(format!("{url}/#signin={}", auth.sessions.new_code(maker)))
}

/// Makes a link that signs a browser in once, within ten minutes.
#[utoipa::path(post, path = "/signin", tag = "access", responses((status = 200, body = SignInLink), (status = 409)))]
pub(super) async fn create_link(
    State(node): State<Node>,
    State(names): State<Arc<HostNames>>,
    State(auth): State<Arc<Authenticator>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let url = sign_in_link(&node, &names, &auth, Some(&caller)).ok_or_else(|| {
        let detail = "no running node serves the page of this data directory";
        let hint = "start a node on this data directory";
        Problem::new(StatusCode::CONFLICT, ErrorCode::Unreachable, detail, hint)
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(SignInLink { url })).into_response())
}

/// Lists the tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "access", responses((status = 200, body = Vec<TokenInfo>)))]
pub(super) async fn tokens(State(auth): State<Arc<Authenticator>>) -> Json<Vec<TokenInfo>> {
    Json(auth.tokens.list())
}

/// A new token with its secret, which is never shown again.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    info: TokenInfo,
    /// The secret.
    token: String,
}

/// Makes a token.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = NewToken,
    responses((status = 201, body = CreatedToken), (status = 413), (status = 415), (status = 507)))]
pub(super) async fn create_token(
    State(auth): State<Arc<Authenticator>>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, Problem> {
    let (info, token) = auth.tokens.create(new).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(CreatedToken { info, token })).into_response())
}

/// Revokes a token and ends the sessions that were made from it.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", params(("id" = String, Path, description = "Token id")),
    responses((status = 204), (status = 404)))]
pub(super) async fn revoke_token(
    State(auth): State<Arc<Authenticator>>,
    PathParam(id): PathParam<String>,
) -> Result<StatusCode, Problem> {
    // A task of its own finishes even if the client disconnects.
    tokio::spawn(async move { auth.revoke(&id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}
