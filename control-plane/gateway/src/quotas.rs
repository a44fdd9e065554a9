//! Quotas on the request path: a request is let in or refused before anything is done for it, and pays for its tokens as they
//! come.
//!
//! A request counts for its key, its user and its model, each where it has a quota; who has none of their own has that of
//! `anybody`. Other gateways hear of it within a second.

use crate::Gateway;
use crate::auth::Caller;
use crate::error::Failure;
use crate::request::Asker;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ollamamax_core::access::{Access, KeyId, Quota, QuotaOf};
use ollamamax_core::quota::{Exceeded, Ledger, Left, Measure, News};
use ollamamax_proto::{Millis, ModelName, NodeId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whose quotas a request counts against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payer {
    /// The user; nobody in particular has an address instead.
    pub user: Option<String>,
    /// The API key.
    pub key: Option<KeyId>,
}

/// What was used, in the memory of this gateway.
#[derive(Debug, Default)]
pub struct Quotas {
    ledger: Mutex<Ledger>,
}

impl Quotas {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Accounts = Vec<(QuotaOf, Quota)>;

/// The accounts of whoever asks, without that of the model.
fn own(access: &Access, payer: &Payer, address: &str) -> Accounts {
    let mut all = Accounts::new();
    if let Some(key) = payer.key {
        let of = QuotaOf::Key(key);
        all.extend(access.quotas.get(&of).map(|quota| (of, *quota)));
    }
    // No user's name has a space in it.
    let user = payer.user.clone().unwrap_or_else(|| format!("nobody at {address}"));
    let of = QuotaOf::User(user);
    let quota = access.quotas.get(&of).or_else(|| access.quotas.get(&QuotaOf::Anybody));
    all.extend(quota.map(|quota| (of, *quota)));
    all
}

/// A request that was let in; it pays until it is dropped.
pub(crate) struct Charge {
    gateway: Arc<Gateway>,
    accounts: Accounts,
    prompt_tokens: u64,
    output_tokens: u64,
}

impl Charge {
    /// What it has cost so far, counted from its beginning.
    pub fn reaches(&mut self, prompt_tokens: u64, output_tokens: u64) {
        let prompt = prompt_tokens.saturating_sub(self.prompt_tokens);
        let output = output_tokens.saturating_sub(self.output_tokens);
        if self.accounts.is_empty() || (prompt == 0 && output == 0) {
            return;
        }
        let all = self.accounts.iter().map(|(of, _)| of);
        self.gateway.quotas.ledger().charge(all, (prompt, output), Millis::now());
        self.prompt_tokens += prompt;
        self.output_tokens += output;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.accounts.is_empty() {
            let all = self.accounts.iter().map(|(of, _)| of);
            self.gateway.quotas.ledger().release(all);
        }
    }
}

impl Gateway {
    /// Lets a request in, or says whose quota is used up and when to come back. What goes on from `resumed` tokens has paid for
    /// them where it began; its prompt is computed anew, and paid for again.
    pub(crate) fn let_in(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelName,
        resumed: usize,
    ) -> Result<Charge, Failure> {
        let state = self.control.state();
        let access = &state.access;
        let mut accounts = Accounts::new();
        if !access.quotas.is_empty() {
            accounts = own(access, &asker.payer, &asker.caller);
            let of = QuotaOf::Model(model.to_string());
            accounts.extend(access.quotas.get(&of).map(|quota| (of, *quota)));
            self.quotas.ledger().admit(&accounts, Millis::now()).map_err(refused)?;
        }
        let gateway = Arc::clone(self);
        Ok(Charge { gateway, accounts, prompt_tokens: 0, output_tokens: resumed as u64 })
    }

    /// Tells a caller what is left of its quotas, as OpenAI's servers do.
    pub(crate) fn tell_limits(&self, caller: &Caller, headers: &mut HeaderMap) {
        let state = self.control.state();
        if state.access.quotas.is_empty() {
            return;
        }
        let payer = caller.payer();
        let accounts = own(&state.access, &payer, caller.share());
        let (ledger, now) = (self.quotas.ledger(), Millis::now());
        let tightest = |measures: &[Measure]| -> Option<Left> {
            let all = accounts.iter().flat_map(|(of, quota)| {
                measures.iter().filter_map(|measure| ledger.left(of, quota, *measure, now))
            });
            all.min_by_key(|left| left.remaining)
        };
        let tokens = [Measure::PromptTokens, Measure::OutputTokens, Measure::TokensPerDay];
        for (kind, left) in
            [("requests", tightest(&[Measure::Requests])), ("tokens", tightest(&tokens))]
        {
            let Some(left) = left else { continue };
            let reset = format!("{}ms", left.reset_ms);
            for (what, value) in [
                ("limit", left.limit.to_string()),
                ("remaining", left.remaining.to_string()),
                ("reset", reset),
            ] {
                let name = HeaderName::try_from(format!("x-ratelimit-{what}-{kind}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                    headers.insert(name, value);
                }
            }
        }
    }

    /// What the other gateways should hear of this one's requests.
    pub fn usage_news(&self) -> Vec<News> {
        self.quotas.ledger().news()
    }

    /// What another gateway tells of its requests.
    pub fn absorb_usage(&self, from: NodeId, news: &[News]) {
        self.quotas.ledger().absorb(from, news, Millis::now());
    }
}

fn refused(exceeded: Exceeded) -> Failure {
    let seconds = exceeded.retry_after_ms.div_ceil(1_000).max(1);
    Failure::TooMany {
        reason: exceeded.to_string(),
        retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX),
    }
}
