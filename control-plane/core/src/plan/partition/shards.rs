//! Key-value heads of a run of layers over the workers of one group.
//!
//! Units of heads go one by one to the worker that is done soonest with one more, as long as its memory allows. Since each
//! worker's time only grows with its heads, no other distribution has a sooner end. Shard 0 of the last stage has the head
//! besides, and each shard of the first the embedding.

use super::heads::Attention;
use super::load::Load;
use super::site::{Site, Time};
use ollamamax_proto::limits;

/// A group over layers `[first, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The workers by their place in the list given, shard 0 first.
    pub(super) order: Vec<usize>,
    /// The heads of each.
    pub(super) heads: Vec<u32>,
    /// Bytes each holds.
    pub(super) bytes: Vec<u64>,
    /// The time of the slowest, with two reductions a layer.
    pub(super) time: Time,
}

/// A run of layers that a group shares.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) load: &'a Load,
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) attention: Attention,
}

impl Run<'_> {
    fn share(&self, bytes: u64, heads: u32) -> u64 {
        let share = u128::from(bytes) * u128::from(heads);
        u64::try_from(share.div_ceil(u128::from(self.attention.heads.max(1)))).unwrap_or(u64::MAX)
    }

    fn drives(&self, shard: usize) -> bool {
        shard == 0 && self.end == self.load.layers()
    }

    /// Bytes that a shard of `heads` heads holds.
    pub(super) fn bytes(&self, shard: usize, heads: u32) -> u64 {
        let load = self.load;
        let embedding = if self.first == 0 { load.embedding_bytes } else { 0 };
        let head = match self.drives(shard) {
            true if self.first == 0 => load.head_bytes - load.tied_bytes,
            true => load.head_bytes,
            false => 0,
        };
        let inner = load.inner(self.first, self.end).0;
        self.share(inner, heads).saturating_add(embedding).saturating_add(head)
    }

    /// The time of a shard of `heads` heads, reductions apart.
    pub(super) fn time(&self, site: &Site, shard: usize, heads: u32) -> Time {
        let head = if self.drives(shard) { self.load.head_bytes } else { 0 };
        let inner = self.load.inner(self.first, self.end).1;
        (self.share(inner, heads) + head) * site.speed()
    }

    /// The heads of each of `sites`, shard 0 first; `None`: they do not fit.
    pub(super) fn allot(&self, sites: &[Site]) -> Option<Vec<u32>> {
        let Attention { heads, unit } = self.attention;
        let mut given = vec![unit; sites.len()];
        let fits = |shard: usize, heads: u32| self.bytes(shard, heads) <= sites[shard].free_bytes;
        let taken = unit.checked_mul(u32::try_from(sites.len()).ok()?)?;
        if taken > heads || !(0..sites.len()).all(|shard| fits(shard, unit)) {
            return None;
        }
        for _ in 0..(heads - taken) / unit {
            let open = (0..sites.len()).filter(|shard| fits(*shard, given[*shard] + unit));
            let soonest =
                open.min_by_key(|shard| self.time(&sites[*shard], *shard, given[*shard] + unit))?;
            given[soonest] += unit;
        }
        Some(given)
    }

    /// The time of a group with these heads: the slowest shard, and the hops of the reductions.
    pub(super) fn group_time(&self, sites: &[Site], heads: &[u32]) -> Time {
        let shards = sites.iter().zip(heads).enumerate();
        let slowest = shards.map(|(nth, (site, heads))| self.time(site, nth, *heads)).max();
        let hop = sites.iter().map(Site::hop).max().unwrap_or(0);
        slowest.unwrap_or(0) + hop * (2 * (self.end - self.first) as u64 + 1)
    }

    /// The best group of `count` of `sites`.
    pub(super) fn best(&self, sites: &[Site], count: usize) -> Option<Group> {
        let mut best: Option<Group> = None;
        for members in subsets(sites, count) {
            for lead in 0..members.len() {
                let mut order = members.clone();
                order.rotate_left(lead);
                let group: Vec<Site> = order.iter().map(|nth| sites[*nth]).collect();
                let Some(heads) = self.allot(&group) else { continue };
                let time = self.group_time(&group, &heads);
                if best.as_ref().is_none_or(|best| time < best.time) {
                    let bytes =
                        heads.iter().enumerate().map(|(nth, h)| self.bytes(nth, *h)).collect();
                    best = Some(Group { order, heads, bytes, time });
                }
            }
        }
        best
    }
}

/// The groups to look at: all of a few workers, else runs of alike ones.
fn subsets(sites: &[Site], count: usize) -> Vec<Vec<usize>> {
    if count == 0 || count > sites.len() {
        return Vec::new();
    }
    if sites.len() <= limits::PARTITION_GROUP_WORKERS_COUNT {
        let set = |bits: u32| (0..sites.len()).filter(|nth| bits & (1 << nth) != 0).collect();
        let bits = (0..1u32 << sites.len()).filter(|bits| bits.count_ones() as usize == count);
        return bits.map(set).collect();
    }
    let mut fast: Vec<usize> = (0..sites.len()).collect();
    fast.sort_by_key(|nth| (sites[*nth].speed(), sites[*nth].free_bytes, sites[*nth].worker));
    fast.windows(count).map(<[usize]>::to_vec).collect()
}
