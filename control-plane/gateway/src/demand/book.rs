//! The book of a gateway: which requests use which model, and which models are released when the last one ends.

use crate::Gateway;
use crate::error::Failure;
use ollamamax_proto::ModelName;
use ollamamax_proto::audit::Note;
use ollamamax_proto::limits;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{Duration, Instant};

/// What a gateway remembers about the wishes of its requests.
#[derive(Default)]
pub struct Demands {
    book: Mutex<Book>,
}

#[derive(Default)]
pub(super) struct Book {
    /// Models whose renewal is under way.
    pub(super) renewing: HashSet<ModelName>,
    /// Requests by model that have not ended.
    pub(super) in_use: HashMap<ModelName, usize>,
    /// Models to release when the last of their requests here ends, and who asked for that last.
    pub(super) release_when_idle: HashMap<ModelName, Note>,
    /// Requests by model that wait for their first text.
    waiting: HashMap<ModelName, Line>,
}

/// Those that wait for their first text of one model.
#[derive(Default)]
struct Line {
    all: usize,
    by_caller: HashMap<String, usize>,
    /// How long those waited that came out lately, in seconds.
    wait_s: f64,
}

impl Line {
    /// One more, if there is room: in the line, and in the part of it that one caller may fill.
    fn join(&mut self, caller: &str, most: usize) -> Result<(), Failure> {
        let retry_after_s = (self.wait_s.ceil() as u32).clamp(1, limits::RETRY_AFTER_MOST_S);
        if self.all >= most {
            return Err(Failure::queue_full(retry_after_s));
        }
        let own = self.by_caller.get(caller).copied().unwrap_or_default();
        // The rest is for others; a short line is for whoever comes.
        let share = most - most / 8;
        if own >= share {
            let reason = format!(
                "{own} of your requests wait for this model, at most {share} may; try again in {retry_after_s} s"
            );
            return Err(Failure::TooMany { reason, retry_after_s });
        }
        self.all += 1;
        *self.by_caller.entry(caller.to_owned()).or_default() += 1;
        Ok(())
    }

    fn leave(&mut self, caller: &str, waited: Option<Duration>) {
        /// How much the last one counts.
        const WEIGHT: f64 = 0.2;
        self.all = self.all.saturating_sub(1);
        decrement(&mut self.by_caller, caller);
        if let Some(waited) = waited {
            self.wait_s += WEIGHT * (waited.as_secs_f64() - self.wait_s);
        }
    }
}

/// A request in the book; it leaves when dropped.
pub struct Use {
    pub(super) gateway: Arc<Gateway>,
    pub(super) model: ModelName,
    /// As whom it waits, and since when.
    pub(super) waiting: Option<(String, Instant)>,
}

impl Use {
    /// The request has its first text and waits no longer.
    pub fn started(&mut self) {
        self.leave_line(true);
    }

    fn leave_line(&mut self, served: bool) {
        if let Some((caller, since)) = self.waiting.take() {
            let waited = served.then(|| since.elapsed());
            if let Some(line) = self.gateway.demands.book().waiting.get_mut(&self.model) {
                line.leave(&caller, waited);
            }
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.leave_line(false);
        if let Some(note) = self.gateway.demands.leave(&self.model) {
            let (gateway, model) = (Arc::clone(&self.gateway), self.model.clone());
            tokio::spawn(async move {
                if let Err(error) = gateway.release(&model, note).await {
                    tracing::warn!(%model, error = %error, "could not release the idle model");
                }
            });
        }
    }
}

impl Book {
    /// A request waits for its first text now, unless too many do.
    pub(super) fn join(
        &mut self,
        model: &ModelName,
        caller: &str,
        most: usize,
    ) -> Result<(), Failure> {
        self.waiting.entry(model.clone()).or_default().join(caller, most)
    }
}

impl Demands {
    pub(super) fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who wanted the model released, if this was its last request.
    fn leave(&self, model: &ModelName) -> Option<Note> {
        let mut book = self.book();
        let last = decrement(&mut book.in_use, model);
        last.then(|| book.release_when_idle.remove(model)).flatten()
    }
}

/// Counts one down; tells whether none is left.
fn decrement<K, Q>(counts: &mut HashMap<K, usize>, key: &Q) -> bool
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    let Some(count) = counts.get_mut(key) else { return true };
    *count = count.saturating_sub(1);
    let none_left = *count == 0;
    if none_left {
        counts.remove(key);
    }
    none_left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_room_for_others_and_is_told_when_to_come_back() {
        let mut line = Line::default();
        for _ in 0..7 {
            line.join("a", 8).expect("room");
        }
        let refused = line.join("a", 8).expect_err("its share is full");
        assert_eq!(refused.status_code(), 429);
        line.join("b", 8).expect("room for others");
        for _ in 0..40 {
            line.join("b", 100).expect("room");
            line.leave("b", Some(Duration::from_secs(7)));
        }
        let full = line.join("c", 8).expect_err("the line is full");
        assert!(matches!(full, Failure::Unavailable { retry_after_s: 7, .. }), "{full:?}");
        line.leave("a", None);
        line.join("c", 8).expect("room again");
        let mut short = Line::default();
        short.join("a", 1).expect("a short line is for whoever comes");
    }
}
