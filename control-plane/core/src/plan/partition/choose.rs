//! The strategy asked for, or the cheapest of all that fit.

use super::chain::Objective;
use super::groups;
use super::heads::Attention;
use super::load::Load;
use super::map::{Form, Map, Part};
use super::misfit::Misfit;
use super::orders::{self, Aim};
use super::shards::Run;
use super::site::{Site, Time};
use crate::deployment::{Policy, Strategy};
use ollamamax_proto::limits;
use ollamamax_proto::placement::Stage;
use std::collections::BTreeMap;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The strategy.
    pub strategy: Strategy,
    /// Runs of layers; 0: as is best.
    pub stages: u32,
    /// Shards of each layer; 0: as is best.
    pub shards: u32,
    /// What `auto` looks at.
    pub policy: Policy,
    /// Replicas wanted: `auto` weighs few fast ones against many.
    pub replicas: u32,
}

/// A partition and what it was chosen from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The one.
    pub map: Map,
    /// The others, in the order they were looked at.
    pub others: Vec<Other>,
}

/// One that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// How it would have been cut.
    pub form: Form,
    /// Its promise, or why it does not exist.
    pub map: Result<Map, Misfit>,
}

/// The partition of `load` over `sites` that `wish` asks for.
///
/// # Errors
/// The reason why there is none, with what would work.
pub fn choose(
    load: &Load,
    attention: &Result<Attention, Misfit>,
    sites: &[Site],
    wish: &Wish,
) -> Result<Choice, Misfit> {
    check(load, attention, sites, wish)?;
    let stages = (wish.stages > 0).then_some(wish.stages as usize);
    let search = Search { load, attention, spots: spots(sites), sites };
    let form = |strategy| Form { strategy, stages: wish.stages, shards: wish.shards };
    if wish.strategy != Strategy::Auto {
        let map = search.of(form(wish.strategy))?;
        return Ok(Choice { map, others: Vec::new() });
    }
    let mut forms = vec![
        Form { strategy: Strategy::Data, stages: 1, shards: 1 },
        form(Strategy::Layer),
        form(Strategy::Pipeline),
    ];
    let encoder = matches!(attention, Err(Misfit::Encoder));
    if encoder {
        forms.truncate(1);
    }
    let cuts = attention.as_ref().map(|attention| attention.shards()).unwrap_or_default();
    for count in [2, 4, 8] {
        if stages.is_none() && !encoder {
            forms.push(Form { strategy: Strategy::Pipeline, stages: count, shards: 1 });
        }
        if cuts.contains(&count) {
            forms.push(Form { strategy: Strategy::Tensor, stages: 1, shards: count });
            forms.push(Form { strategy: Strategy::Tensor, stages: 2, shards: count });
        }
    }
    let mut tried: Vec<Other> = forms
        .into_iter()
        .map(|form| Other { form, map: search.of(form) })
        .chain([search.soonest()].into_iter().flatten().filter(|_| !encoder))
        .collect();
    let copies = |map: &Map| {
        let room = sites.len() / map.parts.len().max(1);
        (room.min(wish.replicas as usize).max(1)) as u64
    };
    let cost = |map: &Map| match wish.policy {
        Policy::Latency => (map.latency_ns, map.pace_ns),
        Policy::Throughput => (map.pace_ns / copies(map), map.latency_ns),
    };
    let rank = |(_, other): &(usize, &Other)| {
        other.map.as_ref().ok().map(|map| (cost(map), map.parts.len()))
    };
    let fits = tried.iter().enumerate().filter(|(_, other)| other.map.is_ok());
    let best = fits.min_by_key(rank).map(|(nth, _)| nth);
    match best.map(|nth| tried.remove(nth)) {
        Some(Other { map: Ok(map), .. }) => Ok(Choice { map, others: tried }),
        _ => Err(search.memory(form(Strategy::Auto))),
    }
}

fn check(
    load: &Load,
    attention: &Result<Attention, Misfit>,
    sites: &[Site],
    wish: &Wish,
) -> Result<(), Misfit> {
    let whole = matches!(wish.strategy, Strategy::Data | Strategy::Auto);
    if matches!(attention, Err(Misfit::Encoder)) && !whole {
        return Err(Misfit::Encoder);
    }
    let layers = u32::try_from(load.layers()).unwrap_or(u32::MAX);
    if wish.stages > layers {
        return Err(Misfit::Stages { asked: wish.stages, layers });
    }
    if wish.strategy == Strategy::Tensor {
        let attention = attention.as_ref().map_err(Clone::clone)?;
        let works = attention.shards();
        if works.is_empty() || (wish.shards > 0 && !works.contains(&wish.shards)) {
            let (asked, heads) = (wish.shards.max(2), attention.heads);
            return Err(Misfit::Shards { asked, heads, works });
        }
    }
    enough(Form { strategy: wish.strategy, stages: wish.stages, shards: wish.shards }, sites)
}

/// Whether there are as many workers as parts, of which one that is split has at least two.
fn enough(form: Form, sites: &[Site]) -> Result<(), Misfit> {
    let split = matches!(form.strategy, Strategy::Layer | Strategy::Pipeline | Strategy::Tensor);
    let asked = form.stages.max(1).saturating_mul(form.shards.max(1)).max(1 + u32::from(split));
    let have = u32::try_from(sites.len()).unwrap_or(u32::MAX);
    let have = have.min(limits::REPLICA_STAGES_COUNT as u32);
    if asked > have { Err(Misfit::Workers { asked, have }) } else { Ok(()) }
}

/// The workers of each place alone, near each other, and all together.
fn spots(sites: &[Site]) -> Vec<Vec<Site>> {
    let mut places: BTreeMap<u32, Vec<Site>> = BTreeMap::new();
    for site in sites {
        let near = Site { far_ns: site.near_ns, ..*site };
        places.entry(site.place).or_default().push(near);
    }
    let several = places.len() > 1;
    let mut spots: Vec<Vec<Site>> = places.into_values().filter(|place| place.len() > 1).collect();
    spots.sort_by_key(|place| {
        let room = place.iter().fold(0u64, |sum, site| sum.saturating_add(site.free_bytes));
        std::cmp::Reverse(room)
    });
    spots.truncate(limits::PARTITION_PLACES_COUNT);
    if several || spots.is_empty() {
        spots.push(sites.to_vec());
    }
    spots
}

struct Search<'a> {
    load: &'a Load,
    attention: &'a Result<Attention, Misfit>,
    spots: Vec<Vec<Site>>,
    sites: &'a [Site],
}

impl Search<'_> {
    fn of(&self, form: Form) -> Result<Map, Misfit> {
        enough(form, self.sites)?;
        let stages = (form.stages > 0).then_some(form.stages as usize);
        let map = match form.strategy {
            Strategy::Data => self.whole(),
            // Fewest workers first; among places of as few, the soonest token.
            Strategy::Layer | Strategy::Auto => self.least(
                |sites| self.ring(sites, Aim::Fewest, stages, Strategy::Layer),
                |map| (map.parts.len() as u64, map.latency_ns),
            ),
            Strategy::Pipeline => {
                let fewest = || self.of(Form { strategy: Strategy::Layer, ..form });
                let stages = match stages {
                    Some(stages) => Some(stages),
                    None => Some(fewest()?.parts.len()),
                };
                let aim = Aim::Best(Objective::Pace);
                self.least(
                    |sites| self.ring(sites, aim, stages, Strategy::Pipeline),
                    |map| (map.pace_ns, map.latency_ns),
                )
            }
            Strategy::Tensor => self.tensor(form)?,
        };
        map.ok_or_else(|| self.memory(form))
    }

    /// The soonest token over any number of stages: what `layer` would be if workers cost nothing.
    fn soonest(&self) -> Option<Other> {
        let aim = Aim::Best(Objective::Sum);
        let ring = |sites: &[Site]| self.ring(sites, aim, None, Strategy::Layer);
        let map = self.least(ring, |map| (map.latency_ns, map.parts.len() as u64))?;
        Some(Other { form: map.form, map: Ok(map) })
    }

    fn least(
        &self,
        of: impl Fn(&[Site]) -> Option<Map>,
        cost: impl Fn(&Map) -> (u64, u64),
    ) -> Option<Map> {
        self.spots.iter().filter_map(|sites| of(sites)).min_by_key(cost)
    }

    fn whole(&self) -> Option<Map> {
        let layers = self.load.layers();
        let bytes = self.load.memory(0, layers);
        let fits = self.sites.iter().filter(|site| site.free_bytes >= bytes);
        let time = |site: &Site| self.load.read(0, layers) * site.speed();
        let site = fits.min_by_key(|site| (time(site), site.worker))?;
        let end_head = self.attention.as_ref().map_or(1, |attention| attention.heads);
        let stage = Stage::whole(u32::try_from(layers).ok()?);
        let part = Part { worker: site.worker, stage, first_head: 0, end_head, bytes };
        let form = Form { strategy: Strategy::Data, stages: 1, shards: 1 };
        Some(Map::new(form, vec![part], time(site), time(site)))
    }

    fn ring(
        &self,
        sites: &[Site],
        aim: Aim,
        stages: Option<usize>,
        strategy: Strategy,
    ) -> Option<Map> {
        let (load, layers) = (self.load, self.load.layers());
        let ring = orders::best(load, sites, aim, stages)?;
        let end_head = self.attention.as_ref().map_or(1, |attention| attention.heads);
        let (mut latency, mut pace, mut first): (Time, Time, usize) = (0, 0, 0);
        let mut parts = Vec::new();
        for (nth, &end) in ring.order.iter().zip(&ring.ends) {
            let site = &sites[*nth];
            let time = site.time(load, first, end);
            let stage = Stage {
                first_layer: u32::try_from(first).ok()?,
                end_layer: u32::try_from(end).ok()?,
                embedding: first == 0,
                head: end == layers,
                shard: 0,
                shards: 1,
            };
            let bytes = load.memory(first, end);
            parts.push(Part { worker: site.worker, stage, first_head: 0, end_head, bytes });
            latency += time;
            pace = pace.max(time);
            first = end;
        }
        let form = Form { strategy, stages: u32::try_from(parts.len()).ok()?, shards: 1 };
        Some(Map::new(form, parts, latency, pace))
    }

    fn tensor(&self, form: Form) -> Result<Option<Map>, Misfit> {
        let attention = *self.attention.as_ref().map_err(Clone::clone)?;
        let counts = match form.shards {
            0 => attention.shards(),
            count => vec![count],
        };
        let group = |sites: &[Site], shards: usize| {
            let run = Run { load: self.load, first: 0, end: self.load.layers(), attention };
            let group = run.best(sites, shards)?;
            let parts = groups::stage_parts(&run, sites, &group);
            let form = Form { strategy: Strategy::Tensor, stages: 1, shards: shards as u32 };
            Some(Map::new(form, parts, group.time, group.time))
        };
        let cost = |map: &Map| (map.latency_ns, map.pace_ns);
        if form.stages <= 1 {
            let single = counts
                .iter()
                .find_map(|count| self.least(|sites| group(sites, *count as usize), cost));
            if single.is_some() || form.stages == 1 {
                return Ok(single);
            }
        }
        let stages = (form.stages > 0).then_some(form.stages as usize);
        Ok(counts.iter().find_map(|count| {
            let of = |sites: &[Site]| {
                groups::pipeline(self.load, sites, attention, stages, *count as usize)
            };
            self.least(of, cost).filter(|map| map.parts.len() <= limits::REPLICA_STAGES_COUNT)
        }))
    }

    fn memory(&self, form: Form) -> Misfit {
        let free = self.sites.iter().fold(0u64, |sum, site| sum.saturating_add(site.free_bytes));
        let needs_bytes = self.load.memory(0, self.load.layers());
        Misfit::Memory { form, needs_bytes, free_bytes: free, workers: self.sites.len() }
    }
}
