//! How long a step of a ring may take before somebody in it counts as gone: several times what steps usually take here, by
//! their number of tokens, but never less than a bound that a busy machine needs.

use ollamamax_proto::limits;
use std::time::Duration;

/// How many times the usual a step may take.
const TIMES: f64 = 8.0;

/// What is known of the time that steps take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Seconds per token, of steps with few and of steps with many: smoothed, quick to rise. `None`: never measured.
    few: Option<f64>,
    many: Option<f64>,
}

impl Patience {
    fn slot(&mut self, tokens: usize) -> &mut Option<f64> {
        if tokens < 16 { &mut self.few } else { &mut self.many }
    }

    /// How long to wait for a step of so many tokens.
    pub fn of(&mut self, tokens: usize) -> Duration {
        let first = Duration::from_millis(limits::STAGE_PATIENCE_FIRST_MS);
        let Some(usual) = *self.slot(tokens) else { return first };
        let seconds = usual * tokens.max(1) as f64 * TIMES;
        Duration::from_secs_f64(seconds.min(first.as_secs_f64()))
            .max(Duration::from_millis(limits::STAGE_PATIENCE_MS))
    }

    /// A step of so many tokens took so long.
    pub fn learn(&mut self, tokens: usize, took: Duration) {
        let each = took.as_secs_f64() / tokens.max(1) as f64;
        let slot = self.slot(tokens);
        *slot = Some(match *slot {
            Some(usual) if each < usual => usual * 0.95 + each * 0.05,
            Some(usual) => usual * 0.5 + each * 0.5,
            None => each,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_the_work_and_has_bounds() {
        let mut patience = Patience::default();
        let ms = Duration::from_millis;
        assert_eq!(patience.of(1), ms(limits::STAGE_PATIENCE_FIRST_MS));
        patience.learn(1, ms(3));
        assert_eq!(patience.of(1), ms(limits::STAGE_PATIENCE_MS));
        assert_eq!(
            patience.of(128),
            ms(limits::STAGE_PATIENCE_FIRST_MS),
            "prompts are not known yet"
        );
        patience.learn(100, ms(1_000));
        assert_eq!(patience.of(100), ms(8_000));
        patience.learn(1, ms(1_000));
        assert!(patience.of(1) > ms(4_000), "it rises at once");
        (0..200).for_each(|_| patience.learn(1, ms(3)));
        assert_eq!(patience.of(1), ms(limits::STAGE_PATIENCE_MS));
    }
}
