//! An identity is kept whole, for its owner only, and fits together; no secret is ever shown.

mod support;

use base64::Engine as _;
use ollamamax_proto::{Digest, Millis, limits};
use ollamamax_tls::private::PrivateError;
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Credential, Identity, IdentityError, JoinToken, Kind, Request, Tls};
use std::fmt::Debug;
use std::os::unix::fs::PermissionsExt;
use support::*;

#[test]
fn an_identity_is_kept_whole_and_for_its_owner_only() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("tls");
    assert!(Identity::load(&directory).expect("nothing there").is_none());
    let cluster = TestCluster::new(CLUSTER);
    for role in [node(1), worker(7)] {
        let identity = cluster.identity(role);
        identity.save(&directory).expect("saved");
        let read = Identity::load(&directory).expect("read").expect("there");
        assert_eq!((read.role(), read.cluster()), (role, cluster.0.cluster()));
        assert_eq!(read.certificate(), identity.certificate());
        assert_eq!(read.trusted(), identity.trusted());
        Tls::new(read).expect("usable");
    }
    let file = directory.join("identity.pem");
    let mode = |path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("changed");
    let error = Identity::load(&directory).expect_err("refused");
    assert!(matches!(error, IdentityError::File(PrivateError::Exposed { mode: 0o644, .. })));
}

#[test]
fn what_does_not_fit_together_is_no_identity() {
    let (cluster, other) = (TestCluster::new(CLUSTER), TestCluster::new("other"));
    let now = Millis::now();
    let trusted = || vec![cluster.0.certificate().clone()];
    let signed =
        |request: &Request| cluster.0.sign(request.der(), node(1), DAY_MS, now).expect("signed");
    let request = || Request::new().expect("a key");

    let error = request().identity(signed(&request()), trusted()).expect_err("another key");
    assert!(matches!(error, IdentityError::Mismatch { role, .. } if role == node(1)), "{error}");
    let own = request();
    let certificate = signed(&own);
    let foreign = vec![other.0.certificate().clone()];
    let error = own.identity(certificate, foreign).expect_err("another cluster");
    assert!(matches!(error, IdentityError::Foreign { .. }), "{error}");
    let again = TestCluster::new(CLUSTER);
    let own = request();
    let certificate = signed(&own);
    let stranger = vec![again.0.certificate().clone()];
    let error = own.identity(certificate, stranger).expect_err("another authority");
    assert!(matches!(error, IdentityError::NotIssued { count: 1, .. }), "{error}");
    for count in [0, limits::TLS_AUTHORITIES_COUNT + 1] {
        let own = request();
        let certificate = signed(&own);
        let many = vec![cluster.0.certificate().clone(); count];
        assert!(own.identity(certificate, many).is_err(), "{count} authorities");
    }
    // A member in the place of the authority, and an authority in the place of a member.
    let own = request();
    let certificate = signed(&own);
    assert!(own.identity(certificate.clone(), vec![certificate]).is_err());
    assert!(request().identity(cluster.0.certificate().clone(), trusted()).is_err());

    let pem = cluster.identity(node(1)).to_pem();
    let middle = pem.find("-----BEGIN CERT").expect("a certificate");
    for text in ["", &pem[..middle], &pem[middle..], &pem[..pem.len() - 40], &pem.repeat(30)] {
        assert!(Identity::from_pem(text.as_bytes()).is_err());
    }
}

#[test]
fn an_identity_is_renewed_in_time_and_one_that_has_ended_can_be_loaded() {
    let cluster = old_cluster();
    let now = Millis::now();
    let identity = cluster.identity_at(node(1), now);
    let life = limits::TLS_LIFETIME_MS + limits::TLS_SKEW_MS;
    let lived = identity.renew_at().since(identity.certificate().not_before());
    assert!((life * 66 / 100..life * 68 / 100).contains(&lived), "{lived} of {life}");
    let renewed = identity.renew_at().since(now);
    assert!(renewed * 100 / limits::TLS_LIFETIME_MS <= limits::TLS_RENEW_PERCENT, "{renewed}");
    let request = Request::new().expect("a key");
    let brief = cluster.0.sign(request.der(), node(1), 6_000, now).expect("signed");
    let brief = request.identity(brief, certificates(&[&cluster.0])).expect("an identity");
    let due = brief.renew_at().since(now);
    assert!((2_500..=4_100).contains(&due), "one of seconds is not always due: {due}");
    assert!(!identity.has_ended(now) && !identity.has_ended(identity.renew_at()));
    assert!(identity.has_ended(now.plus(DAY_MS + 1_000)));
    let ended = cluster.identity_at(node(1), Millis(now.0 - 5 * DAY_MS));
    let read = Identity::from_pem(ended.to_pem().as_bytes()).expect("read");
    assert!(read.has_ended(now));
}

/// No part of `secret` is in `shown`, in any of the forms that bytes are shown in.
fn hidden(what: &str, shown: &impl Debug, secret: &[u8]) {
    let alphabets = [
        base64::engine::general_purpose::STANDARD,
        base64::engine::general_purpose::URL_SAFE_NO_PAD,
    ];
    for text in [format!("{shown:?}"), format!("{shown:#?}")] {
        let flat: String = text.split_whitespace().collect();
        for part in secret.windows(6) {
            let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            let list: Vec<String> = part.iter().map(u8::to_string).collect();
            let mut forms = vec![hex.to_uppercase(), hex, list.join(",")];
            forms.extend(alphabets.iter().map(|alphabet| alphabet.encode(part)));
            for form in forms {
                assert!(!flat.contains(&form), "{what} shows its secret: {text}");
            }
        }
    }
}

/// The private scalar of a PEM text: what follows its tag in `ECPrivateKey` (RFC 5915).
fn scalar(pem: &str) -> Vec<u8> {
    let key = &pem[pem.find("-----BEGIN PRIVATE KEY-----").expect("a key")..];
    let body: String = key.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).expect("base64");
    let at = der.windows(2).position(|bytes| bytes == [0x04, 0x20]).expect("the scalar");
    der[at + 2..at + 34].to_vec()
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let cluster = TestCluster::new(CLUSTER);
    hidden("an authority", &cluster.0, &scalar(&cluster.0.to_pem()));
    let request = Request::new().expect("a key");
    let shown = format!("{request:?}");
    let signed = cluster.0.sign(request.der(), node(1), DAY_MS, Millis::now()).expect("signed");
    let trusted = vec![cluster.0.certificate().clone()];
    let identity = request.identity(signed, trusted).expect("an identity");
    let secret = scalar(&identity.to_pem());
    hidden("a request", &shown, &secret);
    hidden("an identity", &identity, &secret);
    let tls = Tls::new(identity).expect("usable");
    hidden("a handle", &tls, &secret);
    let (address, _outcomes) = serve(tls).await;
    let two = cluster.node(2);
    let stream = dial(&two, &address, ANY_NODE).await.expect("connected");
    hidden("a stream", &stream, &scalar(&two.identity().to_pem()));
    hidden("a blocking one", &stream.into_blocking(), &scalar(&two.identity().to_pem()));

    let credential = Credential::generate().expect("random");
    let secret = credential.reveal()[8..].to_vec();
    hidden("a credential", &credential, &secret);
    let authority = Digest::of(b"");
    let token = JoinToken { kind: Kind::Node, credential, authority, addresses: Vec::new() };
    hidden("a token", &token, &secret);
    let mut damaged = token.reveal().to_string();
    damaged.pop();
    hidden("an error", &JoinToken::parse(&damaged), &secret);
    damaged.push('!');
    hidden("an error", &JoinToken::parse(&damaged), &secret);
}
