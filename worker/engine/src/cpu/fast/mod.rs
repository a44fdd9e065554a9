//! The fast path: weights repacked at load, activations of sixteen bits, integer products.
//!
//! ```text
//! panels (weights at rest) --\
//! levels (rounded input)   ---+--> multiply --> products --> rotate, gate, add --> rows (floats) --> levels ...
//!                kernels: one tier per instruction set, the same bits on each
//! ```

#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "tokens index several arrays at once")]
mod amx;
mod attend_plan;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
#[allow(clippy::redundant_closure, reason = "a closure is compiled with the tier's instructions")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "tokens index several arrays at once")]
mod avx512;
mod cache;
mod floats;
pub(crate) mod kernels;
mod levels;
mod load;
mod multiply;
mod panels;
mod pass;
mod portable;

pub(crate) use kernels::FastKernels;
pub(crate) use pass::Fast;

use super::Tier;

/// A tier's kernels, if this machine can run them.
pub(crate) fn kernels_of(tier: Tier) -> Option<FastKernels> {
    match tier {
        Tier::Portable => Some(portable::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => {
            let features = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            features.then_some(avx2::KERNELS)
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => {
            let features = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            features.then_some(avx512::KERNELS)
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Amx => {
            let has = kernels_of(Tier::Avx512).is_some() && amx::permitted();
            has.then_some(amx::KERNELS)
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ => None,
    }
}
