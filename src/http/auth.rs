//! Who may call: bearer tokens with a scope, browser sessions made from a one-time sign-in link, and no `Host` but
//! our own.
//!
//! ```text
//! Authorization: Bearer …  ─▶ tokens ──┐
//! Cookie: storgo_session_… ─▶ sessions ┴▶ Caller (scope) ─▶ the handler, or 401 / 403
//! ```
//! Only hashes of secrets are kept, and hashes are compared, in constant time: neither length nor a common prefix shows.

pub(super) mod host;
mod sessions;
mod tokens;

use std::{fs, path::Path, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Door, problem::Problem, serve::Presence};
use crate::node::{
    Node,
    error::{ErrorCode, NodeError},
    identity::write_secret,
};
pub(super) use sessions::{SESSION_TTL, Sessions};
pub use tokens::TokenInfo;
pub(super) use tokens::{NewToken, Tokens};

/// Name of the token file inside the data directory.
pub const TOKEN_FILE: &str = "api.token";

/// Seconds after which a long answer looks again whether its caller may have it.
const MAX_LOOK: u64 = 60 * 60;

/// What a caller may do. Each scope holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look at everything but links, tokens and settings.
    Read,
    /// Store and remove files too, and see their links.
    Write,
    /// Everything.
    Admin,
}

impl Scope {
    /// Its name in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) scope: Scope,
    /// When what it showed ends, seconds since 1970.
    pub(super) expires: Option<i64>,
    /// The token that it showed, or that its session was made from; none for the node's own.
    pub(super) token: Option<String>,
    /// Its session, where it is a browser with one.
    pub(super) session: Option<blake3::Hash>,
}

/// Everything that lets callers in.
pub(super) struct Access {
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    /// Told whenever a token or a session has ended before its time.
    ended: watch::Sender<()>,
}

impl Access {
    pub(super) async fn load(node: &Node) -> Result<Self, NodeError> {
        let own = load_or_create_token(node.data_dir())?;
        let tokens = Tokens::load(node.clone(), &own).await?;
        let sessions = Sessions::new(&node.peer_id().to_string());
        Ok(Self { tokens, sessions, ended: watch::Sender::new(()) })
    }

    /// Revokes a token, and ends the sessions that were made from it.
    pub(super) async fn revoke(&self, id: &str) -> Result<(), NodeError> {
        self.tokens.revoke(id).await?;
        // From here on none of them opens anything: a session that is only just made from this token, neither.
        self.sessions.end_of_token(id);
        self.ended.send_replace(());
        Ok(())
    }

    /// Whether the token is still there that a caller has shown, or that its session was made from.
    fn token_is_there(&self, caller: &Caller) -> bool {
        caller.token.as_ref().is_none_or(|id| self.tokens.has(id))
    }

    /// Ends the session of a caller that has one.
    pub(super) fn sign_out(&self, caller: &Caller) {
        if let Some(session) = &caller.session {
            self.sessions.end(session);
            self.ended.send_replace(());
        }
    }

    /// Returns when a caller may not call any more.
    pub(super) async fn end_of(&self, caller: &Caller) {
        let mut ended = self.ended.subscribe();
        loop {
            let signed_in =
                caller.session.as_ref().is_none_or(|session| self.sessions.find(session).is_some());
            let there = signed_in && self.token_is_there(caller);
            let left = caller.expires.map_or(i64::MAX, |expires| expires - now());
            let Some(left) = u64::try_from(left).ok().filter(|left| there && *left > 0) else { return };
            let left = Duration::from_secs(left.min(MAX_LOOK));
            if let Ok(Err(_)) = tokio::time::timeout(left, ended.changed()).await {
                return;
            }
        }
    }

    /// Who the headers say is calling.
    ///
    /// # Errors
    /// A 401 for who shows nothing that is valid; a 403 for a browser that was sent here by another site.
    pub(super) async fn caller(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let shown = value.to_str().ok().and_then(|value| value.split_once(' '));
            let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            let caller = match shown {
                Some((_, token)) => self.tokens.caller(token.trim()).await,
                None => None,
            };
            return caller.ok_or_else(|| unauthorized("this token is not valid"));
        }
        let Some(caller) = self.sessions.of(headers) else {
            return Err(unauthorized("a token is needed"));
        };
        let caller = caller.ok().filter(|caller| self.token_is_there(caller));
        let caller = caller.ok_or_else(|| unauthorized("this session has ended"))?;
        if host::same_origin(method, headers) {
            if let Some(id) = &caller.token {
                self.tokens.used(id);
            }
            Ok(caller)
        } else {
            Err(NodeError::new(ErrorCode::Denied, "this request comes from another site")
                .hint("a browser session serves the node's own page alone; a program shows a token")
                .into())
        }
    }
}

fn unauthorized(message: &str) -> Problem {
    let error = NodeError::new(ErrorCode::Denied, message).hint(
        "send `Authorization: Bearer …` with a token from `storgo-node token create`, or sign in by the link that `storgo-node web` prints",
    );
    Problem::with_status(error, 401)
}

/// Reads the token that opens this data directory's API, or makes one (32 random bytes, mode 0600).
///
/// # Errors
/// [`ErrorCode::Denied`], [`ErrorCode::NoSpace`] or [`ErrorCode::Other`] where the file cannot be read or written.
pub fn load_or_create_token(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir.join(TOKEN_FILE);
    let fail = |e| NodeError::io(format_args!("use {}", path.display()), &e);
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 32 => Ok(token.trim().to_owned()),
        Ok(_) => Err(NodeError::new(ErrorCode::Other, format!("{} holds no token", path.display()))
            .hint("remove the file: the node makes a new one")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let token = BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>());
            write_secret(&path, format!("{token}\n").as_bytes()).map_err(fail)?;
            Ok(token)
        }
        Err(e) => Err(fail(e)),
    }
}

/// Finds out who calls, for the handlers; who is nobody goes no further.
pub(super) async fn authenticate(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.access.caller(request.method(), request.headers()).await {
        Ok(caller) => {
            if let Some(presence) = request.extensions().get::<Presence>() {
                presence.keep();
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets callers through that may write.
pub(super) async fn need_write(request: Request, next: Next) -> Response {
    need(Scope::Write, request, next).await
}

/// Lets callers through that may do everything.
pub(super) async fn need_admin(request: Request, next: Next) -> Response {
    need(Scope::Admin, request, next).await
}

async fn need(scope: Scope, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.scope >= scope => next.run(request).await,
        Some(caller) => {
            let message =
                format!("this takes the scope {}; yours is {}", scope.as_str(), caller.scope.as_str());
            let hint = format!("make a token for it: `storgo-node token create --scope {}`", scope.as_str());
            Problem::from(NodeError::new(ErrorCode::Denied, message).hint(hint)).into_response()
        }
        None => unauthorized("a token is needed").into_response(),
    }
}

/// A new secret of `N` random bytes, in base64url.
fn secret<const N: usize>() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>()[..N])
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::node::NodeOptions;

    #[tokio::test]
    async fn a_session_that_begins_while_its_token_is_revoked_opens_nothing() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let access = Access::load(&node).await.expect("loaded");
        let new = NewToken { name: "t".into(), scope: Scope::Read, ttl_s: None };
        let (info, secret) = access.tokens.create(new).await.expect("made");
        let shown = access.tokens.caller(&secret).await.expect("known");
        let headers = |id: &str| {
            let cookie = format!("{}={id}", access.sessions.cookie(false));
            HeaderMap::from_iter([(header::COOKIE, cookie.parse().expect("a value"))])
        };
        let (early, _) = access.sessions.start(&shown);
        let opened = access.caller(&Method::GET, &headers(&early)).await.expect("signed in");
        assert!(access.end_of(&opened).now_or_never().is_none(), "it goes on");

        access.revoke(&info.id).await.expect("revoked");
        // Its caller was known before that, and the session begins after it.
        let (late, _) = access.sessions.start(&shown);
        for id in [&early, &late] {
            let refused = access.caller(&Method::GET, &headers(id)).await;
            assert!(refused.is_err(), "{refused:?}");
        }
        let session = Some(blake3::hash(late.as_bytes()));
        for caller in [opened, Caller { session, ..shown }] {
            assert!(access.end_of(&caller).now_or_never().is_some(), "it has ended");
        }
        node.shutdown().await;
    }
}
