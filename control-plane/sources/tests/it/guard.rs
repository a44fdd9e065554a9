//! Where requests go that somebody else has named: nowhere inside.

use crate::{at, bytes, http, model, plain};
use ollamamax_sources::http::{Ask, Lookup};
use ollamamax_sources::{Guard, Http, SourceError};
use ollamamax_tests::registry::{Manner, Registry};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_to_no_address_that_is_not_public() {
    let server = Registry::start().await.unwrap();
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inside_at = inside.local_addr().unwrap();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    tokio::spawn(async move {
        while inside.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    server.put_model("a/b:latest", bytes(1_000), &[]);
    let dir = tempfile::tempdir().unwrap();
    for to in [
        format!("http://{inside_at}/x"),
        format!("https://{inside_at}/x"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/x".to_owned(),
        "https://[::1]/x".to_owned(),
        "https://[::ffff:127.0.0.1]/x".to_owned(),
        "https://2130706433/x".to_owned(),
        "https://localhost/x".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        server.behave(Manner::Redirect(to.clone()));
        let refused = model(&plain(server.address(), "a/b"), dir.path()).await;
        assert!(matches!(refused, Err(SourceError::Refused { .. })), "{to}: {refused:?}");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "not one connection");
    server.behave(Manner::Redirect(format!("http://{}/v2/a/b/blobs/x", server.address())));
    let lost = model(&plain(server.address(), "a/b"), dir.path()).await;
    assert!(matches!(lost, Err(SourceError::NotFound(_))), "{lost:?}");
    let own = format!("/v2/a/b/blobs/{}", ollamamax_proto::Digest::of(&bytes(1_000)));
    server.behave(Manner::Redirect(own));
    let endless = model(&plain(server.address(), "a/b"), dir.path()).await;
    let error = endless.expect_err("it goes in circles").to_string();
    assert!(error.contains("redirects more than"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_means_another_address_a_moment_later_gains_nothing() {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    tokio::spawn(async move {
        while inside.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for answers in [
        vec!["127.0.0.1"],
        vec!["::1"],
        vec!["::ffff:127.0.0.1"],
        vec!["1.1.1.1", "127.0.0.1"],
        vec!["169.254.169.254"],
    ] {
        let answers: Vec<IpAddr> = answers.iter().map(|text| text.parse().unwrap()).collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let lookups = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |name| {
            assert_eq!(name, "rebinds.example");
            lookups.fetch_add(1, Ordering::SeqCst);
            let answers = answers.clone();
            Box::pin(async move { Ok(answers) })
        });
        let http = Http::new(Guard::default(), Vec::new(), lookup).unwrap();
        let url: reqwest::Url = format!("https://rebinds.example:{port}/x").parse().unwrap();
        http.check(&url, false).expect("by its name it might be public");
        let refused = http.send(Ask::get(url, false)).await;
        assert!(matches!(refused, Err(SourceError::Refused { .. })), "{refused:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "what was judged is what is connected to");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "not one connection");
}

#[tokio::test]
async fn a_registry_inside_is_asked_only_where_the_operator_says_so() {
    let server = Registry::start().await.unwrap();
    server.put_model("a/b:latest", bytes(1_000), &[]);
    let name = format!("{}/a/b", server.address());
    for other in ["registry.lan", "127.0.0.1:1", "127.0.0.2"] {
        let registry = at(&http(other), &name, "{}");
        assert!(matches!(registry.check(), Err(SourceError::Refused { .. })), "{other}");
        let refused = registry.manifest().await;
        assert!(matches!(refused, Err(SourceError::Refused { .. })), "{other}: {refused:?}");
    }
    assert!(server.requests().is_empty(), "nothing was sent");
    at(&http("127.0.0.1"), &name, "{}").manifest().await.expect("allowed at every port");
}
