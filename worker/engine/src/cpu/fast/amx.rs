//! Matrix tiles (AMX) on top of the AVX-512 tier: sixteen tokens times sixteen rows in one instruction, for prompts. With few
//! tokens a tile would be mostly empty, so decoding stays with AVX-512; the sums are integers, so the bits are the same.
//!
//! ```text
//! tmm4, tmm5: 16 tokens x 32 columns, high and low plane     tmm6: 32 columns x 16 rows of weights
//! tmm0, tmm1: 16 tokens x 16 rows of sums  -> memory -> scaled and added by AVX-512 while the next block multiplies
//! ```
//!
//! The instructions have no stable names in Rust yet, so they are written as assembly. The operating system has to permit
//! them once per process (Linux, `Documentation/arch/x86/xstate.rst`).

use super::avx512;
use super::kernels::{FastKernels, Lanes, QUADS, Unpacked, check, check_unpacked};
use super::levels::{BLOCK_BYTES, Levels, TOKENS, Tile, by_tile};
use super::panels::ROWS;
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// The kernels of this tier; whoever hands them out has asked [`permitted`].
pub(super) const KERNELS: FastKernels = FastKernels { multiply, ..avx512::KERNELS };

/// Whether the processor has the tiles and the system lets this process use them.
pub(super) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        const TILES_AND_BYTES: u32 = 1 << 24 | 1 << 25;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILES_AND_BYTES != TILES_AND_BYTES {
            return false;
        }
        request_permission()
    })
}

#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: this system call takes two numbers and touches no memory of the process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

fn multiply(panel: &Unpacked, levels: &Levels, out: &mut [Lanes]) {
    if panel.halves() || levels.count() < TOKENS {
        return (avx512::KERNELS.multiply)(panel, levels, out);
    }
    check_unpacked(panel);
    let mut configured = 0;
    for (tile, out) in by_tile(levels, out) {
        check(panel.blocks, tile, out.len());
        if configured != out.len() {
            configure(out.len());
            configured = out.len();
        }
        // SAFETY: the tier is handed out only where AVX-512 and the tiles are there and permitted.
        unsafe {
            match panel.minima.is_empty() {
                true => tokens::<false>(panel, tile, out),
                false => tokens::<true>(panel, tile, out),
            }
        }
    }
    // SAFETY: as above; gives the tiles' state back, which the system would otherwise save at every switch.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The shapes of the tiles, for so many tokens.
fn configure(tokens: usize) {
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let tokens = tokens as u8;
    for (tile, row_bytes, rows) in
        [(0, 64, tokens), (1, 64, tokens), (4, 32, tokens), (5, 32, tokens), (6, 64, QUADS as u8)]
    {
        config.row_bytes[tile] = row_bytes;
        config.rows[tile] = rows;
    }
    // SAFETY: 64 bytes in the layout of palette 1 (Intel's Architecture Instruction Set Extensions reference, 3.2).
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Sums of both planes for every token of a tile.
#[repr(C, align(64))]
struct Sums([[[i32; ROWS]; TOKENS]; 2]);

/// Multiplies one block of a panel with the tokens of a tile.
///
/// # Safety
/// The tiles must be configured for the tile's tokens, and the block be there on both sides.
#[inline(always)]
unsafe fn multiply_block(panel: &Unpacked, tile: Tile<'_>, block: usize, sums: &mut Sums) {
    // SAFETY: as promised by the caller; the tile's rows are 64 bytes apart on all sides.
    unsafe {
        asm!(
            "tileloadd tmm6, [{weights} + {stride}*1]",
            "tileloadd tmm4, [{x} + {stride}*1]",
            "tilezero tmm0",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x} + {stride}*1 + 32]",
            "tilezero tmm1",
            "tdpbsud tmm1, tmm5, tmm6",
            "tilestored [{sums} + {stride}*1], tmm0",
            "tilestored [{sums} + {stride}*1 + 1024], tmm1",
            weights = in(reg) panel.levels.as_ptr().add(block * QUADS),
            x = in(reg) tile.bytes.as_ptr().add(block * tile.width * BLOCK_BYTES),
            sums = in(reg) sums,
            stride = in(reg) 64usize,
            options(nostack),
        );
    }
}

/// Buffers in flight between the tiles and the registers that add their sums up.
const IN_FLIGHT: usize = 4;
/// Tokens added up by one unrolled stretch of code.
const GROUP: usize = TOKENS / 2;

/// # Safety
/// The machine must have the tier; the tiles must be configured for `out.len()` tokens; `check` and `check_unpacked` must
/// have seen the arguments.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tokens<const MINIMA: bool>(panel: &Unpacked, tile: Tile<'_>, out: &mut [Lanes]) {
    assert!(tile.width == TOKENS);
    let mut buffers = [const { Sums([[[0; ROWS]; TOKENS]; 2]) }; IN_FLIGHT];
    let (mut front, mut back) = ([_mm512_setzero_ps(); GROUP], [_mm512_setzero_ps(); GROUP]);
    for step in 0..panel.blocks + IN_FLIGHT - 1 {
        // SAFETY: the block is below `panel.blocks`, of which both sides have been seen.
        unsafe {
            if step < panel.blocks {
                multiply_block(panel, tile, step, &mut buffers[step % IN_FLIGHT]);
            }
            if let Some(block) = step.checked_sub(IN_FLIGHT - 1) {
                let buffer = &buffers[block % IN_FLIGHT];
                add::<MINIMA, 0>(panel, tile, block, buffer, &mut front);
                add::<MINIMA, GROUP>(panel, tile, block, buffer, &mut back);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(front.into_iter().chain(back)) {
        // SAFETY: sixteen floats on a cache line of their own.
        unsafe { _mm512_store_ps(out.0.as_mut_ptr(), sum) };
    }
}

/// Adds one block's sums, as the other tiers do, for the tokens from `FIRST`. Tokens that are not there are added up from
/// whatever lies in the buffer; their sums go nowhere.
///
/// # Safety
/// As [`tokens`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn add<const MINIMA: bool, const FIRST: usize>(
    panel: &Unpacked,
    tile: Tile<'_>,
    block: usize,
    block_sums: &Sums,
    sums: &mut [__m512; GROUP],
) {
    // SAFETY: as promised by the caller; the tile is sixteen tokens wide.
    unsafe {
        let scale = _mm512_load_ps(panel.scales.as_ptr().add(block).cast());
        let scales = tile.scales.as_ptr().add(block * TOKENS + FIRST);
        let (high, low) = (&block_sums.0[0][FIRST..], &block_sums.0[1][FIRST..]);
        for token in 0..GROUP {
            let high = _mm512_load_si512(high.get_unchecked(token).as_ptr().cast());
            let low = _mm512_load_si512(low.get_unchecked(token).as_ptr().cast());
            let mut integers = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
            if !MINIMA {
                let counts = tile.counts.as_ptr().add(2 * block * TOKENS + FIRST + token);
                let count = *counts + *counts.add(TOKENS);
                let offset = _mm512_set1_epi32(count << panel.offset_log2);
                integers = _mm512_add_epi32(integers, offset);
            }
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.add(token)));
            sums[token] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), scale, sums[token]);
        }
        if MINIMA {
            let minimum = _mm512_load_ps(panel.minima.as_ptr().add(block).cast());
            let x_sums = tile.sums.as_ptr().add(block * TOKENS + FIRST);
            for token in 0..GROUP {
                let x_sum = _mm512_set1_ps(*x_sums.add(token));
                sums[token] = _mm512_fmadd_ps(minimum, x_sum, sums[token]);
            }
        }
    }
}
