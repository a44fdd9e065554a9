//! What an authority signs comes from the role alone, and what it does not sign is named.

mod support;

use ollamamax_proto::{Millis, limits};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Authority, AuthorityError, Certificate, Request, RequestError, SignError};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use std::sync::LazyLock;
use support::*;

static CLUSTER_ONE: LazyLock<TestCluster> = LazyLock::new(|| TestCluster::new(CLUSTER));

fn sign(request: &[u8]) -> Result<Certificate, SignError> {
    CLUSTER_ONE.0.sign(request, node(1), limits::TLS_LIFETIME_MS, Millis::now())
}

fn refused(request: &[u8]) -> RequestError {
    match sign(request) {
        Err(SignError::Request(error)) => error,
        other => unreachable!("{other:?}"),
    }
}

fn empty() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).expect("made").der().to_vec()
}

#[test]
fn a_certificate_says_what_the_role_says() {
    let now = Millis::now();
    let authority = &CLUSTER_ONE.0;
    for role in [node(0), node(u64::MAX), worker(0), worker(u128::MAX)] {
        let request = Request::new().expect("a key");
        let signed = authority.sign(request.der(), role, DAY_MS, now).expect("signed");
        assert_eq!(signed.role(), Ok((role, authority.cluster().clone())));
        assert!(signed.authority_of().is_err(), "a member is no authority");
        assert_eq!(signed.issued_by(authority.certificate(), now), Ok(()));
        let (from, until) = (signed.not_before(), signed.not_after());
        assert_eq!(from.0 / 1_000, (now.0 - limits::TLS_SKEW_MS) / 1_000);
        assert_eq!(until.0 / 1_000, (now.0 + DAY_MS) / 1_000);
        assert!(signed.issued_by(authority.certificate(), until.plus(1_000)).is_err());
        let other = Authority::create(authority.cluster(), now).expect("made");
        assert!(signed.issued_by(other.certificate(), now).is_err());
    }
    assert_eq!(authority.certificate().authority_of().as_ref(), Ok(authority.cluster()));
    assert!(authority.certificate().role().is_err(), "an authority is no member");
}

#[test]
fn times_are_those_of_the_calendar() {
    let key = KeyPair::generate().expect("a key");
    for (date, seconds) in [
        ((1970, 1, 1), 0),
        ((2000, 2, 29), 951_782_400),
        ((2049, 12, 31), 2_524_521_600),
        // From here on they are written in another way.
        ((2050, 1, 1), 2_524_608_000),
        ((2100, 3, 1), 4_107_542_400),
    ] {
        let mut params = empty();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(date.0, date.1, date.2);
        let made = params.self_signed(&key).expect("made");
        let read = Certificate::from_der(made.der()).expect("read");
        assert_eq!((read.not_before(), read.not_after()), (Millis(0), Millis(seconds * 1_000)));
    }
}

#[test]
fn serial_numbers_differ() {
    let request = Request::new().expect("a key");
    let (a, b) = (sign(request.der()).expect("signed"), sign(request.der()).expect("signed"));
    assert_ne!(a.fingerprint(), b.fingerprint());
}

#[test]
fn a_request_that_asks_for_anything_is_refused() {
    let key = KeyPair::generate().expect("a key");
    assert!(sign(&request(&empty(), &key)).is_ok(), "the honest one");

    let names = [format!("n1.{CLUSTER}.ollamamax"), "example.org".to_owned()];
    let mut named = CertificateParams::new(names.to_vec()).expect("names");
    named.distinguished_name = rcgen::DistinguishedName::new();
    let mut authority = empty();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut usage = empty();
    usage.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for (what, params) in [("names", &named), ("CA:true", &authority), ("a usage", &usage)] {
        let error = refused(&request(params, &key));
        assert_eq!(error, RequestError::AsksForMore { what: "attributes" }, "{what}");
    }
    let error = refused(&request(&CertificateParams::default(), &key));
    assert_eq!(error, RequestError::AsksForMore { what: "a subject" });
}

#[test]
fn keys_of_other_kinds_are_refused() {
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(kind).expect("a key");
        assert_eq!(refused(&request(&empty(), &key)), RequestError::Key, "{kind:?}");
    }
    // The key is P-256, and the point is not on the curve.
    let mut request = Request::new().expect("a key").der().to_vec();
    let at = request.windows(3).position(|bytes| bytes == [0x42, 0x00, 0x04]).expect("the point");
    request[at + 3..at + 67].fill(0xff);
    assert_eq!(refused(&request), RequestError::Signature);
}

#[test]
fn requests_that_are_too_long_or_cut_off_or_signed_by_another_are_refused() {
    let max = limits::TLS_REQUEST_BYTES;
    for length in [max + 1, 1_000_000] {
        assert_eq!(refused(&vec![0x30; length]), RequestError::TooLong { got: length, max });
    }
    let (one, two) = (Request::new().expect("a key"), Request::new().expect("a key"));
    for length in 0..one.der().len() {
        assert_eq!(refused(&one.der()[..length]), RequestError::Malformed, "{length}");
    }
    let mut longer = one.der().to_vec();
    longer.push(0);
    assert_eq!(refused(&longer), RequestError::Malformed);
    // The same length, written in more bytes than it takes.
    let mut padded = one.der().to_vec();
    assert_eq!(padded[..2], [0x30, 0x81]);
    padded.splice(1..2, [0x82, 0x00]);
    assert_eq!(refused(&padded), RequestError::Malformed);
    // The point of the one in the request of the other.
    let at =
        |bytes: &[u8]| bytes.windows(3).position(|b| b == [0x42, 0x00, 0x04]).expect("a point");
    let (from, to) = (at(one.der()) + 3, at(two.der()) + 3);
    let mut mixed = two.der().to_vec();
    mixed[to..to + 64].copy_from_slice(&one.der()[from..from + 64]);
    assert_eq!(refused(&mixed), RequestError::Signature);
}

#[test]
fn a_certificate_lives_within_bounds_and_not_longer_than_its_authority() {
    let now = Millis::now();
    let request = Request::new().expect("a key");
    let authority = &CLUSTER_ONE.0;
    for lifetime in [0, limits::TLS_LIFETIME_MAX_MS + 1, u64::MAX] {
        let error = authority.sign(request.der(), node(1), lifetime, now).expect_err("refused");
        assert!(matches!(error, SignError::Lifetime { got_ms, .. } if got_ms == lifetime));
    }
    let end = authority.certificate().not_after();
    let late = Millis(end.0 - 5_000);
    let signed = authority.sign(request.der(), node(1), DAY_MS, late).expect("signed");
    assert_eq!(signed.not_after(), end);
    for outside in [Millis(0), end, end.plus(DAY_MS), Millis(u64::MAX)] {
        let error = authority.sign(request.der(), node(1), DAY_MS, outside).expect_err("refused");
        assert_eq!(error, SignError::Ended);
    }
}

#[test]
fn an_authority_is_read_as_it_was_written_and_believed_with_its_own_key_only() {
    let (one, two) = (&CLUSTER_ONE.0, TestCluster::new("two").0);
    let read = Authority::from_pem(one.to_pem().as_bytes()).expect("read");
    assert_eq!((read.fingerprint(), read.cluster()), (one.fingerprint(), one.cluster()));
    let request = Request::new().expect("a key");
    let signed = read.sign(request.der(), node(1), DAY_MS, Millis::now()).expect("signed");
    assert_eq!(signed.issued_by(one.certificate(), Millis::now()), Ok(()));

    let two_pem = two.to_pem();
    let key = &two_pem[two_pem.find("-----BEGIN PRIVATE").expect("a key")..];
    let mixed = format!("{}{key}", one.certificate().pem());
    let error = Authority::from_pem(mixed.as_bytes()).expect_err("refused");
    assert_eq!(error, AuthorityError::Mismatch { fingerprint: one.fingerprint() });
    let member = CLUSTER_ONE.identity(node(1)).to_pem();
    for text in ["", "nothing", key, &one.certificate().pem(), &member, &"x".repeat(100_000)] {
        assert!(Authority::from_pem(text.as_bytes()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn a_request_with_a_bit_flipped_is_refused(at: prop::sample::Index, bit in 0..8_u32) {
        static HONEST: LazyLock<Vec<u8>> =
            LazyLock::new(|| Request::new().expect("a key").der().to_vec());
        let mut request = HONEST.clone();
        let at = at.index(request.len());
        request[at] ^= 1 << bit;
        prop_assert!(sign(&request).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(sign(&bytes).is_err());
        let _ = Certificate::from_der(&bytes);
        let _ = Authority::from_pem(&bytes);
    }

    #[test]
    fn a_certificate_with_a_byte_changed_is_not_believed(at: prop::sample::Index, byte: u8) {
        static HONEST: LazyLock<Certificate> =
            LazyLock::new(|| CLUSTER_ONE.identity(node(1)).certificate().clone());
        let mut der = HONEST.der().to_vec();
        let at = at.index(der.len());
        prop_assume!(der[at] != byte);
        der[at] = byte;
        if let Ok(read) = Certificate::from_der(&der) {
            let _ = (read.role(), read.authority_of());
            prop_assert!(read.issued_by(CLUSTER_ONE.0.certificate(), Millis::now()).is_err());
        }
    }
}
