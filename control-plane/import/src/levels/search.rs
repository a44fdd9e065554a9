//! The searches for scales: tries some near the obvious one, solves for the best scale given the levels each gives, and keeps
//! what loses least. ggml's `make_qkx2_quants` and `make_qx_quants`.

use super::nearest;

/// Below this a run counts as zero.
pub(super) const TINY: f32 = 1e-15;

/// How to search: `steps + 1` tries, at `first + step * n` levels beyond `most`.
#[derive(Clone, Copy)]
pub(super) struct Tries {
    pub most: u8,
    pub first: f32,
    pub step: f32,
    pub steps: u8,
}

/// Sums over a run, weighted.
#[derive(Clone, Copy, Default)]
struct Sums {
    level: f32,
    level_squared: f32,
    product: f32,
}

/// What was found for a run of 32.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub scale: f32,
    /// What is taken away from the scaled levels; not negative.
    pub minimum: f32,
    pub levels: [u8; 32],
}

/// The scale and the minimum for a run of 32, and the levels they were found with.
pub(super) fn scale_and_minimum(values: &[f32; 32], tries: Tries) -> Found {
    let weights = weights(values);
    let (mut low, mut high) = (values[0], values[0]);
    let mut weight_sum = weights[0];
    let mut value_sum = weight_sum * values[0];
    for (value, weight) in values.iter().zip(weights).skip(1) {
        low = if *value < low { *value } else { low };
        high = if *value > high { *value } else { high };
        weight_sum += weight;
        value_sum += weight * value;
    }
    low = low.min(0.0);
    if high == low {
        return Found { scale: 0.0, minimum: -low, levels: [0; 32] };
    }
    let most = f32::from(tries.most);
    let level = |inverse: f32, low: f32, value: f32| {
        f32::from(nearest(inverse * (value - low)).clamp(0, tries.most.into()) as u8)
    };
    let error = |levels: &[f32; 32], scale: f32, minimum: f32| {
        let each = levels.iter().zip(values).zip(weights);
        each.fold(0.0f32, |sum, ((level, value), weight)| {
            let off = scale * level + minimum - value;
            sum + weight * (off * off)
        })
    };
    let inverse = most / (high - low);
    let mut scale = 1.0 / inverse;
    let mut best = values.map(|value| level(inverse, low, value));
    let mut least = error(&best, scale, low);
    for nth in 0..=tries.steps {
        let inverse = (tries.first + tries.step * f32::from(nth) + most) / (high - low);
        // From the best minimum so far.
        let levels = values.map(|value| level(inverse, low, value));
        let mut sums = Sums::default();
        for ((level, value), weight) in levels.iter().zip(values).zip(weights) {
            sums.level += weight * level;
            sums.level_squared += weight * level * level;
            sums.product += weight * level * value;
        }
        let determinant = weight_sum * sums.level_squared - sums.level * sums.level;
        if determinant <= 0.0 || determinant.is_nan() {
            continue;
        }
        let mut this = (weight_sum * sums.product - value_sum * sums.level) / determinant;
        let mut this_low =
            (sums.level_squared * value_sum - sums.level * sums.product) / determinant;
        if this_low > 0.0 {
            this_low = 0.0;
            this = sums.product / sums.level_squared;
        }
        let lost = error(&levels, this, this_low);
        if lost < least {
            (least, scale, low, best) = (lost, this, this_low, levels);
        }
    }
    Found { scale, minimum: -low, levels: best.map(|level| level as u8) }
}

/// What is far from zero counts for more.
fn weights(values: &[f32; 32]) -> [f32; 32] {
    let squares = values.iter().fold(0.0f32, |sum, value| sum + value * value);
    let usual = (squares / 32.0).sqrt();
    values.map(|value| usual + value.abs())
}

/// The scale for a run of 16 around zero, and the levels it was found with, moved up by 32.
pub(super) fn scale_around_zero(values: &[f32; 16]) -> (f32, [u8; 16]) {
    const HALF: i32 = 32;
    let farthest = |most: f32, value: &f32| if value.abs() > most.abs() { *value } else { most };
    let most = values.iter().fold(0.0, farthest);
    if most.abs() < TINY {
        return (0.0, [0; 16]);
    }
    let level = |inverse: f32, value: f32| nearest(inverse * value).clamp(-HALF, HALF - 1);
    let sums = |inverse: f32| {
        values.iter().fold((0.0f32, 0.0f32), |(product, squared), value| {
            let level = level(inverse, *value) as f32;
            let weight = value * value;
            (product + weight * value * level, squared + weight * level * level)
        })
    };
    let mut found = -(HALF as f32) / most;
    let (product, squared) = sums(found);
    let mut scale = if squared == 0.0 { 0.0 } else { product / squared };
    let mut best = scale * product;
    for nth in (-9i8..=9).filter(|nth| *nth != 0) {
        let inverse = -(HALF as f32 + 0.1 * f32::from(nth)) / most;
        let (product, squared) = sums(inverse);
        if squared > 0.0 && product * product > best * squared {
            scale = product / squared;
            best = scale * product;
            found = inverse;
        }
    }
    (scale, values.map(|value| (level(found, value) + HALF) as u8))
}
