//! Browser sessions, and the one-time codes that start them. Both live in memory: a restart signs everybody out.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, header};
use blake3::Hash;

use super::{Caller, Scope, now, secret};

/// Name of the session's cookie.
pub(in super::super) const COOKIE: &str = "storgo_session";
/// How long a session lasts, seconds.
pub(in super::super) const SESSION_TTL: i64 = 24 * 60 * 60;
/// How long a sign-in code may be used, seconds.
const CODE_TTL: i64 = 10 * 60;
/// Sessions held at most; a new one ends the oldest.
const MAX_SESSIONS: usize = 256;
/// Codes held at most; a new one ends the oldest.
const MAX_CODES: usize = 32;

#[derive(Default)]
pub(in super::super) struct Sessions(Mutex<State>);

#[derive(Default)]
struct State {
    sessions: VecDeque<(Hash, Caller)>,
    codes: VecDeque<(Hash, i64)>,
}

impl Sessions {
    /// A new code that signs in once.
    pub(in super::super) fn new_code(&self) -> String {
        let code = secret::<16>();
        self.with(|state| {
            if state.codes.len() == MAX_CODES {
                state.codes.pop_front();
            }
            state.codes.push_back((blake3::hash(code.as_bytes()), now() + CODE_TTL));
        });
        code
    }

    /// Uses a code up; answers with who it makes the caller.
    pub(in super::super) fn redeem(&self, code: &str) -> Option<Caller> {
        let hash = blake3::hash(code.as_bytes());
        self.with(|state| {
            let at = state.codes.iter().position(|(known, _)| *known == hash)?;
            state.codes.remove(at)
        })?;
        Some(Caller { scope: Scope::Admin, expires: None, token: None, cookie: true })
    }

    /// Starts a session for who has shown a token or a code; answers with its secret id and its end.
    pub(in super::super) fn start(&self, caller: &Caller) -> (String, i64) {
        let id = secret::<32>();
        let expires = (now() + SESSION_TTL).min(caller.expires.unwrap_or(i64::MAX));
        let caller = Caller { expires: Some(expires), cookie: true, ..caller.clone() };
        self.with(|state| {
            if state.sessions.len() == MAX_SESSIONS {
                state.sessions.pop_front();
            }
            state.sessions.push_back((blake3::hash(id.as_bytes()), caller));
        });
        (id, expires)
    }

    pub(super) fn caller(&self, id: &str) -> Option<Caller> {
        let hash = blake3::hash(id.as_bytes());
        self.with(|state| {
            state.sessions.iter().find(|(known, _)| *known == hash).map(|(_, caller)| caller.clone())
        })
    }

    /// Ends the session of a browser.
    pub(in super::super) fn end(&self, headers: &HeaderMap) {
        if let Some(hash) = cookie(headers).map(|id| blake3::hash(id.as_bytes())) {
            self.with(|state| state.sessions.retain(|(known, _)| *known != hash));
        }
    }

    /// Ends the sessions that were made from a token.
    pub(in super::super) fn end_of_token(&self, token: &str) {
        self.with(|state| state.sessions.retain(|(_, caller)| caller.token.as_deref() != Some(token)));
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        state.codes.retain(|(_, expires)| *expires > now);
        state.sessions.retain(|(_, caller)| caller.expires.is_none_or(|expires| expires > now));
        act(&mut state)
    }
}

/// The id of the session that a browser shows.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_signs_in_once_and_sessions_are_bounded() {
        let sessions = Sessions::default();
        let code = sessions.new_code();
        let caller = sessions.redeem(&code).expect("signed in");
        assert!(sessions.redeem(&code).is_none() && sessions.redeem("").is_none());
        let (first, expires) = sessions.start(&caller);
        assert!(
            expires > now() && sessions.caller(&first).is_some_and(|caller| caller.scope == Scope::Admin)
        );
        for _ in 0..MAX_SESSIONS {
            sessions.start(&caller);
        }
        assert!(sessions.caller(&first).is_none(), "the oldest has ended");
        let old = sessions.new_code();
        for _ in 0..MAX_CODES {
            sessions.new_code();
        }
        assert!(sessions.redeem(&old).is_none());
    }

    #[test]
    fn a_session_ends_with_what_it_was_made_from() {
        let sessions = Sessions::default();
        let caller =
            Caller { scope: Scope::Read, expires: Some(now() - 1), token: Some("t".into()), cookie: false };
        assert!(sessions.caller(&sessions.start(&caller).0).is_none());
        let (id, _) = sessions.start(&Caller { expires: None, ..caller });
        assert!(sessions.caller(&id).is_some());
        sessions.end_of_token("t");
        assert!(sessions.caller(&id).is_none());
    }
}
