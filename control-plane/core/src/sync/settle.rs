//! What a name stands for, worked out from the edits that stand.

use super::{Dot, Edit, History, Policy};
use ollamamax_proto::Digest;
use std::collections::BTreeMap;

/// What the edits of a name come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What the name itself stands for.
    pub main: Main,
    /// Names beside it: what stands after the `@`, and whose edit that is.
    pub forks: BTreeMap<String, Dot>,
    /// How that was decided.
    pub policy: Policy,
    /// Whether sites did different things.
    pub conflict: bool,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Main {
    /// Nothing: it was deleted, or never was.
    Nothing,
    /// The content of this edit.
    One(Dot),
    /// The content of the first, with what the others say beside it; the newest comes first. All have the same bytes, if those
    /// that have others are left out.
    United(Vec<Dot>),
    /// Nobody has decided: a site goes on with what it has, and with the newest where it has none of them. The newest comes first.
    Held(Vec<Dot>),
}

type Item<'a> = (Dot, &'a Edit);

/// Later is more; no two edits are equal.
fn newest(&(dot, edit): &Item<'_>) -> impl Ord + use<> {
    (edit.at, dot.site, dot.count)
}

/// Works it out. The same edits give the same on every site.
pub fn settle(history: &History) -> Settled {
    let mut all: Vec<Item<'_>> = history.edits.iter().map(|(dot, edit)| (*dot, edit)).collect();
    all.sort_unstable_by_key(newest);
    all.reverse();
    let Some(first) = all.first().copied() else {
        let (main, forks) = (Main::Nothing, BTreeMap::new());
        return Settled { main, forks, policy: Policy::default(), conflict: false };
    };
    let conflict = all.iter().any(|(_, edit)| edit.content != first.1.content);
    let policy = first.1.policy.clone();
    let (main, forks) = match conflict {
        false => (one(first), BTreeMap::new()),
        true => decide(&policy, &all, first),
    };
    Settled { main, forks, policy, conflict }
}

fn one((dot, edit): Item<'_>) -> Main {
    match edit.content {
        Some(_) => Main::One(dot),
        None => Main::Nothing,
    }
}

/// Of at least two edits that differ, the newest first.
fn decide(policy: &Policy, all: &[Item<'_>], first: Item<'_>) -> (Main, BTreeMap<String, Dot>) {
    let alone = |item| (one(item), BTreeMap::new());
    match policy {
        Policy::Newest => alone(first),
        Policy::HighestVersion => {
            let key = |item: &Item<'_>| (item.1.version, newest(item));
            alone(all.iter().copied().max_by_key(key).unwrap_or(first))
        }
        Policy::Majority => {
            let votes = |content: Option<Digest>| {
                all.iter().filter(|(_, edit)| edit.content == content).count()
            };
            let key = |item: &Item<'_>| (votes(item.1.content), newest(item));
            alone(all.iter().copied().max_by_key(key).unwrap_or(first))
        }
        Policy::PreferSite(site) => {
            alone(all.iter().copied().find(|(_, edit)| edit.site == *site).unwrap_or(first))
        }
        Policy::MergeMetadata => {
            let kept: Vec<Dot> = kept(all).map(|(dot, _)| dot).collect();
            (Main::United(kept), BTreeMap::new())
        }
        Policy::Manual => (Main::Held(all.iter().map(|(dot, _)| *dot).collect()), BTreeMap::new()),
        Policy::KeepBoth => {
            let mut kept = kept(all);
            let main = kept.next().map_or(Main::Nothing, one);
            (main, labelled(kept.collect()))
        }
    }
}

/// Those that are no deletion: what somebody still works with is not lost to one that deletes it. Of equal contents the newest.
fn kept<'a>(all: &'a [Item<'a>]) -> impl Iterator<Item = Item<'a>> {
    let is_first = |place: usize, content| !all[..place].iter().any(|(_, e)| e.content == content);
    let kept =
        all.iter().copied().enumerate().filter(move |(place, (_, edit))| {
            edit.content.is_some() && is_first(*place, edit.content)
        });
    kept.map(|(_, item)| item)
}

/// The site of each; where a site has several, older ones are counted by their dots.
fn labelled(forks: Vec<Item<'_>>) -> BTreeMap<String, Dot> {
    let mut labels = BTreeMap::new();
    for (dot, edit) in forks {
        let label = match labels.contains_key(&edit.site) {
            false => edit.site.clone(),
            true => format!("{}.{}", edit.site, dot.count),
        };
        // Two sites of one name: no edit is lost to that.
        let label = match labels.contains_key(&label) {
            false => label,
            true => format!("{label}.{}", dot.site),
        };
        labels.insert(label, dot);
    }
    labels
}
