//! Activations as integers of sixteen bits, cut into two planes of eight that the integer dot products of processors
//! take: `value = scale * (256 * high + low)`.
//!
//! Eight bits alone, as other engines have them, move this family of models by up to a logit; sixteen lie below what f16
//! keys and values cost, and decoding waits for memory anyway. A scale covers 32 columns of one token, so an outlier
//! coarsens only its neighbours.
//!
//! ```text
//! tile of T tokens -> blocks of 32 columns -> [token: 32 high, 32 low]   T = 16, or fewer when there are fewer tokens
//!                                             [token: scale] [token: scale * sum] [half: [token: -sum]]
//! ```

use super::panels::COLUMNS;

/// Most tokens of a tile.
pub(crate) const TOKENS: usize = 16;
/// Bytes of one token's block.
pub(crate) const BLOCK_BYTES: usize = 2 * COLUMNS;
/// The largest integer: its low byte, read as signed, and what remains above it both fit eight bits.
pub(crate) const MOST: f32 = 32_639.0;

/// The input of a multiplication.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    count: usize,
    blocks: usize,
    tile: usize,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    counts: Vec<i32>,
}

/// The tokens of one tile, to be written.
pub(crate) struct TileMut<'a> {
    tile: usize,
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    counts: &'a mut [i32],
}

/// The tokens of one tile, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    /// Tokens there is room for: the stride of everything below.
    pub width: usize,
    /// `[block][token][high 32, low 32]`.
    pub bytes: &'a [i8],
    /// `[block][token]`.
    pub scales: &'a [f32],
    /// `[block][token]`: scale times the sum of the integers, what a minimum is multiplied by.
    pub sums: &'a [f32],
    /// `[block][half][token]`: the sum of the integers of sixteen columns, negated.
    pub counts: &'a [i32],
}

impl Levels {
    /// Makes it `count` tokens of `columns`; the contents are whatever was there.
    pub fn resize(&mut self, count: usize, columns: usize) {
        let tile = count.clamp(1, TOKENS);
        let (blocks, tokens) = (columns / COLUMNS, count.div_ceil(tile) * tile);
        (self.count, self.blocks, self.tile) = (count, blocks, tile);
        self.bytes.resize(tokens * blocks * BLOCK_BYTES, 0);
        self.scales.resize(tokens * blocks, 0.0);
        self.sums.resize(tokens * blocks, 0.0);
        self.counts.resize(2 * tokens * blocks, 0);
    }

    /// Tokens.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens per tile; the last tile may have fewer.
    pub fn tile_tokens(&self) -> usize {
        self.tile
    }

    /// All tiles, to be written at once.
    pub fn tiles_mut(&mut self) -> impl Iterator<Item = TileMut<'_>> {
        let (tile, blocks) = (self.tile, self.blocks);
        let bytes = self.bytes.chunks_exact_mut((tile * blocks * BLOCK_BYTES).max(1));
        let scales = self.scales.chunks_exact_mut((tile * blocks).max(1));
        let sums = self.sums.chunks_exact_mut((tile * blocks).max(1));
        let counts = self.counts.chunks_exact_mut((2 * tile * blocks).max(1));
        bytes.zip(scales).zip(sums.zip(counts)).map(move |((bytes, scales), (sums, counts))| {
            TileMut { tile, bytes, scales, sums, counts }
        })
    }

    /// All tiles with their numbers of tokens.
    pub fn tiles(&self) -> impl Iterator<Item = (Tile<'_>, usize)> {
        let (width, blocks) = (self.tile, self.blocks);
        (0..self.count.div_ceil(width)).map(move |index| {
            let at = index * width * blocks;
            let len = width * blocks;
            let tile = Tile {
                width,
                bytes: &self.bytes[at * BLOCK_BYTES..][..len * BLOCK_BYTES],
                scales: &self.scales[at..][..len],
                sums: &self.sums[at..][..len],
                counts: &self.counts[2 * at..][..2 * len],
            };
            (tile, width.min(self.count - index * width))
        })
    }
}

/// Cuts the products of all tokens into those of each tile.
pub(crate) fn by_tile<'a, T>(
    levels: &'a Levels,
    mut out: &'a mut [T],
) -> impl Iterator<Item = (Tile<'a>, &'a mut [T])> {
    levels.tiles().map(move |(tile, tokens)| {
        let mine;
        (mine, out) = std::mem::take(&mut out).split_at_mut(tokens);
        (tile, mine)
    })
}

impl TileMut<'_> {
    /// Writes one token's row with a tier's [`round`]. Inlined into each tier's wrapper.
    #[inline(always)]
    pub fn put(
        &mut self,
        token: usize,
        row: &[f32],
        round: impl Fn(&[f32; COLUMNS], &mut [i8; BLOCK_BYTES]) -> (f32, [i32; 2]),
    ) {
        let tile = self.tile;
        for (block, values) in row.as_chunks::<COLUMNS>().0.iter().enumerate() {
            let at = (block * tile + token) * BLOCK_BYTES;
            let out = self.bytes[at..].first_chunk_mut::<BLOCK_BYTES>().expect("room for it");
            let (scale, halves) = round(values, out);
            self.scales[block * tile + token] = scale;
            self.sums[block * tile + token] = scale * (halves[0] + halves[1]) as f32;
            self.counts[2 * block * tile + token] = -halves[0];
            self.counts[(2 * block + 1) * tile + token] = -halves[1];
        }
    }
}

/// Rounds 32 values; returns their scale and the sums of the integers of both halves.
#[inline(always)]
pub(crate) fn round(values: &[f32; COLUMNS], out: &mut [i8; BLOCK_BYTES]) -> (f32, [i32; 2]) {
    const LANES: usize = 16;
    let mut most = [0.0f32; LANES];
    for part in values.as_chunks::<LANES>().0 {
        for (most, value) in most.iter_mut().zip(part) {
            *most = if value.abs() > *most { value.abs() } else { *most };
        }
    }
    let most = most.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    // Below this the inverse would overflow; so small, a value is as good as zero.
    let inverse = if most > 1e-30 { MOST / most } else { 0.0 };
    let mut rounded = [0i32; COLUMNS];
    for (rounded, value) in rounded.iter_mut().zip(values) {
        let value = value * inverse;
        // Also what is not a number becomes one: no integer below can overflow.
        let value = if value > -MOST { value } else { -MOST };
        let value = if value < MOST { value } else { MOST };
        // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
        *rounded = (value + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
    }
    let (high, low) = out.split_at_mut(COLUMNS);
    for ((high, low), &value) in high.iter_mut().zip(low).zip(&rounded) {
        *low = value as i8;
        *high = ((value - i32::from(value as i8)) >> 8) as i8;
    }
    let sum = |half: &[i32]| half.iter().sum::<i32>();
    (most / MOST, [sum(&rounded[..LANES]), sum(&rounded[LANES..])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_to_sixteen_bits() {
        for count in [1, 3, 16, 21] {
            let row = |token: usize| -> Vec<f32> {
                (0..96)
                    .map(|i| ((i + 7 * token) as f32 * 0.7).sin() * (1 + i / 32) as f32)
                    .collect()
            };
            let mut levels = Levels::default();
            levels.resize(count, 96);
            let width = levels.tile_tokens();
            for (index, mut tile) in levels.tiles_mut().enumerate() {
                (0..width).for_each(|token| tile.put(token, &row(index * width + token), round));
            }
            assert_eq!(levels.tiles().map(|(_, tokens)| tokens).sum::<usize>(), count);
            for (index, (tile, tokens)) in levels.tiles().enumerate() {
                for token in 0..tokens {
                    for (i, value) in row(index * width + token).into_iter().enumerate() {
                        let at = (i / 32 * width + token) * BLOCK_BYTES + i % 32;
                        let level =
                            256 * i32::from(tile.bytes[at]) + i32::from(tile.bytes[at + 32]);
                        let scale = tile.scales[i / 32 * width + token];
                        assert!((value - scale * level as f32).abs() <= scale * 0.51);
                    }
                    let sum = -tile.counts[token] - tile.counts[width + token];
                    assert_eq!(tile.sums[token], tile.scales[token] * sum as f32);
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut levels = Levels::default();
        levels.resize(1, 64);
        levels.tiles_mut().for_each(|mut tile| tile.put(0, &[0.0; 64], round));
        let (tile, _) = levels.tiles().next().expect("one");
        assert!(tile.bytes.iter().all(|&b| b == 0) && tile.sums.iter().all(|&s| s == 0.0));
    }
}
