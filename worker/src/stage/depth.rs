//! How many steps are worth having on their way at once.
//!
//! Stages on machines of their own are busy together only with as many steps as there are stages; stages that share
//! processors only get in each other's way, and small steps read the weights as often as large ones. No plan can know which it
//! is, so both are tried in turn, for some steps of decoding each, and the faster one is kept for a while: longer each time it
//! stays the faster one. What is generated does not depend on it.

use std::time::Duration;

/// Steps of a trial.
const TRIAL_STEPS: u32 = 24;
/// Steps until the next trial, at first and at most.
const HOLD_STEPS: u32 = 256;
const HOLD_MOST_STEPS: u32 = 16 * 1024;
/// How much faster the other one must be to be chosen, so that noise alone changes nothing.
const BETTER: f64 = 1.03;

/// One choice after another.
#[derive(Clone, Debug)]
pub struct Depth {
    most: usize,
    chosen: usize,
    phase: Phase,
    hold_steps: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing is measured for so many more steps.
    Hold(u32),
    /// The chosen one, or the other, is measured.
    Trial { other: bool, steps: u32, tokens: f64, seconds: f64, rate: f64 },
}

const BEGIN: Phase = Phase::Trial { other: false, steps: 0, tokens: 0.0, seconds: 0.0, rate: 0.0 };

impl Depth {
    /// At most so many; begins with all of them.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, chosen: most, phase: BEGIN, hold_steps: HOLD_STEPS }
    }

    /// How many now.
    pub fn now(&self) -> usize {
        match self.phase {
            Phase::Trial { other: true, .. } => self.other(),
            _ => self.chosen,
        }
    }

    fn other(&self) -> usize {
        if self.chosen == 1 { self.most } else { 1 }
    }

    /// A step of decoding that gave `tokens` ended `took` after the one before, or after it was started.
    pub fn learn(&mut self, tokens: usize, took: Duration) {
        if self.most == 1 || tokens == 0 {
            return;
        }
        match &mut self.phase {
            Phase::Hold(0) => self.phase = BEGIN,
            Phase::Hold(left) => *left -= 1,
            Phase::Trial { other, steps, tokens: sum, seconds, rate } => {
                *steps += 1;
                // Those that were on their way before belong to what was before.
                if *steps > self.most as u32 {
                    *sum += tokens as f64;
                    *seconds += took.as_secs_f64();
                }
                if *steps < TRIAL_STEPS {
                    return;
                }
                let measured = *sum / seconds.max(1e-9);
                if !*other {
                    let rate = measured;
                    self.phase =
                        Phase::Trial { other: true, steps: 0, tokens: 0.0, seconds: 0.0, rate };
                    return;
                }
                if measured > *rate * BETTER {
                    self.chosen = self.other();
                    self.hold_steps = HOLD_STEPS;
                } else {
                    self.hold_steps = (self.hold_steps * 2).min(HOLD_MOST_STEPS);
                }
                self.phase = Phase::Hold(self.hold_steps);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps of `tokens` on a machine where so many on their way take so long each.
    fn run(depth: &mut Depth, steps: u32, each_us: impl Fn(usize) -> u64) {
        for _ in 0..steps {
            let took = Duration::from_micros(each_us(depth.now()));
            depth.learn(8 / depth.now(), took);
        }
    }

    #[test]
    fn the_faster_one_is_found_and_found_again_when_the_machine_changes() {
        let apart = |depth: usize| if depth == 1 { 10_000 } else { 3_000 };
        let together = |depth: usize| if depth == 1 { 10_000 } else { 8_000 };
        let mut depth = Depth::new(2);
        run(&mut depth, 2 * TRIAL_STEPS + 1, apart);
        assert_eq!(depth.now(), 2);
        let mut depth = Depth::new(2);
        run(&mut depth, 2 * TRIAL_STEPS + 1, together);
        assert_eq!(depth.now(), 1);
        run(&mut depth, HOLD_STEPS + 2 * TRIAL_STEPS + 2, apart);
        assert_eq!(depth.now(), 2);
    }

    #[test]
    fn trials_get_rare_while_nothing_changes() {
        let mut depth = Depth::new(4);
        let mut others = 0;
        for _ in 0..100_000 {
            others += u32::from(depth.now() != 4);
            run(&mut depth, 1, |depth| if depth == 1 { 9_000 } else { 1_000 });
        }
        assert!(others < 20 * TRIAL_STEPS, "{others} steps were trials");
        let mut only = Depth::new(1);
        run(&mut only, 1_000, |_| 1);
        assert_eq!(only.now(), 1);
    }
}
