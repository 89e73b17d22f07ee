//! Shares for what callers hold for long: requests in progress, and streams of events. A token has a share of them, and callers
//! without the scope `admin` leave some to those that have it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Caller, Scope};

/// The places that are taken.
#[derive(Clone, Default)]
pub(in super::super) struct Shares(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    /// Shares of callers without the scope `admin`, by token.
    by_token: HashMap<String, usize>,
}

/// A place, taken until it is dropped.
pub(in super::super) struct Share {
    shares: Shares,
    /// The token that it counts against. `None`: the caller has the scope `admin`.
    token: Option<String>,
}

impl Shares {
    /// Takes one of `limit` places. A caller with the scope `admin` may take all of them, the others together three quarters,
    /// and each token one quarter. `None`: there is no place for this caller.
    pub(in super::super) fn take(&self, caller: &Caller, limit: usize) -> Option<Share> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= limit {
            return None;
        }
        let token = (caller.scope < Scope::Admin).then(|| caller.token.clone().unwrap_or_default());
        if let Some(token) = &token {
            let others: usize = counts.by_token.values().sum();
            let own = counts.by_token.get(token).copied().unwrap_or_default();
            if own >= (limit / 4).max(1) || others >= (limit - limit / 4).max(1) {
                return None;
            }
            counts.by_token.insert(token.clone(), own + 1);
        }
        counts.all += 1;
        Some(Share { shares: self.clone(), token })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(token) = &self.token
            && let Some(own) = taken.by_token.get_mut(token)
        {
            *own -= 1;
            if *own == 0 {
                taken.by_token.remove(token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scope: Scope, token: &str) -> Caller {
        Caller { scope, expires: None, token: Some(token.into()), session: None }
    }

    #[test]
    fn a_token_has_a_quarter_and_all_of_them_leave_a_quarter_to_the_owner() {
        let shares = Shares::default();
        let take_all = |scope, token: &str| {
            std::iter::from_fn(|| shares.take(&caller(scope, token), 16)).collect::<Vec<_>>()
        };
        let first = take_all(Scope::Read, "first");
        let others = ["a", "b", "c"].map(|token| take_all(Scope::Write, token));
        assert_eq!((first.len(), others.each_ref().map(Vec::len)), (4, [4, 4, 0]));
        assert_eq!(take_all(Scope::Admin, "owner").len(), 4);
        drop(first);
        assert_eq!(take_all(Scope::Read, "c").len(), 4);
        drop(others);
        let taken = shares.0.lock().expect("not poisoned");
        assert_eq!((taken.all, taken.by_token.len()), (0, 0));
    }

    #[test]
    fn the_smallest_limit_has_a_place_for_every_scope() {
        for scope in [Scope::Read, Scope::Admin] {
            assert!(Shares::default().take(&caller(scope, "t"), 1).is_some());
        }
    }
}
