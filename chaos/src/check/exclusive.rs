//! No two workers hold the same stage of a model in the same generation: otherwise both could answer for it, and one of them has
//! been told to stop.

use super::{Bars, Verdict};
use crate::history::History;
use std::collections::BTreeMap;

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut holders = BTreeMap::new();
    let mut findings = Vec::new();
    for holding in &history.holdings {
        let part = (&holding.model, holding.generation, &holding.stage);
        let first = holders.entry(part).or_insert(&holding.worker);
        if *first != &holding.worker {
            findings.push(format!(
                "generation {} of `{}` {}: held by {first} and at {} ms by {}",
                holding.generation,
                holding.model,
                holding.stage,
                holding.first_us / 1_000,
                holding.worker
            ));
        }
    }
    Verdict::of(findings, history.holdings.len(), "no worker held anything")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Holding;

    fn held(generation: u64, stage: &str, worker: &str) -> Holding {
        let (model, stage, worker) = ("m".to_owned(), stage.to_owned(), worker.to_owned());
        Holding { model, generation, stage, worker, first_us: 0 }
    }

    #[test]
    fn another_stage_or_generation_may_be_elsewhere_the_same_may_not() {
        let mut history = History {
            holdings: vec![
                held(1, "whole", "a"),
                held(2, "whole", "b"),
                held(3, "0", "a"),
                held(3, "1", "b"),
            ],
            ..History::default()
        };
        assert_eq!(check(&history, &Bars::default()), Verdict::Pass { looked_at: 4 });
        history.holdings.push(held(3, "1", "a"));
        assert!(check(&history, &Bars::default()).is_failure());
    }
}
