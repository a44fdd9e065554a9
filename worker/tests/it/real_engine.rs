//! The same worker with the real engine and the real model, over real sockets.

use crate::support::{FakeNode, TestWorker, enrol, generate, until};
use ollamamax_engine::architecture::Architecture;
use ollamamax_engine::synth::Synth;
use ollamamax_proto::inference::{
    Chat, EmbedInput, EmbedRequest, GenerateRequest, Message, Options, Predict, Prompt, Salt,
};
use ollamamax_proto::placement::{Assignment, Stage};
use ollamamax_proto::{AssignmentId, Digest, Generation, limits, wire};
use ollamamax_tests::model;
use ollamamax_worker::{WorkerConfig, WorkerNode};
use tempfile::TempDir;

struct Ready {
    node: FakeNode,
    worker: TestWorker,
    held: Assignment,
    _hints: TempDir,
}

/// A worker that holds SmolLM2-135M.
async fn ready() -> Ready {
    let node = FakeNode::start();
    let digest: Digest = format!("sha256:{}", model::SMOLLM2_SHA256).parse().expect("a digest");
    let hints = tempfile::tempdir().expect("a directory");
    let hint = hints.path().join(format!("sha256-{}", digest.hex()));
    std::os::unix::fs::symlink(model::smollm2(), hint).expect("linked");
    let held = Assignment {
        id: AssignmentId(1),
        generation: Generation(1),
        model: "smollm2:135m".parse().expect("a name"),
        blob: digest,
        blob_bytes: model::SMOLLM2_BYTES,
        stage: Stage::whole(30),
        context_length: 512,
        sequences_max: 8,
    };
    node.assign(2, std::slice::from_ref(&held));
    let dir = tempfile::tempdir().expect("a directory");
    let listen = "127.0.0.1:0".parse().expect("an address");
    enrol(dir.path());
    let mut config = WorkerConfig::new(dir.path(), listen, vec![node.address.clone()]);
    config.memory_bytes = 1 << 30;
    config.blob_hints = vec![hints.path().to_owned()];
    let running = WorkerNode::start(config).await.expect("the worker starts");
    until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
    Ready { node, worker: TestWorker { running, dir }, held, _hints: hints }
}

fn ask(of: &Assignment, question: &str, predict: u32, temperature: f32) -> wire::GenerateRequest {
    let mut options = Options { predict: Predict::AtMost(predict), ..Options::default() };
    options.sampling.temperature = temperature;
    options.sampling.seed = 42;
    let message = Message { role: "user".into(), content: question.into(), ..Message::default() };
    (&GenerateRequest {
        request_id: "r".to_owned(),
        attempt: 0,
        model: of.model.clone(),
        blob: of.blob,
        assignment: of.id,
        generation: of.generation,
        prompt: Prompt::Chat(Chat { messages: vec![message], ..Chat::default() }),
        options,
        resume: vec![],
        caller: String::new(),
        time_left: None,
        prefix: Default::default(),
        salt: Default::default(),
    })
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_hear_which_beginnings_are_cached() {
    let Ready { worker, held, .. } = ready().await;
    let mut client = worker.client().await;
    let about = |generation: u64| wire::CacheEventsRequest {
        assignment: held.id.0,
        generation,
        blob: held.blob.to_string(),
    };
    let refused = client.cache_events(about(9)).await.expect_err("another generation");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let news = client.cache_events(about(held.generation.0)).await.expect("accepted");
    let mut news = news.into_inner();
    let first = news.message().await.expect("no error").expect("what is cached");
    assert!(first.reset && first.stored.is_empty(), "{first:?}");
    let mut long = ask(&held, &"The sea is wide and deep. ".repeat(40), 2, 0.0);
    long.prefix = Some(wire::Prefix { hashes: vec![7, 8, 9], bytes: 1_100 });
    generate(&mut client, long).await.expect("an answer");
    let mut stored = Vec::new();
    while stored.len() < 3 {
        stored.extend(news.message().await.expect("no error").expect("more").stored);
    }
    assert_eq!(stored, [7, 8, 9]);
    worker.running.stop().await;
    assert!(matches!(news.message().await, Ok(None) | Err(_)), "it ends with the worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_cached_is_cached_for_nobody_else_and_streams_are_the_same() {
    let Ready { worker, held, .. } = ready().await;
    let mut client = worker.client().await;
    let long = ask(&held, &"The sea is wide and deep. ".repeat(30), 8, 0.8);
    let mut as_user = async |user: Option<&str>| {
        let salt = user.map_or(Salt::SHARED, Salt::of);
        let salt = if salt == Salt::SHARED { Vec::new() } else { salt.0.to_be_bytes().to_vec() };
        let request = wire::GenerateRequest { salt: salt.into(), ..long.clone() };
        let answer = generate(&mut client, request).await.expect("an answer");
        let started = answer.started.expect("a start");
        (answer.tokens, started.cached_tokens, started.prompt_tokens)
    };
    let (tokens, cached, prompt) = as_user(Some("alice")).await;
    assert_eq!(cached, 0, "nobody has asked yet");
    let (again, cached, _) = as_user(Some("alice")).await;
    assert!(cached > prompt / 2, "{cached} of {prompt} tokens are her own");
    assert_eq!(again, tokens);
    for other in [Some("bob"), None] {
        let (theirs, cached, _) = as_user(other).await;
        assert_eq!(cached, 0, "{other:?} learns that somebody has asked");
        assert_eq!(theirs, tokens, "the same question has the same answer");
    }
    let bad = wire::GenerateRequest { salt: vec![1; 3].into(), ..long.clone() };
    let refused = client.generate(bad).await.expect_err("three bytes");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_answers_resumes_and_is_deterministic_among_sixteen() {
    let Ready { node, worker, held, .. } = ready().await;
    let report = node.report(held.id).expect("a report");
    assert!(report.resident_bytes > model::SMOLLM2_BYTES / 2 && report.load_ns > 0, "{report:?}");
    let mut client = worker.client().await;
    let mut paris = ask(&held, "", 4, 0.0);
    paris.kind = "text".to_owned();
    paris.text = "The capital of France is".to_owned();
    let answer = generate(&mut client, paris).await.expect("an answer");
    assert!(answer.text.starts_with(" Paris"), "{}", answer.text);
    assert_eq!(answer.started.expect("a start").prompt_tokens, 5);

    // Sampled with a seed: alone, resumed in the middle, and beside fifteen others, the same tokens.
    let story = ask(&held, "Tell me about the sea.", 24, 0.8);
    let alone = generate(&mut client, story.clone()).await.expect("an answer");
    let mut resumed = story.clone();
    resumed.resume = alone.tokens[..9].to_vec();
    let rest = generate(&mut client, resumed).await.expect("an answer");
    assert_eq!(rest.tokens, alone.tokens[9..]);
    assert!(alone.text.ends_with(&rest.text), "{:?} {:?}", alone.text, rest.text);
    let (alone_done, rest_done) = (alone.done.expect("an end"), rest.done.expect("an end"));
    assert_eq!(rest_done.context, alone_done.context);
    assert_eq!(rest_done.output_tokens, alone_done.output_tokens);

    let mut streams = Vec::new();
    for n in 0..16 {
        let request =
            if n % 4 == 0 { story.clone() } else { ask(&held, &format!("Count to {n}."), 12, 0.8) };
        let mut client = client.clone();
        streams.push(tokio::spawn(async move { generate(&mut client, request).await }));
    }
    for (n, stream) in streams.into_iter().enumerate() {
        let answer = stream.await.expect("no panic").expect("an answer");
        if n % 4 == 0 {
            assert_eq!(answer.tokens, alone.tokens);
            assert_eq!(answer.text, alone.text);
        }
    }

    let dropped = client.generate(ask(&held, "Write a book.", 400, 0.8)).await.expect("accepted");
    let mut dropped = dropped.into_inner();
    dropped.message().await.expect("no error").expect("a chunk");
    drop(dropped);
    until("the place is free", || worker.running.holder().outstanding() == 0).await;
    let mut last = ask(&held, "Hello", 4, 0.8);
    last.tokens = vec![60_000_000];
    last.kind = "tokens".to_owned();
    let status = client.generate(last).await.expect_err("no such token");
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert!(status.message().contains("60000000"), "{status}");
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_model_are_reported_with_the_reason() {
    let node = FakeNode::start();
    let bytes = b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    node.put_blob(&bytes);
    let held = crate::support::assignment(1, 1, &bytes);
    node.assign(2, std::slice::from_ref(&held));
    let dir = tempfile::tempdir().expect("a directory");
    let listen = "127.0.0.1:0".parse().expect("an address");
    enrol(dir.path());
    let config = WorkerConfig::new(dir.path(), listen, vec![node.address.clone()]);
    let running = WorkerNode::start(config).await.expect("the worker starts");
    until("failed", || node.phase(&held).as_deref() == Some("failed")).await;
    let detail = node.report(held.id).expect("a report").detail;
    assert!(detail.contains("byte 8"), "{detail}");
    running.stop().await;
}

/// A whole encoder: loaded without memory for a cache, it embeds and says that it does not generate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_embeds_and_does_not_generate() {
    for family in ["bert", "nomic-bert"] {
        let node = FakeNode::start();
        let blob = Synth::encoder(Architecture::find(family).expect("a family"), 7).to_gguf();
        node.put_blob(&blob);
        let held = Assignment {
            stage: Stage::whole(2),
            context_length: 64,
            ..crate::support::assignment(1, 1, &blob)
        };
        node.assign(2, std::slice::from_ref(&held));
        let dir = tempfile::tempdir().expect("a directory");
        let listen = "127.0.0.1:0".parse().expect("an address");
        enrol(dir.path());
        let mut config = WorkerConfig::new(dir.path(), listen, vec![node.address.clone()]);
        // The weights and a little more.
        config.memory_bytes = blob.len() as u64 + 1_000;
        let running = WorkerNode::start(config).await.expect("the worker starts");
        until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
        let worker = TestWorker { running, dir };
        let mut client = worker.client().await;
        let long = "a".repeat(500);
        let embed = |texts: &[&str], truncate| -> wire::EmbedRequest {
            let text = |text: &&str| EmbedInput::Text((*text).to_owned());
            (&EmbedRequest {
                request_id: "r".to_owned(),
                attempt: 0,
                blob: held.blob,
                assignment: held.id,
                generation: held.generation,
                inputs: texts.iter().map(text).collect(),
                truncate,
                caller: String::new(),
                time_left: None,
            })
                .into()
        };
        let texts = ["The cat", "the CAT!", "", &long];
        let reply = client.embed(embed(&texts, true)).await.expect("vectors").into_inner();
        let tokens: Vec<u32> = reply.embeddings.iter().map(|e| e.tokens).collect();
        // A word of more than a hundred characters is none.
        assert_eq!(tokens, [4, 5, 2, 3], "{family}");
        for embedding in &reply.embeddings {
            let length: f32 = embedding.values.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{family}: {length}");
        }
        let spaced = "a ".repeat(500);
        let cut = client.embed(embed(&[&spaced], true)).await.expect("a vector").into_inner();
        assert_eq!(cut.embeddings[0].tokens, 64);
        let status = client.embed(embed(&[&spaced], false)).await.expect_err("too long");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "the input length exceeds the context length");

        let status = client.generate(ask(&held, "Hello", 4, 0.8)).await.expect_err("an encoder");
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        let expected = format!("\"{}\" does not support generate", held.model);
        assert_eq!(status.message(), expected);
        worker.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_how_fast_it_reads_and_how_long_its_steps_take() {
    let Ready { node, worker, held, .. } = ready().await;
    let beats = || node.script.heartbeats.lock().expect("a lock").clone();
    let believed = limits::NS_PER_MIB_MIN..=limits::NS_PER_MIB_MAX;
    until("measured", || beats().last().is_some_and(|beat| believed.contains(&beat.ns_per_mib)))
        .await;
    let steps = || beats().iter().flat_map(|beat| beat.reports.clone()).collect::<Vec<_>>();
    assert!(steps().iter().all(|report| report.step_ns_per_mib == 0), "nothing ran yet");
    let mut client = worker.client().await;
    generate(&mut client, ask(&held, "Count.", 40, 0.0)).await.expect("an answer");
    let measured = || steps().iter().any(|report| believed.contains(&report.step_ns_per_mib));
    until("steps are told", measured).await;
    let read = beats().last().map_or(0, |beat| beat.ns_per_mib);
    let step = steps().iter().map(|report| report.step_ns_per_mib).filter(|ns| *ns > 0).min();
    eprintln!("a MiB is read in {read} ns, in steps in {step:?} ns");
}
