//! The fast path's inner loops, once per instruction set, chosen once at start.
//!
//! All tiers compute the same bits. Sums of products are integers and exact; what follows, `sum += float(integer) *
//! (weight scale * token scale)` and `sum += minimum * token sum`, is done block after block with fused multiply-adds in one
//! order everywhere, for one token or for many. So neither the batch nor the machine changes a token: a stream that
//! continues on another worker with other instructions continues with the same text.

use super::levels::{Levels, Tile, TileMut};
use super::panels::{COLUMNS, Format, Panel, ROWS};
use crate::rope::Turn;

/// One value per row of a panel.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub [f32; ROWS]);

impl Lanes {
    pub const ZERO: Self = Self([0.0; ROWS]);
}

/// Four columns of sixteen rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Quad(pub [u8; 4 * ROWS]);

/// Quads of a block.
pub(crate) const QUADS: usize = COLUMNS / 4;

/// A panel unpacked for many tokens; each thread has one.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// `[block][quad]`.
    pub levels: Vec<Quad>,
    /// `[block]`, or `[block][half]` where the halves of a block have their own.
    pub scales: Vec<Lanes>,
    /// `[block]`; empty without minima.
    pub minima: Vec<Lanes>,
    pub blocks: usize,
    pub offset_log2: u32,
}

impl Unpacked {
    /// Room for a panel of `blocks` blocks.
    pub fn resize(&mut self, format: Format, blocks: usize) {
        let halves =
            if matches!(format.scales, super::panels::Scales::HalfFactors) { 2 } else { 1 };
        self.blocks = blocks;
        self.offset_log2 = format.offset_log2;
        self.levels.resize(blocks * QUADS, Quad([0; 4 * ROWS]));
        self.scales.resize(blocks * halves, Lanes::ZERO);
        self.minima.resize(if format.minima { blocks } else { 0 }, Lanes::ZERO);
    }

    /// Row `row` of the panel as floats, exactly as the file's row unpacks.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let halves = if self.halves() { 2 } else { 1 };
        let offset = if self.offset_log2 > 0 { 1 << self.offset_log2 } else { 0 };
        for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
            let minimum = self.minima.get(block).map_or(0.0, |minima| minima.0[row]);
            for (column, out) in out.iter_mut().enumerate() {
                let level = self.levels[block * QUADS + column / 4].0[4 * row + column % 4];
                let scale = self.scales[block * halves + column * halves / COLUMNS].0[row];
                *out = scale * (i32::from(level) - offset) as f32 + minimum;
            }
        }
    }

    /// Whether the halves of a block have scales of their own.
    pub fn halves(&self) -> bool {
        self.scales.len() == 2 * self.blocks
    }
}

/// One tier's loops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastKernels {
    /// A token's row into its place in a tile.
    pub put: fn(&mut TileMut<'_>, usize, &[f32]),
    /// With more tokens than this it pays to unpack a panel once; never more than a tile has.
    pub few: usize,
    /// A panel, as it is stored, times the first tokens of a tile (at most `few`).
    pub multiply_few: fn(Format, Panel<'_>, Tile<'_>, &mut [Lanes]),
    /// Unpacks a panel.
    pub unpack: fn(Format, Panel<'_>, &mut Unpacked),
    /// An unpacked panel times all tokens.
    pub multiply: fn(&Unpacked, &Levels, &mut [Lanes]),
    /// An unpacked panel of floats times one token.
    pub multiply_floats: fn(&[f32], &[f32], &mut Lanes),
    /// f16 into floats.
    pub from_half: fn(&[u16], &mut [f32]),
    /// Floats into f16.
    pub to_half: fn(&[f32], &mut [u16]),
    /// See [`crate::cpu::math::norm`].
    pub norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// See [`crate::cpu::math::norm_parts`].
    pub norm_parts: fn(&mut [f32], &[f32], f32),
    /// See [`crate::cpu::math::swiglu`].
    pub swiglu: fn(&mut [f32], &[f32]),
    /// See [`crate::cpu::math::geglu`].
    pub geglu: fn(&mut [f32], &[f32]),
    /// See [`crate::cpu::math::layer_norm`].
    pub layer_norm: fn(&mut [f32], &[f32], &[f32], f32),
    /// See [`crate::cpu::math::gelu`].
    pub gelu: fn(&mut [f32], &[f32]),
    /// See [`crate::cpu::math::cap`].
    pub cap: fn(&mut [f32], f32),
    /// Rotates every head of a row: the row, the width of a head, the turns of its token.
    pub rotate: fn(&mut [f32], usize, &[Turn]),
    /// The same with the halves of what is rotated as pairs.
    pub rotate_halves: fn(&mut [f32], usize, &[Turn]),
    /// See [`super::attention`].
    pub attend: super::attention::Attend,
}

/// Fails loudly rather than reading past an end: the loops of the tiers use raw loads.
pub(super) fn check(blocks: usize, tile: Tile<'_>, tokens: usize) {
    assert!(tokens <= tile.width && tile.width <= super::levels::TOKENS);
    assert!(tile.bytes.len() >= blocks * tile.width * super::levels::BLOCK_BYTES);
    assert!(tile.scales.len() >= blocks * tile.width && tile.sums.len() >= blocks * tile.width);
    assert!(tile.counts.len() >= 2 * blocks * tile.width);
}

/// As [`check`], for a panel.
pub(super) fn check_panel(format: Format, panel: Panel<'_>) {
    let blocks = panel.blocks;
    assert!(panel.levels.len() >= blocks * format.level_bytes());
    assert!(panel.planes.len() >= blocks * format.plane_bytes());
    let runs = blocks.div_ceil(format.scale_blocks());
    assert!(panel.scales.len() >= runs * format.scale_bytes());
}

/// As [`check`], for an unpacked panel.
pub(super) fn check_unpacked(panel: &Unpacked) {
    assert!(panel.levels.len() >= panel.blocks * QUADS && panel.scales.len() >= panel.blocks);
    assert!(panel.minima.is_empty() || panel.minima.len() >= panel.blocks);
    assert!(panel.scales.len() == panel.blocks || panel.scales.len() == 2 * panel.blocks);
}
