//! A circuit breaker per worker.
//!
//! ```text
//! closed --failures in a row--> open --its time is over--> half open: one probe
//! half open --ok--> closed           half open --failed--> open, twice as long
//! ```

use ollamamax_proto::{Millis, limits};

/// Whether a worker is trusted with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// How long it opens next time.
    open_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Millis,
    },
    /// A probe is out; when it is not heard of until then, another one may go.
    HalfOpen {
        until: Millis,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, open_ms: limits::BREAKER_OPEN_MS }
    }
}

impl Breaker {
    /// Whether a request would be permitted now; asking changes nothing.
    pub fn is_permitting(&self, now: Millis) -> bool {
        now >= self.permits_from()
    }

    /// From when on it permits; the beginning of time while it is closed.
    pub fn permits_from(&self) -> Millis {
        match self.state {
            State::Closed { .. } => Millis(0),
            State::Open { until } | State::HalfOpen { until } => until,
        }
    }

    /// Whether a request may be sent now. Once its time is over an open breaker permits one, the
    /// probe.
    pub fn permit(&mut self, now: Millis) -> bool {
        let permitted = self.is_permitting(now);
        if permitted && !matches!(self.state, State::Closed { .. }) {
            self.state = State::HalfOpen { until: now.plus(self.open_ms) };
        }
        permitted
    }

    /// Tells how a request ended. A success closes; late failures of an open breaker change
    /// nothing.
    pub fn record(&mut self, now: Millis, ok: bool) {
        match self.state {
            _ if ok => *self = Self::default(),
            State::Closed { failures } if failures + 1 < limits::BREAKER_FAILURES_COUNT => {
                self.state = State::Closed { failures: failures + 1 };
            }
            State::Closed { .. } => self.open(now),
            State::HalfOpen { .. } => {
                self.open_ms = (self.open_ms * 2).min(limits::BREAKER_OPEN_MAX_MS);
                self.open(now);
            }
            State::Open { .. } => {}
        }
    }

    fn open(&mut self, now: Millis) {
        self.state = State::Open { until: now.plus(self.open_ms) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    const OPEN: u64 = limits::BREAKER_OPEN_MS;

    fn opened(now: Millis) -> Breaker {
        let mut breaker = Breaker::default();
        (0..limits::BREAKER_FAILURES_COUNT).for_each(|_| breaker.record(now, false));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            (1..limits::BREAKER_FAILURES_COUNT).for_each(|_| breaker.record(Millis(0), false));
            breaker.record(Millis(0), true);
            assert!(breaker.permit(Millis(0)));
        }
        assert!(!opened(Millis(0)).permit(Millis(OPEN - 1)));
    }

    #[test]
    fn one_probe_decides() {
        let mut breaker = opened(Millis(0));
        assert!(breaker.permit(Millis(OPEN)));
        assert!(!breaker.permit(Millis(OPEN)), "a second probe went out");
        breaker.record(Millis(OPEN + 5), true);
        assert!(breaker.permit(Millis(OPEN + 5)) && breaker.permit(Millis(OPEN + 5)));

        let mut breaker = opened(Millis(0));
        assert!(breaker.permit(Millis(OPEN)));
        breaker.record(Millis(OPEN), false);
        assert!(!breaker.permit(Millis(OPEN + 2 * OPEN - 1)), "the second time is twice as long");
        assert!(breaker.permit(Millis(OPEN + 2 * OPEN)));
    }

    #[test]
    fn a_lost_probe_is_replaced() {
        let mut breaker = opened(Millis(0));
        assert!(breaker.permit(Millis(OPEN)));
        assert!(breaker.permit(Millis(2 * OPEN)));
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn it_always_permits_again(
            events in prop::collection::vec((0u64..5_000, any::<bool>()), 0..60),
        ) {
            let mut breaker = Breaker::default();
            let mut now = Millis(0);
            for (passed, ok) in events {
                now = now.plus(passed);
                let would = breaker.is_permitting(now);
                prop_assert_eq!(breaker.permit(now), would);
                breaker.record(now, ok);
                if ok {
                    prop_assert!(breaker.is_permitting(now));
                }
            }
            prop_assert!(breaker.permit(now.plus(limits::BREAKER_OPEN_MAX_MS)));
        }
    }
}
