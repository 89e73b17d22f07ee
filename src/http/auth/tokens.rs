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
    error::{ErrorCode, NodeError, Reason},
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
    /// The scope of its requests.
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
    /// The scope of its requests.
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
    /// The time of last use in the store.
    #[serde(skip)]
    stored_use: Option<i64>,
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
        let (id, scope, expires) = {
            let records = self.lock();
            // `Hash` compares in constant time.
            let record =
                records.iter().find(|record| Hash::from_hex(&record.hash).is_ok_and(|it| it == hash))?;
            (record.info.id.clone(), record.info.scope, record.info.expires_unix_s)
        };
        if expires.is_some_and(|expires| expires <= unix_s()) {
            return None;
        }
        self.used(&id).await;
        Some(Caller { scope, expires, token: Some(id), session: None })
    }

    /// Records the use of a token, or of a session that was made from it.
    pub(super) async fn used(&self, id: &str) {
        let now = unix_s();
        let use_now = |record: &mut TokenRecord| {
            record.info.last_used_unix_s = Some(now);
            let stale = record.stored_use.is_none_or(|stored| stored + LAST_USED_STEP_S <= now);
            if stale {
                record.stored_use = Some(now);
            }
            stale
        };
        let stale = self.lock().iter_mut().find(|record| record.info.id == id).is_some_and(use_now);
        if stale && let Err(error) = self.save().await {
            tracing::warn!("cannot store when a token was used: {error}");
        }
    }

    pub(in super::super) fn list(&self) -> Vec<TokenInfo> {
        self.lock().iter().map(|record| record.info.clone()).collect()
    }

    /// Makes a token. Returns it and its secret.
    pub(in super::super) async fn create(&self, new: NewToken) -> Result<(TokenInfo, String), Problem> {
        let name = new.name.trim();
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let detail = "invalid token name: expected 1 to 100 bytes without control characters";
            let hint = "name the person or program that will use the token";
            return Err(Problem::bad_request(detail, hint));
        }
        let created = unix_s();
        let expires = match new.ttl_s {
            Some(ttl @ 1..=MAX_TTL_S) => Some(created.saturating_add_unsigned(ttl)),
            Some(_) => {
                let detail = format!("invalid lifetime: expected 1 to {MAX_TTL_S} seconds (100 years)");
                let hint = "leave the lifetime out for a token that is valid until it is revoked";
                return Err(Problem::bad_request(detail, hint));
            }
            None => None,
        };
        let token = format!("storgo_{}", random_secret::<32>());
        let hash = blake3::hash(token.as_bytes()).to_hex().to_string();
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
                let detail = format!("the limit of {MAX_TOKENS} tokens is reached");
                let hint = "revoke unused tokens: GET /api/v1/tokens lists them";
                return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::NoSpace, detail, hint));
            }
            records.push(TokenRecord { info: info.clone(), hash, stored_use: None });
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
            let error = NodeError::new(ErrorCode::NotFound, "no token has this id");
            return Err(error.reason(Reason::TokenUnknown).into());
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
