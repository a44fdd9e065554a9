//! A worker that has just become ready gets a small share of the requests, which grows with its age:
//! its caches are cold and its first answers slow.

use super::FULL_SHARE;
use ollamamax_proto::limits;

/// What a worker gets of a usual share, in thousandths, at an age in milliseconds: linear from
/// [`limits::SLOW_START_PERCENT`] to all of it at [`limits::SLOW_START_MS`].
pub fn share(age_ms: u64) -> u32 {
    let first = limits::SLOW_START_PERCENT * u64::from(FULL_SHARE) / 100;
    let grown =
        (u64::from(FULL_SHARE) - first) * age_ms.min(limits::SLOW_START_MS) / limits::SLOW_START_MS;
    u32::try_from(first + grown).unwrap_or(FULL_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_begins_small_and_ends_in_full() {
        assert_eq!((share(0), share(limits::SLOW_START_MS / 2)), (100, 550));
        assert_eq!((share(limits::SLOW_START_MS), share(u64::MAX)), (FULL_SHARE, FULL_SHARE));
    }

    proptest! {
        #![proptest_config(crate::testing::config(256))]

        #[test]
        fn it_never_shrinks_with_age(age in 0..2 * limits::SLOW_START_MS, more in 0u64..10_000) {
            prop_assert!((1..=FULL_SHARE).contains(&share(age)));
            prop_assert!(share(age) <= share(age + more));
        }
    }
}
