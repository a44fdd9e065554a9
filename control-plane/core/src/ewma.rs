//! Peak EWMA: a latency average that jumps up at once and comes down slowly, so that a worker that
//! turns slow is avoided at its first slow answer. After Finagle's `PeakEwma`.

use ollamamax_proto::{Millis, limits};

/// A decaying average of latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakEwma {
    value_us: f64,
    at: Millis,
    decay_ms: f64,
}

impl PeakEwma {
    /// Nothing measured yet: reads 0. Decays with [`limits::LATENCY_DECAY_MS`].
    pub fn new(now: Millis) -> Self {
        Self { value_us: 0.0, at: now, decay_ms: limits::LATENCY_DECAY_MS as f64 }
    }

    /// Takes a measurement in.
    pub fn observe(&mut self, now: Millis, sample_us: u64) {
        let sample = sample_us as f64;
        let decayed = self.decayed(now, sample);
        self.value_us = if sample > self.value_us { sample } else { decayed };
        self.at = self.at.max(now);
    }

    /// The average as of `now`: without measurements it fades towards 0, so that an avoided worker
    /// gets another chance.
    pub fn read_us(&self, now: Millis) -> u64 {
        // Casting a float to an integer saturates.
        self.decayed(now, 0.0) as u64
    }

    fn decayed(&self, now: Millis, towards: f64) -> f64 {
        let weight = (-(now.since(self.at) as f64) / self.decay_ms).exp();
        self.value_us * weight + towards * (1.0 - weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    #[test]
    fn it_jumps_up_and_comes_down_slowly() {
        let mut ewma = PeakEwma::new(Millis(0));
        ewma.observe(Millis(0), 100);
        ewma.observe(Millis(1), 5_000);
        assert_eq!(ewma.read_us(Millis(1)), 5_000);
        ewma.observe(Millis(1_001), 100);
        let after = ewma.read_us(Millis(1_001));
        assert!((4_000..5_000).contains(&after), "{after}");
        assert!(ewma.read_us(Millis(101_001)) < 10);
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn it_stays_between_zero_and_the_highest(
            samples in prop::collection::vec((0u64..20_000, 0u64..1_000_000), 1..50),
        ) {
            let mut ewma = PeakEwma::new(Millis(0));
            let mut highest = 0;
            for (at, sample) in samples {
                ewma.observe(Millis(at), sample);
                highest = highest.max(sample);
                prop_assert!(ewma.read_us(Millis(at)) <= highest);
            }
        }
    }
}
