//! Prompt-lookup speculation (Saxena, *Prompt Lookup Decoding*, 2023): text often repeats itself, so what followed the last
//! tokens when they came before is a guess at what follows now. A step computes the guess beside the token it has to, which
//! costs little while decoding waits for memory, and keeps what sampling would have chosen anyway. Nothing is lost and
//! nothing changes: every token is sampled from the logits at its own position with its own coin.
//!
//! A guess that fails is paid for, so a sequence speculates only as long as it pays: [`Speculation`] keeps account.

/// Tokens that must have come before in the same order.
const MATCH: usize = 3;
/// Tokens guessed at most; with the token before them they fill a tile of the kernels.
const GUESS: usize = 3;
/// Guessed tokens that must be right on average: what a step with a guess costs more, with something on top.
const WORTH: f32 = 0.6;
/// Weight of the newest result in the average.
const NEWEST: f32 = 0.25;
/// Tokens after which a sequence that gave up tries once more.
const RETRY: u32 = 64;

/// What is likely to follow `tokens`, and how that went so far.
#[derive(Clone, Debug)]
pub struct Speculation {
    /// Right guesses per try, newest first in weight.
    average: f32,
    /// Tokens since the last try.
    idle: u32,
}

impl Default for Speculation {
    /// Begins with trust enough for a few tries.
    fn default() -> Self {
        Self { average: 1.5, idle: 0 }
    }
}

impl Speculation {
    /// A guess of at most `room` tokens; empty when there is none or it does not pay.
    pub fn guess(&mut self, tokens: &[u32], room: usize) -> Vec<u32> {
        self.idle += 1;
        if self.average < WORTH && self.idle < RETRY {
            return Vec::new();
        }
        lookup(tokens, room.min(GUESS)).to_vec()
    }

    /// Notes how many tokens of a guess were right.
    pub fn learn(&mut self, right: usize) {
        self.idle = 0;
        self.average += NEWEST * (right as f32 - self.average);
    }
}

/// What followed the newest earlier occurrence of the last [`MATCH`] tokens, at most `most` tokens.
fn lookup(tokens: &[u32], most: usize) -> &[u32] {
    let Some(start) = tokens.len().checked_sub(MATCH) else { return &[] };
    let last = &tokens[start..];
    let earlier = tokens[..tokens.len() - 1].windows(MATCH).rposition(|window| window == last);
    let Some(at) = earlier else { return &[] };
    let follow = &tokens[at + MATCH..];
    &follow[..most.min(follow.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_same_tokens_is_guessed() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 3), [4, 5, 9]);
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 1), [4]);
        // The newest occurrence counts, and a run continues as a run.
        assert_eq!(lookup(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2), [5, 1]);
        assert_eq!(lookup(&[7, 7, 7, 7], 3), [7]);
        assert!(lookup(&[1, 2, 3, 4], 3).is_empty() && lookup(&[1, 2], 3).is_empty());
    }

    #[test]
    fn guessing_stops_when_it_does_not_pay_and_is_tried_again() {
        let tokens = [1, 2, 3, 4, 1, 2, 3];
        let mut speculation = Speculation::default();
        let mut tries = 0;
        while !speculation.guess(&tokens, 3).is_empty() {
            speculation.learn(0);
            tries += 1;
        }
        assert!((1..8).contains(&tries), "{tries} tries");
        let idle = (0..200).position(|_| !speculation.guess(&tokens, 3).is_empty());
        assert!(idle.is_some_and(|idle| idle > 32), "{idle:?}");
        (0..8).for_each(|_| speculation.learn(3));
        assert!(!speculation.guess(&tokens, 3).is_empty());
    }
}
