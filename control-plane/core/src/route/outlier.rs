//! Outlier ejection: who is much slower or fails much more often than the rest is left out for a
//! while, longer each time. After Envoy's outlier detection.
//!
//! What is normal is the median of those that were asked enough since the last judgement. Never more
//! than [`limits::OUTLIER_SHARE_PERCENT`] are out at once: where all are slow, nobody is an outlier.

use ollamamax_proto::{Millis, limits};

/// How one candidate did since the last judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Answers that ended, well or badly.
    pub answers: u32,
    /// Of these, those the worker failed; a client's own fault is none.
    pub failures: u32,
    /// Smoothed time to the first token, in microseconds, 0 while unknown.
    pub latency_us: u64,
}

/// Whether one is left out, and how often it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Until when it is, or was last.
    pub until: Millis,
    /// How often it was, less one for each time of good conduct since; 0 for never.
    pub times: u32,
}

impl Ejection {
    /// Whether it is left out now.
    pub fn is_out(&self, now: Millis) -> bool {
        self.times > 0 && now < self.until
    }

    fn eject(&mut self, now: Millis) {
        self.times = self.times.saturating_add(1);
        let ms = limits::OUTLIER_OUT_MS.saturating_mul(self.times.into());
        self.until = now.plus(ms.min(limits::OUTLIER_OUT_MAX_MS));
    }

    fn forgive(&mut self, now: Millis) {
        if self.times > 0 && now >= self.until.plus(limits::OUTLIER_OUT_MS) {
            self.times -= 1;
            self.until = now;
        }
    }
}

/// Judges all candidates; `seen` and `ejections` stand for the same ones in the same order. The
/// worst are ejected first.
pub fn judge(now: Millis, seen: &[Seen], ejections: &mut [Ejection]) {
    let asked = |seen: &Seen| seen.answers >= limits::OUTLIER_ANSWERS_COUNT;
    let usual_us =
        median(seen.iter().filter(|s| asked(s) && s.latency_us > 0).map(|s| s.latency_us));
    let usual_rate = median(seen.iter().filter(|s| asked(s)).map(failure_percent));
    let mut worst: Vec<(u64, usize)> = Vec::new();
    for (index, (seen, ejection)) in seen.iter().zip(ejections.iter_mut()).enumerate() {
        if ejection.is_out(now) {
            continue;
        }
        ejection.forgive(now);
        if !asked(seen) {
            continue;
        }
        let slow = usual_us.and_then(|usual| slowness(seen.latency_us, usual));
        let above = failure_percent(seen).saturating_sub(usual_rate.unwrap_or_default());
        let failing = (above >= limits::OUTLIER_FAILURES_PERCENT).then_some(above);
        if let Some(how_bad) = slow.max(failing) {
            worst.push((how_bad, index));
        }
    }
    worst.sort_unstable_by(|a, b| b.cmp(a));
    let count = seen.len().min(ejections.len());
    let allowed = count * limits::OUTLIER_SHARE_PERCENT / 100;
    let out = ejections.iter().filter(|ejection| ejection.is_out(now)).count();
    for (_, index) in worst.into_iter().take(allowed.saturating_sub(out)) {
        ejections[index].eject(now);
    }
}

/// How many percent of the usual latency, when that is far too much.
fn slowness(latency_us: u64, usual_us: u64) -> Option<u64> {
    let percent = latency_us.saturating_mul(100) / usual_us.max(1);
    let far = percent >= limits::OUTLIER_LATENCY_PERCENT
        && latency_us.saturating_sub(usual_us) >= limits::OUTLIER_LATENCY_US;
    far.then_some(percent)
}

fn failure_percent(seen: &Seen) -> u64 {
    u64::from(seen.failures) * 100 / u64::from(seen.answers.max(1))
}

/// The lower of the two in the middle; one alone has nobody to be compared with.
fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let middle = values.len().checked_sub(1)? / 2;
    (values.len() > 1).then(|| values[middle])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    const USUAL: Seen = Seen { answers: 100, failures: 0, latency_us: 50_000 };
    const SLOW: Seen = Seen { latency_us: 500_000, ..USUAL };
    const FAILING: Seen = Seen { failures: 60, ..USUAL };

    fn out(seen: &[Seen]) -> Vec<bool> {
        let mut ejections = vec![Ejection::default(); seen.len()];
        judge(Millis(0), seen, &mut ejections);
        ejections.iter().map(|ejection| ejection.is_out(Millis(0))).collect()
    }

    #[test]
    fn who_is_far_off_the_median_is_left_out() {
        assert_eq!(out(&[USUAL, SLOW, USUAL]), [false, true, false]);
        assert_eq!(out(&[USUAL, USUAL, FAILING]), [false, false, true]);
        assert_eq!(out(&[SLOW, SLOW, SLOW]), [false; 3], "where all are slow nobody is");
        assert_eq!(out(&[USUAL, SLOW]), [false; 2], "half of all would be too many");
        let hardly_asked = Seen { answers: 1, failures: 1, latency_us: 9_000_000 };
        assert_eq!(out(&[USUAL, USUAL, hardly_asked]), [false; 3]);
        assert_eq!(out(&[SLOW, USUAL, USUAL, FAILING]), [true, false, false, false], "worst first");
    }

    #[test]
    fn each_time_is_longer_and_good_conduct_counts() {
        let seen = [USUAL, USUAL, SLOW];
        let mut ejections = vec![Ejection::default(); 3];
        let mut now = Millis(0);
        for times in 1..4u64 {
            judge(now, &seen, &mut ejections);
            assert_eq!(ejections[2].until, now.plus(times * limits::OUTLIER_OUT_MS));
            now = ejections[2].until;
        }
        for left in [2, 1, 0, 0] {
            now = now.plus(limits::OUTLIER_OUT_MS);
            judge(now, &[USUAL; 3], &mut ejections);
            assert_eq!(ejections[2].times, left);
        }
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn never_more_than_a_share_is_out_and_nobody_for_ever(
            rounds in prop::collection::vec(
                prop::collection::vec((0u32..200, 0u32..200, 0u64..5_000_000), 9),
                1..30,
            ),
        ) {
            let mut ejections = vec![Ejection::default(); 9];
            let mut now = Millis(0);
            for round in rounds {
                let seen: Vec<Seen> = round
                    .into_iter()
                    .map(|(answers, failures, latency_us)| Seen { answers, failures, latency_us })
                    .collect();
                judge(now, &seen, &mut ejections);
                let out = ejections.iter().filter(|ejection| ejection.is_out(now)).count();
                prop_assert!(out * 100 <= 9 * limits::OUTLIER_SHARE_PERCENT, "{out} of 9");
                let latest = now.plus(limits::OUTLIER_OUT_MAX_MS);
                prop_assert!(ejections.iter().all(|ejection| ejection.until <= latest));
                now = now.plus(limits::OUTLIER_PERIOD_MS);
            }
        }
    }
}
