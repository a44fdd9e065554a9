//! Requests that begin alike go to the same worker, whose cache likely holds the beginning:
//! rendezvous hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with
//! bounded loads").
//!
//! Each worker's rank is a hash of the prefix and its id, so a worker that comes or goes moves only
//! its own share. The first in rank whose load is within [`limits::PREFIX_LOAD_PERCENT`] of the
//! mean gets the request.

use super::{Candidate, Shape, least_outstanding, open};
use ollamamax_proto::{WorkerId, limits};
use std::cmp::Reverse;

/// The first in rank that is not loaded beyond the bound.
pub fn pick(candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    let open = open(candidates);
    let request = u64::from(shape.prompt_tokens) + u64::from(shape.max_tokens);
    let total: u128 =
        open.iter().map(|&index| u128::from(candidates[index].outstanding_tokens)).sum();
    let bound = (total + u128::from(request)) * u128::from(limits::PREFIX_LOAD_PERCENT)
        / (100 * open.len().max(1) as u128);
    let within = |index: &usize| {
        // An idle worker always takes a request, however much that request alone exceeds the mean.
        let load = u128::from(candidates[*index].outstanding_tokens);
        load == 0 || load + u128::from(request) <= bound
    };
    let first = open.iter().copied().filter(within).min_by_key(|&index| {
        let worker = candidates[index].worker;
        (Reverse(rank(shape.prefix_hash, worker)), worker)
    });
    first.or_else(|| least_outstanding::pick(candidates, shape, coin))
}

/// The hash of a conversation's beginning: FNV-1a, chained with `previous` (0 to begin with).
pub fn hash(previous: u64, bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET ^ previous, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

fn rank(prefix: u64, worker: WorkerId) -> u64 {
    let bytes = worker.0.to_be_bytes();
    let mut hash = hash(prefix, &bytes);
    // The finaliser of splitmix64: FNV's upper bits mix badly, and ranks compare those first.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
