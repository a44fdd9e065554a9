//! What this worker tells gateways about its caches: one ledger for each assignment, kept by the engine and read out in streams.

use crate::runner::{Runner, RunnerState};
use ollamamax_engine::marks::{Ledger, Marks, News};
use ollamamax_proto::inference::Prefix;
use ollamamax_proto::{AssignmentId, Generation, limits, wire};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

/// The ledgers by assignment.
#[derive(Debug, Default)]
pub struct Ledgers {
    by_assignment: Mutex<BTreeMap<(AssignmentId, Generation), Arc<Ledger>>>,
}

/// News on their way to a gateway.
pub type NewsStream = Pin<Box<dyn Stream<Item = Result<wire::CacheNews, Status>> + Send>>;

impl Ledgers {
    /// The ledger of an assignment, for as long as anybody has it.
    pub fn of(&self, assignment: AssignmentId, generation: Generation) -> Arc<Ledger> {
        let mut ledgers = self.by_assignment.lock().unwrap_or_else(PoisonError::into_inner);
        if ledgers.len() >= 2 * limits::WORKER_ASSIGNMENTS_COUNT {
            ledgers.retain(|_, ledger| Arc::strong_count(ledger) > 1);
        }
        Arc::clone(ledgers.entry((assignment, generation)).or_default())
    }
}

/// Where in a prompt of so many tokens the hashes of its beginning end. Only the sender has the bytes, so that is an estimate.
pub fn marks(prefix: &Prefix, prompt_tokens: usize, ledger: Arc<Ledger>) -> Marks {
    let tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
    let ends = (1u32..).map(|blocks| prefix.tokens(blocks, tokens));
    Marks::new(ends.zip(prefix.hashes.iter().copied()), ledger)
}

/// All that is cached, then what changes, until the assignment is given up or the worker drains.
pub fn news(
    ledger: Arc<Ledger>,
    runner: &Arc<Runner>,
    draining: watch::Receiver<bool>,
) -> NewsStream {
    let reader = Reader { ledger, runner: Arc::downgrade(runner), draining, cursor: None };
    Box::pin(futures_util::stream::unfold(reader, |mut reader| async move {
        let news = reader.next().await?;
        Some((Ok(to_wire(news)), reader))
    }))
}

struct Reader {
    ledger: Arc<Ledger>,
    /// A reader keeps no model in memory.
    runner: Weak<Runner>,
    draining: watch::Receiver<bool>,
    cursor: Option<u64>,
}

impl Reader {
    async fn next(&mut self) -> Option<News> {
        let period = Duration::from_millis(limits::CACHE_NEWS_PERIOD_MS);
        loop {
            let runs = self.runner.upgrade()?.state() == RunnerState::Running;
            if !runs || *self.draining.borrow() {
                return None;
            }
            let news = self.ledger.since(self.cursor);
            if !news.is_empty() {
                self.cursor = Some(news.cursor);
                return Some(news);
            }
            tokio::time::sleep(period).await;
        }
    }
}

fn to_wire(news: News) -> wire::CacheNews {
    wire::CacheNews { reset: news.reset, stored: news.stored, evicted: news.evicted }
}
