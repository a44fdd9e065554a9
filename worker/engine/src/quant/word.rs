//! Sixteen bytes that are worked on together.
//!
//! Left to itself the compiler turns byte loops over blocks into gathers or into single bytes, both many times slower
//! than the memory the weights come from; so this says what is meant. On x86-64 a word is an SSE2 register, which every
//! such machine has; elsewhere it is an array, which compilers there vectorise.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(super) struct Word(Inner);

#[cfg(target_arch = "x86_64")]
type Inner = __m128i;
#[cfg(not(target_arch = "x86_64"))]
type Inner = [u8; 16];

#[cfg(target_arch = "x86_64")]
impl Word {
    /// The sixteen bytes of `block` at `at`.
    #[inline(always)]
    pub fn load(block: &[u8], at: usize) -> Self {
        let bytes = &block[at..at + 16];
        // SAFETY: the slice is sixteen bytes; unaligned access is allowed.
        Self(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    /// Stores the bytes at `at`.
    #[inline(always)]
    pub fn store(self, levels: &mut [u8], at: usize) {
        let bytes = &mut levels[at..at + 16];
        // SAFETY: the slice is sixteen bytes; unaligned access is allowed.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), self.0) };
    }

    /// Every byte shifted right by `BITS` (below 8), then masked.
    #[inline(always)]
    pub fn bits<const BITS: i32>(self, mask: u8) -> Self {
        // What crosses from the neighbouring byte is above the mask, since masks have at most `8 - BITS` bits.
        // SAFETY: plain arithmetic of SSE2, which every x86-64 machine has.
        Self(unsafe { _mm_and_si128(_mm_srli_epi16::<BITS>(self.0), _mm_set1_epi8(mask as i8)) })
    }

    /// Every byte, at most 15, shifted left by four.
    #[inline(always)]
    pub fn raised(self) -> Self {
        // SAFETY: plain arithmetic of SSE2, which every x86-64 machine has.
        Self(unsafe { _mm_slli_epi16::<4>(self.0) })
    }

    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        // SAFETY: plain arithmetic of SSE2, which every x86-64 machine has.
        Self(unsafe { _mm_or_si128(self.0, other.0) })
    }

    /// Every byte with its top bit flipped.
    #[inline(always)]
    pub fn flipped(self) -> Self {
        // SAFETY: plain arithmetic of SSE2, which every x86-64 machine has.
        Self(unsafe { _mm_xor_si128(self.0, _mm_set1_epi8(i8::MIN)) })
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Word {
    /// The sixteen bytes of `block` at `at`.
    #[inline(always)]
    pub fn load(block: &[u8], at: usize) -> Self {
        let mut word = [0; 16];
        word.copy_from_slice(&block[at..at + 16]);
        Self(word)
    }

    /// Stores the bytes at `at`.
    #[inline(always)]
    pub fn store(self, levels: &mut [u8], at: usize) {
        levels[at..at + 16].copy_from_slice(&self.0);
    }

    /// Every byte shifted right by `BITS` (below 8), then masked.
    #[inline(always)]
    pub fn bits<const BITS: i32>(self, mask: u8) -> Self {
        Self(self.0.map(|byte| byte >> BITS & mask))
    }

    /// Every byte, at most 15, shifted left by four.
    #[inline(always)]
    pub fn raised(self) -> Self {
        Self(self.0.map(|byte| byte << 4))
    }

    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Every byte with its top bit flipped.
    #[inline(always)]
    pub fn flipped(self) -> Self {
        Self(self.0.map(|byte| byte ^ 0x80))
    }
}

impl Word {
    /// The low half of every byte.
    #[inline(always)]
    pub fn low_halves(self) -> Self {
        self.bits::<0>(15)
    }

    /// The high half of every byte.
    #[inline(always)]
    pub fn high_halves(self) -> Self {
        self.bits::<4>(15)
    }
}
