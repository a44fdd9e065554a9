//! Bugs planted on purpose, so that it can be shown that the chaos suite finds them: a checker that never says no proves nothing.
//!
//! Places in the code ask [`planted`] whether to be wrong in a certain way. Without the feature `mutants` that is a constant `false`
//! and nothing of it is left in the program; with it, the variable `OLLAMAMAX_MUTANT` names one. `docs/chaos.md` lists them, with
//! the checker that finds each.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("`mutants` plants bugs: it is for debug builds alone");

/// Whether this bug is planted.
#[cfg(feature = "mutants")]
#[expect(clippy::disallowed_methods, reason = "it is not part of any program that is shipped")]
pub fn planted(name: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("OLLAMAMAX_MUTANT").unwrap_or_default()) == name
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}

/// Whether one planted bug in so many bites; for those that would be noticed at once if they bit always.
pub fn every(name: &str, nth: usize) -> bool {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ASKED: AtomicUsize = AtomicUsize::new(1);
    planted(name) && ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(nth)
}
