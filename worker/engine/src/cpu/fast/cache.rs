//! The paged KV cache of the fast path, keys turned so that sixteen positions lie side by side.
//!
//! ```text
//! layer -> keys:   [block][kv head][element of the head][position in block]    a vector is one element of 16 positions
//!       -> values: [block][kv head][position in block][element of the head]    a vector is 16 elements of one position
//!       -> scales: [block][kv head][group of the head][position in block]      of sixteen elements each, for bytes only
//! ```
//!
//! Heads are padded to sixteen elements with zeros. Entries are f16, or bytes with a scale for sixteen elements of a
//! position: little more than half the memory, and so of what attention reads, for an error of up to 1/254 of the largest of
//! the sixteen. Keys have a few elements that are far larger than all others, which a scale for a whole head would coarsen.

use crate::backend::BlockId;
use crate::cpu::KvType;
use crate::cpu::pages::Pages;
use crate::shape::ModelShape;
use half::f16;

/// Positions of a block: lanes of a vector.
pub(crate) const POSITIONS: usize = 16;
const _: () = assert!(POSITIONS == ollamamax_proto::limits::KV_BLOCK_TOKENS);
/// Elements that share a scale.
const GROUP: usize = 16;
/// The planner's arithmetic and this cache must agree.
const _: () = assert!(size_of::<u16>() as u64 == ollamamax_gguf::KV_ELEMENT_BYTES);

/// Floats into f16, by the tier's instructions.
pub(crate) type ToHalf = fn(&[f32], &mut [u16]);

/// Keys and values of all sequences.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Keys and values of each layer.
    layers: Vec<[Entries; 2]>,
    kv_heads: usize,
    stride: usize,
    blocks: u32,
    /// One head's entries, on their way.
    row: Row,
}

/// Keys, or values.
#[derive(Debug)]
enum Entries {
    Half(Pages),
    Bytes { levels: Pages, scales: Pages },
}

/// One head of one position.
#[derive(Debug)]
enum Row {
    Half(Vec<u16>),
    Bytes { levels: Vec<i8>, scales: Vec<u16> },
}

impl Entries {
    /// `None` when the system refuses the memory.
    fn zeroed(kind: KvType, heads: usize, stride: usize) -> Option<Self> {
        let entries = heads * POSITIONS * stride;
        Some(match kind {
            KvType::F16 => Self::Half(Pages::zeroed::<u16>(entries)?),
            KvType::Q8_0 => Self::Bytes {
                levels: Pages::zeroed::<i8>(entries)?,
                scales: Pages::zeroed::<u16>(entries / GROUP)?,
            },
        })
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Half(entries) => entries.bytes() as u64,
            Self::Bytes { levels, scales } => (levels.bytes() + scales.bytes()) as u64,
        }
    }

    /// Copies what [`Row::round`] took: element `i` goes to `at + i * step`, scale `i` to `scale_at + i * POSITIONS`.
    fn put(&mut self, row: &Row, at: usize, step: usize, scale_at: usize) {
        fn spread<T: Copy>(to: &mut [T], from: &[T], step: usize) {
            to.iter_mut().step_by(step).zip(from).for_each(|(to, from)| *to = *from);
        }
        match (self, row) {
            (Self::Half(all), Row::Half(row)) => spread(&mut all.get_mut()[at..], row, step),
            (Self::Bytes { levels, scales }, Row::Bytes { levels: row, scales: row_scales }) => {
                spread(&mut levels.get_mut()[at..], row, step);
                spread(&mut scales.get_mut()[scale_at..], row_scales, POSITIONS);
            }
            _ => {}
        }
    }
}

impl Row {
    fn new(kind: KvType) -> Self {
        match kind {
            KvType::F16 => Self::Half(Vec::new()),
            KvType::Q8_0 => Self::Bytes { levels: Vec::new(), scales: Vec::new() },
        }
    }

    /// Takes one head of one position.
    fn round(&mut self, from: &[f32], to_half: ToHalf) {
        match self {
            Self::Half(row) => {
                row.resize(from.len(), 0);
                to_half(from, row);
            }
            Self::Bytes { levels, scales } => {
                levels.resize(from.len(), 0);
                scales.resize(from.len().div_ceil(GROUP), 0);
                let groups = levels.chunks_mut(GROUP).zip(from.chunks(GROUP));
                for ((levels, from), scale) in groups.zip(scales) {
                    *scale = round(from, levels);
                }
            }
        }
    }
}

/// Rounds a group; returns its scale as f16.
fn round(from: &[f32], levels: &mut [i8]) -> u16 {
    let most = from.iter().fold(0.0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    let scale = f16::from_f32((most / 127.0).min(f16::MAX.to_f32()));
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    for (level, x) in levels.iter_mut().zip(from) {
        *level = nearest(x * inverse);
    }
    scale.to_bits()
}

/// The nearest whole number from -127 to 127, ties to even.
fn nearest(x: f32) -> i8 {
    /// Beside it, floats have no room for a fraction.
    const WHOLE: f32 = 12_582_912.0;
    (((x + WHOLE) - WHOLE) as i32).clamp(-127, 127) as i8
}

impl Cache {
    /// A cache of `blocks` blocks; `None` when that many bytes cannot even be addressed.
    pub fn new(shape: &ModelShape, blocks: u32, kind: KvType) -> Option<Self> {
        let (kv_heads, stride) = (shape.kv_heads as usize, head_stride(shape));
        let heads = (blocks as usize).checked_mul(kv_heads)?;
        let entries = heads.checked_mul(POSITIONS * stride)?;
        let layers = shape.cached_layers();
        let bytes = entries.checked_mul(2 * size_of::<u16>())?.checked_mul(layers as usize)?;
        if bytes > isize::MAX as usize {
            return None;
        }
        let entries = || Entries::zeroed(kind, heads, stride);
        let layers = (0..layers).map(|_| Some([entries()?, entries()?])).collect::<Option<_>>()?;
        Some(Self { layers, kv_heads, stride, blocks, row: Row::new(kind) })
    }

    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn bytes(&self) -> u64 {
        self.layers.iter().flatten().map(Entries::bytes).sum()
    }

    /// Padded width of a head.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Stores the keys and values of all heads at a position.
    pub fn store(
        &mut self,
        layer: usize,
        blocks: &[BlockId],
        position: usize,
        keys: &[f32],
        values: &[f32],
        to_half: ToHalf,
    ) {
        let lane = position % POSITIONS;
        let width = keys.len() / self.kv_heads;
        for head in 0..self.kv_heads {
            let run = self.run(blocks[position / POSITIONS], head);
            let (at, scale_at) = (run * self.stride, run * self.stride / GROUP + lane);
            let [all_keys, all_values] = &mut self.layers[layer];
            self.row.round(&keys[head * width..][..width], to_half);
            all_keys.put(&self.row, at + lane, POSITIONS, scale_at);
            self.row.round(&values[head * width..][..width], to_half);
            all_values.put(&self.row, at + lane * self.stride, 1, scale_at);
        }
    }

    /// The keys of a block as floats, turned. Inlined into each tier's wrapper.
    #[inline(always)]
    pub fn keys(
        &self,
        layer: usize,
        block: BlockId,
        head: usize,
        from_half: impl Fn(&[u16], &mut [f32]),
        out: &mut [f32],
    ) {
        let run = self.run(block, head);
        match &self.layers[layer][0] {
            Entries::Half(keys) => from_half(&keys.get()[run * self.stride..][..out.len()], out),
            Entries::Bytes { levels, scales } => {
                let (levels, scales) = self.bytes_of(levels, scales, run);
                let groups = out.as_chunks_mut::<POSITIONS>().0.chunks_mut(GROUP);
                for ((out, levels), scales) in groups.zip(levels.chunks(GROUP)).zip(scales) {
                    let mut scale = [0.0; POSITIONS];
                    from_half(scales, &mut scale);
                    for (out, levels) in out.iter_mut().zip(levels) {
                        *out = std::array::from_fn(|lane| f32::from(levels[lane]) * scale[lane]);
                    }
                }
            }
        }
    }

    /// The values of a block's first positions as floats, as many as `out` has room for. Inlined into each tier's wrapper.
    #[inline(always)]
    pub fn values(
        &self,
        layer: usize,
        block: BlockId,
        head: usize,
        from_half: impl Fn(&[u16], &mut [f32]),
        out: &mut [f32],
    ) {
        let run = self.run(block, head);
        match &self.layers[layer][1] {
            Entries::Half(values) => {
                from_half(&values.get()[run * self.stride..][..out.len()], out)
            }
            Entries::Bytes { levels, scales } => {
                let (levels, scales) = self.bytes_of(levels, scales, run);
                let groups = self.stride / GROUP;
                for (group, scales) in scales.iter().take(groups).enumerate() {
                    let mut scale = [0.0; POSITIONS];
                    from_half(scales, &mut scale);
                    let rows = out.as_chunks_mut::<GROUP>().0.iter_mut().zip(levels).skip(group);
                    for ((out, levels), scale) in rows.step_by(groups).zip(scale) {
                        *out = std::array::from_fn(|i| f32::from(levels[i]) * scale);
                    }
                }
            }
        }
    }

    /// Levels from a position on, sixteen at a time, and the scales that belong to them.
    #[inline(always)]
    fn bytes_of<'a>(
        &self,
        levels: &'a Pages,
        scales: &'a Pages,
        run: usize,
    ) -> (&'a [[i8; GROUP]], &'a [[u16; POSITIONS]]) {
        let at = run * self.stride;
        (levels.get()[at..].as_chunks().0, scales.get()[at / GROUP..].as_chunks().0)
    }

    /// The first position of a head of a block, counted over all.
    fn run(&self, block: BlockId, head: usize) -> usize {
        (block.0 as usize * self.kv_heads + head) * POSITIONS
    }
}

/// Width of a head, padded so that no loop has a remainder.
pub(crate) fn head_stride(shape: &ModelShape) -> usize {
    (shape.head_width as usize).next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to_half(values: &[f32], out: &mut [u16]) {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = f16::from_f32(*value).to_bits());
    }

    fn from_half(halves: &[u16], out: &mut [f32]) {
        out.iter_mut().zip(halves).for_each(|(out, half)| *out = f16::from_bits(*half).to_f32());
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back_as_exactly_as_the_type_says(
            rows in prop::collection::vec(prop::collection::vec(-1e4f32..1e4, 20), 1..33),
            shrink in prop::sample::select(vec![1.0f32, 1e-3, 1e-6, 0.0]),
            bytes: bool,
        ) {
            let shape = ModelShape::for_tests(2, 10);
            let kind = if bytes { KvType::Q8_0 } else { KvType::F16 };
            let mut cache = Cache::new(&shape, 8, kind).expect("small");
            let blocks = [BlockId(5), BlockId(2), BlockId(7)];
            let rows: Vec<Vec<f32>> =
                rows.iter().map(|row| row.iter().map(|x| x * shrink).collect()).collect();
            for (position, row) in rows.iter().enumerate() {
                let values: Vec<f32> = row.iter().rev().copied().collect();
                cache.store(1, &blocks, position, row, &values, to_half);
            }
            let stride = cache.stride();
            let (mut keys, mut values) = (vec![0.0; POSITIONS * stride], vec![0.0; POSITIONS * stride]);
            for (position, row) in rows.iter().enumerate() {
                for head in 0..2 {
                    cache.keys(1, blocks[position / POSITIONS], head, from_half, &mut keys);
                    cache.values(1, blocks[position / POSITIONS], head, from_half, &mut values);
                    let lane = position % POSITIONS;
                    for (i, value) in row[head * 10..][..10].iter().enumerate() {
                        let most = row[head * 10..][..10].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                        // A scale below the smallest f16 is none.
                        let bound = if bytes { most * 0.0045 + 1e-5 } else { value.abs() * 0.0005 + 1e-7 };
                        prop_assert!((keys[i * POSITIONS + lane] - value).abs() <= bound);
                        let mirror = (1 - head) * 10 + 9 - i;
                        let head_of_mirror = &row[(1 - head) * 10..][..10];
                        let most = head_of_mirror.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                        let value = row[mirror];
                        let bound = if bytes { most * 0.0045 + 1e-5 } else { value.abs() * 0.0005 + 1e-7 };
                        prop_assert!((values[lane * stride + i] - value).abs() <= bound);
                    }
                }
            }
        }
    }
}
