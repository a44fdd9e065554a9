//! Texts to embed share steps and blocks with sequences that generate: neither sees the other, and both end.

use crate::fake::{FakeBackend, Stream, limits, solo, text};
use crate::scheduling::request;
use ollamamax_engine::engine::{Engine, Prepared};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The vectors of some requests and the streams of some others, on one engine with so many blocks.
fn together(
    blocks: u32,
    embeds: &[Vec<Vec<u32>>],
    prompts: &[Prepared],
) -> (Vec<Vec<Vec<f32>>>, Vec<Stream>) {
    let limits = limits(3, 8);
    // A step is a half fuller with texts in it.
    let backend = FakeBackend::new(blocks, limits.step_tokens + limits.step_tokens / 2);
    let mut engine = Engine::new(Box::new(backend), text(), limits);
    let ids: Vec<_> =
        prompts.iter().map(|p| engine.submit(p.clone(), &[]).expect("taken")).collect();
    let requests: Vec<_> =
        embeds.iter().map(|texts| engine.embed(texts.clone()).expect("taken")).collect();
    let (mut streams, mut vectors) = (BTreeMap::<_, Stream>::new(), BTreeMap::new());
    for step in 0.. {
        assert!(step < 20_000, "no progress");
        if engine.is_idle() {
            break;
        }
        for emission in engine.step().expect("a sound backend") {
            streams.entry(emission.sequence).or_default().take(emission);
        }
        for embedded in engine.embedded() {
            let values = embedded.embeddings.into_iter().map(|embedding| embedding.values);
            vectors.insert(embedded.request, values.collect());
        }
    }
    assert_eq!(engine.kv_usage().used, 0, "blocks are leaked");
    (
        requests.iter().map(|id| vectors.remove(id).expect("embedded")).collect(),
        ids.iter().map(|id| streams.remove(id).expect("emitted")).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn texts_and_streams_share_blocks_and_both_end(
        embeds in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(0u32..15, 1..48), 0..4), 1..4),
        prompts in prop::collection::vec(request(), 0..4),
    ) {
        let alone: Vec<_> =
            embeds.iter().map(|texts| together(64, std::slice::from_ref(texts), &[]).0.remove(0)).collect();
        // Twelve blocks hold one context and no more.
        for blocks in [12, 20, 64] {
            let (vectors, streams) = together(blocks, &embeds, &prompts);
            prop_assert_eq!(&vectors, &alone);
            for (stream, prompt) in streams.iter().zip(&prompts) {
                let solo = solo(prompt, &[]);
                prop_assert_eq!(stream.tokens(), solo.tokens());
            }
        }
    }
}
