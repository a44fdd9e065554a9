//! The few operations that are enough for a violation: delta debugging (Zeller and Hildebrandt, *Simplifying and isolating
//! failure-inducing input*, 2002) over the operations that happened.
//!
//! Coins belong to what they are for and not to when they were thrown, so a run without some operations is much like the run
//! with them; and every part of a script is a script.

use crate::op::{At, Script};
use crate::run::{Run, run};
use crate::world::Plant;

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The run of the shortest script that was found.
    pub run: Run,
    /// Runs it took.
    pub runs: usize,
}

/// The shortest script found within `runs_max` runs whose run violates the same invariant.
///
/// # Errors
/// In words, if the simulated model could not be made.
pub fn shrink(failed: Run, plant: Plant, runs_max: usize) -> Result<Shrunk, String> {
    let Some(violation) = failed.violation.clone() else {
        return Ok(Shrunk { run: failed, runs: 0 });
    };
    let (seed, mut best, mut runs) = (failed.seed, failed, 0);
    let mut parts = 2;
    while best.script.len() > 1 && runs < runs_max {
        let before = best.script.len();
        let size = before.div_ceil(parts);
        let mut from = 0;
        while from < best.script.len() && runs < runs_max {
            let rest = without(&best.script, from, size);
            let tried = run(seed, Script::List(rest), plant)?;
            runs += 1;
            if tried.violation.as_ref().is_some_and(|v| v.invariant == violation.invariant) {
                best = tried;
            } else {
                from += size;
            }
        }
        if best.script.len() == before && size == 1 {
            break;
        }
        parts = (parts * 2).min(best.script.len().max(1));
    }
    Ok(Shrunk { run: best, runs })
}

fn without(script: &[At], from: usize, count: usize) -> Vec<At> {
    let kept = script.iter().enumerate();
    kept.filter(|(at, _)| *at < from || *at >= from + count).map(|(_, at)| *at).collect()
}
