//! Browser sessions, and the one-time codes that start them. Both live in memory: a restart signs everybody out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, header};
use blake3::Hash;

use super::{Caller, Scope, now, secret};

/// What the name of the session's cookie begins with. Cookies do not tell ports apart: what follows is the node's own.
const COOKIE: &str = "storgo_session";
/// How long a session lasts, seconds.
pub(in super::super) const SESSION_TTL: i64 = 24 * 60 * 60;
/// How long a sign-in code may be used, seconds.
const CODE_TTL: i64 = 10 * 60;
/// Sessions held at most.
const MAX_SESSIONS: usize = 256;
/// Sessions made from one token at most; a new one ends the oldest of them.
const MAX_OF_ONE: usize = 32;
/// Codes held at most; a new one ends the oldest.
const MAX_CODES: usize = 32;

pub(in super::super) struct Sessions {
    state: Mutex<State>,
    /// Name of the cookie without TLS.
    cookie: String,
}

#[derive(Default)]
struct State {
    sessions: VecDeque<(Hash, Caller)>,
    codes: VecDeque<Code>,
}

impl State {
    /// Ends a session where one more of this caller's would be too many: of its own where it has its share, else of
    /// whoever has the most. Nobody signs those out who have few.
    fn make_room(&mut self, caller: &Caller) {
        let mut held: HashMap<Option<&str>, usize> = HashMap::new();
        for (_, other) in &self.sessions {
            *held.entry(other.token.as_deref()).or_default() += 1;
        }
        let own = caller.token.as_deref();
        let oldest = if held.get(&own).is_some_and(|held| *held >= MAX_OF_ONE) {
            self.sessions.iter().position(|(_, other)| other.token.as_deref() == own)
        } else if self.sessions.len() >= MAX_SESSIONS {
            let most = held.values().max().copied();
            self.sessions.iter().position(|(_, other)| held.get(&other.token.as_deref()).copied() == most)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.sessions.remove(oldest);
        }
    }
}

/// What signs in once.
struct Code {
    hash: Hash,
    expires: i64,
    /// Who it makes the caller.
    caller: Caller,
}

impl Sessions {
    /// The sessions of a node, whose cookies carry `node` in their name.
    pub(super) fn new(node: &str) -> Self {
        let tag = &blake3::hash(node.as_bytes()).to_hex()[..8];
        Self { state: Mutex::default(), cookie: format!("{COOKIE}_{tag}") }
    }

    /// Name of the cookie. Over TLS, browsers take a cookie of this name from this host alone.
    pub(in super::super) fn cookie(&self, secure: bool) -> String {
        format!("{}{}", if secure { "__Host-" } else { "" }, self.cookie)
    }

    /// A new code that signs in once, made by the node itself or by a caller: what it opens ends with what that one
    /// has shown.
    pub(in super::super) fn new_code(&self, maker: Option<&Caller>) -> String {
        let code = secret::<16>();
        self.with(|state| {
            if state.codes.len() == MAX_CODES {
                state.codes.pop_front();
            }
            let (expires, token) = maker.map_or((None, None), |maker| (maker.expires, maker.token.clone()));
            let caller = Caller { scope: Scope::Admin, expires, token, session: None };
            let hash = blake3::hash(code.as_bytes());
            state.codes.push_back(Code { hash, expires: now() + CODE_TTL, caller });
        });
        code
    }

    /// Uses a code up; answers with who it makes the caller.
    pub(in super::super) fn redeem(&self, code: &str) -> Option<Caller> {
        let hash = blake3::hash(code.as_bytes());
        self.with(|state| {
            let at = state.codes.iter().position(|code| code.hash == hash)?;
            state.codes.remove(at).map(|code| code.caller)
        })
    }

    /// Starts a session for who has shown a token or a code; answers with its secret id and its end.
    pub(in super::super) fn start(&self, caller: &Caller) -> (String, i64) {
        let id = secret::<32>();
        let expires = (now() + SESSION_TTL).min(caller.expires.unwrap_or(i64::MAX));
        let hash = blake3::hash(id.as_bytes());
        let caller = Caller { expires: Some(expires), session: Some(hash), ..caller.clone() };
        self.with(|state| {
            state.make_room(&caller);
            state.sessions.push_back((hash, caller));
        });
        (id, expires)
    }

    /// Whose session this is.
    pub(super) fn find(&self, hash: &Hash) -> Option<Caller> {
        self.with(|state| {
            state.sessions.iter().find(|(known, _)| known == hash).map(|(_, caller)| caller.clone())
        })
    }

    /// Whom the cookies of a request make the caller; an error where there is one, and no such session.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<Result<Caller, ()>> {
        let mut shown = None;
        for id in self.ids(headers) {
            match self.find(&blake3::hash(id.as_bytes())) {
                Some(caller) => return Some(Ok(caller)),
                None => shown = Some(Err(())),
            }
        }
        shown
    }

    /// Ends the session of a caller.
    pub(in super::super) fn end(&self, session: &Hash) {
        self.with(|state| state.sessions.retain(|(known, _)| known != session));
    }

    /// Ends the sessions that were made from a token, and the links to them.
    pub(in super::super) fn end_of_token(&self, token: &str) {
        self.with(|state| {
            state.sessions.retain(|(_, caller)| caller.token.as_deref() != Some(token));
            state.codes.retain(|code| code.caller.token.as_deref() != Some(token));
        });
    }

    /// The ids of sessions that a browser shows: another program of this host may have added one.
    fn ids<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let ours = |name: &str| name.strip_prefix("__Host-").unwrap_or(name) == self.cookie;
        pairs.filter(move |(name, _)| ours(name)).map(|(_, id)| id)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        state.codes.retain(|code| code.expires > now);
        state.sessions.retain(|(_, caller)| caller.expires.is_none_or(|expires| expires > now));
        act(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(token: Option<&str>, expires: Option<i64>) -> Caller {
        Caller { scope: Scope::Read, expires, token: token.map(String::from), session: None }
    }

    fn opens(sessions: &Sessions, id: &str) -> bool {
        sessions.find(&blake3::hash(id.as_bytes())).is_some()
    }

    #[test]
    fn a_code_signs_in_once_and_sessions_are_bounded() {
        let sessions = Sessions::new("a node");
        let code = sessions.new_code(None);
        let admin = sessions.redeem(&code).expect("signed in");
        assert!(
            admin.scope == Scope::Admin && sessions.redeem(&code).is_none() && sessions.redeem("").is_none()
        );
        let (first, expires) = sessions.start(&admin);
        assert!(expires > now() && opens(&sessions, &first));
        let (other, _) = sessions.start(&caller(Some("t"), None));
        for _ in 0..MAX_SESSIONS {
            sessions.start(&caller(Some("t"), None));
        }
        assert!(opens(&sessions, &first) && !opens(&sessions, &other), "a token ends its own sessions alone");
        // Where all places are taken, whoever has the most gives one.
        let held = sessions.with(|state| state.sessions.len());
        assert_eq!(held, 1 + MAX_OF_ONE);
        for token in 0..MAX_SESSIONS - 3 {
            sessions.start(&caller(Some(&format!("{token}")), None));
        }
        assert!(opens(&sessions, &first), "who has one keeps it");
        let of = |sessions: &Sessions, token: &str| {
            sessions.with(|state| {
                state.sessions.iter().filter(|(_, other)| other.token.as_deref() == Some(token)).count()
            })
        };
        assert_eq!((of(&sessions, "t"), sessions.with(|state| state.sessions.len())), (2, MAX_SESSIONS));
        let old = sessions.new_code(None);
        for _ in 0..MAX_CODES {
            sessions.new_code(None);
        }
        assert!(sessions.redeem(&old).is_none());
    }

    #[test]
    fn a_session_ends_with_what_it_was_made_from() {
        let sessions = Sessions::new("a node");
        assert!(!opens(&sessions, &sessions.start(&caller(Some("t"), Some(now() - 1))).0));
        let maker = Caller { scope: Scope::Admin, ..caller(Some("t"), Some(now() + 60)) };
        let (by_code, expires) =
            sessions.start(&sessions.redeem(&sessions.new_code(Some(&maker))).expect("a code"));
        assert!(expires <= now() + 60, "a link opens nothing for longer than its maker's token");
        let (id, _) = sessions.start(&caller(Some("t"), None));
        let code = sessions.new_code(Some(&maker));
        assert!(opens(&sessions, &id) && opens(&sessions, &by_code));
        sessions.end_of_token("t");
        assert!(!opens(&sessions, &id) && !opens(&sessions, &by_code) && sessions.redeem(&code).is_none());
    }

    #[test]
    fn cookies_of_others_hide_no_session() {
        let (sessions, neighbour) = (Sessions::new("a node"), Sessions::new("another"));
        let (id, _) = sessions.start(&caller(None, None));
        let headers = |text: String| HeaderMap::from_iter([(header::COOKIE, text.parse().expect("a value"))]);
        let (ours, theirs) = (sessions.cookie(false), neighbour.cookie(false));
        assert!(
            ours != theirs && sessions.of(&headers(format!("{theirs}={id}; storgo_session={id}"))).is_none()
        );
        assert_eq!(sessions.of(&headers(format!("{ours}=x"))), Some(Err(())));
        for name in [&ours, &sessions.cookie(true)] {
            let all = headers(format!("{theirs}=y; {ours}=planted; {name}={id}"));
            assert!(sessions.of(&all).is_some_and(|found| found.is_ok()), "{name}");
        }
    }
}
