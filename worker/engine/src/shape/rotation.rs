//! How fast heads turn with position, and how that is stretched for contexts longer than those a model first learned.
//!
//! ```text
//! frequency of pair i = base^(-2i/width) / factor_i          the angle at a position is position * frequency
//! linear:   all frequencies times scale                      (Chen et al., 2023)
//! yarn:     low ones times scale, high ones as they are, a ramp between; cosine and sine grow by magnitude
//!                                                            (Peng et al., *YaRN*, 2023)
//! factors:  one divisor per pair, from the file              (llama 3.1; LongRoPE, Ding et al., 2024)
//! ```

use super::{Keys, ShapeError, unsupported};
use ollamamax_gguf::Gguf;

/// A rotation without the factors of single pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Base of the frequencies.
    pub base: f32,
    /// Frequencies are multiplied by this: 1, or less for a stretched context.
    pub scale: f32,
    /// Which frequencies are scaled; all when `None`.
    pub ramp: Option<Ramp>,
    /// Cosine and sine are multiplied by this.
    pub magnitude: f32,
}

/// Pairs up to `first` turn as they are, from `last` on they are scaled, between it is mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Last pair that is not scaled at all.
    pub first: f64,
    /// First pair that is scaled wholly.
    pub last: f64,
}

impl Rotation {
    /// Nothing but a base.
    pub fn plain(base: f32) -> Self {
        Self { base, scale: 1.0, ramp: None, magnitude: 1.0 }
    }

    pub(super) fn read(
        keys: &Keys<'_>,
        rope_width: u32,
        context_tokens: u32,
    ) -> Result<Self, ShapeError> {
        let base = keys.positive("rope.freq_base")?.or(keys.positive("rope.global.freq_base")?);
        let base = base.unwrap_or(10_000.0);
        let magnitude = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let plain = Self { magnitude, ..Self::plain(base) };
        let kind = keys.optional("rope.scaling.type", Gguf::get_str)?;
        let factor = keys.positive("rope.scaling.factor")?;
        let factor = factor.or(keys.positive("rope.scale_linear")?).unwrap_or(1.0);
        let scale = 1.0 / factor;
        match kind {
            Some("none") => Ok(plain),
            None | Some("linear" | "longrope") => Ok(Self { scale, ..plain }),
            Some("yarn") => {
                if let Some(found) =
                    keys.optional("rope.scaling.yarn_log_multiplier", Gguf::get_f32)?
                {
                    let key = keys.key("rope.scaling.yarn_log_multiplier");
                    return unsupported(&key, found, "nothing: plain YaRN");
                }
                let original = keys.number("rope.scaling.original_context_length")?;
                let original = f64::from(original.unwrap_or(context_tokens));
                let fast = keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
                let slow = keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
                // The pair that turns so often over the original context.
                let width = f64::from(rope_width);
                let pair = |turns: f32| {
                    let wave = original / (f64::from(turns) * std::f64::consts::TAU);
                    width * wave.ln() / (2.0 * f64::from(base).ln())
                };
                let ramp = Ramp {
                    first: pair(fast).floor().max(0.0),
                    last: pair(slow).ceil().min(width - 1.0),
                };
                let grown = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                Ok(Self { base, scale, ramp: Some(ramp), magnitude: magnitude * grown })
            }
            Some(found) => {
                let expected = "`none`, `linear`, `yarn` or `longrope`";
                unsupported(&keys.key("rope.scaling.type"), found, expected)
            }
        }
    }
}
