//! Authentication: bearer tokens with a scope, browser sessions that a one-time sign-in link starts, and the check of
//! `Host` and `Origin`. Knows no routes: other servers of this node can use the same tokens.
//!
//! ```text
//! Authorization: Bearer …  ─▶ tokens ──┐
//! Cookie: storgo_session_… ─▶ sessions ┴▶ Caller (scope) ─▶ the handler, or 401 / 403
//! ```
//! Only hashes of secrets are kept, in the index, which is readable by its owner alone. Hashes are compared in constant time.

pub(super) mod host;
mod sessions;
mod shares;
mod tokens;

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(super) use self::shares::Shares;
use self::{sessions::Sessions, tokens::Tokens};
use super::{clock::unix_s, problem::Problem, serve::ClientConnection};
use crate::node::{
    Node,
    error::{ErrorCode, NodeError},
    identity::write_secret,
};
use crate::store::read;
pub(super) use sessions::SESSION_TTL_S;
pub(super) use tokens::NewToken;
pub use tokens::TokenInfo;

/// Name of the token file in the data directory.
pub const TOKEN_FILE: &str = "api.token";

/// The name under which the store keeps the sessions.
const META_SESSIONS: &str = "api-sessions";

/// Long responses check again after this time whether their caller still has access: the clock may have been set.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The rights of a caller. Each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read everything but links, tokens and settings.
    Read,
    /// Also store, remove and check files, and read their links.
    Write,
    /// Everything.
    Admin,
}

impl Scope {
    /// The name in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// An authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) scope: Scope,
    /// When the token or session expires, in seconds since 1970.
    pub(super) expires: Option<i64>,
    /// The id of the token, or of the token that the session was made from. `None` for the node's own token.
    pub(super) token: Option<String>,
    /// The hash of the session id. `None` for a token.
    pub(super) session: Option<blake3::Hash>,
}

/// Authenticates requests by the tokens and sessions of one node.
pub(super) struct Authenticator {
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    /// The requests in progress.
    requests: Shares,
    /// Notified when a token or a session has ended before its time.
    ended: watch::Sender<()>,
    node: Node,
    /// Hash of the node's own token.
    own: blake3::Hash,
    /// Held while sessions are stored, so that they are written in order.
    saving: tokio::sync::Mutex<()>,
}

impl Authenticator {
    pub(super) async fn load(node: &Node) -> Result<Self, NodeError> {
        let own = load_or_create_token(node.data_dir())?;
        let tokens = Tokens::load(node.clone(), &own).await?;
        let sessions = Sessions::new(&node.peer_id().to_string());
        let own = blake3::hash(own.as_bytes());
        let stored = node.meta(META_SESSIONS).await?.unwrap_or_default();
        if !stored.is_empty()
            && let Err(error) = sessions.restore(&stored, &own)
        {
            tracing::warn!("cannot read the stored sessions, so browsers have to sign in again: {error}");
        }
        let (ended, saving) = (watch::Sender::new(()), tokio::sync::Mutex::default());
        Ok(Self { tokens, sessions, requests: Shares::default(), ended, node: node.clone(), own, saving })
    }

    /// Starts a session. Returns its secret id and when it expires, in seconds since 1970.
    pub(super) async fn start_session(&self, caller: &Caller) -> (String, i64) {
        let started = self.sessions.start(caller);
        if let Err(error) = self.save_sessions().await {
            tracing::warn!("cannot store a session, so it ends with this node: {error}");
        }
        started
    }

    async fn save_sessions(&self) -> Result<(), NodeError> {
        let _order = self.saving.lock().await;
        self.node.set_meta(META_SESSIONS, self.sessions.to_bytes(&self.own)).await
    }

    /// Revokes a token, and ends the sessions that were made from it.
    pub(super) async fn revoke(&self, id: &str) -> Result<(), Problem> {
        self.tokens.revoke(id).await?;
        // A session that is being made from this token right now opens nothing either: see `has_token`.
        self.sessions.end_of_token(id);
        self.ended.send_replace(());
        if let Err(error) = self.save_sessions().await {
            // Without their token, the stored sessions open nothing.
            tracing::warn!("cannot store that the sessions of a token have ended: {error}");
        }
        Ok(())
    }

    /// Whether the token of a caller still exists.
    fn has_token(&self, caller: &Caller) -> bool {
        caller.token.as_ref().is_none_or(|id| self.tokens.has(id))
    }

    /// Ends the session of a caller, if there is one.
    ///
    /// # Errors
    /// The end could not be stored, so the session would come back with the next start of the node.
    pub(super) async fn sign_out(&self, caller: &Caller) -> Result<(), NodeError> {
        if let Some(session) = &caller.session {
            self.sessions.end(session);
            self.ended.send_replace(());
            self.save_sessions().await?;
        }
        Ok(())
    }

    /// Returns when the token or session of a caller has ended.
    pub(super) async fn access_ended(&self, caller: &Caller) {
        let mut ended = self.ended.subscribe();
        loop {
            let signed_in =
                caller.session.as_ref().is_none_or(|session| self.sessions.find(session).is_some());
            let left_s = caller.expires.map_or(i64::MAX, |expires| expires - unix_s());
            let left = match u64::try_from(left_s) {
                Ok(left_s @ 1..) if signed_in && self.has_token(caller) => Duration::from_secs(left_s),
                _ => return,
            };
            if let Ok(Err(_)) = tokio::time::timeout(left.min(MAX_CHECK_INTERVAL), ended.changed()).await {
                return;
            }
        }
    }

    /// Authenticates a request by its headers.
    ///
    /// # Errors
    /// 401 without a valid token or session; 403 if another site sent a browser here.
    pub(super) async fn caller(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let credentials = value.to_str().ok().and_then(|value| value.split_once(' '));
            let caller = match credentials {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    self.tokens.caller(token.trim()).await
                }
                _ => None,
            };
            return caller.ok_or_else(|| unauthorized("this token is unknown or has expired"));
        }
        let Some(caller) = self.sessions.caller(headers) else {
            return Err(unauthorized("this request carries no token"));
        };
        let caller = caller.ok().filter(|caller| self.has_token(caller));
        let caller = caller.ok_or_else(|| unauthorized("this session has ended"))?;
        if host::same_origin(method, headers) {
            if let Some(id) = &caller.token {
                self.tokens.used(id).await;
            }
            Ok(caller)
        } else {
            Err(host::foreign_origin())
        }
    }
}

fn unauthorized(detail: &str) -> Problem {
    let hint = "send `Authorization: Bearer …` with a token, or sign in with POST /api/v1/session";
    Problem::unauthorized(detail, hint)
}

/// Reads the token of this data directory's API, or makes one (32 random bytes, mode 0600).
///
/// # Errors
/// [`ErrorCode::Denied`], [`ErrorCode::NoSpace`] or [`ErrorCode::Other`] if the file cannot be read or written.
pub fn load_or_create_token(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir.join(TOKEN_FILE);
    let fail = |e| NodeError::io(format_args!("use {}", path.display()), &e);
    let damaged = || {
        let message = format!("{} contains no token; remove it to get a new one", path.display());
        NodeError::new(ErrorCode::Other, message)
    };
    match read(&path) {
        Ok(Some(bytes)) => {
            let token = str::from_utf8(&bytes).map(str::trim).ok();
            let token =
                token.filter(|token| token.len() >= 32 && token.bytes().all(|b| b.is_ascii_graphic()));
            token.map(ToOwned::to_owned).ok_or_else(damaged)
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(damaged()),
        Ok(None) => {
            let token = BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>());
            write_secret(&path, format!("{token}\n").as_bytes()).map_err(fail)?;
            Ok(token)
        }
        Err(e) => Err(fail(e)),
    }
}

/// Middleware that authenticates requests. Handlers find the [`Caller`] in the extensions.
pub(super) async fn authenticate(
    State(auth): State<Arc<Authenticator>>,
    mut request: Request,
    next: Next,
) -> Response {
    match auth.caller(request.method(), request.headers()).await {
        Ok(caller) => {
            if let Some(connection) = request.extensions().get::<ClientConnection>() {
                let Some(share) = auth.requests.take(&caller, connection.limit()) else {
                    return Problem::busy("too many requests are in progress, of this token or of all")
                        .into_response();
                };
                connection.set_authenticated(share);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Middleware that refuses callers without this scope.
pub(super) async fn require(State(needed): State<Scope>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.scope >= needed => next.run(request).await,
        Some(caller) => {
            let (needed, given) = (needed.as_str(), caller.scope.as_str());
            let detail = format!("this needs the scope `{needed}`, and the token has the scope `{given}`");
            let hint = format!("use a token of the scope `{needed}`: POST /api/v1/tokens makes one");
            Problem::denied(detail, hint).into_response()
        }
        None => unauthorized("this request carries no token").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::node::NodeOptions;

    #[tokio::test]
    async fn a_session_that_starts_while_its_token_is_revoked_opens_nothing() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let auth = Authenticator::load(&node).await.expect("loaded");
        let new = NewToken { name: "t".into(), scope: Scope::Read, ttl_s: None };
        let (info, secret) = auth.tokens.create(new).await.expect("made");
        let authenticated = auth.tokens.caller(&secret).await.expect("known");
        let headers = |id: &str| {
            let cookie = format!("{}={id}", auth.sessions.cookie_name(false));
            HeaderMap::from_iter([(header::COOKIE, cookie.parse().expect("a value"))])
        };
        let (early, _) = auth.sessions.start(&authenticated);
        let opened = auth.caller(&Method::GET, &headers(&early)).await.expect("signed in");
        assert!(auth.access_ended(&opened).now_or_never().is_none(), "the session is valid");

        auth.revoke(&info.id).await.expect("revoked");
        // This caller was authenticated before the token was revoked, and its session starts after that.
        let (late, _) = auth.sessions.start(&authenticated);
        for id in [&early, &late] {
            let refused = auth.caller(&Method::GET, &headers(id)).await;
            assert!(refused.is_err(), "{refused:?}");
        }
        let session = Some(blake3::hash(late.as_bytes()));
        for caller in [opened, Caller { session, ..authenticated }] {
            assert!(auth.access_ended(&caller).now_or_never().is_some(), "the session has ended");
        }
        node.shutdown().await;
    }
}
