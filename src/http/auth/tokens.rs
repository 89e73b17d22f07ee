//! Tokens: 32 random bytes that whoever made them has seen once. The store keeps their BLAKE3 hashes.

use std::sync::{Mutex, PoisonError};

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::{Caller, Scope, now, secret};
use crate::node::{
    Node,
    error::{ErrorCode, NodeError},
};

/// Name under which tokens are kept in the store.
const META_TOKENS: &str = "api-tokens";
/// Tokens at most.
const MAX_TOKENS: usize = 256;
/// The longest time that a token lasts, seconds: 100 years.
const MAX_TTL: u64 = 100 * 365 * 24 * 60 * 60;
/// Bytes of the longest name.
const MAX_NAME: usize = 100;
/// How much older the time of last use may be in the store than here, seconds: not every request is worth a write.
const LAST_USED_STEP: i64 = 10 * 60;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    /// By this it is revoked.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// When it was made, seconds since 1970.
    pub created_unix_s: i64,
    /// When it ends, seconds since 1970; none: when it is revoked.
    pub expires_unix_s: Option<i64>,
    /// When it was last shown, seconds since 1970.
    pub last_used_unix_s: Option<i64>,
}

/// What a token is made from.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What to call it, at most 100 bytes.
    #[schema(max_length = 100)]
    pub name: String,
    /// What it opens.
    pub scope: Scope,
    /// After how many seconds it ends; none: when it is revoked.
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub ttl_s: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    info: TokenInfo,
    /// BLAKE3 of the token, hex.
    hash: String,
    #[serde(skip)]
    parsed: Option<Hash>,
    /// The time of last use that was written, seconds since 1970.
    #[serde(skip)]
    noted: Option<i64>,
}

impl Record {
    /// Notes a use; answers whether that is to be written.
    fn use_at(&mut self, now: i64) -> bool {
        self.info.last_used_unix_s = Some(now);
        let stale = self.noted.is_none_or(|noted| noted + LAST_USED_STEP <= now);
        if stale {
            self.noted = Some(now);
        }
        stale
    }
}

pub(in super::super) struct Tokens {
    node: Node,
    own: Hash,
    records: Mutex<Vec<Record>>,
    /// Held from a change to its end in the store, so that changes come there in order.
    saving: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) async fn load(node: Node, own: &str) -> Result<Self, NodeError> {
        let bytes = node.meta(META_TOKENS).await?.unwrap_or_default();
        let mut records: Vec<Record> = match bytes.as_slice() {
            [] => Vec::new(),
            bytes => serde_json::from_slice(bytes).map_err(|e| {
                NodeError::new(ErrorCode::Integrity, format!("the list of tokens cannot be read: {e}"))
            })?,
        };
        for record in &mut records {
            record.parsed = Hash::from_hex(&record.hash).ok();
            record.noted = record.info.last_used_unix_s;
        }
        let own = blake3::hash(own.as_bytes());
        Ok(Self { node, own, records: Mutex::new(records), saving: tokio::sync::Mutex::default() })
    }

    /// Whom a token makes the caller; nobody where it is not known, or has ended.
    pub(in super::super) async fn caller(&self, token: &str) -> Option<Caller> {
        let hash = blake3::hash(token.as_bytes());
        if hash == self.own {
            return Some(Caller { scope: Scope::Admin, expires: None, token: None, session: None });
        }
        let now = now();
        let (caller, stale) = {
            let mut records = self.lock();
            // `Hash` compares in constant time.
            let record = records.iter_mut().find(|record| record.parsed == Some(hash))?;
            if record.info.expires_unix_s.is_some_and(|expires| expires <= now) {
                return None;
            }
            let stale = record.use_at(now);
            let TokenInfo { id, scope, expires_unix_s, .. } = &record.info;
            (
                Caller { scope: *scope, expires: *expires_unix_s, token: Some(id.clone()), session: None },
                stale,
            )
        };
        if stale && let Err(error) = self.save().await {
            tracing::warn!("when a token was used could not be noted: {error}");
        }
        Some(caller)
    }

    /// Notes that a session that was made from this token has been used.
    pub(super) fn used(&self, id: &str) {
        // Written with the next use of a token, or not at all.
        if let Some(record) = self.lock().iter_mut().find(|record| record.info.id == id) {
            record.info.last_used_unix_s = Some(now());
        }
    }

    pub(in super::super) fn list(&self) -> Vec<TokenInfo> {
        self.lock().iter().map(|record| record.info.clone()).collect()
    }

    /// Makes a token; answers with it and its secret.
    pub(in super::super) async fn create(&self, new: NewToken) -> Result<(TokenInfo, String), NodeError> {
        let bad = |message: &str, hint: &str| Err(NodeError::new(ErrorCode::BadRequest, message).hint(hint));
        let name = new.name.trim();
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return bad(
                "a token needs a name of 1 to 100 bytes without control characters",
                "say who or what will use it",
            );
        }
        let created = now();
        let expires = match new.ttl_s {
            Some(0) => {
                return bad("a token that ends at once opens nothing", "say after how many seconds it ends");
            }
            Some(ttl @ ..=MAX_TTL) => Some(created.saturating_add_unsigned(ttl)),
            Some(_) => {
                return bad(
                    "a token lasts 100 years at most, or until it is revoked",
                    "leave the time out, and revoke it when it is not needed any more",
                );
            }
            None => None,
        };
        let token = format!("storgo_{}", secret::<32>());
        let hash = blake3::hash(token.as_bytes());
        let info = TokenInfo {
            id: format!("{:016x}", rand::random::<u64>()),
            name: name.to_owned(),
            scope: new.scope,
            created_unix_s: created,
            expires_unix_s: expires,
            last_used_unix_s: None,
        };
        {
            let mut records = self.lock();
            if records.len() >= MAX_TOKENS {
                return Err(NodeError::new(
                    ErrorCode::NoSpace,
                    format!("there are {MAX_TOKENS} tokens already"),
                )
                .hint("revoke those that nobody uses: `storgo-node token ls`"));
            }
            let hex = hash.to_hex().to_string();
            records.push(Record { info: info.clone(), hash: hex, parsed: Some(hash), noted: None });
        }
        if let Err(error) = self.save().await {
            self.lock().retain(|record| record.info.id != info.id);
            return Err(error);
        }
        Ok((info, token))
    }

    /// Whether there is a token with this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().iter().any(|record| record.info.id == id)
    }

    /// Ends a token. It opens nothing any more when this returns, and after any restart; where that cannot be written
    /// down, it is as it was.
    pub(super) async fn revoke(&self, id: &str) -> Result<(), NodeError> {
        let _order = self.saving.lock().await;
        let removed = {
            let mut records = self.lock();
            let at = records.iter().position(|record| record.info.id == id);
            at.map(|at| records.remove(at))
        };
        let Some(record) = removed else {
            return Err(NodeError::new(ErrorCode::NotFound, "there is no token with this id")
                .hint("`storgo-node token ls` shows them"));
        };
        if let Err(error) = self.write().await {
            self.lock().push(record);
            return Err(error);
        }
        Ok(())
    }

    async fn save(&self) -> Result<(), NodeError> {
        let _order = self.saving.lock().await;
        self.write().await
    }

    async fn write(&self) -> Result<(), NodeError> {
        let bytes = serde_json::to_vec(&*self.lock())
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("tokens cannot be written: {e}")))?;
        self.node.set_meta(META_TOKENS, bytes).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
