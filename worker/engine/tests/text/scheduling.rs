//! Scheduling must not be seen in the output: alone or among others, preempted or not, a sequence
//! generates the same.

use crate::fake::{
    BLOCK_TOKENS, END, FakeBackend, Stream, drain, engine, limits, pipeline, prepared, solo, text,
};
use ollamamax_engine::backend::BackendError;
use ollamamax_engine::engine::{Engine, EngineLimits, Prepared, Refusal, SequenceId};
use ollamamax_proto::inference::{
    FinishReason, Mirostat, MirostatVersion, Options, Predict, Sampling,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub fn options() -> impl Strategy<Value = Options> {
    let version = prop::sample::select(vec![MirostatVersion::One, MirostatVersion::Two]);
    let mirostat = (version, 0.5f32..4.0, 0.05f32..0.5)
        .prop_map(|(version, tau, eta)| Mirostat::new(version, Some(tau), Some(eta)));
    let mirostat = prop_oneof![3 => Just(None), 2 => mirostat.prop_map(Some)];
    let bias = prop::collection::btree_map(0u32..END, -2.0f32..2.0, 0..3);
    let sampling =
        (0u8..3, 0u32..8, 0.5f32..1.0, any::<u64>(), 1.0f32..1.5, 0.5f32..1.5, mirostat, bias)
            .prop_map(|(temperature, top_k, top_p, seed, penalty, tfs_z, mirostat, bias)| {
                Sampling {
                    temperature: f32::from(temperature) * 0.6,
                    top_k,
                    top_p,
                    seed,
                    repeat_penalty: penalty,
                    tfs_z,
                    mirostat,
                    logit_bias: bias,
                    ..Sampling::default()
                }
            });
    let predict = prop_oneof![
        Just(Predict::UntilDone),
        Just(Predict::FillContext),
        (0u32..30).prop_map(Predict::AtMost),
    ];
    let stops = prop::collection::vec("(a|b|c|ab|é|€|da|\u{FFFD}){1,3}", 0..3);
    let logprobs = prop::option::of(0u32..4);
    let keep = prop_oneof![Just(0u32), Just(4), 0u32..100];
    (sampling, predict, stops, any::<bool>(), logprobs, any::<bool>(), keep).prop_map(
        |(sampling, predict, stop, ignore_end, logprobs, shift, keep_tokens)| Options {
            sampling,
            predict,
            stop,
            ignore_end,
            logprobs,
            shift,
            keep_tokens,
            ..Options::default()
        },
    )
}

/// Requests, many of which begin alike, and some with equal blocks at different places.
pub fn request() -> impl Strategy<Value = Prepared> {
    let period = prop::sample::select(vec![1u32, 5]);
    (0u32..30, period, prop::collection::vec(0u32..END, 1..12), options(), 0u8..3).prop_map(
        |(shared, period, own, options, caller)| {
            let prompt: Vec<u32> = (0..shared).map(|n| n % period).chain(own).collect();
            Prepared { caller: caller.to_string(), ..prepared(&prompt, options) }
        },
    )
}

/// The text of tokens, cut before the first stop to be complete, read all at once.
fn read(tokens: &[u32], options: &Options) -> String {
    let visible = tokens.iter().filter(|&&token| token != END);
    let bytes: Vec<u8> =
        visible.flat_map(|&token| text().tokenizer().bytes(token).to_vec()).collect();
    let whole = String::from_utf8_lossy(&bytes).into_owned();
    for (end, _) in whole.char_indices().skip(1).chain([(whole.len(), ' ')]) {
        let ending = options.stop.iter().filter(|stop| whole[..end].ends_with(*stop));
        if let Some(length) = ending.map(String::len).max() {
            return whole[..end - length].to_owned();
        }
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn output_does_not_depend_on_the_batch(
        requests in prop::collection::vec((request(), 0usize..6), 1..9),
        blocks in 12u32..30,
        sequences_max in 1u32..6,
        step_tokens in 1usize..40,
        speculating_max in 0usize..6,
        depth in 1usize..4,
        cancelled in prop::collection::vec((0usize..9, 0usize..20), 0..3),
    ) {
        let limits = EngineLimits { speculating_max, ..limits(sequences_max, step_tokens) };
        let mut engine = pipeline(blocks, limits, depth);
        let mut streams = BTreeMap::<SequenceId, Stream>::new();
        let mut ids = Vec::new();
        let mut gone = BTreeMap::new();
        let mut step = 0;
        let mut left = requests.iter();
        let mut next = left.next();
        while next.is_some() || !engine.is_idle() {
            // Each request arrives some steps after the one before.
            while let Some((request, _)) = next.filter(|(_, after)| step >= ids.len() * after) {
                ids.push(engine.submit(request.clone(), &[]).expect("taken"));
                next = left.next();
            }
            for &(which, at) in &cancelled {
                if let Some(id) = ids.get(which).filter(|_| at == step) {
                    let ended = streams.get(id).is_some_and(|stream| stream.finished.is_some());
                    let first = !gone.contains_key(id);
                    prop_assert_eq!(engine.cancel(*id), !ended && first);
                    if !ended {
                        gone.insert(*id, ());
                    }
                }
            }
            for emission in engine.step().expect("a sound backend") {
                prop_assert!(!gone.contains_key(&emission.sequence), "emitted after its cancel");
                streams.entry(emission.sequence).or_default().take(emission);
            }
            step += 1;
            prop_assert!(step < 20_000, "no progress");
        }
        prop_assert_eq!(engine.kv_usage().used, 0);
        for (id, (request, _)) in ids.iter().zip(&requests) {
            if gone.contains_key(id) {
                continue;
            }
            let (stream, alone) = (&streams[id], solo(request, &[]));
            prop_assert!(stream.finished.is_some(), "never ended");
            prop_assert_eq!(stream.tokens(), alone.tokens());
            prop_assert_eq!(stream.text(), alone.text());
            prop_assert_eq!(&stream.finished, &alone.finished);
            prop_assert_eq!(&stream.logprobs, &alone.logprobs);
        }
    }

    #[test]
    fn each_token_of_the_output_is_told_with_its_log_probability(request in request()) {
        let stream = solo(&request, &[]);
        let mut shown = stream.tokens();
        if !request.options.ignore_end && shown.last() == Some(&END) {
            shown.pop();
        }
        let told: Vec<u32> = stream.logprobs.iter().map(|told| told.chosen.token).collect();
        let asked = request.options.logprobs;
        prop_assert_eq!(told, if asked.is_some() { shown } else { vec![] });
        for told in &stream.logprobs {
            prop_assert_eq!(told.top.len(), asked.unwrap_or(0) as usize);
            prop_assert!(told.top.iter().all(|rival| rival.logprob <= told.top[0].logprob));
            prop_assert!(told.top.first().is_none_or(|best| told.chosen.logprob <= best.logprob));
        }
        // Asking changes nothing.
        let mut silent = request.clone();
        silent.options.logprobs = None;
        prop_assert_eq!(solo(&silent, &[]).tokens(), stream.tokens());
    }

    #[test]
    fn ends_are_what_they_say(request in request()) {
        let stream = solo(&request, &[]);
        let finished = stream.finished.clone().expect("ended");
        let (tokens, text) = (stream.tokens(), stream.text());
        prop_assert_eq!(finished.output_tokens as usize, tokens.len());
        prop_assert_eq!(finished.context, [&request.tokens[..], &tokens].concat());
        prop_assert_eq!(&text, &read(&tokens, &request.options));
        let stops = &request.options.stop;
        prop_assert!(stops.iter().all(|stop| !text.contains(stop)), "a stop in {:?}", text);
        let ends = !request.options.shift || request.options.predict == Predict::FillContext;
        let full = ends && request.tokens.len() + tokens.len() == 48;
        let limit = match request.options.predict {
            Predict::AtMost(limit) => tokens.len() == limit as usize,
            Predict::UntilDone | Predict::FillContext => tokens.len() == 480,
        };
        match finished.reason {
            FinishReason::Length => prop_assert!(full || limit),
            FinishReason::Stop => {
                let end = tokens.last() == Some(&END) && !request.options.ignore_end;
                prop_assert!(end || !stops.is_empty());
            }
        }
    }
}

/// The older half goes, without the tokens to keep; what follows is what would follow on the rest.
#[test]
fn a_context_that_is_full_shifts_and_goes_on() {
    let stream = solo(&prepared(&[3, 1, 4, 1, 5, 9, 2, 6], greedy(100)), &[]);
    let mut context = vec![3, 1, 4, 1, 5, 9, 2, 6];
    let mut tokens = Vec::new();
    while tokens.len() < 100 {
        let left = Predict::AtMost(100 - tokens.len() as u32);
        let rest = Options { predict: left, shift: false, ..greedy(0) };
        let part = solo(&prepared(&context, rest), &[]).tokens();
        context.extend(&part);
        tokens.extend(part);
        context.drain(4..4 + (48 - 4) / 2);
    }
    assert_eq!(stream.tokens(), tokens);
    let finished = stream.finished.expect("ended");
    assert_eq!((finished.reason, finished.output_tokens), (FinishReason::Length, 100));
    assert_eq!(finished.context.len(), 108, "nothing of it is forgotten");

    let ends = Options { shift: false, ..greedy(100) };
    assert_eq!(solo(&prepared(&[3, 1, 4, 1, 5, 9, 2, 6], ends), &[]).tokens().len(), 40);
}

#[test]
fn a_long_queue_of_one_caller_does_not_hold_up_another() {
    let mut engine = engine(64, limits(2, 16));
    let mut submit = |caller: &str| {
        let request = Prepared { caller: caller.to_owned(), ..prepared(&[1, 2, 3], greedy(5)) };
        engine.submit(request, &[]).expect("taken")
    };
    let many: Vec<_> = (0..20).map(|_| submit("many")).collect();
    let few = [submit("few"), submit("few")];
    let mut started = Vec::new();
    while !engine.is_idle() {
        let emissions = engine.step().expect("a sound backend");
        started.extend(emissions.iter().filter(|e| e.started.is_some()).map(|e| e.sequence));
    }
    let place = |id| started.iter().position(|other| *other == id).expect("started");
    assert!(place(few[0]) < 3 && place(few[1]) < 6, "{started:?}");
    assert!(many.is_sorted_by_key(|id| place(*id)), "a caller's own requests keep their order");
}

fn greedy(predict: u32) -> Options {
    Options {
        predict: Predict::AtMost(predict),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ignore_end: true,
        ..Options::default()
    }
}

#[test]
fn a_long_prompt_does_not_stall_a_running_stream() {
    let mut engine = engine(64, limits(4, 8));
    let first = engine.submit(prepared(&[1, 2], greedy(20)), &[]).expect("taken");
    engine.step().expect("steps");
    engine.submit(prepared(&[3; 40], greedy(4)), &[]).expect("taken");
    for _ in 0..6 {
        let emissions = engine.step().expect("steps");
        let tokens = emissions.iter().find(|emission| emission.sequence == first);
        assert_eq!(tokens.map(|emission| emission.tokens.len()), Some(1));
    }
}

#[test]
fn the_newest_is_preempted_and_everyone_still_ends() {
    // Twelve blocks hold one whole context; four sequences need more than that.
    let mut engine = engine(12, limits(4, 32));
    let requests: Vec<Prepared> = (0..4).map(|n| prepared(&[n; 9], greedy(30))).collect();
    let ids: Vec<_> =
        requests.iter().map(|r| engine.submit(r.clone(), &[]).expect("taken")).collect();
    let mut preempted = false;
    let mut streams = BTreeMap::<SequenceId, Stream>::new();
    let mut before = engine.waiting();
    while !engine.is_idle() {
        for emission in engine.step().expect("steps") {
            streams.entry(emission.sequence).or_default().take(emission);
        }
        preempted |= engine.waiting() > before;
        before = engine.waiting();
    }
    assert!(preempted);
    for (id, request) in ids.iter().zip(&requests) {
        assert_eq!(streams[id].tokens(), solo(request, &[]).tokens());
    }
}

#[test]
fn a_prompt_known_from_before_is_found_in_the_cache() {
    let mut engine = engine(64, limits(2, 128));
    let request = prepared(&[1, 2, 3, 4, 5, 6, 7, 8, 9], greedy(3));
    engine.submit(request.clone(), &[]).expect("taken");
    drain(&mut engine);
    engine.submit(request.clone(), &[]).expect("taken");
    let started = engine.admit()[0].started.expect("admitted");
    assert_eq!((started.prompt_tokens, started.cached_tokens), (9, 2 * BLOCK_TOKENS));
    let stream = drain_started(&mut engine);
    assert_eq!(stream, solo(&request, &[]).tokens());
}

fn drain_started(engine: &mut Engine) -> Vec<u32> {
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        tokens.extend(engine.step().expect("steps").into_iter().flat_map(|e| e.tokens));
    }
    tokens
}

#[test]
fn what_cannot_run_is_refused_with_the_reason() {
    let mut engine = engine(4, EngineLimits { waiting_max: 1, ..limits(1, 8) });
    assert_eq!(engine.limits().context_tokens, 16, "cut to what the blocks hold");
    let refusal = |engine: &mut Engine, tokens: &[u32]| {
        engine.submit(prepared(tokens, greedy(4)), &[]).expect_err("refused")
    };
    assert_eq!(refusal(&mut engine, &[]), Refusal::Empty);
    assert_eq!(refusal(&mut engine, &[1; 16]), Refusal::TooLong { tokens: 16, context_tokens: 16 });
    assert_eq!(refusal(&mut engine, &[99]), Refusal::Token { token: 99, vocabulary: 16 });
    engine.submit(prepared(&[1], greedy(4)), &[]).expect("taken");
    assert_eq!(refusal(&mut engine, &[1]), Refusal::Full { waiting: 1, limit: 1 });
    engine.step().expect("steps");
    engine.submit(prepared(&[1], greedy(4)), &[]).expect("its place in the queue is free again");
}

#[test]
fn a_request_for_no_tokens_ends_at_once() {
    let stream = solo(&prepared(&[1, 2], greedy(0)), &[]);
    let finished = stream.finished.expect("ended");
    assert_eq!((finished.reason, finished.output_tokens), (FinishReason::Length, 0));
}

#[test]
fn a_sequence_cancelled_between_admit_and_step_is_not_computed() {
    let mut engine = engine(8, limits(2, 8));
    let id = engine.submit(prepared(&[1, 2], greedy(4)), &[]).expect("taken");
    assert_eq!(engine.admit().len(), 1);
    assert!(engine.cancel(id));
    assert_eq!(engine.step(), Ok(Vec::new()));
    assert!(engine.is_idle() && !engine.cancel(id));
}

#[test]
fn an_engine_whose_device_failed_says_so_again_and_again() {
    let mut backend = FakeBackend::new(8, 8);
    backend.fails_after = Some(1);
    let mut engine = Engine::new(Box::new(backend), text(), limits(2, 8));
    engine.submit(prepared(&[1, 2], greedy(4)), &[]).expect("taken");
    assert!(engine.step().is_ok());
    for _ in 0..2 {
        assert_eq!(engine.step(), Err(BackendError::Device("unplugged".into())));
    }
}
