//! What retries and hedges may cost beside the requests themselves: each request puts a part of a
//! token into a bucket, each extra attempt takes a whole one out. When everything fails at once,
//! attempts then grow by a fifth instead of many times over. After Finagle's `RetryBudget`.

use ollamamax_proto::{Millis, limits};

/// The bucket; amounts are in thousandths of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    held: u64,
    at: Millis,
}

const ATTEMPT: u64 = 1_000;

impl RetryBudget {
    /// With what a quiet time brings.
    pub fn new(now: Millis) -> Self {
        Self { held: limits::RETRY_RESERVE_COUNT * ATTEMPT, at: now }
    }

    /// Notes a request.
    pub fn deposit(&mut self, now: Millis) {
        self.refill(now);
        self.add(limits::RETRY_PERCENT * ATTEMPT / 100);
    }

    /// Takes what one more attempt costs; `false` when there is not enough.
    pub fn take(&mut self, now: Millis) -> bool {
        self.refill(now);
        let left = self.held.checked_sub(ATTEMPT);
        self.held = left.unwrap_or(self.held);
        left.is_some()
    }

    /// A trickle by time, so that the rare request of a quiet gateway may be tried again, too.
    fn refill(&mut self, now: Millis) {
        self.add(now.since(self.at).saturating_mul(limits::RETRY_RESERVE_COUNT));
        self.at = self.at.max(now);
    }

    fn add(&mut self, amount: u64) {
        let most = limits::RETRY_HELD_COUNT * ATTEMPT;
        self.held = self.held.saturating_add(amount).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    #[test]
    fn when_everything_fails_a_fifth_is_tried_again() {
        let mut budget = RetryBudget::new(Millis(0));
        let now = Millis(0);
        while budget.take(now) {}
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.deposit(now);
            retries += u32::from(budget.take(now));
        }
        assert_eq!(retries, 200);
        assert!(budget.take(Millis(1_000)), "a quiet second brings some");
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn extra_attempts_stay_within_the_budget(
            events in prop::collection::vec((0u64..100, any::<bool>()), 0..500),
        ) {
            let mut budget = RetryBudget::new(Millis(0));
            let (mut now, mut requests, mut extra) = (Millis(0), 0, 0);
            for (passed, request) in events {
                now = now.plus(passed);
                if request {
                    budget.deposit(now);
                    requests += 1;
                } else {
                    extra += u64::from(budget.take(now));
                }
                let most = limits::RETRY_RESERVE_COUNT * (ATTEMPT + now.0)
                    + requests * limits::RETRY_PERCENT * ATTEMPT / 100;
                prop_assert!(extra * ATTEMPT <= most);
            }
        }
    }
}
