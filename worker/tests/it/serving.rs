//! Requests: streamed, refused, cancelled, many at once.

use crate::support::{
    FakeNode, Knobs, TestWorker, assignment, collect, expected_tokens, generate, request, start,
    until,
};
use ollamamax_proto::inference::{EmbedInput, EmbedRequest};
use ollamamax_proto::placement::Assignment;
use ollamamax_proto::{Digest, limits, wire};
use std::sync::atomic::Ordering::SeqCst;
use tonic::Code;

/// A worker that holds one ready assignment.
async fn ready(knobs: &Knobs) -> (FakeNode, TestWorker, Assignment) {
    let node = FakeNode::start();
    let blob = b"a model".to_vec();
    node.put_blob(&blob);
    let held = assignment(7, 3, &blob);
    node.assign(2, std::slice::from_ref(&held));
    let worker = start(&[&node], knobs).await;
    until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
    (node, worker, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_stream_with_a_start_an_end_and_times() {
    let knobs = Knobs::default();
    knobs.step_ms.store(2, SeqCst);
    let (_node, worker, held) = ready(&knobs).await;
    let mut client = worker.client().await;
    let answer = generate(&mut client, request(&held, &[5, 6], 20)).await.expect("an answer");
    assert_eq!(answer.tokens, expected_tokens(&[5, 6], 20));
    assert!(answer.chunks > 5, "{} chunks are no stream", answer.chunks);
    assert_eq!(answer.started.expect("a start").prompt_tokens, 2);
    let done = answer.done.expect("an end");
    assert_eq!((done.reason.as_str(), done.output_tokens), ("length", 20));
    assert_eq!(done.context, [vec![5, 6], answer.tokens].concat());
    assert!(done.prompt_ns >= 1_000_000 && done.output_ns >= 19_000_000, "{done:?}");
    let mut tokenize = async |blob: Digest| {
        let request =
            wire::TokenizeRequest { blob: blob.to_string(), text: "hi".to_owned(), chat: None };
        client.tokenize(request).await
    };
    let tokens = tokenize(held.blob).await.expect("tokens").into_inner().tokens;
    assert_eq!(tokens, [104, 105]);
    let status = tokenize(Digest::of(b"other")).await.expect_err("not held");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_streams_share_steps_and_each_gets_its_own_tokens() {
    let knobs = Knobs::default();
    knobs.step_ms.store(1, SeqCst);
    let (node, worker, held) = ready(&knobs).await;
    let mut streams = Vec::new();
    for n in 0..16u32 {
        let mut client = worker.client().await;
        let request = request(&held, &[n, 1, 2], 30);
        streams.push(tokio::spawn(async move { generate(&mut client, request).await }));
    }
    for (n, stream) in streams.into_iter().enumerate() {
        let answer = stream.await.expect("no panic").expect("an answer");
        assert_eq!(answer.tokens, expected_tokens(&[n as u32, 1, 2], 30));
    }
    let batch_max = knobs.batch_max.load(SeqCst);
    assert!((2..=4).contains(&batch_max), "{batch_max} sequences at once, four have a place");
    until("all places are free", || {
        node.report(held.id).is_some_and(|report| (report.running, report.waiting) == (0, 0))
    })
    .await;
    let steps = knobs.steps.load(SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(knobs.steps.load(SeqCst), steps, "an idle engine does not turn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_stream_goes_on_where_the_other_ended() {
    let (_node, worker, held) = ready(&Knobs::default()).await;
    let mut client = worker.client().await;
    let whole = generate(&mut client, request(&held, &[9], 12)).await.expect("an answer");
    let mut resumed = request(&held, &[9], 12);
    resumed.resume = whole.tokens[..5].to_vec();
    resumed.attempt = 1;
    let mut stream = client.generate(resumed.clone()).await.expect("accepted").into_inner();
    let first = stream.message().await.expect("no error").expect("a chunk");
    assert_eq!(first.index, 5);
    let rest = generate(&mut client, resumed).await.expect("an answer");
    assert_eq!(rest.tokens, whole.tokens[5..]);
    assert_eq!(rest.done.map(|done| done.context), whole.done.map(|done| done.context));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_cannot_go_on_tells_its_client_why_and_ends_no_other() {
    let knobs = Knobs::default();
    knobs.step_ms.store(1, SeqCst);
    knobs.stuck.store(true, SeqCst);
    let (node, worker, held) = ready(&knobs).await;
    let (mut client, mut other) = (worker.client().await, worker.client().await);
    let (stuck, whole) = tokio::join!(
        async {
            let mut stream = client.generate(request(&held, &[13], 30)).await?.into_inner();
            let mut tokens = Vec::new();
            while let Some(chunk) =
                stream.message().await.inspect_err(|_| assert_eq!(tokens.len(), 3))?
            {
                tokens.extend(chunk.tokens);
            }
            Ok::<_, tonic::Status>(tokens)
        },
        generate(&mut other, request(&held, &[5], 30)),
    );
    let status = stuck.expect_err("it cannot go on");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "told to be stuck"));
    assert_eq!(whole.expect("an answer").tokens, expected_tokens(&[5], 30));
    until("both places are free", || {
        node.report(held.id).is_some_and(|report| (report.running, report.waiting) == (0, 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_frees_its_place() {
    let knobs = Knobs::default();
    knobs.step_ms.store(1, SeqCst);
    let (node, worker, held) = ready(&knobs).await;
    let mut client = worker.client().await;
    for _ in 0..3 {
        let accepted = client.generate(request(&held, &[1], 100_000)).await;
        let mut stream = accepted.expect("accepted").into_inner();
        stream.message().await.expect("no error").expect("a chunk");
        drop(stream);
    }
    until("all three are cancelled", || knobs.cancelled.load(SeqCst) == 3).await;
    until("their places are reported free", || {
        node.report(held.id).is_some_and(|report| (report.running, report.waiting) == (0, 0))
    })
    .await;
    let answer = generate(&mut client, request(&held, &[1], 3)).await.expect("an answer");
    assert_eq!(answer.tokens.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_gets_everything_in_fewer_chunks() {
    let (_node, worker, held) = ready(&Knobs::default()).await;
    let mut client = worker.client().await;
    let stream = client.generate(request(&held, &[3], 5_000)).await.expect("accepted").into_inner();
    until("the engine is done before the client reads", || {
        worker.running.holder().outstanding() == 0
    })
    .await;
    let answer = collect(stream).await.expect("an answer");
    assert_eq!(answer.tokens, expected_tokens(&[3], 5_000));
    assert_eq!(answer.text.split_whitespace().count(), 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_routed_by_an_old_map_are_refused_with_the_reason() {
    let (_node, worker, held) = ready(&Knobs::default()).await;
    let mut client = worker.client().await;
    let mut refused = async |change: &dyn Fn(&mut wire::GenerateRequest)| {
        let mut request = request(&held, &[1], 3);
        change(&mut request);
        let status = generate(&mut client, request).await.expect_err("refused");
        (status.code(), status.message().to_owned())
    };
    let (code, words) = refused(&|r| r.assignment = 8).await;
    assert_eq!(code, Code::NotFound, "{words}");
    for stale in [2, 4] {
        let (code, words) = refused(&|r| r.generation = stale).await;
        assert_eq!(code, Code::FailedPrecondition, "{words}");
        assert!(words.contains("generation `3`"), "{words}");
    }
    let (code, words) = refused(&|r| r.blob = Digest::of(b"x").to_string()).await;
    assert_eq!(code, Code::FailedPrecondition, "{words}");
    let (code, words) = refused(&|r| r.tokens.clear()).await;
    assert_eq!((code, words.as_str()), (Code::InvalidArgument, "the prompt is empty"));
    let (code, words) = refused(&|r| r.options = None).await;
    assert_eq!(code, Code::InvalidArgument, "{words}");
    let (code, words) = refused(&|r| r.kind = "song".to_owned()).await;
    assert_eq!(code, Code::InvalidArgument, "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_recovers() {
    let knobs = Knobs::default();
    knobs.held.store(true, SeqCst);
    let (_node, worker, held) = ready(&knobs).await;
    let mut client = worker.client().await;
    let places = limits::WORKER_WAITING_COUNT + held.sequences_max as usize;
    let mut streams = Vec::new();
    let share = places - limits::WORKER_OTHERS_COUNT;
    for place in 0..places {
        let caller = if place < share { "one".to_owned() } else { place.to_string() };
        let asked = wire::GenerateRequest { caller, ..request(&held, &[1], 2) };
        streams.push(client.generate(asked).await.expect("accepted").into_inner());
        if place + 1 == share {
            let one = wire::GenerateRequest { caller: "one".to_owned(), ..request(&held, &[1], 2) };
            let status = client.generate(one).await.expect_err("the rest is for others");
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        }
    }
    let status = client.generate(request(&held, &[1], 2)).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    knobs.held.store(false, SeqCst);
    for stream in streams {
        assert_eq!(collect(stream).await.expect("an answer").tokens.len(), 2);
    }
    generate(&mut client, request(&held, &[1], 2)).await.expect("there is room again");
}

fn embed(held: &Assignment, inputs: &[EmbedInput]) -> wire::EmbedRequest {
    (&EmbedRequest {
        request_id: "r".to_owned(),
        attempt: 0,
        blob: held.blob,
        assignment: held.id,
        generation: held.generation,
        inputs: inputs.to_vec(),
        truncate: true,
        caller: String::new(),
        time_left: None,
    })
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_embedded_in_order_or_refused() {
    let (_node, worker, held) = ready(&Knobs::default()).await;
    let mut client = worker.client().await;
    let inputs = [EmbedInput::Text("hi".to_owned()), EmbedInput::Tokens(vec![1, 2, 3])];
    let reply = client.embed(embed(&held, &inputs)).await.expect("vectors").into_inner();
    let found: Vec<_> = reply.embeddings.into_iter().map(|e| (e.values, e.tokens)).collect();
    assert_eq!(found, [(vec![104.0, 105.0], 2), (vec![1.0, 2.0, 3.0], 3)]);
    let none = client.embed(embed(&held, &[])).await.expect("none").into_inner();
    assert!(none.embeddings.is_empty());

    let mut refused = async |request| client.embed(request).await.expect_err("refused").code();
    let empty = embed(&held, &[EmbedInput::Tokens(vec![])]);
    assert_eq!(refused(empty).await, Code::InvalidArgument);
    let many = vec![EmbedInput::Tokens(vec![1]); limits::EMBED_PART_COUNT + 1];
    assert_eq!(refused(embed(&held, &many)).await, Code::InvalidArgument);
    let stale = wire::EmbedRequest { generation: 2, ..embed(&held, &inputs) };
    assert_eq!(refused(stale).await, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_a_client_that_goes_are_given_up() {
    let knobs = Knobs::default();
    knobs.held.store(true, SeqCst);
    let (_node, worker, held) = ready(&knobs).await;
    let mut client = worker.client().await;
    let request = embed(&held, &[EmbedInput::Tokens(vec![1])]);
    let call = tokio::spawn(async move { client.embed(request).await });
    until("it is taken", || worker.running.holder().outstanding() == 1).await;
    call.abort();
    until("it is given up", || knobs.cancelled.load(SeqCst) == 1).await;
    until("its place is free", || worker.running.holder().outstanding() == 0).await;
    let mut client = worker.client().await;
    let request = embed(&held, &[EmbedInput::Tokens(vec![1])]);
    let late = wire::EmbedRequest { time_left_ms: 1, ..request };
    assert_eq!(client.embed(late).await.expect_err("late").code(), Code::DeadlineExceeded);
    until("it is given up, too", || knobs.cancelled.load(SeqCst) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_when_its_time_is_over_and_frees_its_place() {
    let knobs = Knobs::default();
    knobs.step_ms.store(1, SeqCst);
    let (node, worker, held) = ready(&knobs).await;
    let mut client = worker.client().await;
    let timed = wire::GenerateRequest { time_left_ms: 60, ..request(&held, &[1], 100_000) };
    let status = generate(&mut client, timed).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // One that waits for a place is no better off.
    knobs.held.store(true, SeqCst);
    let timed = wire::GenerateRequest { time_left_ms: 1, ..request(&held, &[1], 2) };
    let status = generate(&mut client, timed).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    until("both places are free", || {
        node.report(held.id).is_some_and(|report| (report.running, report.waiting) == (0, 0))
    })
    .await;
    assert_eq!(knobs.cancelled.load(SeqCst), 2);
}
