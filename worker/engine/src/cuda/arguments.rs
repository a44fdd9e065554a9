//! Arguments of the kernels: each struct lies in memory as its namesake in `worker/engine/kernels/*.cu`.

use super::device::Address;
use bytemuck::{Pod, Zeroable};

/// `norm` and `renorm` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Norm {
    pub x: Address,
    pub weight: Address,
    pub bias: Address,
    pub out: Address,
    pub width: u32,
    pub epsilon: f32,
}

/// `add` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Add {
    pub x: Address,
    pub delta: Address,
    pub norm: Address,
    pub bias: Address,
    pub width: u32,
    pub epsilon: f32,
}

/// `gate` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Gate {
    pub gate: Address,
    pub up: Address,
    pub bias: Address,
    pub count: u64,
    pub width: u32,
    pub function: u32,
}

/// `cap` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Cap {
    pub x: Address,
    pub count: u64,
    pub most: f32,
    pub padding: u32,
}

/// `gather` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Gather {
    pub x: Address,
    pub rows: Address,
    pub out: Address,
    pub width: u32,
    pub padding: u32,
}

/// `levels` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Levels {
    pub x: Address,
    pub levels: Address,
    pub scales: Address,
    pub width: u32,
    pub blocks: u32,
}

/// `halves` of rows.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Halves {
    pub x: Address,
    pub out: Address,
    pub scales: Address,
    pub width: u32,
    pub blocks: u32,
    pub f16: u32,
    pub padding: u32,
}

/// The products of multiply.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Multiply {
    pub matrix: Address,
    pub scales: Address,
    pub input: Address,
    pub input_scales: Address,
    pub out: Address,
    pub rows: u32,
    pub tokens: u32,
    pub blocks: u32,
    pub run: u32,
    pub factor: f32,
    pub padding: u32,
}

/// `floats` of multiply.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Floats {
    pub matrix: Address,
    pub input: Address,
    pub out: Address,
    pub rows: u32,
    pub columns: u32,
}

/// `place` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Place {
    pub position: u32,
    pub seen: u32,
    pub table: u32,
}

/// `heads` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Heads {
    pub queries: Address,
    pub keys: Address,
    pub values: Address,
    pub query_bias: Address,
    pub key_bias: Address,
    pub value_bias: Address,
    pub query_norm: Address,
    pub key_norm: Address,
    pub turns: Address,
    pub places: Address,
    pub table: Address,
    pub cached_keys: Address,
    pub cached_values: Address,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_width: u32,
    pub pairs: u32,
    pub neighbours: u32,
    pub block_tokens: u32,
    pub epsilon: f32,
    pub padding: u32,
}

/// `attend` and `join_chunks` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Attend {
    pub queries: Address,
    pub keys: Address,
    pub values: Address,
    pub places: Address,
    pub table: Address,
    pub out: Address,
    pub parts: Address,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_width: u32,
    pub block_tokens: u32,
    pub window: u32,
    pub chunks: u32,
    pub scale: f32,
    pub cap: f32,
}
