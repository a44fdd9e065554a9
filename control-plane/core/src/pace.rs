//! What a worker usually does, and from when on its silence is a bad sign.
//!
//! Mean and deviation are smoothed as a TCP sender smooths round trips (Jacobson, "Congestion
//! avoidance and control"; RFC 6298). A prompt's first token is expected after a time for each token
//! that has to be computed; between two tokens the expectation is the gap itself.
//!
//! ```text
//! samples --> mean, deviation --> bound = mean + 4 deviations --> deadline, between floor and ceiling
//!                                                             \-> hedge, before the first token only
//! ```

use ollamamax_proto::limits;

/// A smoothed mean and its deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usual {
    mean: f64,
    deviation: f64,
    samples: u32,
}

impl Usual {
    /// Takes a sample in; what is no number, or negative, is none.
    pub fn observe(&mut self, sample: f64) {
        if !sample.is_finite() || sample < 0.0 {
            return;
        }
        if self.samples == 0 {
            (self.mean, self.deviation) = (sample, sample / 2.0);
        } else {
            self.deviation += ((sample - self.mean).abs() - self.deviation) / 4.0;
            self.mean += (sample - self.mean) / 8.0;
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// What hardly any sample exceeds; `None` until there are [`limits::PACE_SAMPLES_COUNT`].
    pub fn bound(&self) -> Option<f64> {
        self.is_known().then_some(self.mean + 4.0 * self.deviation)
    }

    /// The mean; `None` until there are enough samples.
    pub fn mean(&self) -> Option<f64> {
        self.is_known().then_some(self.mean)
    }

    fn is_known(&self) -> bool {
        self.samples >= limits::PACE_SAMPLES_COUNT
    }
}

/// What one placement usually does. Times are in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// From the start of a prompt to its first token, for each token that had to be computed.
    per_prompt_token: Usual,
    /// Between two messages of a stream that bring tokens.
    gap: Usual,
    /// From the request to its first token, whatever its length.
    first: Usual,
}

impl Pace {
    /// A first token came: `waited_us` after the request, `computed_us` after its prompt began, for
    /// `computed_tokens` that had to be computed.
    pub fn first_token(&mut self, waited_us: u64, computed_us: u64, computed_tokens: u32) {
        self.first.observe(waited_us as f64);
        self.per_prompt_token.observe(computed_us as f64 / f64::from(computed_tokens.max(1)));
    }

    /// More tokens came, `gap_us` after the last ones.
    pub fn gap(&mut self, gap_us: u64) {
        self.gap.observe(gap_us as f64);
    }

    /// From when on the silence of a worker that generates is a bad sign, in milliseconds: a few
    /// times what it usually takes, at least `floor_ms`, at most `ceiling_ms`; that while unknown.
    pub fn silence_ms(&self, floor_ms: u64, ceiling_ms: u64) -> u64 {
        let usual = self.gap.bound().map(|us| scaled(us, limits::PACE_SILENCE_TIMES));
        usual.map_or(ceiling_ms, |ms| ms.max(floor_ms)).min(ceiling_ms)
    }

    /// The same where this one is not known yet and others of the same model are: what the slowest of them deserves, and a
    /// little more.
    pub fn silence_beside_ms(
        &self,
        others: impl Iterator<Item = Self>,
        floor_ms: u64,
        ceiling_ms: u64,
    ) -> u64 {
        if self.gap.is_known() {
            return self.silence_ms(floor_ms, ceiling_ms);
        }
        let known = others.filter(|other| other.gap.is_known());
        let slowest = known.map(|other| other.silence_ms(floor_ms, ceiling_ms)).max();
        slowest
            .map_or(ceiling_ms, |ms| ms.saturating_add(limits::SILENCE_UNKNOWN_MS).min(ceiling_ms))
    }

    /// The same for a worker that computes a prompt of `tokens`, those queued before it included.
    pub fn prompt_ms(&self, tokens: u64, floor_ms: u64, ceiling_ms: u64) -> u64 {
        let bound = self.per_prompt_token.bound();
        let usual = bound.map(|us| scaled(us * tokens as f64, limits::PACE_SILENCE_TIMES));
        usual.map_or(ceiling_ms, |ms| ms.saturating_add(floor_ms)).min(ceiling_ms)
    }

    /// When a request that has no token yet is worth a second attempt beside the first, in
    /// milliseconds; `None` while nobody knows. Hardly any request waits that long.
    pub fn hedge_ms(&self, tokens: u64) -> Option<u64> {
        let prompt = self.per_prompt_token.bound()? * tokens as f64;
        let usual = self.first.bound()?;
        Some(scaled(prompt.max(usual), 1).max(limits::HEDGE_MIN_MS))
    }

    /// Tokens per second of one stream; 0 while unknown.
    pub fn tokens_per_second(&self) -> u64 {
        rate(self.gap.mean())
    }

    /// Prompt tokens per second; 0 while unknown.
    pub fn prompt_tokens_per_second(&self) -> u64 {
        rate(self.per_prompt_token.mean())
    }
}

/// Microseconds, some times over, in milliseconds. Casting a float to an integer saturates.
fn scaled(us: f64, times: u64) -> u64 {
    (us * times as f64 / 1_000.0).ceil() as u64
}

fn rate(us: Option<f64>) -> u64 {
    us.filter(|us| *us > 0.0).map_or(0, |us| (1_000_000.0 / us) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    const FLOOR: u64 = 1_500;
    const CEILING: u64 = 10_000;

    #[test]
    fn a_worker_of_milliseconds_is_missed_within_two_seconds() {
        let mut pace = Pace::default();
        assert_eq!(pace.silence_ms(FLOOR, CEILING), CEILING, "while nothing is known");
        assert_eq!((pace.hedge_ms(100), pace.tokens_per_second()), (None, 0));
        (0..limits::PACE_SAMPLES_COUNT).for_each(|_| pace.gap(8_000));
        assert_eq!(pace.silence_ms(FLOOR, CEILING), FLOOR);
        assert_eq!(pace.tokens_per_second(), 125);
        // Prompts of others stretch some gaps.
        (0..100).for_each(|nth| pace.gap(if nth % 10 == 0 { 300_000 } else { 8_000 }));
        let busy = pace.silence_ms(FLOOR, CEILING);
        assert!((FLOOR..2_500).contains(&busy), "{busy}");
        (0..100).for_each(|_| pace.gap(900_000));
        assert!(pace.silence_ms(FLOOR, CEILING) > 2_500, "one that is always slow gets its time");
        assert_eq!(pace.silence_ms(FLOOR, 300), 300, "a ceiling below the floor holds");
    }

    #[test]
    fn one_of_which_nothing_is_known_gets_a_little_more_than_the_slowest_other() {
        let (mut quick, mut slow, new) = (Pace::default(), Pace::default(), Pace::default());
        (0..50).for_each(|_| (quick.gap(8_000), slow.gap(700_000)).0);
        let of = |others: &[Pace]| new.silence_beside_ms(others.iter().copied(), FLOOR, CEILING);
        assert_eq!(of(&[new]), CEILING, "nobody knows");
        assert_eq!(of(&[new, quick]), FLOOR + limits::SILENCE_UNKNOWN_MS);
        assert!(of(&[quick, slow, new]) > slow.silence_ms(FLOOR, CEILING));
        let known = quick.silence_beside_ms([slow].into_iter(), FLOOR, CEILING);
        assert_eq!(known, FLOOR, "one that is known is its own measure");
    }

    #[test]
    fn long_prompts_may_take_longer() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.first_token(250_000, 200_000, 100));
        let (short, long) =
            (pace.prompt_ms(10, FLOOR, 60_000), pace.prompt_ms(4_000, FLOOR, 60_000));
        assert!((FLOOR..FLOOR + 200).contains(&short), "{short}");
        assert!((24_000..30_000).contains(&long), "{long}");
        assert_eq!(pace.prompt_tokens_per_second(), 500);
        let hedge = pace.hedge_ms(10).expect("known");
        assert!((250..300).contains(&hedge), "{hedge}");
        assert!(pace.hedge_ms(4_000).expect("known") >= 8_000);
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn deadlines_stay_between_floor_and_ceiling(
            gaps in prop::collection::vec(any::<u64>(), 0..50),
            tokens in any::<u64>(),
        ) {
            let mut pace = Pace::default();
            for gap in gaps {
                pace.gap(gap);
                pace.first_token(gap, gap / 2, (gap % 1_000) as u32);
                prop_assert!((FLOOR..=CEILING).contains(&pace.silence_ms(FLOOR, CEILING)));
                prop_assert!((FLOOR..=CEILING).contains(&pace.prompt_ms(tokens, FLOOR, CEILING)));
                prop_assert!(pace.hedge_ms(tokens).is_none_or(|ms| ms >= limits::HEDGE_MIN_MS));
            }
        }
    }
}
