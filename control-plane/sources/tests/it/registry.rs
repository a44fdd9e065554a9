//! Fetching from and pushing to a registry.

use crate::{bytes, is_empty, model, of, plain};
use ollamamax_proto::Digest;
use ollamamax_sources::download::{Wanted, fetch};
use ollamamax_sources::push::{self, Content};
use ollamamax_sources::{Kind, Layer, Manifest, SourceError};
use ollamamax_tests::registry::{Manner, Registry};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LARGE: usize = 50 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_in_several_ranges_and_is_what_its_digest_says() {
    let server = Registry::start().await.unwrap();
    let digest = server.put_model("Org/Repo:Q4_K_M", bytes(LARGE), &[("system", "be brief")]);
    let registry = plain(server.address(), "Org/Repo:Q4_K_M");
    let manifest = registry.manifest().await.unwrap();
    let system = *manifest.of(Kind::System).next().unwrap();
    assert_eq!(registry.text(&system).await.unwrap(), b"be brief");
    let dir = tempfile::tempdir().unwrap();
    let staged = model(&registry, dir.path()).await.unwrap();
    assert_eq!((staged.digest, of(&staged), staged.bytes), (digest, digest, LARGE as u64));
    let ranges = server.requests().iter().filter(|line| line.contains(&digest.hex())).count();
    assert_eq!(ranges, 4, "50 MiB in pieces of 16");
    assert_eq!(server.sent_bytes(), LARGE as u64 + 8, "each byte once");
    staged.forget();
    assert!(is_empty(dir.path()));
    let other = plain(server.address(), "org/repo:q4_k_m").manifest().await;
    assert!(matches!(other, Err(SourceError::NotFound(_))), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_goes_on_where_it_was() {
    let server = Registry::start().await.unwrap();
    let digest = server.put_model("a/b:latest", bytes(LARGE), &[]);
    server.behave(Manner::Slow(10 << 20));
    let registry = plain(server.address(), "a/b");
    let dir = tempfile::tempdir().unwrap();
    let came = AtomicU64::new(0);
    let origin = registry.blob(digest).unwrap();
    let wanted = Wanted { digest: Some(digest), bytes: Some(LARGE as u64), limit: u64::MAX };
    let tell = |done, _, _| came.store(done, Ordering::SeqCst);
    // Whoever asked goes away in the middle.
    tokio::select! {
        _ = fetch(&*origin, &wanted, dir.path(), &tell) => panic!("it is not that fast"),
        () = async { while came.load(Ordering::SeqCst) < 20 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        } } => {}
    }
    server.behave(Manner::Good);
    let before = server.sent_bytes();
    let first = AtomicU64::new(u64::MAX);
    let tell = |done, _, _| {
        first.fetch_min(done, Ordering::SeqCst);
    };
    let staged = fetch(&*origin, &wanted, dir.path(), &tell).await.unwrap();
    assert_eq!(of(&staged), digest);
    let again = server.sent_bytes() - before;
    assert!(first.load(Ordering::SeqCst) > 8 << 20, "{first:?} bytes were there");
    assert!(again < (LARGE - (8 << 20)) as u64, "{again} bytes came again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_again_and_again_comes_nevertheless() {
    let server = Registry::start().await.unwrap();
    let digest = server.put_model("a/b:latest", bytes(20 << 20), &[]);
    let dir = tempfile::tempdir().unwrap();
    for manner in [Manner::CutAfter(3 << 20), Manner::CutFirst(3, 1_000), Manner::NoRanges] {
        server.behave(manner.clone());
        let staged = model(&plain(server.address(), "a/b"), dir.path()).await;
        let staged = staged.unwrap_or_else(|error| panic!("{manner:?}: {error}"));
        assert_eq!(of(&staged), digest, "{manner:?}");
        staged.forget();
        assert!(is_empty(dir.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_can_be_fetched_and_is_sent_once() {
    let server = Registry::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (weights, text) = (bytes(3 << 20), "be brief");
    let path = dir.path().join("model");
    std::fs::write(&path, &weights).unwrap();
    let layer =
        |kind, bytes: &[u8]| Layer { kind, digest: Digest::of(bytes), bytes: bytes.len() as u64 };
    let layers = vec![
        layer(Kind::Model, &weights),
        layer(Kind::System, text.as_bytes()),
        layer(Kind::Config, b"{}"),
    ];
    let contents = [Content::File(path), Content::Bytes(text.into()), Content::Bytes("{}".into())];
    let registry = plain(server.address(), "a/b");
    for _ in 0..2 {
        for (layer, content) in layers.iter().zip(&contents) {
            push::layer(&registry, layer, content, &|_, _| {}).await.unwrap();
        }
        push::manifest(&registry, &Manifest { layers: layers.clone() }).await.unwrap();
    }
    let posts = server.requests().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(posts, 3, "what is there is not sent again");
    assert_eq!(registry.manifest().await.unwrap().layers, layers);
    let staged = model(&registry, dir.path()).await.unwrap();
    assert_eq!(of(&staged), Digest::of(&weights));
}
