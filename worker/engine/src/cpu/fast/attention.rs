//! Attention over paged blocks with an online softmax (Milakov and Gimelshein, 2018): one pass over keys and values, no row
//! of scores.
//!
//! A *row* is one query head of one token. A job takes all rows that read the same keys, those of a group of heads and of
//! some neighbouring tokens, so that a block is brought from f16 to floats once for all of them. Positions are cut into
//! *segments* of fixed length; each gives a partial result, and partial results are merged in order. Several threads may
//! take the segments of one row, or one thread all of them: the arithmetic, and so every bit, is the same.

use super::cache::{Cache, POSITIONS};
use crate::backend::BlockId;
use crate::cpu::math::{self, exp, tree_sum};

/// Positions of a segment.
pub(crate) const SEGMENT: usize = 256;

/// A tier's attention.
pub(crate) type Attend = fn(Job<'_>);

/// Rows that read the same keys.
pub(crate) struct Job<'a> {
    pub cache: &'a Cache,
    pub layer: usize,
    pub kv_head: usize,
    /// The sequence's blocks.
    pub blocks: &'a [BlockId],
    /// Scaled queries: one per row, each `cache.stride()` wide and padded with zeros.
    pub queries: &'a [f32],
    /// How many positions each row sees: its own and those before.
    pub seen: &'a [usize],
    /// How many of these it sees at most, the last ones.
    pub window: usize,
    /// Scores are bent to stay below this; 0 for not.
    pub cap: f32,
    /// Which segments.
    pub segments: std::ops::Range<usize>,
    /// One per row: what the segments gave, merged; see [`Partials`].
    pub partials: &'a mut [f32],
    pub scratch: &'a mut Scratch,
}

/// A thread's buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    part: Vec<f32>,
    /// For callers to gather queries.
    pub queries: Vec<f32>,
    /// For callers to gather what rows see.
    pub seen: Vec<usize>,
    /// For callers to hold partial results.
    pub partials: Vec<f32>,
}

/// Floats of a partial result: sixteen sums (of which the first counts once a segment is done), the maximum, padding, and
/// the mix of values. A sum of zero means nothing was seen.
pub(crate) const fn partial_len(stride: usize) -> usize {
    stride + HEAD
}

const SUM: usize = 0;
const MAXIMUM: usize = POSITIONS;
/// Floats before the mix.
pub(super) const HEAD: usize = 2 * POSITIONS;
/// Rows that a tier's loops take at once.
pub(super) const ROWS: usize = 4;

/// The finished mix of a partial result.
pub(crate) fn finish(partial: &[f32], out: &mut [f32]) {
    let sum = partial[SUM];
    for (out, mix) in out.iter_mut().zip(&partial[HEAD..]) {
        *out = *mix / sum;
    }
}

/// Merges the partial result of the next segment.
#[inline(always)]
pub(crate) fn merge(total: &mut [f32], part: &[f32]) {
    if part[SUM] == 0.0 {
        return;
    }
    if total[SUM] == 0.0 {
        return total.copy_from_slice(part);
    }
    let most = if part[MAXIMUM] > total[MAXIMUM] { part[MAXIMUM] } else { total[MAXIMUM] };
    let (old, new) = (exp(total[MAXIMUM] - most), exp(part[MAXIMUM] - most));
    total[MAXIMUM] = most;
    total[SUM] = total[SUM] * old + part[SUM] * new;
    for (total, part) in total[HEAD..].iter_mut().zip(&part[HEAD..]) {
        *total = *total * old + *part * new;
    }
}

pub(super) fn attend_portable(job: Job<'_>) {
    attend(job, super::portable::from_half, scores, mix);
}

/// The scores of sixteen positions for some rows (at most [`ROWS`]): four sums over every fourth element, added pairwise.
#[inline(always)]
pub(super) fn scores(queries: &[f32], keys: &[f32], out: &mut [[f32; POSITIONS]]) {
    let stride = queries.len() / out.len();
    for (query, out) in queries.chunks_exact(stride).zip(out) {
        let mut sums = [[0.0f32; POSITIONS]; 4];
        for (query, keys) in query.as_chunks::<4>().0.iter().zip(keys.chunks_exact(4 * POSITIONS)) {
            for (i, sum) in sums.iter_mut().enumerate() {
                for (sum, key) in sum.iter_mut().zip(&keys[i * POSITIONS..]) {
                    *sum = query[i].mul_add(*key, *sum);
                }
            }
        }
        *out = std::array::from_fn(|lane| {
            (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane])
        });
    }
}

/// Adds the weighted values of some positions to the partial results of some rows.
#[inline(always)]
pub(super) fn mix(weights: &[[f32; POSITIONS]], values: &[f32], parts: &mut [f32]) {
    let len = parts.len() / weights.len();
    for (weights, part) in weights.iter().zip(parts.chunks_exact_mut(len)) {
        let out = &mut part[HEAD..];
        for (weight, values) in weights.iter().zip(values.chunks_exact(out.len())) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = weight.mul_add(*value, *out);
            }
        }
    }
}

/// Runs a job with a tier's inner loops. Inlined into each tier's wrapper.
#[inline(always)]
pub(super) fn attend(
    job: Job<'_>,
    from_half: impl Fn(&[u16], &mut [f32]),
    scores: impl Fn(&[f32], &[f32], &mut [[f32; POSITIONS]]),
    mix: impl Fn(&[[f32; POSITIONS]], &[f32], &mut [f32]),
) {
    let Job { cache, layer, kv_head, blocks, queries, seen, window, cap, .. } = job;
    let Job { segments, partials, scratch, .. } = job;
    let stride = cache.stride();
    let len = partial_len(stride);
    let Scratch { keys, values, part, .. } = scratch;
    keys.resize(POSITIONS * stride, 0.0);
    values.resize(POSITIONS * stride, 0.0);
    part.resize(seen.len() * len, 0.0);
    partials.fill(0.0);
    let end = seen.iter().copied().max().unwrap_or(0);
    // Blocks that no row sees any more are passed over; one that some row sees adds nothing to the others.
    let begin = seen.iter().map(|seen| seen.saturating_sub(window)).min().unwrap_or(0);
    let begin = begin / POSITIONS * POSITIONS;
    for segment in segments {
        part.fill(0.0);
        part.chunks_exact_mut(len).for_each(|part| part[MAXIMUM] = f32::NEG_INFINITY);
        let until = end.min((segment + 1) * SEGMENT);
        for first in (begin.max(segment * SEGMENT)..until).step_by(POSITIONS) {
            let block = blocks[first / POSITIONS];
            let held = POSITIONS.min(end - first);
            cache.keys(layer, block, kv_head, &from_half, keys);
            cache.values(layer, block, kv_head, &from_half, &mut values[..held * stride]);
            let rows = queries.chunks(ROWS * stride).zip(part.chunks_mut(ROWS * len));
            for ((queries, parts), seen) in rows.zip(seen.chunks(ROWS)) {
                // Positions that a row does not see belong to later tokens of its own sequence, or lie before its window:
                // their weight is zero, which adds nothing.
                let mut weights = [[0.0; POSITIONS]; ROWS];
                let weights = &mut weights[..seen.len()];
                scores(queries, keys, weights);
                if cap > 0.0 {
                    math::cap(weights.as_flattened_mut(), cap);
                }
                let each = weights.iter_mut().zip(parts.chunks_exact_mut(len)).zip(seen);
                for ((weights, part), seen) in each {
                    let hidden = seen.saturating_sub(window).saturating_sub(first).min(POSITIONS);
                    let visible = hidden..seen.saturating_sub(first).min(POSITIONS);
                    absorb(weights, visible, part);
                }
                mix(weights, &values[..held * stride], parts);
            }
        }
        for (total, part) in partials.chunks_exact_mut(len).zip(part.chunks_exact_mut(len)) {
            part[SUM] = tree_sum(*part.first_chunk().expect("sixteen sums"));
            merge(total, part);
        }
    }
}

/// Turns the scores of a block into weights, relative to the largest score so far, and adds up their sums.
#[inline(always)]
fn absorb(scores: &mut [f32; POSITIONS], visible: std::ops::Range<usize>, part: &mut [f32]) {
    let before = part[MAXIMUM];
    // One comparison for both ends: what lies before the start wraps around.
    let count = visible.len();
    let is_visible = |lane: usize| lane.wrapping_sub(visible.start) < count;
    let shown: [f32; POSITIONS] =
        std::array::from_fn(|lane| if is_visible(lane) { scores[lane] } else { f32::NEG_INFINITY });
    let most = largest(shown);
    let most = if most > before { most } else { before };
    if most > before {
        part[MAXIMUM] = most;
        let shrink = exp(before - most);
        part[..POSITIONS].iter_mut().for_each(|sum| *sum *= shrink);
        part[HEAD..].iter_mut().for_each(|mix| *mix *= shrink);
    }
    for (lane, score) in scores.iter_mut().enumerate() {
        let weight = exp(*score - most);
        *score = if is_visible(lane) { weight } else { 0.0 };
    }
    for (sum, weight) in part[..POSITIONS].iter_mut().zip(&*scores) {
        *sum += weight;
    }
}

/// The largest lane, by halves.
#[inline(always)]
fn largest(mut lanes: [f32; POSITIONS]) -> f32 {
    let mut half = POSITIONS / 2;
    while half > 0 {
        for i in 0..half {
            let other = lanes[i + half];
            lanes[i] = if other > lanes[i] { other } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the cut into segments and rows, the result is softmax-weighted values, and the bits are the same.
    #[test]
    fn segments_and_company_change_no_bit() {
        let shape = crate::shape::ModelShape::for_tests(2, 10);
        let mut cache = Cache::new(&shape, 64, crate::cpu::KvType::F16).expect("small");
        let (positions, width, stride) = (600, 10, cache.stride());
        let value = |i: usize, j: usize| ((i * 31 + j * 7) as f32 * 0.13).sin();
        let to_half = |values: &[f32], out: &mut [u16]| {
            for (out, value) in out.iter_mut().zip(values) {
                *out = half::f16::from_f32(*value).to_bits();
            }
        };
        // The first of the two heads is not looked at.
        let pair = |head: Vec<f32>| [vec![9.0; head.len()], head].concat();
        let blocks: Vec<_> = (0..38).map(|i| BlockId(i * 5 % 64)).collect();
        for position in 0..positions {
            let key: Vec<f32> = (0..width).map(|j| value(position, j)).collect();
            let stored: Vec<f32> = (0..width).map(|j| value(position, j + 99)).collect();
            cache.store(1, &blocks, position, &pair(key), &pair(stored), to_half);
        }
        let rows = 5;
        let mut queries = vec![0.0; rows * stride];
        for (row, query) in queries.chunks_exact_mut(stride).enumerate() {
            (0..width).for_each(|j| query[j] = value(row, j + 50));
        }
        let seen = [600, 1, 255, 256, 257];
        for (window, cap) in [(usize::MAX, 0.0), (270, 0.7)] {
            let len = partial_len(stride);
            let run = |rows: std::ops::Range<usize>, segments: std::ops::Range<usize>| {
                let mut partials = vec![0.0; rows.len() * len];
                attend_portable(Job {
                    cache: &cache,
                    layer: 1,
                    kv_head: 1,
                    blocks: &blocks,
                    queries: &queries[rows.start * stride..rows.end * stride],
                    seen: &seen[rows],
                    window,
                    cap,
                    segments,
                    partials: &mut partials,
                    scratch: &mut Scratch::default(),
                });
                partials
            };
            let whole = run(0..rows, 0..3);
            for row in 0..rows {
                let mut merged = vec![0.0; len];
                (0..3).for_each(|segment| {
                    merge(&mut merged, &run(row..row + 1, segment..segment + 1))
                });
                assert_eq!(merged, whole[row * len..][..len], "row {row}");
                let mut out = vec![0.0; width];
                finish(&merged, &mut out);
                let half = |value: f32| f64::from(half::f16::from_f32(value).to_f32());
                let first = seen[row].saturating_sub(window);
                let bent = |score: f64| match cap > 0.0 {
                    true => f64::from(cap) * (score / f64::from(cap)).tanh(),
                    false => score,
                };
                let weights: Vec<f64> = (first..seen[row])
                    .map(|p| {
                        (0..width)
                            .map(|j| half(value(p, j)) * f64::from(value(row, j + 50)))
                            .sum::<f64>()
                    })
                    .map(|score| bent(score).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                for (j, out) in out.iter().enumerate() {
                    let exact: f64 = weights
                        .iter()
                        .zip(first..)
                        .map(|(w, p)| w / sum * half(value(p, j + 99)))
                        .sum();
                    assert!((f64::from(*out) - exact).abs() < 1e-5, "row {row}: {out} {exact}");
                }
            }
        }
    }
}
