//! By weight, smoothly: nginx's algorithm (`ngx_http_upstream_get_peer`). Every candidate's current
//! weight grows by its weight, the largest is picked and pays the sum of all: weights 5, 1, 1 give
//! a a b a c a a, not five in a row.

use super::Candidate;

/// The candidate whose current weight is largest; none when all open weights are 0. `current` holds
/// one number for each candidate, 0 to begin with.
pub fn pick(candidates: &[Candidate], current: &mut Vec<i64>) -> Option<usize> {
    current.resize(candidates.len(), 0);
    let (mut total, mut best) = (0i64, None);
    for (index, (candidate, current)) in candidates.iter().zip(current.iter_mut()).enumerate() {
        if !candidate.is_open() || candidate.weight == 0 {
            // Credit of a time when it was open must not come due in one burst.
            *current = 0;
            continue;
        }
        // At most 2^32 times a thousand: far from the end of an i64, and so are sums of a few.
        let weight = (u64::from(candidate.weight) * candidate.share()) as i64;
        *current = current.saturating_add(weight);
        total = total.saturating_add(weight);
        if best.is_none_or(|(_, most)| *current > most) {
            best = Some((index, *current));
        }
    }
    let (index, most) = best?;
    if let Some(current) = current.get_mut(index) {
        *current = most.saturating_sub(total);
    }
    Some(index)
}
