//! Quotas alone, and gateways that tell each other.

use super::*;
use crate::testing::config;
use proptest::prelude::*;

fn user(name: &str) -> QuotaOf {
    QuotaOf::User(name.into())
}

fn per_minute(requests: u32) -> Quota {
    Quota { requests_per_minute: Some(requests), ..Quota::default() }
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
    let quota = Quota {
        output_tokens_per_minute: Some(600),
        tokens_per_day: Some(10_000),
        ..Quota::default()
    };
    let (mut ledger, all) = (Ledger::default(), [(user("a"), quota)]);
    let now = Millis(5);
    ledger.admit(&all, now).expect("fresh");
    ledger.charge([&all[0].0], (100, 1_200), now);
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
    let quota = Quota { streams: Some(2), ..Quota::default() };
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
