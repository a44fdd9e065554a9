//! Kernels: the loops that take the time, each in a *tier* per instruction set. The tier is chosen once, at start.
//!
//! A kernel computes every (weight row, token) pair with the same operations in the same order, whatever the number of
//! rows and tokens it is given together: tiles only decide which pairs share loads. That is why a token's logits do not
//! depend, to the bit, on what else is in the batch. Tiers agree closely, not to the bit; the scalar one is the twin that
//! the others are tested against.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "rows and tokens index several arrays at once")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "rows and tokens index several arrays at once")]
mod avx512;
mod portable;
mod scalar;

use super::rows::{LevelRows, QuantRow, Rows};
use ollamamax_gguf::GgmlType;

/// Weight rows that a kernel is given at once.
pub(crate) const TILE_ROWS: usize = 8;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Any machine.
    Scalar,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI, and what AVX2 needs.
    Avx512,
}

impl Tier {
    /// The best tier of this machine.
    pub fn best() -> Self {
        [Self::Avx512, Self::Avx2]
            .into_iter()
            .find(|tier| tier.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        Kernels::of(self).is_some()
    }
}

/// One tier's kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    pub tier: Tier,
    /// Unpacks a weight row into floats.
    pub unpack_plain: fn(GgmlType, &[u8], &mut [f32]),
    /// Unpacks a weight row into row `index` of the levels.
    pub unpack_levels: fn(GgmlType, &[u8], &mut LevelRows, usize),
    /// `rows` plain weight rows (stride as the tokens') times all tokens: `out[token * TILE_ROWS + row]`.
    pub dot_plain: fn(&[f32], usize, &Rows, &mut [f32]),
    /// `rows` weight rows in levels times all tokens: `out[token * TILE_ROWS + row]`.
    pub dot_levels: fn(&LevelRows, usize, &[QuantRow], &mut [f32]),
    /// Activations into eight bits.
    pub quantise: fn(&[f32], &mut QuantRow),
    /// `out = x / rms(x) * weight`: x, weight, epsilon, out.
    pub norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// `gate = silu(gate) * up`.
    pub swiglu: fn(&mut [f32], &[f32]),
    /// Scores into `exp(score - max)`; returns their sum.
    pub softmax: fn(&mut [f32]) -> f32,
    /// One query against f16 keys, row after row: `scores[i] = query . keys[i] * scale`.
    pub scores: fn(&[f32], &[u16], f32, &mut [f32]),
    /// `mix += sum of weight[i] * values[i]` over f16 values, row after row.
    pub mix: fn(&[f32], &[u16], &mut [f32]),
    /// Floats into f16.
    pub to_half: fn(&[f32], &mut [u16]),
}

impl Kernels {
    /// The kernels of a tier, if this machine has it.
    pub fn of(tier: Tier) -> Option<Self> {
        match tier {
            Tier::Scalar => Some(scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => avx2::detect(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => avx512::detect(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }
}
