//! Quotas on the request path: a request is let in or refused before anything is done for it. It pays for its prompt when it
//! goes to a worker, as it is estimated until the worker tells, and for its answer as that comes.
//!
//! A request counts for its key, its user and its model, each where it has a quota; who has none of their own has that of
//! `anybody`. Other gateways hear of it within a second.

mod making;
pub(crate) use making::Upload;

use crate::Gateway;
use crate::auth::Caller;
use crate::error::Failure;
use crate::request::Asker;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ollamamax_core::access::{Access, KeyId, Quota, QuotaOf};
use ollamamax_core::quota::{Bounds, Exceeded, Ledger, Left, Measure, News, Usage};
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

type Accounts = Vec<(QuotaOf, Bounds)>;

/// The accounts of whoever asks, without that of the model.
fn own(access: &Access, payer: &Payer, address: &str) -> Accounts {
    let (key, user) = whose(payer, address);
    let mut all: Accounts = key
        .and_then(|of| access.quotas.get(&of).copied().map(|quota| (of, quota)))
        .into_iter()
        .map(|(of, quota)| bounds(access, of, quota))
        .collect();
    let quota = access.quotas.get(&user).or_else(|| access.quotas.get(&QuotaOf::Anybody));
    all.extend(quota.map(|quota| bounds(access, user, *quota)));
    all
}

/// The key and the user whose accounts are asked.
fn whose(payer: &Payer, address: &str) -> (Option<QuotaOf>, QuotaOf) {
    // No user's name has a space in it.
    let user = payer.user.clone().unwrap_or_else(|| format!("nobody at {address}"));
    (payer.key.map(QuotaOf::Key), QuotaOf::User(user))
}

fn bounds(access: &Access, of: QuotaOf, quota: Quota) -> (QuotaOf, Bounds) {
    let making = making::bound(access, &of);
    (of, Bounds { quota, making })
}

/// A request that was let in; it pays until it is dropped.
pub(crate) struct Charge {
    gateway: Arc<Gateway>,
    accounts: Accounts,
    prompt_tokens: u64,
    output_tokens: u64,
}

impl Charge {
    /// It goes to a worker with a prompt of so many tokens, as far as is known: who hangs up before the answer has paid.
    pub fn sent(&mut self, prompt_tokens: u64) {
        self.reaches(prompt_tokens.max(self.prompt_tokens), self.output_tokens);
    }

    /// What its prompt is thought to cost.
    pub fn prompt(&self) -> u64 {
        self.prompt_tokens
    }

    /// What it has cost so far, counted from its beginning, by what workers say. What was thought too much is given back.
    pub fn reaches(&mut self, prompt_tokens: u64, output_tokens: u64) {
        let output_tokens = output_tokens.max(self.output_tokens);
        let usage = Usage {
            prompt_tokens: difference(prompt_tokens, self.prompt_tokens),
            output_tokens: difference(output_tokens, self.output_tokens),
            ..Usage::default()
        };
        if self.accounts.is_empty() || usage == Usage::default() {
            return;
        }
        let all = self.accounts.iter().map(|(of, _)| of);
        self.gateway.quotas.ledger().charge(all, &usage, Millis::now());
        (self.prompt_tokens, self.output_tokens) = (prompt_tokens, output_tokens);
    }

    /// No worker has begun: the prompt costs nothing after all.
    pub fn failed(&mut self) {
        self.reaches(0, self.output_tokens);
    }
}

/// `now - before`, and nothing beyond what a number holds.
fn difference(now: u64, before: u64) -> i64 {
    i64::try_from(i128::from(now) - i128::from(before)).unwrap_or(i64::MAX)
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
            accounts.extend(access.quotas.get(&of).map(|quota| (of, Bounds::from(*quota))));
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
            let all = accounts.iter().flat_map(|(of, bounds)| {
                measures.iter().filter_map(|measure| ledger.left(of, bounds, *measure, now))
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
