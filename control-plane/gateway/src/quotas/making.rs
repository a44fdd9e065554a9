//! What somebody makes: models and the bytes they are made of. Each user has a bound of its own, whether or not anybody has set
//! one: what is made stays on every node, so a script that runs wild fills all disks.
//!
//! ```text
//! create, copy -> let_make: one model              refused: 429, what to do, when to come back
//! upload       -> let_upload: all bytes at once, where the client says how many
//!                   \-> more, chunk by chunk, where it does not
//!                 dropped: what did not come is given back
//! ```

use super::{Accounts, bounds, difference, whose};
use crate::Gateway;
use crate::auth::Caller;
use crate::error::Failure;
use ollamamax_core::access::{Access, Making, QuotaOf};
use ollamamax_core::quota::{Exceeded, Measure, Usage};
use ollamamax_proto::{Millis, limits};
use std::sync::Arc;

/// How much the owner of an account may make: what is set for it, else what is set for anybody, else the usual. A key without a
/// bound of its own has that of its user alone.
pub(super) fn bound(access: &Access, of: &QuotaOf) -> Making {
    let own = access.makings.get(of).copied();
    if !matches!(of, QuotaOf::User(_)) {
        return own.unwrap_or_default();
    }
    let set = own.or_else(|| access.makings.get(&QuotaOf::Anybody).copied()).unwrap_or_default();
    let (models, bytes) = (limits::MODELS_MADE_PER_DAY_COUNT, limits::BLOB_BYTES_PER_DAY);
    Making {
        models_per_day: set.models_per_day.or(Some(models)),
        blob_bytes_per_day: set.blob_bytes_per_day.or(Some(bytes)),
    }
}

fn accounts(access: &Access, caller: &Caller) -> Accounts {
    let (key, user) = whose(&caller.payer(), caller.share());
    let key = key.filter(|of| access.makings.contains_key(of));
    let all = key.into_iter().chain([user]);
    all.map(|of| {
        let quota = access.quotas.get(&of).copied().unwrap_or_default();
        bounds(access, of, quota)
    })
    .collect()
}

/// Bytes on their way in; those that were paid for and did not come are given back when it is dropped.
pub(crate) struct Upload {
    gateway: Arc<Gateway>,
    accounts: Accounts,
    paid: u64,
    received: u64,
}

impl Upload {
    /// More bytes came.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn more(&mut self, bytes: u64) -> Result<(), Failure> {
        let received = self.received.saturating_add(bytes);
        let unpaid = received.saturating_sub(self.paid);
        if unpaid > 0 {
            let usage = Usage { blob_bytes: difference(unpaid, 0), ..Usage::default() };
            self.gateway.count_made(&self.accounts, &usage)?;
            self.paid += unpaid;
        }
        self.received = received;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let blob_bytes = difference(self.received, self.paid);
        if blob_bytes != 0 {
            let usage = Usage { blob_bytes, ..Usage::default() };
            let all = self.accounts.iter().map(|(of, _)| of);
            self.gateway.quotas.ledger().charge(all, &usage, Millis::now());
        }
    }
}

impl Gateway {
    /// Counts a model that is about to be made.
    pub(crate) fn let_make(&self, caller: &Caller) -> Result<(), Failure> {
        let accounts = accounts(&self.control.state().access, caller);
        self.count_made(&accounts, &Usage { models: 1, ..Usage::default() })
    }

    /// Lets an upload of so many bytes begin, where the client says how many.
    pub(crate) fn let_upload(
        self: &Arc<Self>,
        caller: &Caller,
        bytes: Option<u64>,
    ) -> Result<Upload, Failure> {
        let accounts = accounts(&self.control.state().access, caller);
        let paid = bytes.unwrap_or(0);
        let usage = Usage { blob_bytes: difference(paid, 0), ..Usage::default() };
        self.count_made(&accounts, &usage)?;
        Ok(Upload { gateway: Arc::clone(self), accounts, paid, received: 0 })
    }

    fn count_made(&self, accounts: &Accounts, usage: &Usage) -> Result<(), Failure> {
        self.quotas.ledger().make(accounts, usage, Millis::now()).map_err(refused)
    }
}

/// What to do: wait, or have the bound raised.
fn refused(exceeded: Exceeded) -> Failure {
    let flag = match exceeded.measure {
        Measure::BlobBytesPerDay => "--blob-bytes-per-day",
        _ => "--models-per-day",
    };
    let of = match &exceeded.of {
        QuotaOf::User(user) if user.contains(' ') => QuotaOf::Anybody,
        of => of.clone(),
    };
    match super::refused(exceeded) {
        Failure::TooMany { reason, retry_after_s } => Failure::TooMany {
            reason: format!(
                "{reason}; come back in {retry_after_s} s, or whoever has `access:manage` can raise it: \
                 `ollamamax quotas set {of} {flag} N`"
            ),
            retry_after_s,
        },
        other => other,
    }
}
