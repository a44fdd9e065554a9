//! What is revoked is refused from then on, at every node, and nothing else is.
//!
//! A node that is cut off learns of a revocation late, and believes no token at all once it has heard of nobody for long: while a
//! fault is under way the bar is that time, and a refusal is no wrong. Otherwise it is a second or two, and whoever has refused a
//! revoked token once knows, and never accepts it again.

use super::{Bars, Verdict};
use crate::history::{History, Use};
use std::collections::{BTreeMap, BTreeSet};

/// Judges.
pub fn check(history: &History, bars: &Bars) -> Verdict {
    let revoked: BTreeMap<usize, _> =
        history.revocations.iter().map(|revocation| (revocation.token, revocation)).collect();
    let mut uses: Vec<&Use> = history.uses.iter().collect();
    uses.sort_by_key(|tried| tried.begun_us);
    let mut known: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut refusing: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut findings = Vec::new();
    let mut after = 0;
    for Use { token, node, begun_us, accepted } in uses {
        let which = format!("token {token} at node {} at {} ms", node + 1, begun_us / 1_000);
        let revocation = revoked.get(token);
        let acknowledged = revocation.and_then(|revocation| revocation.acknowledged_us);
        let late = acknowledged.map(|at| begun_us.saturating_sub(at)).filter(|late| *late > 0);
        let since = acknowledged.unwrap_or(*begun_us).min(*begun_us);
        let disturbed = history.is_disturbed(since, *begun_us);
        let bar = if disturbed { bars.stale_us } else { bars.revoked_us };
        after += usize::from(late.is_some_and(|late| late > bars.revoked_us));
        let place = (*token, *node);
        if *accepted {
            known.insert(place);
            if let Some(late) = late.filter(|late| *late > bar) {
                let late = late / 1_000;
                findings.push(format!("{which} was accepted {late} ms after it was revoked"));
            } else if refusing.contains(&place) {
                findings.push(format!("{which} was accepted after it had been refused there"));
            }
        } else {
            let is_asked = revocation.is_some_and(|revocation| revocation.begun_us <= *begun_us);
            // A node that has not heard of a token yet does not know it.
            if !is_asked && !disturbed && known.contains(&place) {
                findings.push(format!("{which} was refused, and nobody had revoked it"));
            }
            if late.is_some() && !disturbed && known.contains(&place) {
                refusing.insert(place);
            }
        }
    }
    Verdict::of(findings, after, "no revoked token was tried")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Revocation, Span};

    const SECOND: u64 = 1_000_000;

    fn used(at_s: u64, node: usize, accepted: bool) -> Use {
        Use { token: 0, node, begun_us: at_s * SECOND, accepted }
    }

    fn judge(uses: Vec<Use>) -> Verdict {
        let acknowledged_us = Some(11 * SECOND);
        let revocations = vec![Revocation { token: 0, begun_us: 10 * SECOND, acknowledged_us }];
        check(&History { uses, revocations, ..History::default() }, &Bars::default())
    }

    #[test]
    fn good_before_and_refused_after_passes() {
        let uses = vec![
            used(1, 0, false),
            used(2, 0, true),
            used(10, 0, false),
            used(12, 1, true),
            used(14, 0, false),
        ];
        assert_eq!(judge(uses), Verdict::Pass { looked_at: 1 });
    }

    #[test]
    fn good_long_after_fails() {
        assert!(judge(vec![used(1, 0, true), used(14, 1, true)]).is_failure());
    }

    #[test]
    fn good_again_after_a_refusal_fails() {
        assert!(judge(vec![used(1, 0, true), used(12, 0, false), used(12, 0, true)]).is_failure());
    }

    #[test]
    fn refused_without_a_reason_fails() {
        assert!(judge(vec![used(1, 0, true), used(2, 0, false)]).is_failure());
    }

    #[test]
    fn a_node_that_is_cut_off_may_be_late_but_not_for_ever() {
        let (what, target, means) = (String::new(), String::new(), String::new());
        let (begun_us, ended_us) = (9 * SECOND, 60 * SECOND);
        let cut = Span { what, target, means, begun_us, ended_us };
        let acknowledged_us = Some(11 * SECOND);
        let revocations = vec![Revocation { token: 0, begun_us: 10 * SECOND, acknowledged_us }];
        let judge = |uses| {
            let (faults, revocations) = (vec![cut.clone()], revocations.clone());
            check(&History { uses, revocations, faults, ..History::default() }, &Bars::default())
        };
        assert!(judge(vec![used(1, 0, true), used(9, 0, false), used(30, 0, true)]).is_pass());
        assert!(judge(vec![used(1, 0, true), used(50, 0, true)]).is_failure());
    }

    #[test]
    fn without_a_try_nobody_knows() {
        assert!(matches!(judge(vec![used(1, 0, true)]), Verdict::Unknown { .. }));
    }
}
