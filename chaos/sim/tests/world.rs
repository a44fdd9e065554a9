//! The world of the pure cores: it repeats itself, it keeps what it promises, and bugs that are planted in it are found.

use ollamamax_sim::op::Script;
use ollamamax_sim::run::{Run, run};
use ollamamax_sim::shrink::shrink;
use ollamamax_sim::world::Plant;

fn sound(seed: u64, steps: u64) -> Run {
    let done = run(seed, Script::Seed { steps }, Plant::Nothing).expect("runs");
    assert_eq!(done.violation, None, "seed {seed}, {steps} steps");
    done
}

#[test]
fn the_same_seed_is_the_same_world_byte_for_byte() {
    let (first, second) = (sound(7, 6_000), sound(7, 6_000));
    assert_eq!(first, second);
    assert!(first.trace.words > 10_000, "the trace says little: {:?}", first.trace);
    assert_ne!(first.trace, sound(8, 6_000).trace);
    // What happened is enough to do it again.
    let again = run(7, Script::List(first.script.clone()), Plant::Nothing).expect("runs");
    assert_eq!(again.violation, None);
    assert_eq!(again.script, first.script);
}

#[test]
fn fifty_worlds_keep_their_promises() {
    let (mut served, mut resumed, mut plans, mut elections) = (0, 0, 0, 0);
    for seed in 1_000..1_050 {
        let counts = sound(seed, 2_500).counts;
        (served, resumed) = (served + counts.served, resumed + counts.resumed);
        (plans, elections) = (plans + counts.plans, elections + counts.elections);
    }
    // They did something: streams ended well and went on elsewhere, plans were applied, leaders changed.
    assert!(served > 500, "{served} requests were served");
    assert!(resumed > 20, "{resumed} streams went on elsewhere");
    assert!(plans > 200 && elections > 60, "{plans} plans, {elections} elections");
}

#[test]
fn each_planted_bug_is_found_and_shrunk_to_a_few_operations() {
    for (plant, invariants) in [
        (Plant::OtherStory, &["nodes_tell_one_story", "rows_rebuild_the_state"][..]),
        (Plant::StaleGeneration, &["requests_meet_their_generation"]),
        (Plant::RepeatedToken, &["streams_are_the_undisturbed_ones", "streams_have_no_gap"]),
        (Plant::ClosedPick, &["only_open_seats_are_picked"]),
        (Plant::SecondEnd, &["requests_end_once"]),
    ] {
        let mut runs =
            (1..=60).map(|seed| run(seed, Script::Seed { steps: 6_000 }, plant).expect("runs"));
        let failed = runs.find(|run| run.violation.is_some());
        assert!(failed.is_some(), "{plant:?} is not found in 60 seeds");
        let failed = failed.expect("as asserted");
        let (seed, before) = (failed.seed, failed.script.len());
        let found = failed.violation.clone().expect("found").invariant;
        assert!(invariants.contains(&found), "{plant:?} shows as {:?}", failed.violation);
        let shrunk = shrink(failed, plant, 150).expect("runs");
        let after = shrunk.run.script.len();
        eprintln!("{plant:?}: seed {seed}, `{found}`, {after} of {before} operations are enough");
        let violation = shrunk.run.violation.expect("still violated");
        assert_eq!(violation.invariant, found);
        assert!(after * 3 <= before * 2 || after <= 8, "{after} of {before} operations");
    }
}
