//! Whatever is sound survives the wire; whatever is not is refused by its name.

use super::*;
use crate::WorkerId;
use crate::ids::{Digest, ReplicaId};
use crate::inference::{
    EmbedInput, EmbedRequest, Embedding, Logprob, Mirostat, MirostatVersion, Options, OutputFormat,
    Predict, Prefix, Sampling, TokenLogprob,
};
use crate::placement::{Activations, Assigned, Assignment, Peer, Ring, Stage};
use proptest::prelude::*;

fn request(options: Options) -> GenerateRequest {
    GenerateRequest {
        request_id: "r1".to_owned(),
        attempt: 1,
        model: "m:1".parse().expect("a name"),
        blob: Digest::of(b"x"),
        assignment: AssignmentId(3),
        generation: Generation(4),
        prompt: Prompt::Text("hello".to_owned()),
        options,
        resume: vec![1, 2],
        caller: "somebody".to_owned(),
        time_left: Some(Duration::from_millis(1500)),
        prefix: Prefix { hashes: vec![u64::MAX, 0], bytes: 700 },
        salt: crate::prefix::Salt(u128::MAX - 7),
    }
}

#[test]
fn a_beginning_with_more_hashes_than_bytes_is_refused() {
    let with = |hashes: usize, bytes: u64| {
        let mut wire = wire::GenerateRequest::from(&request(Options::default()));
        wire.prefix = Some(wire::Prefix { hashes: vec![7; hashes], bytes });
        GenerateRequest::try_from(wire).map(|request| request.prefix.hashes.len())
    };
    assert_eq!(with(2, 512), Ok(2));
    let error = with(3, 512).expect_err("two blocks").to_string();
    assert_eq!(error, "`prefix.hashes` is `3`, expected at most 2 for 512 bytes");
    assert!(with(limits::PREFIX_BLOCKS_COUNT + 1, u64::MAX).is_err());
}

fn mirostat() -> impl Strategy<Value = Option<Mirostat>> {
    let version = prop::sample::select(vec![MirostatVersion::One, MirostatVersion::Two]);
    let mirostat = (version, 0.001f32..100.0, 0.001f32..10.0, prop::option::of(-1e3f64..1e3))
        .prop_map(|(version, tau, eta, mu)| Mirostat { version, tau, eta, mu });
    prop::option::of(mirostat)
}

fn format() -> impl Strategy<Value = Option<OutputFormat>> {
    prop::option::of(prop_oneof![
        Just(OutputFormat::Json),
        any::<String>().prop_map(OutputFormat::Schema),
        any::<String>().prop_map(OutputFormat::Grammar),
    ])
}

fn logprob() -> impl Strategy<Value = Logprob> {
    (any::<u32>(), -9999.0f32..=0.0, prop::collection::vec(any::<u8>(), 0..5))
        .prop_map(|(token, logprob, bytes)| Logprob { token, logprob, bytes })
}

proptest! {
    #[test]
    fn a_request_survives_the_wire(
        seed: u64,
        predict in 0u32..9,
        temperature in 0.0f32..=100.0,
        top_p in 0.0f32..=1.0,
        tfs_z in 0.0f32..3.0,
        mirostat in mirostat(),
        logit_bias in prop::collection::btree_map(any::<u32>(), -100.0f32..=100.0, 0..5),
        logprobs in prop::option::of(0u32..=20),
        format in format(),
    ) {
        let sampling =
            Sampling { temperature, top_p, tfs_z, mirostat, logit_bias, seed, ..Sampling::default() };
        let predict = Predict::AtMost(predict);
        let request = request(Options { predict, sampling, logprobs, format, ..Options::default() });
        let back = GenerateRequest::try_from(wire::GenerateRequest::from(&request));
        prop_assert_eq!(back, Ok(request));
    }

    #[test]
    fn a_chunk_survives_the_wire(
        tokens in prop::collection::vec((any::<u32>(), logprob(), prop::collection::vec(logprob(), 0..=20)), 0..4),
        mu in prop::option::of(-1e9f64..1e9),
    ) {
        let logprobs = tokens.iter().map(|(_, chosen, top)| TokenLogprob { chosen: chosen.clone(), top: top.clone() });
        let chunk = TokenChunk {
            index: 7,
            logprobs: logprobs.collect(),
            tokens: tokens.iter().map(|(token, ..)| *token).collect(),
            text: "é".to_owned(),
            mu,
            ..TokenChunk::default()
        };
        prop_assert_eq!(TokenChunk::try_from(wire::TokenChunk::from(chunk.clone())), Ok(chunk));
    }
}

type Spoil = Box<dyn Fn(&mut wire::Options)>;

#[test]
fn out_of_range_options_are_refused_by_name() {
    let mirostat = |tau, eta| wire::Mirostat { version: 1, tau, eta, mu: None };
    let spoils: Vec<(Spoil, &str)> = vec![
        (Box::new(|o| o.predict_tokens = -3), "`num_predict` is `-3`"),
        (Box::new(|o| o.temperature = f32::NAN), "`temperature` is `NaN`, expected a number from"),
        (Box::new(|o| o.temperature = -0.1), "`temperature` is `-0.1`"),
        (Box::new(|o| o.top_p = 1.5), "`top_p` is `1.5`, expected a number from 0 to 1"),
        (Box::new(|o| o.min_p = -1.0), "`min_p`"),
        (Box::new(|o| o.typical_p = f32::INFINITY), "`typical_p`"),
        (Box::new(|o| o.tfs_z = Some(-1.0)), "`tfs_z`"),
        (Box::new(|o| o.repeat_penalty = 1e9), "`repeat_penalty`"),
        (Box::new(|o| o.presence_penalty = 101.0), "`presence_penalty`"),
        (Box::new(|o| o.frequency_penalty = f32::NEG_INFINITY), "`frequency_penalty`"),
        (Box::new(move |o| o.mirostat = Some(mirostat(0.0, 0.1))), "`mirostat_tau` is `0`"),
        (Box::new(move |o| o.mirostat = Some(mirostat(5.0, -1.0))), "`mirostat_eta` is `-1`"),
        (
            Box::new(|o| o.mirostat = Some(wire::Mirostat { version: 3, ..Default::default() })),
            "`mirostat` is `3`, expected 0 (off), 1 or 2",
        ),
        (
            Box::new(|o| o.logit_bias = vec![wire::TokenBias { token: 1, bias: 100.5 }]),
            "`logit_bias` is `100.5`, expected a number from -100 to 100",
        ),
        (
            Box::new(|o| o.logit_bias = vec![wire::TokenBias::default(); limits::BIASES_COUNT + 1]),
            "`logit_bias` is `1025`, expected at most 1024 tokens",
        ),
        (Box::new(|o| o.logprobs = Some(21)), "`top_logprobs` is `21`, expected 0 to 20"),
        (
            Box::new(|o| {
                o.format = Some(wire::OutputFormat { kind: "xml".into(), text: String::new() })
            }),
            "`format.kind` is `xml`, expected `json`, `schema` or `grammar`",
        ),
        (
            Box::new(|o| {
                let text = "a".repeat(limits::OUTPUT_FORMAT_BYTES + 1);
                o.format = Some(wire::OutputFormat { kind: "schema".into(), text });
            }),
            "`format` is `32769`, expected at most 32768 bytes",
        ),
    ];
    for (spoil, words) in spoils {
        let mut wire = wire::GenerateRequest::from(&request(Options::default()));
        spoil(wire.options.get_or_insert_default());
        let error = GenerateRequest::try_from(wire).expect_err(words);
        assert!(error.to_string().starts_with(words), "{error}, expected {words}");
    }
}

#[test]
fn a_gateway_that_knows_no_tail_free_sampling_asks_for_none() {
    let mut wire = wire::Options::from(&Options::default());
    wire.tfs_z = None;
    assert_eq!(Options::try_from(wire), Ok(Options::default()));
}

#[test]
fn log_probabilities_that_cannot_be_are_refused() {
    let logprob = |logprob| wire::Logprob { token: 1, logprob, ..Default::default() };
    let token = |chosen, top| wire::TokenLogprob { chosen, top };
    let chunk = |logprobs| wire::TokenChunk { tokens: vec![1], logprobs, ..Default::default() };
    let table = [
        (chunk(vec![token(Some(logprob(0.5)), vec![])]), "`logprob` is `0.5`"),
        (chunk(vec![token(Some(logprob(f32::NAN)), vec![])]), "`logprob` is `NaN`"),
        (chunk(vec![token(None, vec![])]), "`TokenLogprob` lacks `chosen`"),
        (chunk(vec![token(Some(logprob(0.0)), vec![logprob(0.0); 21])]), "`top_logprobs` is `21`"),
        (chunk(vec![token(Some(logprob(0.0)), vec![]); 2]), "`logprobs` is `2`"),
        (wire::TokenChunk { mu: Some(f64::NAN), ..Default::default() }, "`mu` is `NaN`"),
    ];
    for (chunk, words) in table {
        let error = TokenChunk::try_from(chunk).expect_err(words);
        assert!(error.to_string().starts_with(words), "{error}, expected {words}");
    }
}

#[test]
fn texts_and_vectors_cross_the_wire_and_what_cannot_be_is_refused() {
    let request = EmbedRequest {
        request_id: "r".to_owned(),
        attempt: 1,
        blob: Digest::of(b"blob"),
        assignment: AssignmentId(2),
        generation: Generation(3),
        inputs: vec![EmbedInput::Text("a".to_owned()), EmbedInput::Tokens(vec![1, 2])],
        truncate: true,
        caller: "10.0.0.1".to_owned(),
        time_left: Some(Duration::from_millis(250)),
    };
    let wire = wire::EmbedRequest::from(&request);
    assert_eq!(EmbedRequest::try_from(wire.clone()), Ok(request));
    let many = vec![wire.inputs[0].clone(); limits::EMBED_PART_COUNT + 1];
    let refused = [
        (wire::EmbedRequest { inputs: many, ..wire.clone() }, "`inputs` is `65`"),
        (wire::EmbedRequest { inputs: vec![Default::default()], ..wire }, "`EmbedInput` lacks"),
    ];
    for (wire, words) in refused {
        let error = EmbedRequest::try_from(wire).expect_err(words).to_string();
        assert!(error.starts_with(words), "{error}, expected {words}");
    }
    let embedding = Embedding { values: vec![0.6, 0.8], tokens: 4 };
    assert_eq!(Embedding::try_from(wire::Embedding::from(embedding.clone())), Ok(embedding));
    let values = |values| Embedding::try_from(wire::Embedding { values, tokens: 1 }).is_err();
    assert!(values(vec![]) && values(vec![f32::NAN]) && values(vec![f32::INFINITY]));
    assert!(values(vec![0.0; limits::EMBEDDING_VALUES_COUNT + 1]));
}

#[test]
fn an_assignment_in_a_ring_survives_the_wire_and_a_ring_without_a_driver_does_not() {
    let stage = |first_layer, end_layer, shard, shards| Stage {
        first_layer,
        end_layer,
        embedding: first_layer == 0,
        head: end_layer == 4,
        shard,
        shards,
    };
    let peer = |id: u64, stage: Stage| Peer {
        assignment: AssignmentId(id),
        generation: Generation(id + 1),
        worker: WorkerId(id.into()),
        address: format!("10.0.0.{id}:1"),
        stage,
        first_head: stage.shard,
        end_head: 3,
    };
    let peers =
        vec![peer(1, stage(0, 2, 0, 1)), peer(2, stage(2, 4, 0, 2)), peer(3, stage(2, 4, 1, 2))];
    let (replica, activations) = (ReplicaId(9), Activations::Bf16);
    let assigned = Assigned {
        assignment: Assignment {
            id: AssignmentId(2),
            generation: Generation(3),
            model: "m".parse().expect("a name"),
            blob: Digest::of(b"blob"),
            blob_bytes: 4,
            stage: peers[1].stage,
            context_length: 16,
            sequences_max: 2,
        },
        ring: Some(Ring { replica, activations, steps_in_flight: 2, peers }),
    };
    let wired = wire::Assignment::from(&assigned);
    assert_eq!(Assigned::try_from(wired.clone()), Ok(assigned.clone()));
    assert_eq!(
        assigned.ring.as_ref().and_then(Ring::driver).map(|peer| peer.assignment.0),
        Some(2)
    );
    let spoiled = |spoil: &dyn Fn(&mut wire::Ring)| {
        let mut wired = wired.clone();
        spoil(wired.ring.as_mut().expect("a ring"));
        Assigned::try_from(wired).expect_err("it is spoiled").to_string()
    };
    assert!(spoiled(&|ring| ring.peers.truncate(1)).contains("`peers` is `1`"));
    assert!(spoiled(&|ring| ring.peers.remove(1).assignment = 0).contains("0 heads"));
    assert!(spoiled(&|ring| ring.activations = "f8".into()).contains("`f32` or `bf16`"));
    assert!(spoiled(&|ring| ring.peers[0].end_head = 0).contains("`heads` is `0..0`"));
}
