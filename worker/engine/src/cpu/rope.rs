//! Rotary position embedding (Su et al., *RoFormer*, 2021).

use crate::shape::ModelShape;

/// Cosine and sine of one pair.
pub(crate) type Turn = (f32, f32);

/// Radians per position of every rotated pair.
pub(crate) fn frequencies(shape: &ModelShape, factors: Option<&[f32]>) -> Vec<f64> {
    let width = f64::from(shape.rope_width);
    let frequency = |pair: u32| {
        let factor = factors.map_or(1.0, |factors| f64::from(factors[pair as usize]));
        f64::from(shape.rope_base).powf(-2.0 * f64::from(pair) / width) / factor
            * f64::from(shape.rope_scale)
    };
    (0..shape.rope_width / 2).map(frequency).collect()
}

/// Cosine and sine of every pair at a position.
pub(crate) fn turns(frequencies: &[f64], position: usize) -> impl Iterator<Item = Turn> + '_ {
    frequencies.iter().map(move |frequency| {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        (cos as f32, sin as f32)
    })
}

/// Rotates one head. llama files have their query and key rows permuted so that neighbours form a pair.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], turns: &[Turn]) {
    for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
