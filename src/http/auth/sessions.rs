//! Browser sessions, and the one-time codes that start them. Sessions are stored and survive a restart; codes are in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, header};
use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::{super::clock::unix_s, Caller, Scope, tokens::random_secret};

/// Prefix of the cookie's name. Cookies do not distinguish ports, so a tag of the node follows.
const COOKIE_PREFIX: &str = "storgo_session";
pub(in super::super) const SESSION_TTL_S: i64 = 24 * 60 * 60;
const CODE_TTL_S: i64 = 10 * 60;
const MAX_SESSIONS: usize = 256;
/// A further session of one token ends the oldest session of that token.
const MAX_PER_TOKEN: usize = 32;
/// A further code ends the oldest.
const MAX_CODES: usize = 32;

pub(in super::super) struct Sessions {
    credentials: Mutex<Credentials>,
    /// Name of the cookie without TLS.
    cookie: String,
}

#[derive(Default)]
struct Credentials {
    sessions: VecDeque<(Hash, Caller)>,
    codes: VecDeque<Code>,
}

impl Credentials {
    /// Ends a session if one more would be too many: the oldest of the same token, or else the oldest of the token with
    /// the most sessions. A token with few sessions keeps them.
    fn make_room(&mut self, caller: &Caller) {
        let mut held: HashMap<Option<&str>, usize> = HashMap::new();
        for (_, other) in &self.sessions {
            *held.entry(other.token.as_deref()).or_default() += 1;
        }
        let own = caller.token.as_deref();
        let oldest = if held.get(&own).is_some_and(|held| *held >= MAX_PER_TOKEN) {
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

/// A session as it is stored. The id itself is not.
#[derive(Serialize, Deserialize)]
struct SessionRecord {
    /// BLAKE3 of the session id, hex.
    hash: String,
    scope: Scope,
    expires: i64,
    /// See [`Caller::token`].
    token: Option<String>,
}

/// All sessions as they are stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// BLAKE3 of the node's own token, hex. The sessions that were made from it end when it is replaced.
    own: String,
    sessions: Vec<SessionRecord>,
}

/// A one-time sign-in code.
struct Code {
    hash: Hash,
    expires: i64,
    /// The caller that it signs in.
    caller: Caller,
}

impl Sessions {
    /// The sessions of the node with this peer id.
    pub(super) fn new(node: &str) -> Self {
        let tag = &blake3::hash(node.as_bytes()).to_hex()[..8];
        Self { credentials: Mutex::default(), cookie: format!("{COOKIE_PREFIX}_{tag}") }
    }

    /// Returns what [`Sessions::restore`] takes. `own` is the hash of the node's own token.
    pub(super) fn to_bytes(&self, own: &Hash) -> Vec<u8> {
        let record = |(hash, caller): &(Hash, Caller)| SessionRecord {
            hash: hash.to_hex().to_string(),
            scope: caller.scope,
            expires: caller.expires.unwrap_or_default(),
            token: caller.token.clone(),
        };
        let sessions = self.with(|all| all.sessions.iter().map(record).collect());
        serde_json::to_vec(&Stored { own: own.to_hex().to_string(), sessions }).unwrap_or_default()
    }

    /// Restores the sessions of an earlier run. Expired ones, and those of another `own` token, have ended.
    ///
    /// # Errors
    /// The bytes do not come from [`Sessions::to_bytes`].
    pub(super) fn restore(&self, bytes: &[u8], own: &Hash) -> Result<(), serde_json::Error> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        let same_own = stored.own == own.to_hex().as_str();
        let session = |SessionRecord { hash, scope, expires, token }: SessionRecord| {
            let hash = Hash::from_hex(hash).ok()?;
            // The clock may have been ahead when the session began.
            let expires = expires.min(unix_s() + SESSION_TTL_S);
            Some((hash, Caller { scope, expires: Some(expires), token, session: Some(hash) }))
        };
        let sessions = stored.sessions.into_iter().filter(|record| same_own || record.token.is_some());
        self.with(|all| all.sessions = sessions.filter_map(session).take(MAX_SESSIONS).collect());
        Ok(())
    }

    /// Returns the name of the cookie. With TLS, its prefix makes browsers accept it from this host only.
    pub(in super::super) fn cookie_name(&self, tls: bool) -> String {
        format!("{}{}", if tls { "__Host-" } else { "" }, self.cookie)
    }

    /// Makes a code that signs in once with the scope `admin`. Its session ends with the token or session of `maker`.
    pub(in super::super) fn new_code(&self, maker: Option<&Caller>) -> String {
        let code = random_secret::<16>();
        self.with(|all| {
            if all.codes.len() == MAX_CODES {
                all.codes.pop_front();
            }
            let (expires, token) = maker.map_or((None, None), |maker| (maker.expires, maker.token.clone()));
            let caller = Caller { scope: Scope::Admin, expires, token, session: None };
            let hash = blake3::hash(code.as_bytes());
            all.codes.push_back(Code { hash, expires: unix_s() + CODE_TTL_S, caller });
        });
        code
    }

    /// Uses up a code. Returns the caller that it signs in.
    pub(in super::super) fn redeem(&self, code: &str) -> Option<Caller> {
        let hash = blake3::hash(code.as_bytes());
        self.with(|all| {
            let at = all.codes.iter().position(|code| code.hash == hash)?;
            all.codes.remove(at).map(|code| code.caller)
        })
    }

    /// Starts a session. Returns its secret id and when it expires, in seconds since 1970.
    pub(in super::super) fn start(&self, caller: &Caller) -> (String, i64) {
        let id = random_secret::<32>();
        let expires = (unix_s() + SESSION_TTL_S).min(caller.expires.unwrap_or(i64::MAX));
        let hash = blake3::hash(id.as_bytes());
        let caller = Caller { expires: Some(expires), session: Some(hash), ..caller.clone() };
        self.with(|all| {
            all.make_room(&caller);
            all.sessions.push_back((hash, caller));
        });
        (id, expires)
    }

    pub(super) fn find(&self, hash: &Hash) -> Option<Caller> {
        self.with(|all| {
            all.sessions.iter().find(|(known, _)| known == hash).map(|(_, caller)| caller.clone())
        })
    }

    /// Returns the caller by the cookies of a request: `None` without a session cookie, an error if its session has ended.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Option<Result<Caller, ()>> {
        let mut ended = None;
        for id in self.ids(headers) {
            match self.find(&blake3::hash(id.as_bytes())) {
                Some(caller) => return Some(Ok(caller)),
                None => ended = Some(Err(())),
            }
        }
        ended
    }

    pub(super) fn end(&self, session: &Hash) {
        self.with(|all| all.sessions.retain(|(known, _)| known != session));
    }

    /// Ends the sessions and codes that were made from a token.
    pub(super) fn end_of_token(&self, token: &str) {
        self.with(|all| {
            all.sessions.retain(|(_, caller)| caller.token.as_deref() != Some(token));
            all.codes.retain(|code| code.caller.token.as_deref() != Some(token));
        });
    }

    /// The session ids in the cookies of a request. There may be several: another server on this host can set cookies too.
    fn ids<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let ours = |name: &str| name.strip_prefix("__Host-").unwrap_or(name) == self.cookie;
        pairs.filter(move |(name, _)| ours(name)).map(|(_, id)| id)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Credentials) -> T) -> T {
        let mut all = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_s();
        all.codes.retain(|code| code.expires > now);
        all.sessions.retain(|(_, caller)| caller.expires.is_none_or(|expires| expires > now));
        act(&mut all)
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
    fn a_code_signs_in_once_and_the_number_of_sessions_is_limited() {
        let sessions = Sessions::new("a node");
        let code = sessions.new_code(None);
        let admin = sessions.redeem(&code).expect("a code");
        assert!(
            admin.scope == Scope::Admin && sessions.redeem(&code).is_none() && sessions.redeem("").is_none()
        );
        let (first, expires) = sessions.start(&admin);
        assert!(expires > unix_s() && opens(&sessions, &first));
        let (other, _) = sessions.start(&caller(Some("t"), None));
        for _ in 0..MAX_SESSIONS {
            sessions.start(&caller(Some("t"), None));
        }
        assert!(opens(&sessions, &first) && !opens(&sessions, &other), "a token ends only its own sessions");
        // At the limit, the token with the most sessions loses one.
        let held = sessions.with(|all| all.sessions.len());
        assert_eq!(held, 1 + MAX_PER_TOKEN);
        for token in 0..MAX_SESSIONS - 3 {
            sessions.start(&caller(Some(&format!("{token}")), None));
        }
        assert!(opens(&sessions, &first), "a caller with one session keeps it");
        let of = |sessions: &Sessions, token: &str| {
            sessions.with(|all| {
                all.sessions.iter().filter(|(_, other)| other.token.as_deref() == Some(token)).count()
            })
        };
        assert_eq!((of(&sessions, "t"), sessions.with(|all| all.sessions.len())), (2, MAX_SESSIONS));
        let old = sessions.new_code(None);
        for _ in 0..MAX_CODES {
            sessions.new_code(None);
        }
        assert!(sessions.redeem(&old).is_none());
    }

    #[test]
    fn a_session_ends_with_its_token() {
        let sessions = Sessions::new("a node");
        assert!(!opens(&sessions, &sessions.start(&caller(Some("t"), Some(unix_s() - 1))).0));
        let maker = Caller { scope: Scope::Admin, ..caller(Some("t"), Some(unix_s() + 60)) };
        let (by_code, expires) =
            sessions.start(&sessions.redeem(&sessions.new_code(Some(&maker))).expect("a code"));
        assert!(expires <= unix_s() + 60, "the session does not outlive the token of the link's maker");
        let (id, _) = sessions.start(&caller(Some("t"), None));
        let code = sessions.new_code(Some(&maker));
        assert!(opens(&sessions, &id) && opens(&sessions, &by_code));
        sessions.end_of_token("t");
        assert!(!opens(&sessions, &id) && !opens(&sessions, &by_code) && sessions.redeem(&code).is_none());
    }

    #[test]
    fn sessions_are_restored_from_their_hashes_until_they_expire() {
        let (own, sessions) = (blake3::hash(b"own token"), Sessions::new("a node"));
        let (id, expires) = sessions.start(&caller(Some("t"), None));
        let (of_node, _) = sessions.start(&caller(None, None));
        let (brief, soon) = sessions.start(&caller(None, Some(unix_s() + 60)));
        let bytes = String::from_utf8(sessions.to_bytes(&own)).expect("JSON");
        for secret in [&id, &of_node, &brief] {
            assert!(!bytes.contains(secret.as_str()), "an id is stored");
        }
        // One of them expires meanwhile.
        let bytes = bytes.replace(&soon.to_string(), "1");
        let restored = |own: &[u8]| {
            let later = Sessions::new("a node");
            later.restore(bytes.as_bytes(), &blake3::hash(own)).expect("restored");
            later
        };
        let later = restored(b"own token");
        let found = later.find(&blake3::hash(id.as_bytes())).expect("it is there");
        assert_eq!(
            (found.expires, found.scope, found.token.as_deref()),
            (Some(expires), Scope::Read, Some("t"))
        );
        assert!(opens(&later, &of_node) && !opens(&later, &brief));
        let (ahead, later) = (bytes.replace(&expires.to_string(), "99999999999"), Sessions::new("a node"));
        later.restore(ahead.as_bytes(), &own).expect("restored");
        let found = later.find(&blake3::hash(id.as_bytes())).expect("it is there");
        assert!(found.expires.is_some_and(|expires| expires <= unix_s() + SESSION_TTL_S));
        // A new `api.token` ends the sessions that were made from the old one.
        let later = restored(b"another token");
        assert!(opens(&later, &id) && !opens(&later, &of_node));
        assert!(Sessions::new("a node").restore(b"not JSON", &own).is_err());
    }

    #[test]
    fn a_session_is_found_among_the_cookies_of_other_servers() {
        let (sessions, neighbour) = (Sessions::new("a node"), Sessions::new("another"));
        let (id, _) = sessions.start(&caller(None, None));
        let headers = |text: String| HeaderMap::from_iter([(header::COOKIE, text.parse().expect("a value"))]);
        let (ours, theirs) = (sessions.cookie_name(false), neighbour.cookie_name(false));
        assert!(
            ours != theirs
                && sessions.caller(&headers(format!("{theirs}={id}; storgo_session={id}"))).is_none()
        );
        assert_eq!(sessions.caller(&headers(format!("{ours}=x"))), Some(Err(())));
        for name in [&ours, &sessions.cookie_name(true)] {
            let all = headers(format!("{theirs}=y; {ours}=planted; {name}={id}"));
            assert!(sessions.caller(&all).is_some_and(|found| found.is_ok()), "{name}");
        }
    }
}
