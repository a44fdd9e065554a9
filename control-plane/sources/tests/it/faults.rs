//! What a source may do to whoever believes it.

use crate::{bytes, is_empty, model, plain};
use ollamamax_proto::Digest;
use ollamamax_sources::download::{Wanted, fetch};
use ollamamax_sources::registry::File;
use ollamamax_sources::{Credentials, SourceError};
use ollamamax_tests::registry::{Manner, Registry};
use serde_json::json;

/// More than one range.
const BYTES: usize = 20 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_was_promised_are_refused_and_removed() {
    let server = Registry::start().await.unwrap();
    server.put_model("a/b:latest", bytes(BYTES), &[]);
    for (manner, words) in [
        (Manner::WrongBytes, "digest mismatch"),
        (Manner::LyingTotal(1), "where its manifest says"),
        (Manner::LyingTotal(1 << 50), "where its manifest says"),
        (Manner::Endless, "sends more than it said"),
        (Manner::Packed, "sends a packed body"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        server.behave(manner.clone());
        let before = server.sent_bytes();
        let error = model(&plain(server.address(), "a/b"), dir.path()).await;
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(words), "{manner:?}: {error}");
        let sent = server.sent_bytes() - before;
        assert!(sent < 4 * BYTES as u64, "{manner:?}: {sent} bytes were sent");
        if manner == Manner::WrongBytes {
            assert!(is_empty(dir.path()), "{manner:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_promise_is_bounded_and_of_one_edition() {
    let server = Registry::start().await.unwrap();
    let digest = server.put(bytes(BYTES));
    let http = crate::http(server.address());
    let url = format!("http://{}/v2/a/b/blobs/{digest}", server.address()).parse().unwrap();
    let file = File::new(&http, &Credentials::default(), url, true);
    let dir = tempfile::tempdir().unwrap();
    let wanted = |limit| Wanted { digest: None, bytes: None, limit };
    let error = fetch(&file, &wanted(BYTES as u64 - 1), dir.path(), &|_, _, _| {}).await;
    assert!(matches!(error, Err(SourceError::TooLarge { .. })), "{error:?}");
    server.behave(Manner::Endless);
    let error = fetch(&file, &wanted(1 << 20), dir.path(), &|_, _, _| {}).await;
    assert!(matches!(error, Err(SourceError::TooLarge { .. })), "{error:?}");
    for manner in [Manner::Good, Manner::NoRanges, Manner::CutAfter(5 << 20)] {
        server.behave(manner);
        let staged = fetch(&file, &wanted(1 << 30), dir.path(), &|_, _, _| {}).await.unwrap();
        assert_eq!(staged.digest, digest);
        staged.forget();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_names_what_is_not_there_brings_nothing() {
    let server = Registry::start().await.unwrap();
    let canary = tempfile::tempdir().unwrap();
    let kept = canary.path().join("canary");
    std::fs::write(&kept, "alive").unwrap();
    let dir = canary.path().join("incoming");
    std::fs::create_dir(&dir).unwrap();
    let layer = |digest: &str, size: u64| json!({"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size});
    let absent = Digest::of(b"absent").to_string();
    let present = server.put(bytes(100)).to_string();
    for (layer, words) in [
        (layer(&Digest::of(b"nowhere").to_string(), 100), "has no"),
        (layer(&present, 101), "where its manifest says 101"),
        (layer(&present, 99), "where its manifest says 99"),
        (layer("sha256:../canary", 5), "invalid digest"),
        (layer("../canary", 5), "invalid digest"),
    ] {
        let manifest = json!({"schemaVersion": 2, "layers": [layer], "config":
            {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": absent, "size": 100}});
        server.put_manifest("a/b:latest", manifest.to_string());
        let error = model(&plain(server.address(), "a/b"), &dir).await;
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(words), "{error} lacks {words}");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "alive");
    }
    server.put_manifest("a/b:latest", vec![b' '; 2 << 20]);
    let error = plain(server.address(), "a/b").manifest().await;
    assert!(matches!(error, Err(SourceError::TooLarge { .. })), "{error:?}");
}
