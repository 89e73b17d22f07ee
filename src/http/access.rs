//! `/session`, `/signin` and `/tokens`: how callers come in.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Door, Secure,
    auth::{Caller, NewToken, SESSION_TTL, Scope, TokenInfo, host},
    extract::{JsonBody, Segment},
    problem::Problem,
};
use crate::node::error::{ErrorCode, NodeError};

/// What signs a browser in: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum SignIn {
    /// The code of a sign-in link, used up by this.
    Code(String),
    /// A token.
    Token(String),
}

/// A browser's session.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// What it may do.
    scope: Scope,
    /// The id of the token that it was made from; none for the node's own token and for a sign-in link.
    token: Option<String>,
    /// When it ends, seconds since 1970.
    expires_unix_s: Option<i64>,
    /// Nothing: requests are told apart by their origin.
    csrf: Option<String>,
}

/// Signs a browser in: the answer sets its session's cookie.
#[utoipa::path(post, path = "/session", tag = "access", security(()), request_body = SignIn,
    responses((status = 200, body = Session), (status = 401), (status = 413), (status = 415)))]
pub(super) async fn sign_in(
    State(door): State<Door>,
    Extension(Secure(secure)): Extension<Secure>,
    method: Method,
    headers: HeaderMap,
    JsonBody(body): JsonBody<SignIn>,
) -> Result<Response, Problem> {
    let by_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if by_page && !host::same_origin(&method, &headers) {
        return Err(NodeError::new(ErrorCode::Denied, "another site cannot sign in here")
            .hint("sign in on the node's own page: `storgo-node web` prints its address")
            .into());
    }
    let caller = match &body {
        SignIn::Code(code) => door.access.sessions.redeem(code),
        SignIn::Token(token) => door.access.tokens.caller(token.trim()).await,
    };
    let caller = caller.ok_or_else(|| {
        let error = match body {
            SignIn::Code(_) => {
                NodeError::new(ErrorCode::Denied, "this sign-in link has been used, or is too old")
                    .hint("`storgo-node web` prints a new one")
            }
            SignIn::Token(_) => NodeError::new(ErrorCode::Denied, "this token is not valid")
                .hint("`storgo-node token create` makes one"),
        };
        Problem::with_status(error, 401)
    })?;
    let (id, expires) = door.access.sessions.start(&caller);
    let session =
        Session { scope: caller.scope, token: caller.token, expires_unix_s: Some(expires), csrf: None };
    Ok((cookie(&door, &id, SESSION_TTL, secure), Json(session)).into_response())
}

/// Whose session this is.
#[utoipa::path(get, path = "/session", tag = "access", responses((status = 200, body = Session), (status = 401)))]
pub(super) async fn session(
    State(door): State<Door>,
    method: Method,
    headers: HeaderMap,
) -> Result<Json<Session>, Problem> {
    let caller = door.access.caller(&method, &headers).await?;
    Ok(Json(Session { scope: caller.scope, token: caller.token, expires_unix_s: caller.expires, csrf: None }))
}

/// Signs a browser out.
#[utoipa::path(delete, path = "/session", tag = "access", responses((status = 204), (status = 401)))]
pub(super) async fn sign_out(
    State(door): State<Door>,
    Extension(Secure(secure)): Extension<Secure>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = door.access.caller(&method, &headers).await?;
    door.access.sign_out(&caller);
    Ok((StatusCode::NO_CONTENT, cookie(&door, "", 0, secure)).into_response())
}

fn cookie(door: &Door, id: &str, max_age: i64, secure: bool) -> [(header::HeaderName, HeaderValue); 2] {
    let name = door.access.sessions.cookie(secure);
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={max_age}{secure}");
    let value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    [(header::SET_COOKIE, value), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// A link that signs a browser in, once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignInLink {
    /// The link; its code is in the fragment, which is never sent.
    pub url: String,
}

/// Makes a one-time sign-in link; good for ten minutes.
#[utoipa::path(post, path = "/signin", tag = "access", responses((status = 200, body = SignInLink), (status = 409)))]
pub(super) async fn new_link(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let link = door.sign_in_link(Some(&caller)).ok_or_else(|| {
        let error = NodeError::new(ErrorCode::Unreachable, "no node serves a page on this data directory")
            .hint("start one with `storgo-node run`");
        Problem::with_status(error, 409)
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(link)).into_response())
}

/// The tokens there are, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "access", responses((status = 200, body = Vec<TokenInfo>)))]
pub(super) async fn tokens(State(door): State<Door>) -> Json<Vec<TokenInfo>> {
    Json(door.access.tokens.list())
}

/// A new token, with its secret: it is shown this once.
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
    State(door): State<Door>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, Problem> {
    let (info, token) = door.access.tokens.create(new).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(CreatedToken { info, token })).into_response())
}

/// Revokes a token, and ends the sessions that were made from it.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", params(("id" = String, Path, description = "as listed")),
    responses((status = 204), (status = 404)))]
pub(super) async fn revoke_token(
    State(door): State<Door>,
    Segment(id): Segment<String>,
) -> Result<StatusCode, Problem> {
    // It is done to its end, also where the caller goes away.
    let revoked = tokio::spawn(async move { door.access.revoke(&id).await }).await;
    revoked.map_err(|_| NodeError::new(ErrorCode::Other, "a worker of this node failed"))??;
    Ok(StatusCode::NO_CONTENT)
}
