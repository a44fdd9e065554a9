//! Pipelines whose stages are tensor groups: alike workers of one place form a group, which then counts as one worker of
//! their joint speed and room.
//!
//! Not exact: the groups are settled before the cuts. What comes out is checked in full, so it never holds too much.

use super::chain::Objective;
use super::heads::Attention;
use super::load::Load;
use super::map::{Form, Map, Part};
use super::orders::{Aim, best};
use super::shards::Run;
use super::site::{Site, Time};
use crate::deployment::Strategy;
use ollamamax_proto::placement::Stage;

/// The best pipeline of `stages` groups of `shards` workers each, or of as many groups as there are.
pub(super) fn pipeline(
    load: &Load,
    sites: &[Site],
    attention: Attention,
    stages: Option<usize>,
    shards: usize,
) -> Option<Map> {
    let mut alike = sites.to_vec();
    alike.sort_by_key(|site| {
        (site.place, site.speed(), std::cmp::Reverse(site.free_bytes), site.worker)
    });
    let near = |group: &&[Site]| {
        group.len() == shards && group.iter().all(|site| site.place == group[0].place)
    };
    let groups: Vec<&[Site]> = alike.chunks(shards).filter(near).collect();
    let joint: Vec<Site> =
        groups.iter().map(|group| joined(load, group, attention)).collect::<Option<_>>()?;
    // Every shard of a group holds its ends whole; a joint room must have them once per share.
    let times = shards as u64;
    let layers = (0..load.layers()).map(|nth| load.inner(nth, nth + 1));
    let wide =
        Load::from_parts(layers, load.embedding_bytes * times, load.head_bytes * times, false);
    let ring = best(&wide, &joint, Aim::Best(Objective::Pace), stages)?;
    let mut parts = Vec::new();
    let (mut latency, mut pace, mut first): (Time, Time, usize) = (0, 0, 0);
    for (nth, end) in ring.order.iter().zip(&ring.ends) {
        let run = Run { load, first, end: *end, attention };
        let group = run.best(groups[*nth], shards)?;
        parts.extend(stage_parts(&run, groups[*nth], &group));
        latency += group.time;
        pace = pace.max(group.time);
        first = *end;
    }
    let form = Form {
        strategy: Strategy::Tensor,
        stages: u32::try_from(ring.order.len()).ok()?,
        shards: u32::try_from(shards).ok()?,
    };
    Some(Map::new(form, parts, latency, pace))
}

/// The parts of one group, in the order of their shards.
pub(super) fn stage_parts(
    run: &Run<'_>,
    sites: &[Site],
    group: &super::shards::Group,
) -> Vec<Part> {
    let mut first_head = 0;
    let shards = u32::try_from(group.order.len()).unwrap_or(u32::MAX);
    let members = group.order.iter().zip(&group.heads).zip(&group.bytes).zip(0u32..);
    members
        .map(|(((nth, heads), bytes), shard)| {
            let end_head = first_head + heads;
            let stage = Stage {
                first_layer: run.first as u32,
                end_layer: run.end as u32,
                embedding: run.first == 0,
                head: run.end == run.load.layers(),
                shard,
                shards,
            };
            let worker = sites[*nth].worker;
            let part = Part { worker, stage, first_head, end_head, bytes: *bytes };
            first_head = end_head;
            part
        })
        .collect()
}

/// A group as one worker: heads in proportion to speed, and what that makes of speed and room.
fn joined(load: &Load, group: &[Site], attention: Attention) -> Option<Site> {
    let roomy: Vec<Site> =
        group.iter().map(|site| Site { free_bytes: u64::MAX, ..*site }).collect();
    let run = Run { load, first: 0, end: load.layers(), attention };
    let heads = run.allot(&roomy)?;
    let all = u64::from(attention.heads);
    let shares = || group.iter().zip(heads.iter().map(|heads| u64::from(*heads)));
    let slowest = shares().map(|(site, heads)| (site.speed() * heads).div_ceil(all)).max()?;
    let room = shares().map(|(site, heads)| {
        u64::try_from(u128::from(site.free_bytes) * u128::from(all) / u128::from(heads))
            .unwrap_or(u64::MAX)
    });
    Some(Site { ns_per_mib: slowest, free_bytes: room.min()?, ..*group.first()? })
}
