//! How fast workers are, from what they say of themselves: smoothed, doubted and remembered only as long as it is fresh.
//!
//! ```text
//! measured at its start  --------------------------------> ns per MiB, rounded ---+--> Observed::ns_per_mib
//! steps of what it runs --smooth--> now / best ever seen --> factor --------------+
//!                                                            factor >= SLOW_PERCENT for SLOW_AFTER_MS --> Observed::slow
//! ```
//!
//! Only the measurement at the start compares workers with each other: it is the same work everywhere. What steps take
//! depends on the model, too, so a step is compared with the best that the same assignment has shown.

use crate::state::State;
use ollamamax_proto::{AssignmentId, Millis, WorkerId, limits};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speeds {
    workers: BTreeMap<WorkerId, Speed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Speed {
    /// Nanoseconds per MiB, as measured at the start; 0: unknown.
    measured_ns: u64,
    steps: BTreeMap<AssignmentId, Steps>,
    /// Since when it has been slower than it may be.
    above_since: Option<Millis>,
    slow: bool,
}

/// Nanoseconds per MiB of weights that the steps of one assignment take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steps {
    smooth_ns: u64,
    best_ns: u64,
    at: Millis,
}

impl Speeds {
    /// A worker spoke at `now`: what it measured when it started, and what its steps take now, both in nanoseconds per MiB
    /// and 0 where it does not know.
    pub fn heard(
        &mut self,
        worker: WorkerId,
        measured_ns: u64,
        steps: impl IntoIterator<Item = (AssignmentId, u64)>,
        now: Millis,
    ) {
        let speed = self.workers.entry(worker).or_default();
        if is_credible(measured_ns) {
            speed.measured_ns = measured_ns;
        }
        let steps: BTreeMap<AssignmentId, u64> =
            steps.into_iter().filter(|(_, ns)| is_credible(*ns)).collect();
        // Those that compute at once share the worker: each alone would take as much less.
        let sharing = steps.len().max(1) as u64;
        for (id, ns) in steps {
            let ns = (ns / sharing).max(1);
            let known = speed.steps.entry(id);
            let known = known.or_insert(Steps { smooth_ns: ns, best_ns: ns, at: now });
            known.learn(ns, now);
        }
        speed.judge(now);
    }

    /// Forgets the workers and assignments that the state does not know any more.
    pub fn forget_unknown(&mut self, state: &State) {
        self.workers.retain(|id, _| state.workers.contains_key(id));
        for speed in self.workers.values_mut() {
            speed.steps.retain(|id, _| state.placements.contains_key(id));
        }
    }

    /// Nanoseconds per MiB of each worker that has measured itself, times how much slower than usual it is. Rounded: to a
    /// plan, workers of almost the same speed shall be alike.
    pub fn ns_per_mib(&self) -> BTreeMap<WorkerId, u64> {
        let known = self.workers.iter().filter(|(_, speed)| speed.measured_ns > 0);
        known.map(|(id, speed)| (*id, speed.ns_per_mib())).collect()
    }

    /// The workers that have been slow for a while.
    pub fn slow(&self) -> BTreeSet<WorkerId> {
        self.workers.iter().filter(|(_, speed)| speed.slow).map(|(id, _)| *id).collect()
    }
}

impl Speed {
    /// How long its steps take, in percent of the best; 100 while it has not run any lately.
    fn percent(&self) -> u64 {
        let each = self.steps.values();
        each.map(|steps| steps.smooth_ns.saturating_mul(100) / steps.best_ns.max(1))
            .max()
            .unwrap_or(100)
    }

    fn judge(&mut self, now: Millis) {
        // A worker that runs nothing gets another chance after a while.
        self.steps.retain(|_, steps| now < steps.at.plus(limits::SPEED_KEPT_MS));
        let percent = self.percent();
        if percent < limits::SLOW_OVER_PERCENT {
            (self.above_since, self.slow) = (None, false);
        } else if percent >= limits::SLOW_PERCENT {
            let since = *self.above_since.get_or_insert(now);
            self.slow |= now >= since.plus(limits::SLOW_AFTER_MS);
        } else if !self.slow {
            self.above_since = None;
        }
    }

    fn ns_per_mib(&self) -> u64 {
        let percent = self.percent();
        let percent = if percent >= limits::SLOW_OVER_PERCENT { percent } else { 100 };
        rounded(self.measured_ns.saturating_mul(percent) / 100)
    }
}

impl Steps {
    fn learn(&mut self, ns: u64, now: Millis) {
        let passed = now.since(self.at);
        let (old, new) = (u128::from(self.smooth_ns), u128::from(ns));
        let (kept, passed) = (u128::from(limits::SPEED_DECAY_MS), u128::from(passed));
        let smooth = (old * kept + new * passed) / (kept + passed).max(1);
        self.smooth_ns = u64::try_from(smooth).unwrap_or(u64::MAX).max(1);
        self.best_ns = self.best_ns.min(self.smooth_ns);
        self.at = self.at.max(now);
    }
}

/// Whether a machine can be that fast, or that slow; 0 is "unknown".
fn is_credible(ns_per_mib: u64) -> bool {
    (limits::NS_PER_MIB_MIN..=limits::NS_PER_MIB_MAX).contains(&ns_per_mib)
}

/// To two significant binary digits after the first: steps of 14 to 25 percent.
fn rounded(ns: u64) -> u64 {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(3);
    let half = if shift == 0 { 0 } else { 1u64 << (shift - 1) };
    (ns.saturating_add(half) >> shift) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    const ID: AssignmentId = AssignmentId(1);
    const W: WorkerId = WorkerId(1);

    /// Speaks once a second, each time with steps of that length.
    fn speak(speeds: &mut Speeds, from_s: u64, to_s: u64, ns: u64) {
        for second in from_s..to_s {
            speeds.heard(W, 80_000, [(ID, ns)], Millis(second * 1_000));
        }
    }

    #[test]
    fn a_worker_is_slow_after_a_while_of_slow_steps_and_well_again_after_some_good_ones() {
        let mut speeds = Speeds::default();
        speak(&mut speeds, 0, 100, 100_000);
        assert_eq!(speeds.ns_per_mib(), [(W, 81_920)].into());
        speak(&mut speeds, 100, 130, 1_000_000);
        assert!(speeds.slow().is_empty(), "half a minute may be anything");
        speak(&mut speeds, 130, 250, 1_000_000);
        assert_eq!(speeds.slow(), [W].into());
        let slow = speeds.ns_per_mib()[&W];
        assert!((700_000..900_000).contains(&slow), "{slow}");
        speak(&mut speeds, 250, 400, 100_000);
        assert!(speeds.slow().is_empty());
        assert_eq!(speeds.ns_per_mib()[&W], 81_920);
    }

    #[test]
    fn what_runs_nothing_gets_another_chance() {
        let mut speeds = Speeds::default();
        speak(&mut speeds, 0, 10, 100_000);
        speak(&mut speeds, 10, 200, 1_000_000);
        assert_eq!(speeds.slow(), [W].into());
        speeds.heard(W, 80_000, [], Millis(200_000 + limits::SPEED_KEPT_MS));
        assert!(speeds.slow().is_empty());
    }

    #[test]
    fn two_models_at_once_do_not_make_a_worker_slow() {
        let mut speeds = Speeds::default();
        speak(&mut speeds, 0, 10, 100_000);
        for second in 10..300 {
            let steps = [(ID, 200_000), (AssignmentId(2), 300_000)];
            speeds.heard(W, 80_000, steps, Millis(second * 1_000));
        }
        assert!(speeds.slow().is_empty());
    }

    #[test]
    fn what_no_machine_can_do_is_not_believed() {
        let mut speeds = Speeds::default();
        speeds.heard(W, u64::MAX, [(ID, 1), (ID, u64::MAX)], Millis(5));
        assert!(speeds.ns_per_mib().is_empty());
        speeds.heard(W, 0, [], Millis(6));
        assert!(speeds.ns_per_mib().is_empty());
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn rounding_is_near_and_stays_where_it_is(ns in 1u64..1 << 40) {
            let near = rounded(ns);
            prop_assert!(near.abs_diff(ns) * 8 <= ns, "{near} for {ns}");
            prop_assert_eq!(rounded(near), near);
        }

        #[test]
        fn no_history_of_reports_gives_nonsense(
            reports in prop::collection::vec((0u64..100_000, any::<u64>(), any::<u64>()), 1..50),
        ) {
            let mut speeds = Speeds::default();
            for (at, measured, steps) in reports {
                speeds.heard(W, measured, [(ID, steps)], Millis(at));
                let ns = speeds.ns_per_mib();
                prop_assert!(ns.values().all(|ns| *ns >= limits::NS_PER_MIB_MIN / 2));
            }
        }
    }
}
