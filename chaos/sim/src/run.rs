//! One run of one seed, and what came of it.

use crate::op::{At, Script};
use crate::trace::Trace;
use crate::world::{Counts, Plant, Violation, World};

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Steps that were made.
    pub steps: u64,
    /// Microseconds of virtual time.
    pub us: u64,
    /// All that happened.
    pub trace: Trace,
    /// In numbers.
    pub counts: Counts,
    /// What was violated, if anything was.
    pub violation: Option<Violation>,
    /// The operations that happened.
    pub script: Vec<At>,
}

/// Runs a script in the world of a seed.
///
/// # Errors
/// In words, if the simulated model could not be made.
pub fn run(seed: u64, script: Script, plant: Plant) -> Result<Run, String> {
    let mut world = World::new(seed, script, plant)?;
    world.run();
    Ok(Run {
        seed,
        steps: world.steps(),
        us: world.now_us(),
        trace: world.trace(),
        counts: world.counts(),
        violation: world.violation().cloned(),
        script: world.done().to_vec(),
    })
}
