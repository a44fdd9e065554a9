//! Requests of one model that wait for a place: a bounded queue in order of arrival, each with a
//! deadline. Past the bound the answer is a refusal that says when to come back.

use ollamamax_proto::{Millis, limits};
use std::collections::VecDeque;

/// A queued request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number in this queue, counted up.
    pub id: u64,
    /// When it came.
    pub since: Millis,
    /// When it stops waiting.
    pub deadline: Millis,
    /// Tokens of its prompt.
    pub tokens: u64,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{queued} requests are queued for this model, try again in {retry_after_s} s")]
pub struct Full {
    /// How many wait.
    pub queued: usize,
    /// After how many seconds the queue should have moved.
    pub retry_after_s: u64,
}

/// The queue of one model.
#[derive(Clone, Debug)]
pub struct Admission {
    limit: usize,
    next_id: u64,
    tokens: u64,
    queue: VecDeque<Ticket>,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(limits::REQUESTS_QUEUED)
    }
}

impl Admission {
    /// A queue of at most `limit` requests.
    pub fn new(limit: usize) -> Self {
        Self { limit, next_id: 1, tokens: 0, queue: VecDeque::new() }
    }

    /// Queues a request of `tokens` prompt tokens until `deadline`.
    ///
    /// # Errors
    /// [`Full`] when the queue is; `tokens_per_second` is the measured prefill rate, 0 while
    /// unknown.
    pub fn offer(
        &mut self,
        now: Millis,
        deadline: Millis,
        tokens: u64,
        tokens_per_second: u64,
    ) -> Result<Ticket, Full> {
        if self.queue.len() >= self.limit {
            let retry_after_s = self.retry_after_s(tokens_per_second);
            return Err(Full { queued: self.queue.len(), retry_after_s });
        }
        let ticket = Ticket { id: self.next_id, since: now, deadline, tokens };
        self.next_id += 1;
        self.tokens = self.tokens.saturating_add(tokens);
        self.queue.push_back(ticket);
        Ok(ticket)
    }

    /// Takes the oldest out, for whoever has a free place. Call [`Admission::expire`] first: it
    /// never skips a late one.
    #[allow(clippy::should_implement_trait, reason = "a queue that refills is no iterator")]
    pub fn next(&mut self) -> Option<Ticket> {
        let ticket = self.queue.pop_front()?;
        self.count_tokens();
        Some(ticket)
    }

    /// Takes those out whose deadline has come, in the order they came.
    pub fn expire(&mut self, now: Millis) -> Vec<Ticket> {
        let (late, kept): (Vec<Ticket>, Vec<Ticket>) =
            self.queue.drain(..).partition(|ticket| ticket.deadline <= now);
        self.queue = kept.into();
        self.count_tokens();
        late
    }

    /// Takes out one whose client has gone; `false` when it is not queued any more.
    pub fn cancel(&mut self, id: u64) -> bool {
        let before = self.queue.len();
        self.queue.retain(|ticket| ticket.id != id);
        self.count_tokens();
        self.queue.len() < before
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the next deadline comes.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.queue.iter().map(|ticket| ticket.deadline).min()
    }

    /// How long the queued prompts take, in seconds, between 1 and 60.
    pub fn retry_after_s(&self, tokens_per_second: u64) -> u64 {
        self.tokens.checked_div(tokens_per_second).unwrap_or(1).clamp(1, 60)
    }

    fn count_tokens(&mut self) {
        self.tokens = self.queue.iter().fold(0, |sum, ticket| sum.saturating_add(ticket.tokens));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn first_come_first_served() {
        let mut admission = Admission::new(2);
        let first = admission.offer(Millis(0), Millis(10), 100, 0).expect("there is room");
        let second = admission.offer(Millis(1), Millis(5), 300, 0).expect("there is room");
        let full = admission.offer(Millis(2), Millis(9), 1, 100).expect_err("it is full");
        assert_eq!(full, Full { queued: 2, retry_after_s: 4 });
        assert_eq!(admission.next_deadline(), Some(Millis(5)));
        assert_eq!(admission.next(), Some(first));
        assert_eq!(admission.expire(Millis(4)), []);
        assert_eq!(admission.expire(Millis(5)), [second]);
        assert_eq!(admission.next(), None);
        assert_eq!(admission.retry_after_s(100), 1);
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn each_ticket_leaves_once(steps in prop::collection::vec((0u8..4, 0u64..50), 0..200)) {
            let mut admission = Admission::new(8);
            let (mut came, mut left, mut now) = (BTreeSet::new(), Vec::new(), Millis(0));
            for (step, number) in steps {
                now = now.plus(number);
                match step {
                    0 => {
                        if let Ok(ticket) = admission.offer(now, now.plus(number), number, 10) {
                            came.insert(ticket.id);
                        } else {
                            prop_assert_eq!(admission.len(), 8);
                        }
                    }
                    1 => left.extend(admission.next().map(|ticket| ticket.id)),
                    2 => left.extend(admission.expire(now).iter().map(|ticket| ticket.id)),
                    _ => if admission.cancel(number) { left.push(number) },
                }
                prop_assert!(admission.len() <= 8);
                prop_assert_eq!(admission.len(), came.len() - left.len());
            }
            while let Some(ticket) = admission.next() {
                left.push(ticket.id);
            }
            left.sort_unstable();
            prop_assert_eq!(left, came.into_iter().collect::<Vec<_>>());
        }
    }
}
