//! Sites that edit, cut and meet in any order come to the same.

use super::*;
use crate::testing::{config, version};
use ollamamax_proto::{Digest, Millis};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NAMES: [&str; 3] = ["head", "north", "south"];

fn site(number: usize) -> SiteId {
    SiteId(number as u128 + 1)
}

fn content(number: u8) -> Digest {
    Digest::of(&[number])
}

fn edit(number: usize, content: Option<u8>, at: u64, policy: Policy) -> Edit {
    let content = content.map(self::content);
    Edit { content, at: Millis(at), version: 0, site: NAMES[number].to_owned(), policy }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Newest),
        Just(Policy::HighestVersion),
        Just(Policy::Majority),
        Just(Policy::MergeMetadata),
        Just(Policy::KeepBoth),
        (0..3usize).prop_map(|number| Policy::PreferSite(NAMES[number].to_owned())),
        Just(Policy::Manual),
    ]
}

/// What happens at sites.
#[derive(Clone, Debug)]
enum Act {
    /// Replaces all that stands; `None` deletes.
    Edit { site: usize, content: Option<u8>, policy: Policy },
    /// Replaces only what the name itself stands for, as an edit beside forks does.
    EditMain { site: usize, content: Option<u8> },
    /// One site hears of the other, not the other way round.
    Hear { from: usize, to: usize },
    /// What was heard earlier comes once more, late.
    Late { from: usize, to: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let site = || 0..3usize;
    let content = || proptest::option::weighted(0.8, 0..4u8);
    let act = prop_oneof![
        3 => (site(), content(), policies())
            .prop_map(|(site, content, policy)| Act::Edit { site, content, policy }),
        2 => (site(), content()).prop_map(|(site, content)| Act::EditMain { site, content }),
        4 => (site(), site()).prop_map(|(from, to)| Act::Hear { from, to }),
        2 => (site(), site()).prop_map(|(from, to)| Act::Late { from, to }),
    ];
    proptest::collection::vec(act, 0..40)
}

/// Three sites, each with a clock of its own that is wrong in its own way, and what each said at any time.
struct World {
    sites: [History; 3],
    said: [Vec<History>; 3],
    /// What each edit replaced, as it was made.
    replaced: BTreeMap<Dot, Vec<Dot>>,
}

impl World {
    fn run(acts: &[Act]) -> Self {
        let mut world =
            Self { sites: Default::default(), said: Default::default(), replaced: BTreeMap::new() };
        for (moment, act) in acts.iter().enumerate() {
            world.act(moment as u64, act);
        }
        world
    }

    fn act(&mut self, moment: u64, act: &Act) {
        let clock = |number: usize| [moment * 10, 500, 1_000 - moment * 7][number];
        match act {
            Act::Edit { site, content, policy } => {
                let edit = edit(*site, *content, clock(*site), policy.clone());
                self.edit(*site, edit, |_| true);
            }
            Act::EditMain { site, content } => {
                let settled = settle(&self.sites[*site]);
                let edit = edit(*site, *content, clock(*site), settled.policy);
                self.edit(*site, edit, |dot| !settled.forks.values().any(|fork| *fork == dot));
            }
            Act::Hear { from, to } => {
                let said = self.sites[*from].clone();
                self.sites[*to].join(&said);
                self.said[*from].push(said);
            }
            Act::Late { from, to } => {
                let said = self.said[*from].first().cloned().unwrap_or_default();
                self.sites[*to].join(&said);
            }
        }
    }

    fn edit(&mut self, number: usize, edit: Edit, replaces: impl Fn(Dot) -> bool) {
        let history = &mut self.sites[number];
        let gone = history.edits.keys().copied().filter(|dot| replaces(*dot)).collect();
        let dot = history.edit(site(number), edit, replaces);
        self.replaced.insert(dot, gone);
    }

    /// Everybody hears of everybody, twice: the second round brings nothing new.
    fn meet(&mut self) {
        for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2)] {
            let said = self.sites[from].clone();
            self.sites[to].join(&said);
        }
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn sites_that_met_are_alike_and_show_the_same(acts in acts()) {
        let mut world = World::run(&acts);
        world.meet();
        let [a, b, c] = &world.sites;
        prop_assert_eq!(a, b);
        prop_assert_eq!(b, c);
        prop_assert_eq!(settle(a), settle(c));
        // Exactly what nobody replaced stands.
        let gone: Vec<Dot> = world.replaced.values().flatten().copied().collect();
        let stands: Vec<Dot> =
            world.replaced.keys().copied().filter(|dot| !gone.contains(dot)).collect();
        prop_assert_eq!(a.edits.keys().copied().collect::<Vec<_>>(), stands);
    }

    #[test]
    fn the_order_and_number_of_visits_make_no_difference(acts in acts()) {
        let [a, b, c] = World::run(&acts).sites;
        let join = |x: &History, y: &History| { let mut x = x.clone(); x.join(y); x };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        let ab = join(&a, &b);
        prop_assert_eq!(join(&ab, &b), ab.clone());
        let mut again = ab.clone();
        prop_assert!(!again.join(&a), "nothing is new in what is known");
        prop_assert_eq!(ab.is_behind(&c), { let mut abc = ab.clone(); abc.join(&c) });
    }

    #[test]
    fn what_an_edit_knew_of_is_older_than_it(acts in acts()) {
        let world = World::run(&acts);
        for history in &world.sites {
            for (dot, edit) in &history.edits {
                let knew = &world.replaced[dot];
                let mut all: Vec<&Edit> = Vec::new();
                for said in world.said.iter().flatten().chain(&world.sites) {
                    all.extend(said.edits.iter().filter(|(d, _)| knew.contains(d)).map(|(_, e)| e));
                }
                prop_assert!(all.iter().all(|old| (old.at, old.version) < (edit.at, edit.version)));
            }
        }
    }

    /// Whatever the policy, what is shown is something that stands, and nothing is shown twice.
    #[test]
    fn what_is_shown_stands(acts in acts(), policy in policies()) {
        let mut world = World::run(&acts);
        world.meet();
        let mut history = world.sites[0].clone();
        history.edits.values_mut().for_each(|edit| edit.policy = policy.clone());
        let settled = settle(&history);
        let main = match &settled.main {
            Main::Nothing => Vec::new(),
            Main::One(dot) => vec![*dot],
            Main::United(dots) | Main::Held(dots) => dots.clone(),
        };
        let shown: Vec<Dot> = main.iter().chain(settled.forks.values()).copied().collect();
        prop_assert!(shown.iter().all(|dot| history.edits.contains_key(dot)));
        let mut once = shown.clone();
        once.sort_unstable();
        once.dedup();
        prop_assert_eq!(once.len(), shown.len());
        let contents: Vec<_> = history.contents().collect();
        prop_assert!(settled.conflict || contents.len() < 2);
        if policy == Policy::KeepBoth {
            let mut kept: Vec<_> = shown.iter().filter_map(|d| history.edits[d].content).collect();
            kept.sort_unstable();
            prop_assert_eq!(kept, contents, "each content has a name");
        }
    }
}

/// Edits that know nothing of each other: site, content, moment; each with what it replaced before, as versions.
fn rivals(policy: &Policy, edits: &[(usize, Option<u8>, u64, u64)]) -> History {
    let mut all = History::default();
    for &(number, content, at, earlier) in edits {
        let mut own = History::default();
        for _ in 0..earlier {
            own.edit(site(number), edit(number, Some(99), 0, policy.clone()), |_| true);
        }
        own.edit(site(number), edit(number, content, at, policy.clone()), |_| true);
        all.join(&own);
    }
    all
}

/// The site whose content a name shows, and the labels beside it.
fn shown(history: &History) -> (Option<usize>, Vec<String>) {
    let settled = settle(history);
    let main = match &settled.main {
        Main::Nothing => None,
        Main::One(dot) => Some(dot.site.0 as usize - 1),
        Main::United(dots) | Main::Held(dots) => Some(dots[0].site.0 as usize - 1),
    };
    (main, settled.forks.into_keys().collect())
}

const DELETED: Option<u8> = None;

#[test]
fn each_policy_has_its_table_of_cases() {
    let prefer = |name: &str| Policy::PreferSite(name.to_owned());
    // Site, content, moment, edits before. Then whose content is shown, and what stands beside it.
    type Case<'a> = (Policy, &'a [(usize, Option<u8>, u64, u64)], Option<usize>, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (Policy::Newest, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)], Some(1), &[]),
        (Policy::Newest, &[(0, Some(1), 20, 5), (1, Some(2), 10, 9)], Some(0), &[]),
        (Policy::Newest, &[(0, Some(1), 10, 0), (1, Some(2), 10, 0)], Some(1), &[]),
        (Policy::Newest, &[(0, Some(1), 10, 0), (1, DELETED, 20, 0)], None, &[]),
        (Policy::Newest, &[(0, Some(1), 20, 0), (1, DELETED, 10, 0)], Some(0), &[]),
        (Policy::HighestVersion, &[(0, Some(1), 10, 2), (1, Some(2), 20, 1)], Some(0), &[]),
        (Policy::HighestVersion, &[(0, Some(1), 10, 1), (1, Some(2), 20, 1)], Some(1), &[]),
        (
            Policy::Majority,
            &[(0, Some(1), 10, 0), (1, Some(1), 20, 0), (2, Some(2), 30, 0)],
            Some(1),
            &[],
        ),
        (Policy::Majority, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)], Some(1), &[]),
        (
            Policy::Majority,
            &[(0, DELETED, 10, 0), (1, DELETED, 20, 0), (2, Some(2), 30, 0)],
            None,
            &[],
        ),
        (prefer("head"), &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)], Some(0), &[]),
        (prefer("head"), &[(1, Some(1), 20, 0), (2, Some(2), 10, 0)], Some(1), &[]),
        (prefer("head"), &[(0, DELETED, 10, 0), (1, Some(2), 20, 0)], None, &[]),
        (Policy::MergeMetadata, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)], Some(1), &[]),
        (Policy::MergeMetadata, &[(0, Some(1), 10, 0), (1, DELETED, 20, 0)], Some(0), &[]),
        (
            Policy::KeepBoth,
            &[(0, Some(1), 10, 0), (1, Some(2), 20, 0), (2, Some(3), 15, 0)],
            Some(1),
            &["head", "south"],
        ),
        (
            Policy::KeepBoth,
            &[(0, Some(1), 10, 0), (1, Some(1), 20, 0), (2, Some(3), 15, 0)],
            Some(1),
            &["south"],
        ),
        (Policy::KeepBoth, &[(0, Some(1), 10, 0), (1, DELETED, 20, 0)], Some(0), &[]),
        (Policy::Manual, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)], Some(1), &[]),
    ];
    for (policy, edits, main, forks) in cases {
        let history = rivals(policy, edits);
        let forks: Vec<String> = forks.iter().map(|fork| (*fork).to_owned()).collect();
        assert_eq!(shown(&history), (*main, forks), "{policy} over {edits:?}");
        assert!(settle(&history).conflict, "{policy} over {edits:?}");
    }
}

#[test]
fn the_same_thing_done_twice_is_no_conflict() {
    for policy in [Policy::Manual, Policy::KeepBoth, Policy::MergeMetadata] {
        let same = rivals(&policy, &[(0, Some(1), 10, 0), (1, Some(1), 20, 3)]);
        let settled = settle(&same);
        assert!(!settled.conflict && settled.forks.is_empty());
        assert_eq!(settled.main, Main::One(Dot { site: site(1), count: 4 }));
        let gone = rivals(&policy, &[(0, DELETED, 10, 0), (1, DELETED, 20, 0)]);
        assert_eq!((settle(&gone).main, settle(&gone).conflict), (Main::Nothing, false));
    }
    assert_eq!(settle(&History::default()).main, Main::Nothing);
}

#[test]
fn who_decides_ends_the_conflict_everywhere() {
    let mut all = rivals(&Policy::Manual, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)]);
    let elsewhere = all.clone();
    assert!(matches!(settle(&all).main, Main::Held(dots) if dots.len() == 2));
    all.edit(site(2), edit(2, Some(1), 5, Policy::Manual), |_| true);
    let mut heard = elsewhere;
    assert!(heard.join(&all));
    assert_eq!((settle(&heard).conflict, shown(&heard)), (false, (Some(2), Vec::new())));
    assert!(heard.edits.values().all(|edit| edit.at == Millis(21)), "later than what it replaced");
}

#[test]
fn a_fork_is_edited_and_deleted_alone() {
    let mut all = rivals(&Policy::KeepBoth, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)]);
    let settled = settle(&all);
    let fork = settled.forks["head"];
    let other = all.clone();
    all.edit(site(1), edit(1, Some(3), 30, Policy::KeepBoth), |dot| dot != fork);
    assert_eq!(shown(&all), (Some(1), vec!["head".to_owned()]), "an edit of the name keeps it");
    let mut deleted = other;
    deleted.edits.remove(&fork);
    all.join(&deleted);
    assert_eq!(shown(&all), (Some(1), Vec::new()));
}

#[test]
fn forks_of_one_site_each_have_a_name() {
    let mut all = rivals(&Policy::KeepBoth, &[(0, Some(1), 10, 0), (1, Some(2), 20, 0)]);
    all.edit(site(0), edit(0, Some(3), 15, Policy::KeepBoth), |_| false);
    assert_eq!(shown(&all), (Some(1), vec!["head".to_owned(), "head.1".to_owned()]));
}

#[test]
fn united_versions_lose_nothing_that_only_one_says() {
    let bytes = version(100);
    let with = |texts: [(&str, &str); 2], license: &str| {
        let mut all = bytes.clone();
        all.parameters =
            texts.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into();
        all.licenses = vec![license.to_owned()];
        all
    };
    let mut newest = with([("seed", "1"), ("top_k", "5")], "MIT");
    newest.system = Some("be brief".to_owned());
    let mut older = with([("seed", "2"), ("top_p", "0.5")], "BSD");
    (older.system, older.template) = (Some("be long".to_owned()), Some("T".to_owned()));
    let mut foreign = version(200);
    foreign.parent = Some("other".to_owned());
    let all = united(&[&newest, &older, &foreign]).expect("some");
    assert_eq!((all.blob, all.parent.clone()), (bytes.blob, None));
    assert_eq!((all.system.as_deref(), all.template.as_deref()), (Some("be brief"), Some("T")));
    assert_eq!(all.licenses, ["MIT", "BSD"]);
    let parameters: Vec<_> = all.parameters.iter().map(|(k, v)| (k.as_str(), &*v[0])).collect();
    assert_eq!(parameters, [("seed", "1"), ("top_k", "5"), ("top_p", "0.5")]);
    assert_eq!(all.digest, all.compute_digest());
    assert_eq!(united(&[]), None);
}

#[test]
fn policies_are_read_as_they_are_written() {
    for text in [
        "newest",
        "highest-version",
        "majority",
        "merge-metadata",
        "keep-both",
        "prefer-site:head-office",
        "manual",
    ] {
        let policy: Policy = text.parse().expect(text);
        assert_eq!(policy.to_string(), text);
    }
    for text in ["", "Newest", "prefer-site:", "prefer-site:-a", "prefer-site:a@b", "prefer-site"] {
        let refused = text.parse::<Policy>().expect_err(text).to_string();
        assert!(refused.contains("prefer-site:NAME"), "{refused}");
    }
}

#[test]
fn clocks_know_less_more_or_other_things() {
    let (mut a, mut b) = (Clock::default(), Clock::default());
    assert!(a <= b && a.is_empty());
    let dot = a.advance(site(0));
    assert!(a > b && a.covers(dot) && !b.covers(dot));
    b.advance(site(1));
    assert_eq!(a.partial_cmp(&b), None);
    b.join(&a);
    assert!(a < b && b.len() == 2 && b.covers(dot));
}
