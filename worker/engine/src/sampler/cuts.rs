//! What leaves out the unlikely: each cut shortens the candidates, and always leaves one.

use super::{Candidate, probabilities};

/// Tail-free sampling (Bigonnet, 2020): follows the bend of the falling probabilities, and cuts where `tfs_z` of it lies
/// before. The arithmetic is that of llama.cpp.
pub fn keep_tail_free(candidates: &mut Vec<Candidate>, tfs_z: f32) {
    if !(0.0..1.0).contains(&tfs_z) || candidates.len() <= 2 {
        return;
    }
    let slopes: Vec<f64> =
        probabilities(candidates, 1.0).windows(2).map(|pair| pair[0] - pair[1]).collect();
    let bends: Vec<f64> = slopes.windows(2).map(|pair| (pair[0] - pair[1]).abs()).collect();
    let total: f64 = bends.iter().sum();
    // Where nothing bends, each place counts alike.
    let share = |bend: f64| if total > 1e-6 { bend / total } else { 1.0 / bends.len() as f64 };
    let mut before = 0.0;
    let cut = bends.iter().enumerate().position(|(index, &bend)| {
        before += share(bend);
        index > 0 && before > f64::from(tfs_z)
    });
    candidates.truncate(cut.unwrap_or(candidates.len()));
}

/// Locally typical sampling (Meister et al., 2022): keeps the tokens whose surprise is closest to
/// the expected one.
pub fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    if !(0.0..1.0).contains(&typical_p) {
        return;
    }
    let probs = probabilities(candidates, 1.0);
    let surprise = |p: f64| if p > 0.0 { -p.ln() } else { f64::MAX };
    let entropy: f64 = probs.iter().filter(|&&p| p > 0.0).map(|&p| p * surprise(p)).sum();
    let mut order: Vec<usize> = (0..probs.len()).collect();
    order.sort_by(|&a, &b| {
        let distance = |index: usize| (surprise(probs[index]) - entropy).abs();
        distance(a).total_cmp(&distance(b)).then(a.cmp(&b))
    });
    let mut kept = prefix_reaching(order.iter().map(|&index| probs[index]), typical_p);
    kept = kept.min(order.len());
    order.truncate(kept);
    order.sort_unstable();
    *candidates = order.into_iter().map(|index| candidates[index]).collect();
}

/// Nucleus sampling (Holtzman et al., 2020).
pub fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if !(0.0..1.0).contains(&top_p) {
        return;
    }
    let kept = prefix_reaching(probabilities(candidates, 1.0).into_iter(), top_p);
    candidates.truncate(kept);
}

/// How many leading probabilities it takes to reach `goal`: at least one.
fn prefix_reaching(probs: impl Iterator<Item = f64>, goal: f32) -> usize {
    let (mut sum, mut count) = (0.0, 0);
    for p in probs {
        sum += p;
        count += 1;
        if sum >= f64::from(goal) {
            break;
        }
    }
    count.max(1)
}

/// Keeps what is at least `min_p` times as likely as the best.
pub fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p.is_nan() || min_p <= 0.0 {
        return;
    }
    let Some(best) = candidates.first() else { return };
    let least = f64::from(best.logit) + f64::from(min_p.min(1.0)).ln();
    let kept = candidates.partition_point(|candidate| f64::from(candidate.logit) >= least);
    candidates.truncate(kept.max(1));
}
