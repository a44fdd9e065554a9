//! How much of their quotas callers have used: token buckets in the memory of each gateway, which tell each other.
//!
//! ```text
//! admit (one request, one stream) -> charge (tokens, as they come) -> release
//!            |                              |
//!            +----------- news -------------+--> other gateways: absorb
//! ```
//!
//! A bucket holds what may be asked for in its period and fills steadily; so a burst may use a whole period at once, and after
//! that the rate holds. Tokens are counted when they are known: a bucket may go below nothing, and the next request waits for
//! it to come back. What other gateways let in shows up here within a second, so all together let through at most what one
//! would, and what each lets through in that second. No request writes anything anywhere.

mod account;
#[cfg(test)]
mod tests;

use crate::access::{Quota, QuotaOf};
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
    /// Answers under way.
    Streams,
}

impl Measure {
    const BUCKETS: [Self; 4] =
        [Self::Requests, Self::PromptTokens, Self::OutputTokens, Self::TokensPerDay];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::PromptTokens => "prompt tokens per minute",
            Self::OutputTokens => "output tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::Streams => "answers at once",
        }
    }

    const fn period_ms(self) -> u64 {
        match self {
            Self::TokensPerDay => DAY_MS,
            _ => MINUTE_MS,
        }
    }

    fn limit(self, quota: &Quota) -> Option<u64> {
        match self {
            Self::Requests => quota.requests_per_minute.map(u64::from),
            Self::PromptTokens => quota.prompt_tokens_per_minute.map(u64::from),
            Self::OutputTokens => quota.output_tokens_per_minute.map(u64::from),
            Self::TokensPerDay => quota.tokens_per_day,
            Self::Streams => quota.streams.map(u64::from),
        }
    }
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
}

impl Usage {
    fn of(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::PromptTokens => self.prompt_tokens,
            Measure::OutputTokens => self.output_tokens,
            Measure::TokensPerDay => self.prompt_tokens.saturating_add(self.output_tokens),
            Measure::Streams => 0,
        }
    }

    fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
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
    /// Lets a request in that counts against all of `quotas`, or against none of them.
    ///
    /// # Errors
    /// The quota that is used up; of several, the one that takes longest.
    pub fn admit(&mut self, quotas: &[(QuotaOf, Quota)], now: Millis) -> Result<(), Exceeded> {
        let mut worst: Option<Exceeded> = None;
        for (of, quota) in quotas {
            self.make_room(of);
            let account = self.accounts.entry(of.clone()).or_default();
            account.quota = Some(*quota);
            account.settle(quota, now);
            for exceeded in account.exceeded(of, quota) {
                if worst.as_ref().is_none_or(|w| w.retry_after_ms < exceeded.retry_after_ms) {
                    worst = Some(exceeded);
                }
            }
        }
        if let Some(exceeded) = worst {
            return Err(exceeded);
        }
        let one = Usage { requests: 1, ..Usage::default() };
        for (of, _) in quotas {
            let account = self.accounts.entry(of.clone()).or_default();
            account.use_up(&one, now);
            account.fresh.add(&one);
            account.streams += 1;
        }
        Ok(())
    }

    /// Counts tokens of a request that was let in.
    pub fn charge<'a>(
        &mut self,
        all: impl IntoIterator<Item = &'a QuotaOf>,
        (prompt_tokens, output_tokens): (u64, u64),
        now: Millis,
    ) {
        let usage = Usage { requests: 0, prompt_tokens, output_tokens };
        for of in all {
            if let Some(account) = self.accounts.get_mut(of) {
                account.use_up(&usage, now);
                account.fresh.add(&usage);
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
    pub fn left(&self, of: &QuotaOf, quota: &Quota, measure: Measure, now: Millis) -> Option<Left> {
        let limit = measure.limit(quota)?;
        let mut account = self.accounts.get(of).cloned().unwrap_or_default();
        account.settle(quota, now);
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
