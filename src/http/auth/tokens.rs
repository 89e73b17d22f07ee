//! Tokens: 32 random bytes, shown once to their maker. The store keeps their BLAKE3 hashes.

use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use blake3::Hash;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    super::{clock::unix_s, problem::Problem},
    Caller, Scope,
};
use crate::node::{
    Node,
    error::{ErrorCode, NodeError},
};

/// The key of the tokens in the store.
const META_TOKENS: &str = "api-tokens";
const MAX_TOKENS: usize = 256;
/// 100 years.
const MAX_TTL_S: u64 = 100 * 365 * 24 * 60 * 60;
const MAX_NAME_BYTES: usize = 100;
/// The time of last use is written when it has advanced this far, not on every request.
const LAST_USED_STEP_S: i64 = 10 * 60;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    /// The id; revoking takes it.
    pub id: String,
    /// The name that its maker chose.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: i64,
    /// When it expires, in seconds since 1970. `null`: it does not expire.
    pub expires_unix_s: Option<i64>,
    /// When it, or a session made from it, was last used, in seconds since 1970.
    pub last_used_unix_s: Option<i64>,
}

/// A token to make.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// A name for it: 1 to 100 bytes without control characters.
    #[schema(max_length = 100)]
    pub name: String,
    /// What it allows.
    #[schema(inline)]
    pub scope: Scope,
    /// Seconds until it expires. `null`: it does not expire.
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub ttl_s: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct TokenRecord {
    #[serde(flatten)]
    info: TokenInfo,
    /// BLAKE3 of the token, hex.
    hash: String,
    #[serde(skip)]
    parsed: Option<Hash>,
    /// The time of last use in the store.
    #[serde(skip)]
    stored_use: Option<i64>,
}

impl TokenRecord {
    /// Records a use. Returns whether to write it to the store.
    fn use_at(&mut self, now: i64) -> bool {
        self.info.last_used_unix_s = Some(now);
        let stale = self.stored_use.is_none_or(|stored| stored + LAST_USED_STEP_S <= now);
        if stale {
            self.stored_use = Some(now);
        }
        stale
    }
}

pub(in super::super) struct Tokens {
    node: Node,
    own: Hash,
    records: Mutex<Vec<TokenRecord>>,
    /// Held from a change until it is in the store, so that changes are written in order.
    saving: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) async fn load(node: Node, own: &str) -> Result<Self, NodeError> {
        let bytes = node.meta(META_TOKENS).await?.unwrap_or_default();
        let mut records: Vec<TokenRecord> = match bytes.as_slice() {
            [] => Vec::new(),
            bytes => serde_json::from_slice(bytes).map_err(|e| {
                NodeError::new(ErrorCode::Integrity, format!("cannot read the tokens in the store: {e}"))
            })?,
        };
        for record in &mut records {
            record.parsed = Hash::from_hex(&record.hash).ok();
            record.stored_use = record.info.last_used_unix_s;
        }
        let own = blake3::hash(own.as_bytes());
        Ok(Self { node, own, records: Mutex::new(records), saving: tokio::sync::Mutex::default() })
    }

    /// Returns the caller with this token. `None` if the token is unknown or has expired.
    pub(in super::super) async fn caller(&self, token: &str) -> Option<Caller> {
        let hash = blake3::hash(token.as_bytes());
        if hash == self.own {
            return Some(Caller { scope: Scope::Admin, expires: None, token: None, session: None });
        }
        let now = unix_s();
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
            tracing::warn!("cannot store when a token was used: {error}");
        }
        Some(caller)
    }

    /// Records the use of a session that was made from a token.
    pub(super) fn used(&self, id: &str) {
        // Written to the store with the next use of a token.
        if let Some(record) = self.lock().iter_mut().find(|record| record.info.id == id) {
            record.info.last_used_unix_s = Some(unix_s());
        }
    }

    pub(in super::super) fn list(&self) -> Vec<TokenInfo> {
        self.lock().iter().map(|record| record.info.clone()).collect()
    }

    /// Makes a token. Returns it and its secret.
    pub(in super::super) async fn create(&self, new: NewToken) -> Result<(TokenInfo, String), Problem> {
        let name = new.name.trim();
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Problem::bad_request(
                "invalid token name: expected 1 to 100 bytes without control characters",
                "name the person or program that will use the token",
            ));
        }
        let created = unix_s();
        let expires = match new.ttl_s {
            Some(ttl @ 1..=MAX_TTL_S) => Some(created.saturating_add_unsigned(ttl)),
            Some(_) => {
                return Err(Problem::bad_request(
                    format!("invalid lifetime: expected 1 to {MAX_TTL_S} seconds (100 years)"),
                    "leave the lifetime out for a token that is valid until it is revoked",
                ));
            }
            None => None,
        };
        let token = format!("storgo_{}", random_secret::<32>());
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
                return Err(Problem::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    ErrorCode::NoSpace,
                    format!("the limit of {MAX_TOKENS} tokens is reached"),
                    "revoke unused tokens: GET /api/v1/tokens lists them",
                ));
            }
            let hex = hash.to_hex().to_string();
            records.push(TokenRecord { info: info.clone(), hash: hex, parsed: Some(hash), stored_use: None });
        }
        if let Err(error) = self.save().await {
            self.lock().retain(|record| record.info.id != info.id);
            return Err(error.into());
        }
        Ok((info, token))
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().iter().any(|record| record.info.id == id)
    }

    /// Ends a token, durably. It stays valid if that cannot be written to the store.
    pub(super) async fn revoke(&self, id: &str) -> Result<(), Problem> {
        let _order = self.saving.lock().await;
        let removed = {
            let mut records = self.lock();
            let at = records.iter().position(|record| record.info.id == id);
            at.map(|at| records.remove(at))
        };
        let Some(record) = removed else {
            return Err(Problem::not_found(
                "no token has this id",
                "list the tokens with GET /api/v1/tokens",
            ));
        };
        if let Err(error) = self.write().await {
            self.lock().push(record);
            return Err(error.into());
        }
        Ok(())
    }

    async fn save(&self) -> Result<(), NodeError> {
        let _order = self.saving.lock().await;
        self.write().await
    }

    async fn write(&self) -> Result<(), NodeError> {
        let bytes = serde_json::to_vec(&*self.lock())
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot serialize the tokens: {e}")))?;
        self.node.set_meta(META_TOKENS, bytes).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TokenRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `N` random bytes in base64url.
pub(super) fn random_secret<const N: usize>() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>()[..N])
}
