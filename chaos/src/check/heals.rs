//! Once faults stop, everything is well again in time: each thing that has to be, within its bar.

use super::{Bars, Verdict};
use crate::history::History;

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut findings = Vec::new();
    for heal in &history.heals {
        let bar = heal.bar_us / 1_000;
        match heal.took_us {
            None => findings.push(format!("{} did not come back: {}", heal.what, heal.seen)),
            Some(took) if took > heal.bar_us => {
                let took = took / 1_000;
                findings.push(format!("{} took {took} ms, at most {bar} ms are good", heal.what));
            }
            Some(_) => {}
        }
    }
    Verdict::of(findings, history.heals.len(), "nothing was waited for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Heal;

    fn judge(took_us: Option<u64>) -> Verdict {
        let heal = Heal { what: "writes".to_owned(), took_us, bar_us: 5, seen: String::new() };
        check(&History { heals: vec![heal], ..History::default() }, &Bars::default())
    }

    #[test]
    fn in_time_passes_late_and_never_fail() {
        assert_eq!(judge(Some(5)), Verdict::Pass { looked_at: 1 });
        assert!(judge(Some(6)).is_failure());
        assert!(judge(None).is_failure());
    }
}
