//! What this machine could do at best, measured: how fast its memory is read and how many products of bytes it adds up a
//! second. Figures of an engine mean little without the two beside them, on a machine that others use, too.

use super::Tier;
use super::pool::Pool;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Limits of a machine, for all threads that were asked for together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes read from memory per second.
    pub read_bytes: f64,
    /// Products of bytes per second, each with its addition one operation more.
    pub byte_operations: f64,
}

/// Bytes each thread reads: far more than caches hold.
const READ_BYTES: usize = 256 * 1024 * 1024;
const ROUNDS: usize = 3;
/// Turns of the multiplying loop: some tens of milliseconds.
const TURNS: u64 = 4_000_000;

/// Measures for about a second; the best round counts.
pub fn measure(threads: usize, tier: Tier) -> Ceilings {
    let pool = Pool::new(threads);
    let threads = pool.threads();
    let mut nothing = vec![(); threads];
    let mut buffers = vec![vec![1u64; READ_BYTES / size_of::<u64>()]; threads];
    let (mut read_bytes, mut byte_operations) = (0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        pool.for_each(&mut nothing, &mut buffers, |_, buffer, ()| {
            black_box(mixed(buffer));
        });
        let rate = (threads * READ_BYTES) as f64 / began.elapsed().as_secs_f64();
        read_bytes = read_bytes.max(rate);

        let mut counts = vec![0u64; threads];
        let began = Instant::now();
        pool.for_each(&mut nothing, &mut counts, |_, count, ()| *count = multiply(tier));
        let rate = counts.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64();
        byte_operations = byte_operations.max(rate);
    }
    Ceilings { read_bytes, byte_operations }
}

/// Bytes that are read for a short look, all threads together at most and each at least: several times what a core's own
/// caches hold.
const LOOK_BYTES: usize = 256 * 1024 * 1024;
const LOOK_THREAD_BYTES: usize = 16 * 1024 * 1024;

/// Bytes read from memory per second by `threads` together, the best round of as many as begin within `time`, the filling of
/// the memory included. At least one is measured.
pub fn read_rate(threads: usize, time: Duration) -> f64 {
    let began = Instant::now();
    let pool = Pool::new(threads);
    let threads = pool.threads();
    let bytes = (LOOK_BYTES / threads).clamp(LOOK_THREAD_BYTES, 4 * LOOK_THREAD_BYTES);
    let mut nothing = vec![(); threads];
    let mut buffers = vec![Vec::new(); threads];
    // Each thread touches its own memory first, so that it lies near it.
    pool.for_each(&mut nothing, &mut buffers, |_, buffer, ()| *buffer = vec![1u64; bytes / 8]);
    let mut best = 0.0f64;
    loop {
        let round = Instant::now();
        pool.for_each(&mut nothing, &mut buffers, |_, buffer, ()| {
            black_box(mixed(buffer));
        });
        best = best.max((threads * bytes) as f64 / round.elapsed().as_secs_f64());
        if began.elapsed() >= time {
            return best;
        }
    }
}

/// Reads all of it, from several places at once: so memory gives the most.
fn mixed(words: &[u64]) -> u64 {
    const STREAMS: usize = 4;
    let (lines, _) = words.as_chunks::<8>();
    let each = lines.len() / STREAMS;
    let streams: [_; STREAMS] = std::array::from_fn(|stream| &lines[stream * each..][..each]);
    let mut lanes = [[0u64; 8]; STREAMS];
    for index in 0..each {
        for (lanes, stream) in lanes.iter_mut().zip(streams) {
            lanes.iter_mut().zip(stream[index]).for_each(|(lane, word)| *lane ^= word);
        }
    }
    lanes.as_flattened().iter().fold(0, |mixed, lane| mixed ^ lane)
}

/// Multiplies bytes that are in registers already, and tells how many operations that were.
fn multiply(tier: Tier) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if tier.is_available() {
        // SAFETY: the tier was just looked for.
        unsafe {
            return match tier {
                Tier::Amx => x86::tiles(TURNS / 16),
                Tier::Avx512 => x86::avx512(TURNS),
                Tier::Avx2 => x86::avx2(TURNS),
                Tier::Portable => portable(TURNS / 8),
            };
        }
    }
    let _ = tier;
    portable(TURNS / 8)
}

fn portable(turns: u64) -> u64 {
    let (a, b) = (black_box([3i8; 64]), black_box([5i8; 64]));
    let mut sums = [0i32; 64];
    for _ in 0..turns {
        let b = black_box(b);
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = sum.wrapping_add(i32::from(a) * i32::from(b));
        }
    }
    black_box(sums);
    turns * 2 * 64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums in flight: enough to hide how long one addition takes.
    const SUMS: usize = 12;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512(turns: u64) -> u64 {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        turns * SUMS as u64 * 2 * 64
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(turns: u64) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi16(3)), black_box(_mm256_set1_epi16(5)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..turns {
            let b = black_box(b);
            for sum in &mut sums {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
            }
        }
        black_box(sums);
        turns * SUMS as u64 * 2 * 16
    }

    /// # Safety
    /// The tier must be there and permitted.
    pub unsafe fn tiles(turns: u64) -> u64 {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            // Sixteen rows of 64 bytes each.
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: 64 bytes in the layout of palette 1; the tiles hold nothing that anybody else needs, and are given back.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbsud tmm0, tmm4, tmm6",
                "tdpbsud tmm1, tmm4, tmm7",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const config,
                turns = inout(reg) turns => _,
                options(nostack, readonly),
            );
        }
        turns * 4 * 2 * 16 * 16 * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_counts_what_it_multiplied() {
        for tier in [Tier::Portable, Tier::Avx2, Tier::Avx512, Tier::Amx] {
            assert!(multiply(tier) > 1_000_000, "{tier:?}");
        }
        assert_eq!(mixed(&[7; 96]), 0);
    }

    #[test]
    fn a_short_look_is_short_and_finds_a_rate() {
        let began = Instant::now();
        let rate = read_rate(1, Duration::from_millis(1));
        assert!((1e7..1e13).contains(&rate), "{rate} bytes a second");
        assert!(began.elapsed() < Duration::from_secs(10), "one round is enough");
    }
}
