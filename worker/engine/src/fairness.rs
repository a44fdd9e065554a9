//! Whose turn it is. A caller that sends a hundred requests must not make one that sends a single request wait behind all of
//! them: places go to the caller that has been served least.
//!
//! These are the virtual token counters of Sheng et al. (*Fairness in Serving Large Language Models*, 2024): each caller's
//! counter grows with what is computed for it, and one that comes back after a pause is lifted to the least of those who
//! are there, for time in which nobody waited is not owed to anybody.

use std::collections::HashMap;

/// Callers remembered while they have no request here.
const IDLE_CALLERS_MAX: usize = 1024;

/// What was computed for whom.
#[derive(Debug, Default)]
pub(crate) struct Fairness {
    served: HashMap<String, u64>,
}

impl Fairness {
    /// Notes that `caller` has sent a request; `present` are the callers of all requests that wait or run.
    pub fn arrive<'a>(&mut self, caller: &str, present: impl Iterator<Item = &'a str> + Clone) {
        if present.clone().any(|other| other == caller) {
            return;
        }
        let least = present.clone().map(|other| self.served(other)).min();
        if self.served.len() >= IDLE_CALLERS_MAX {
            self.served.retain(|known, _| present.clone().any(|other| other == known));
        }
        let counter = self.served.entry(caller.to_owned()).or_default();
        *counter = (*counter).max(least.unwrap_or_default());
    }

    /// Of the callers of waiting requests, in the order of the queue, the index of the one whose turn it is.
    pub fn turn<'a>(&self, waiting: impl Iterator<Item = &'a str>) -> Option<usize> {
        waiting
            .enumerate()
            .min_by_key(|(index, caller)| (self.served(caller), *index))
            .map(|(index, _)| index)
    }

    /// Notes that so many tokens were computed or generated for `caller`.
    pub fn charge(&mut self, caller: &str, tokens: usize) {
        if let Some(counter) = self.served.get_mut(caller) {
            *counter += tokens as u64;
        }
    }

    fn served(&self, caller: &str) -> u64 {
        self.served.get(caller).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_served_is_next_and_the_first_of_equals() {
        let mut fairness = Fairness::default();
        let none = std::iter::empty::<&str>;
        fairness.arrive("a", none());
        fairness.charge("a", 500);
        fairness.arrive("b", ["a", "a"].into_iter());
        assert_eq!(
            fairness.turn(["a", "a", "b"].into_iter()),
            Some(0),
            "b has no claim to the past"
        );
        fairness.charge("a", 10);
        assert_eq!(fairness.turn(["a", "a", "b"].into_iter()), Some(2));
        fairness.charge("b", 20);
        assert_eq!(fairness.turn(["a", "a", "b"].into_iter()), Some(0));
        assert_eq!(fairness.turn(none()), None);
    }

    #[test]
    fn whoever_took_more_than_others_still_has_when_it_comes_back() {
        let mut fairness = Fairness::default();
        fairness.arrive("a", std::iter::empty());
        fairness.charge("a", 100);
        fairness.arrive("b", std::iter::empty());
        fairness.arrive("a", ["b"].into_iter());
        assert_eq!(fairness.turn(["a", "b"].into_iter()), Some(1));
    }

    #[test]
    fn strangers_are_forgotten() {
        let mut fairness = Fairness::default();
        fairness.arrive("0", std::iter::empty());
        for stranger in 1..3 * IDLE_CALLERS_MAX {
            fairness.arrive(&stranger.to_string(), ["0"].into_iter());
        }
        assert!(fairness.served.len() <= IDLE_CALLERS_MAX + 1);
        assert!(fairness.served.contains_key("0"));
    }
}
