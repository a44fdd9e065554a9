//! One account: what its owner has used and what the others have not heard of it.

use super::{Bounds, Exceeded, Measure, Usage};
use crate::access::QuotaOf;
use ollamamax_proto::{Millis, NodeId, limits};
use std::collections::BTreeMap;

/// What is used, in milliseconds of filling: `level` units fill in `level * period / limit`. Kept as what was used, so that a
/// quota may change meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Thousandths of a unit used and not filled up yet.
    pub(super) used_milli: u64,
    at: Millis,
}

impl Bucket {
    pub(super) fn settle(&mut self, limit: u64, period_ms: u64, now: Millis) {
        let elapsed = now.since(self.at);
        let filled = u128::from(elapsed) * u128::from(limit) * 1_000 / u128::from(period_ms);
        let filled = u64::try_from(filled).unwrap_or(u64::MAX);
        // A step of the clock shorter than a thousandth fills nothing yet, and is not forgotten.
        if filled > 0 || self.used_milli == 0 {
            self.used_milli = self.used_milli.saturating_sub(filled);
            self.at = self.at.max(now);
        }
    }

    pub(super) fn remaining(&self, limit: u64) -> u64 {
        (limit.saturating_mul(1_000).saturating_sub(self.used_milli)) / 1_000
    }

    /// How long until so many units are there, in milliseconds.
    pub(super) fn wait_ms(&self, units: u64, limit: u64, period_ms: u64) -> u64 {
        let allowed = limit.saturating_mul(1_000).saturating_sub(units.saturating_mul(1_000));
        let over = u128::from(self.used_milli.saturating_sub(allowed));
        let ms = (over * u128::from(period_ms)).div_ceil(u128::from(limit.max(1)) * 1_000);
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// As it was when somebody last asked; others may tell of usage before anybody asks here.
    pub(super) bounds: Option<Bounds>,
    pub(super) buckets: [Bucket; Measure::BUCKETS.len()],
    pub(super) streams: u32,
    /// Streams at other gateways, and when they told.
    pub(super) elsewhere: BTreeMap<NodeId, (u32, Millis)>,
    /// Not told to the others yet.
    pub(super) fresh: Usage,
    pub(super) told_streams: u32,
}

impl Account {
    /// Takes usage off what there is at `now`: time before it has filled the buckets, not what is used only now.
    pub(super) fn use_up(&mut self, usage: &Usage, now: Millis) {
        match self.bounds {
            Some(bounds) => self.settle(&bounds, now),
            None => self.buckets.iter_mut().for_each(|bucket| bucket.at = now),
        }
        for (measure, bucket) in Measure::BUCKETS.iter().zip(&mut self.buckets) {
            let units = usage.of(*measure).saturating_mul(1_000);
            bucket.used_milli = bucket.used_milli.saturating_add_signed(units);
        }
    }

    pub(super) fn settle(&mut self, bounds: &Bounds, now: Millis) {
        for (measure, bucket) in Measure::BUCKETS.iter().zip(&mut self.buckets) {
            match measure.limit(bounds) {
                Some(limit) => bucket.settle(limit, measure.period_ms(), now),
                // What is not limited now is not held against anybody later.
                None => *bucket = Bucket { used_milli: 0, at: now },
            }
        }
        let fresh = |at: Millis| now.since(at) <= limits::QUOTA_NEWS_KEPT_MS;
        self.elsewhere.retain(|_, (streams, at)| *streams > 0 && fresh(*at));
    }

    pub(super) fn all_streams(&self) -> u64 {
        let elsewhere = self.elsewhere.values().map(|(streams, _)| u64::from(*streams));
        u64::from(self.streams) + elsewhere.sum::<u64>()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams == 0
            && self.elsewhere.is_empty()
            && self.told_streams == 0
            && self.fresh == Usage::default()
            && self.buckets.iter().all(|bucket| bucket.used_milli == 0)
    }
}

impl Account {
    /// The buckets in which there is no room for `usage`.
    pub(super) fn exceeded(&self, of: &QuotaOf, bounds: &Bounds, usage: &Usage) -> Vec<Exceeded> {
        let over = |(measure, bucket): (&Measure, &Bucket)| {
            let (limit, period_ms) = (measure.limit(bounds)?, measure.period_ms());
            let units = u64::try_from(usage.of(*measure)).unwrap_or(0);
            if units == 0 || bucket.remaining(limit) >= units {
                return None;
            }
            let wait = bucket.wait_ms(units, limit, period_ms);
            // What is more than the whole never fits.
            let retry_after_ms = if units > limit { period_ms } else { wait };
            Some(Exceeded { of: of.clone(), measure: *measure, limit, retry_after_ms })
        };
        Measure::BUCKETS.iter().zip(&self.buckets).filter_map(over).collect()
    }

    pub(super) fn too_many_streams(&self, of: &QuotaOf, bounds: &Bounds) -> Option<Exceeded> {
        let (measure, retry_after_ms) = (Measure::Streams, limits::QUOTA_STREAM_RETRY_MS);
        let limit = measure.limit(bounds).filter(|limit| self.all_streams() >= *limit)?;
        Some(Exceeded { of: of.clone(), measure, limit, retry_after_ms })
    }
}
