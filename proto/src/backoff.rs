//! Waiting between attempts: exponential with full jitter, so that a crowd that failed together does not return together
//! (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

/// How long to wait, in milliseconds, before attempt number `attempt` (0 = the first retry).
///
/// `coin` lies in [0, 1) and decides where in the window the wait falls; the window doubles from `first_ms` up to `max_ms`.
/// The wait is never below a quarter of the window, so that a lucky coin cannot turn the loop into a busy one.
pub fn delay_ms(attempt: u32, first_ms: u64, max_ms: u64, coin: f64) -> u64 {
    let window = first_ms.saturating_mul(1 << attempt.min(20)).min(max_ms);
    let floor = window / 4;
    floor + ((window - floor) as f64 * coin.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_the_window(attempt in 0u32..100, coin in 0.0f64..1.0) {
            let delay = delay_ms(attempt, 100, 5_000, coin);
            prop_assert!((25..=5_000).contains(&delay));
        }
    }
}
