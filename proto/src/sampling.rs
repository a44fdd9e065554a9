//! How one token is chosen from the logits, and which values each number of that may have.
//!
//! Gateways check what clients send and workers what gateways send, against the same [`Bounds`], so that both refuse in the
//! same words.

use crate::limits;
use std::collections::BTreeMap;
use std::fmt;

/// How one token is chosen from the logits. Defaults are Ollama's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; higher flattens.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the best; 0 keeps all.
    pub min_p: f32,
    /// Locally typical sampling; 1 is off.
    pub typical_p: f32,
    /// Tail-free sampling; 1 and more is off.
    pub tfs_z: f32,
    /// Holds the surprise of the output at a target, in place of the five cuts above.
    pub mirostat: Option<Mirostat>,
    /// How many last tokens the penalties look at; 0 none.
    pub repeat_last: u32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once for each recent token.
    pub presence_penalty: f32,
    /// Subtracted per occurrence of each recent token.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens before anything else.
    pub logit_bias: BTreeMap<u32, f32>,
    /// With the position, decides every coin: same seed, same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            tfs_z: 1.0,
            mirostat: None,
            repeat_last: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

/// Mirostat (Basu et al., 2021): a feedback loop over the surprise of the tokens chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// Which of the two.
    pub version: MirostatVersion,
    /// The surprise aimed at, in bits.
    pub tau: f32,
    /// How fast the loop learns.
    pub eta: f32,
    /// Where the loop stands, in bits, after the tokens a stream is resumed with; `None` at its start.
    pub mu: Option<f64>,
}

impl Mirostat {
    /// The loop at its start, with Ollama's former defaults for what is not given.
    pub fn new(version: MirostatVersion, tau: Option<f32>, eta: Option<f32>) -> Self {
        Self { version, tau: tau.unwrap_or(5.0), eta: eta.unwrap_or(0.1), mu: None }
    }
}

/// The two forms of Mirostat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Estimates the tail from the most likely tokens and keeps the k that fit the target.
    One,
    /// Keeps the tokens that surprise no more than the loop allows.
    Two,
}

impl MirostatVersion {
    /// 1 or 2, as the APIs and the wire write it.
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The version a number names: none for 0, an error for what is not 0, 1 or 2.
    pub fn of_number(number: i64) -> Result<Option<Self>, OutOfBounds> {
        match number {
            0 => Ok(None),
            1 => Ok(Some(Self::One)),
            2 => Ok(Some(Self::Two)),
            other => {
                Err(OutOfBounds { got: other.to_string(), expected: "0 (off), 1 or 2".to_owned() })
            }
        }
    }
}

/// The values a number may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The smallest.
    least: f32,
    /// The largest.
    most: f32,
    /// Whether `least` itself is too small.
    above: bool,
}

/// A number outside its bounds, in words for who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// What came.
    pub got: String,
    /// What may come.
    pub expected: String,
}

impl Bounds {
    /// Of `temperature`.
    pub const TEMPERATURE: Self = Self::from_to(0.0, limits::TEMPERATURE_MAX);
    /// Of `top_p`, `min_p` and `typical_p`.
    pub const PROBABILITY: Self = Self::from_to(0.0, 1.0);
    /// Of `tfs_z`: clients send 2 for a weaker effect than 1, which is none.
    pub const TFS_Z: Self = Self::from_to(0.0, f32::MAX);
    /// Of `mirostat_tau`.
    pub const MIROSTAT_TAU: Self = Self::above_to(0.0, limits::MIROSTAT_TAU_MAX_BITS);
    /// Of `mirostat_eta`.
    pub const MIROSTAT_ETA: Self = Self::above_to(0.0, limits::MIROSTAT_ETA_MAX);
    /// Of `repeat_penalty`.
    pub const REPEAT_PENALTY: Self = Self::from_to(0.0, limits::REPEAT_PENALTY_MAX);
    /// Of `presence_penalty` and `frequency_penalty`.
    pub const PENALTY: Self = Self::from_to(-limits::PENALTY_LOGITS, limits::PENALTY_LOGITS);
    /// Of one entry of `logit_bias`.
    pub const LOGIT_BIAS: Self = Self::from_to(-limits::BIAS_LOGITS, limits::BIAS_LOGITS);

    /// The smallest value; that of Mirostat's bounds is itself too small.
    pub const fn least(self) -> f32 {
        self.least
    }

    /// The largest value.
    pub const fn most(self) -> f32 {
        self.most
    }

    const fn from_to(least: f32, most: f32) -> Self {
        Self { least, most, above: false }
    }

    const fn above_to(least: f32, most: f32) -> Self {
        Self { least, most, above: true }
    }

    /// The value, if it is one of these. What is not a number never is.
    pub fn check(self, value: f32) -> Result<f32, OutOfBounds> {
        let high_enough = if self.above { value > self.least } else { value >= self.least };
        if high_enough && value <= self.most {
            return Ok(value);
        }
        Err(OutOfBounds { got: value.to_string(), expected: self.to_string() })
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { least, most, above } = *self;
        match (above, most == f32::MAX) {
            (true, true) => write!(out, "a finite number above {least}"),
            (true, false) => write!(out, "a number above {least}, at most {most}"),
            (false, true) => write!(out, "a finite number, {least} or more"),
            (false, false) => write!(out, "a number from {least} to {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_refused_is_told_what_may_come() {
        let refused = |bounds: Bounds, value: f32| bounds.check(value).expect_err("refused");
        let error = refused(Bounds::TEMPERATURE, 101.0);
        assert_eq!(
            (error.got.as_str(), error.expected.as_str()),
            ("101", "a number from 0 to 100")
        );
        assert_eq!(refused(Bounds::MIROSTAT_TAU, 0.0).expected, "a number above 0, at most 100");
        assert_eq!(refused(Bounds::TFS_Z, f32::NAN).expected, "a finite number, 0 or more");
        assert_eq!(refused(Bounds::LOGIT_BIAS, -100.5).expected, "a number from -100 to 100");
        assert_eq!(MirostatVersion::of_number(3).expect_err("no such").expected, "0 (off), 1 or 2");
    }

    proptest! {
        #[test]
        fn what_passes_is_finite_and_what_the_defaults_say_passes(value: f32) {
            for bounds in [
                Bounds::TEMPERATURE, Bounds::PROBABILITY, Bounds::TFS_Z, Bounds::MIROSTAT_TAU,
                Bounds::MIROSTAT_ETA, Bounds::REPEAT_PENALTY, Bounds::PENALTY, Bounds::LOGIT_BIAS,
            ] {
                if let Ok(passed) = bounds.check(value) {
                    prop_assert!(passed.is_finite());
                }
                prop_assert_eq!(bounds.check(1.0), Ok(1.0));
            }
        }
    }
}
