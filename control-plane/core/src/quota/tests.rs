//! Quotas alone, and gateways that tell each other.

use super::*;
use crate::testing::config;
use proptest::prelude::*;

fn user(name: &str) -> QuotaOf {
    QuotaOf::User(name.into())
}

fn per_minute(requests: u32) -> Bounds {
    Quota { requests_per_minute: Some(requests), ..Quota::default() }.into()
}

fn tokens(prompt_tokens: i64, output_tokens: i64) -> Usage {
    Usage { prompt_tokens, output_tokens, ..Usage::default() }
}

#[test]
fn a_burst_may_use_a_period_and_then_the_rate_holds() {
    let (mut ledger, quota) = (Ledger::default(), [(user("a"), per_minute(60))]);
    let start = Millis(1_000_000);
    for _ in 0..60 {
        ledger.admit(&quota, start).expect("within the burst");
    }
    let exceeded = ledger.admit(&quota, start).expect_err("used up");
    assert_eq!((exceeded.retry_after_ms, exceeded.limit), (1_000, 60));
    assert!(
        exceeded.to_string().contains("user:a") && exceeded.to_string().contains("60 requests")
    );
    ledger.admit(&quota, start.plus(999)).expect_err("not yet");
    ledger.admit(&quota, start.plus(1_000)).expect("one is back");
    ledger.admit(&quota, start.plus(1_000)).expect_err("but one only");
}

#[test]
fn all_quotas_count_or_none() {
    let mut ledger = Ledger::default();
    let both = [(user("a"), per_minute(10)), (QuotaOf::Model("m".into()), per_minute(1))];
    let now = Millis(0);
    ledger.admit(&both, now).expect("both have room");
    ledger.admit(&both, now).expect_err("the model has none");
    let left = ledger.left(&both[0].0, &both[0].1, Measure::Requests, now).expect("limited");
    assert_eq!(left.remaining, 9, "what was refused did not count");
}

#[test]
fn tokens_count_when_they_are_known_and_debts_are_waited_for() {
    let quota = Bounds::from(Quota {
        output_tokens_per_minute: Some(600),
        tokens_per_day: Some(10_000),
        ..Quota::default()
    });
    let (mut ledger, all) = (Ledger::default(), [(user("a"), quota)]);
    let now = Millis(5);
    ledger.admit(&all, now).expect("fresh");
    ledger.charge([&all[0].0], &tokens(100, 1_200), now);
    let exceeded = ledger.admit(&all, now).expect_err("in debt");
    assert_eq!(exceeded.measure, Measure::OutputTokens);
    assert_eq!(exceeded.retry_after_ms, 60_100, "a minute for the debt, and one token");
    ledger.admit(&all, now.plus(60_100)).expect("paid back");
    let day = ledger.left(&all[0].0, &quota, Measure::TokensPerDay, now).expect("limited");
    // A minute brings some of a day back.
    assert_eq!(day.remaining, 10_000 - 1_300 + 6);
}

#[test]
fn streams_count_here_and_elsewhere_until_they_end_or_nobody_tells() {
    let quota = Bounds::from(Quota { streams: Some(2), ..Quota::default() });
    let (mut one, mut two) = (Ledger::default(), Ledger::default());
    let (all, now) = ([(user("a"), quota)], Millis(0));
    one.admit(&all, now).expect("the first");
    two.absorb(NodeId(1), &one.news(), now);
    two.admit(&all, now).expect("the second");
    let exceeded = two.admit(&all, now).expect_err("one is elsewhere");
    assert_eq!(exceeded.measure, Measure::Streams);
    one.release([&all[0].0]);
    two.absorb(NodeId(1), &one.news(), now);
    two.admit(&all, now).expect("that one has ended");
    two.absorb(NodeId(3), &[News { of: user("a"), usage: Usage::default(), streams: 9 }], now);
    two.release([&all[0].0]);
    two.admit(&all, now.plus(1)).expect_err("nine elsewhere");
    let silent = now.plus(limits::QUOTA_NEWS_KEPT_MS + 1);
    two.admit(&all, silent).expect("whoever tells nothing any more is gone");
}

#[test]
fn what_was_thought_too_much_comes_back_here_and_elsewhere() {
    let quota = Bounds::from(Quota { prompt_tokens_per_minute: Some(100), ..Quota::default() });
    let (mut one, mut two) = (Ledger::default(), Ledger::default());
    let (all, now) = ([(user("a"), quota)], Millis(0));
    one.admit(&all, now).expect("fresh");
    one.charge([&all[0].0], &tokens(90, 0), now);
    two.absorb(NodeId(1), &one.news(), now);
    one.charge([&all[0].0], &tokens(-40, 0), now);
    two.absorb(NodeId(1), &one.news(), now);
    for ledger in [&one, &two] {
        let left = ledger.left(&all[0].0, &quota, Measure::PromptTokens, now).expect("limited");
        assert_eq!(left.remaining, 50);
    }
    one.charge([&all[0].0], &tokens(-1_000, 0), now);
    let left = one.left(&all[0].0, &quota, Measure::PromptTokens, now).expect("limited");
    assert_eq!(left.remaining, 100, "nobody gets more than there is");
}

#[test]
fn what_is_made_is_bounded_before_it_is_and_never_goes_below_nothing() {
    let making = Making { models_per_day: Some(2), blob_bytes_per_day: Some(1_000) };
    let (mut ledger, now) = (Ledger::default(), Millis(0));
    let all = [(user("a"), Bounds { making, ..Bounds::default() })];
    let bytes = |blob_bytes| Usage { blob_bytes, ..Usage::default() };
    ledger.make(&all, &bytes(600), now).expect("there is room");
    let exceeded = ledger.make(&all, &bytes(600), now).expect_err("there is not");
    assert_eq!((exceeded.measure, exceeded.limit), (Measure::BlobBytesPerDay, 1_000));
    assert_eq!(exceeded.retry_after_ms, DAY_MS / 5, "until 200 bytes have come back");
    ledger.make(&all, &bytes(400), now).expect("what is left");
    let never = ledger.make(&all, &bytes(1_001), now.plus(DAY_MS)).expect_err("more than all");
    assert_eq!(never.retry_after_ms, DAY_MS);
    let model = Usage { models: 1, ..Usage::default() };
    ledger.make(&all, &model, now).expect("one");
    ledger.make(&all, &model, now).expect("two");
    ledger.make(&all, &model, now).expect_err("not a third");
    ledger.admit(&all, now).expect("requests are another matter");
}

#[test]
fn the_table_is_bounded_and_what_is_idle_is_forgotten() {
    let mut ledger = Ledger::default();
    for nth in 0..limits::QUOTA_ACCOUNTS_COUNT + 10 {
        let all = [(user(&nth.to_string()), per_minute(5))];
        ledger.admit(&all, Millis(0)).expect("fresh");
        ledger.release([&all[0].0]);
    }
    assert!(ledger.accounts.len() <= limits::QUOTA_ACCOUNTS_COUNT);
    let mut one = Ledger::default();
    let all = [(user("a"), per_minute(60))];
    one.admit(&all, Millis(0)).expect("fresh");
    one.release([&all[0].0]);
    assert_eq!(one.news().len(), 1);
    one.admit(&all, Millis(120_000)).expect("fresh again");
    one.release([&all[0].0]);
    one.news();
    one.accounts.get_mut(&all[0].0).expect("there").settle(&all[0].1, Millis(240_000));
    one.news();
    assert!(one.accounts.is_empty());
}

proptest! {
    #![proptest_config(config(300))]
    /// Three gateways that tell each other: together they let through at most what one would, and what each lets through
    /// between two tellings.
    #[test]
    fn gateways_together_let_through_little_more_than_one_would(
        steps in proptest::collection::vec((0..3usize, 0..400u64), 1..400),
        limit in 1..50u32,
        told_every in 1..20usize,
    ) {
        let all = [(user("a"), per_minute(limit))];
        let mut ledgers = vec![Ledger::default(); 3];
        let (mut now, mut passed, mut between, mut most_between) = (Millis(0), 0u64, 0u64, 0u64);
        for (nth, (at, pause)) in steps.into_iter().enumerate() {
            now = now.plus(pause);
            if ledgers[at].admit(&all, now).is_ok() {
                passed += 1;
                between += 1;
                ledgers[at].release([&all[0].0]);
            }
            if nth % told_every == 0 {
                for from in 0..3 {
                    let news = ledgers[from].news();
                    for to in (0..3).filter(|to| *to != from) {
                        ledgers[to].absorb(NodeId(from as u64 + 1), &news, now);
                    }
                }
                most_between = most_between.max(between);
                between = 0;
            }
        }
        let one_would = u64::from(limit) + now.0 * u64::from(limit) / 60_000 + 1;
        prop_assert!(passed <= one_would + most_between.max(between), "{passed} > {one_would}");
    }
}
