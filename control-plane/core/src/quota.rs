//! How much of their quotas callers have used: token buckets in the memory of each gateway, which tell each other.
//!
//! ```text
//! admit (one request, one stream) -> charge (tokens, as they are known) -> release
//!            |                              |
//!            +----------- news -------------+--> other gateways: absorb
//!            |
//! make (a model, bytes of a blob)
//! ```
//!
//! A bucket holds what may be asked for in its period and fills steadily; so a burst may use a whole period at once, and after
//! that the rate holds. Tokens are counted when they are known, a prompt's as they are estimated until then: a bucket may go
//! below nothing, and the next request waits for it to come back. What is made is counted before it is, and never goes below. What other gateways let in shows up here within a second, so all together let through at most what one
//! would, and what each lets through in that second. No request writes anything anywhere.

mod account;
#[cfg(test)]
mod tests;

use crate::access::{Making, Quota, QuotaOf};
use account::Account;
use ollamamax_proto::{Millis, NodeId, limits};
use std::collections::BTreeMap;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Requests per minute.
    Requests,
    /// Tokens of prompts per minute.
    PromptTokens,
    /// Tokens of answers per minute.
    OutputTokens,
    /// Tokens of both per day.
    TokensPerDay,
    /// Models made per day.
    ModelsPerDay,
    /// Bytes uploaded per day.
    BlobBytesPerDay,
    /// Answers under way.
    Streams,
}

impl Measure {
    const BUCKETS: [Self; 6] = [
        Self::Requests,
        Self::PromptTokens,
        Self::OutputTokens,
        Self::TokensPerDay,
        Self::ModelsPerDay,
        Self::BlobBytesPerDay,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::PromptTokens => "prompt tokens per minute",
            Self::OutputTokens => "output tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::ModelsPerDay => "models made per day",
            Self::BlobBytesPerDay => "bytes uploaded per day",
            Self::Streams => "answers at once",
        }
    }

    const fn period_ms(self) -> u64 {
        match self {
            Self::TokensPerDay | Self::ModelsPerDay | Self::BlobBytesPerDay => DAY_MS,
            _ => MINUTE_MS,
        }
    }

    fn limit(self, bounds: &Bounds) -> Option<u64> {
        let Bounds { quota, making } = bounds;
        match self {
            Self::Requests => quota.requests_per_minute.map(u64::from),
            Self::PromptTokens => quota.prompt_tokens_per_minute.map(u64::from),
            Self::OutputTokens => quota.output_tokens_per_minute.map(u64::from),
            Self::TokensPerDay => quota.tokens_per_day,
            Self::ModelsPerDay => making.models_per_day.map(u64::from),
            Self::BlobBytesPerDay => making.blob_bytes_per_day,
            Self::Streams => quota.streams.map(u64::from),
        }
    }
}

/// What one account is held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How much it may ask for.
    pub quota: Quota,
    /// How much it may make; `None` in it: as much as there is.
    pub making: Making,
}

impl From<Quota> for Bounds {
    fn from(quota: Quota) -> Self {
        Self { quota, ..Self::default() }
    }
}

/// What was used; less than nothing where too much was thought of before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests.
    pub requests: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
    /// Models made.
    pub models: i64,
    /// Bytes uploaded.
    pub blob_bytes: i64,
}

impl Usage {
    fn of(&self, measure: Measure) -> i64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::PromptTokens => self.prompt_tokens,
            Measure::OutputTokens => self.output_tokens,
            Measure::TokensPerDay => self.prompt_tokens.saturating_add(self.output_tokens),
            Measure::ModelsPerDay => self.models,
            Measure::BlobBytesPerDay => self.blob_bytes,
            Measure::Streams => 0,
        }
    }

    fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.models = self.models.saturating_add(more.models);
        self.blob_bytes = self.blob_bytes.saturating_add(more.blob_bytes);
    }
}

/// Why a request has to wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quota of {of} is used up: at most {limit} {}", .measure.name())]
pub struct Exceeded {
    /// Whose quota.
    pub of: QuotaOf,
    /// Which part of it.
    pub measure: Measure,
    /// How much that is.
    pub limit: u64,
    /// When to come back, in milliseconds.
    pub retry_after_ms: u64,
}

/// How much of one measure is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The quota.
    pub limit: u64,
    /// What is left of it now.
    pub remaining: u64,
    /// When all of it will be there again, in milliseconds.
    pub reset_ms: u64,
}

/// What one gateway tells the others of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whose.
    pub of: QuotaOf,
    /// Used since it last told.
    pub usage: Usage,
    /// Answers under way at it now.
    pub streams: u32,
}

/// The accounts of one gateway.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<QuotaOf, Account>,
}

impl Ledger {
    /// Lets a request in that counts against all of `accounts`, or against none of them.
    ///
    /// # Errors
    /// The quota that is used up; of several, the one that takes longest.
    pub fn admit(&mut self, accounts: &[(QuotaOf, Bounds)], now: Millis) -> Result<(), Exceeded> {
        // What it will cost is not known yet: something must be left of each.
        let least = Usage { requests: 1, prompt_tokens: 1, output_tokens: 1, ..Usage::default() };
        self.check(accounts, now, |of, bounds, account| {
            let mut all = account.exceeded(of, bounds, &least);
            all.extend(account.too_many_streams(of, bounds));
            all
        })?;
        let all = || accounts.iter().map(|(of, _)| of);
        self.charge(all(), &Usage { requests: 1, ..Usage::default() }, now);
        for of in all() {
            self.accounts.entry(of.clone()).or_default().streams += 1;
        }
        Ok(())
    }

    /// Counts what is about to be made against all of `accounts`, or against none of them.
    ///
    /// # Errors
    /// The bound that has no room for it; of several, the one that takes longest.
    pub fn make(
        &mut self,
        accounts: &[(QuotaOf, Bounds)],
        usage: &Usage,
        now: Millis,
    ) -> Result<(), Exceeded> {
        self.check(accounts, now, |of, bounds, account| account.exceeded(of, bounds, usage))?;
        self.charge(accounts.iter().map(|(of, _)| of), usage, now);
        Ok(())
    }

    fn check(
        &mut self,
        accounts: &[(QuotaOf, Bounds)],
        now: Millis,
        exceeded: impl Fn(&QuotaOf, &Bounds, &Account) -> Vec<Exceeded>,
    ) -> Result<(), Exceeded> {
        let mut all = Vec::new();
        for (of, bounds) in accounts {
            self.make_room(of);
            let account = self.accounts.entry(of.clone()).or_default();
            account.bounds = Some(*bounds);
            account.settle(bounds, now);
            all.extend(exceeded(of, bounds, account));
        }
        all.into_iter().max_by_key(|exceeded| exceeded.retry_after_ms).map_or(Ok(()), Err)
    }

    /// Counts what was used by somebody who was let in, or what is to be given back of it.
    pub fn charge<'a>(
        &mut self,
        all: impl IntoIterator<Item = &'a QuotaOf>,
        usage: &Usage,
        now: Millis,
    ) {
        for of in all {
            if let Some(account) = self.accounts.get_mut(of) {
                account.use_up(usage, now);
                account.fresh.add(usage);
            }
        }
    }

    /// A request that was let in has ended.
    pub fn release<'a>(&mut self, all: impl IntoIterator<Item = &'a QuotaOf>) {
        for of in all {
            if let Some(account) = self.accounts.get_mut(of) {
                account.streams = account.streams.saturating_sub(1);
            }
        }
    }

    /// What is left of one measure of a quota; `None` when it is not limited.
    pub fn left(
        &self,
        of: &QuotaOf,
        bounds: &Bounds,
        measure: Measure,
        now: Millis,
    ) -> Option<Left> {
        let limit = measure.limit(bounds)?;
        let mut account = self.accounts.get(of).cloned().unwrap_or_default();
        account.settle(bounds, now);
        if measure == Measure::Streams {
            let remaining = limit.saturating_sub(account.all_streams());
            return Some(Left { limit, remaining, reset_ms: 0 });
        }
        let at = Measure::BUCKETS.iter().position(|known| *known == measure)?;
        let bucket = account.buckets[at];
        let reset_ms = bucket.wait_ms(limit, limit, measure.period_ms());
        Some(Left { limit, remaining: bucket.remaining(limit), reset_ms })
    }

    /// What the other gateways have not heard yet; they must hear it, or it is lost.
    pub fn news(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        for (of, account) in &mut self.accounts {
            if news.len() >= limits::QUOTA_NEWS_COUNT {
                break;
            }
            if account.fresh != Usage::default()
                || account.streams != account.told_streams
                || account.streams > 0
            {
                let usage = std::mem::take(&mut account.fresh);
                account.told_streams = account.streams;
                news.push(News { of: of.clone(), usage, streams: account.streams });
            }
        }
        self.accounts.retain(|_, account| !account.is_idle());
        news
    }

    /// What another gateway tells.
    pub fn absorb(&mut self, from: NodeId, news: &[News], now: Millis) {
        for told in news.iter().take(limits::QUOTA_NEWS_COUNT) {
            self.make_room(&told.of);
            let account = self.accounts.entry(told.of.clone()).or_default();
            account.use_up(&told.usage, now);
            if told.streams == 0 {
                account.elsewhere.remove(&from);
            } else {
                account.elsewhere.insert(from, (told.streams, now));
            }
        }
    }

    /// Bounded: whoever used the least so far goes first, which lets through the least.
    fn make_room(&mut self, of: &QuotaOf) {
        if self.accounts.len() < limits::QUOTA_ACCOUNTS_COUNT || self.accounts.contains_key(of) {
            return;
        }
        let least = self.accounts.iter().filter(|(_, account)| account.streams == 0);
        let least = least.min_by_key(|(_, a)| a.buckets.iter().map(|b| b.used_milli).max());
        if let Some(of) = least.map(|(of, _)| of.clone()) {
            self.accounts.remove(&of);
        }
    }
}
