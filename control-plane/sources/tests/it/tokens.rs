//! Who asks, and who hears of it.

use crate::{at, bytes, http, model, plain};
use ollamamax_sources::{Guard, Http, SourceError};
use ollamamax_tests::registry::{Manner, Registry};

/// `user:secret`.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn filed(host: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#)
}

#[tokio::test]
async fn a_challenge_is_answered_with_a_token_and_what_is_filed_for_the_host() {
    let server = Registry::start().await.unwrap();
    server.put_model("a/b:latest", bytes(1_000), &[]);
    server.ask_for_token("t0ken", None, None);
    plain(server.address(), "a/b").manifest().await.expect("a token for whoever comes");
    assert!(server.requests()[1].starts_with("GET /token?service=127"), "{:?}", server.requests());
    assert!(server.requests()[1].contains("scope=repository%3Aa%2Fb%3Apull"));

    server.ask_for_token("another", None, Some(BASIC));
    let refused = plain(server.address(), "a/b").manifest().await;
    assert!(matches!(refused, Err(SourceError::Denied { status: 401, .. })), "{refused:?}");
    let name = format!("{}/a/b", server.address());
    let registry = at(&http(server.address()), &name, &filed(server.address()));
    let dir = tempfile::tempdir().unwrap();
    model(&registry, dir.path()).await.expect("with the password there is a token");
    let asked = server.requests().iter().filter(|line| line.starts_with("GET /token")).count();
    assert_eq!(asked, 3, "one token serves all requests");
}

#[tokio::test]
async fn a_rogue_realm_and_a_redirect_hear_nothing_of_who_asks() {
    let (server, thief) = (Registry::start().await.unwrap(), Registry::start().await.unwrap());
    server.put_model("a/b:latest", bytes(1_000), &[]);
    thief.ask_for_token("stolen", None, None);
    let realm = format!("http://{}/token", thief.address());
    server.ask_for_token("t0ken", Some(&realm), Some(BASIC));
    let allowed = [server.address(), thief.address()].map(|host| host.parse().unwrap());
    let guard = Guard::new(allowed.into());
    let http = Http::new(guard, Vec::new(), ollamamax_sources::http::system_lookup()).unwrap();
    let name = format!("{}/a/b", server.address());
    let refused = at(&http, &name, &filed(server.address())).manifest().await;
    assert!(matches!(refused, Err(SourceError::Denied { .. })), "{refused:?}");
    assert_eq!(thief.requests().len(), 1, "it was asked for a token");
    assert_eq!(thief.authorizations(), Vec::<String>::new(), "and heard nothing");
    assert_eq!(server.authorizations(), ["Bearer stolen"], "a foreign token is worth nothing");

    // A token of the host itself goes nowhere else, neither with a redirect.
    server.ask_for_token("t0ken", None, None);
    server.behave(Manner::Redirect(format!("http://{}/v2/a/b/blobs/x", thief.address())));
    let dir = tempfile::tempdir().unwrap();
    let token = format!(r#"{{"auths": {{"{}": {{"registrytoken": "t0ken"}}}}}}"#, server.address());
    let lost = model(&at(&http, &name, &token), dir.path()).await;
    assert!(lost.is_err());
    assert_eq!(thief.requests().len(), 2, "it was asked");
    assert_eq!(thief.authorizations(), Vec::<String>::new(), "and heard nothing");
}
