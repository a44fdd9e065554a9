//! Every way in which a token may be wrong, signed by the right key where the signature is not what is wrong.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use ollamamax_core::access::AccessChange;
use serde_json::{Value, json};
use zeroize::Zeroizing;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A cluster with one signing key.
struct World {
    tokens: Tokens,
    access: Access,
    key: SigningKey,
    private: Zeroizing<Vec<u8>>,
    now: Millis,
}

impl World {
    fn new() -> Self {
        Self::with(Alg::Rs256)
    }

    fn with(alg: Alg) -> Self {
        let sealing = SealingKey::random();
        let key = new_signing_key(&sealing, alg, Millis(0)).expect("a key");
        let private = sealing.unseal(SEALED_FOR, &key.sealed.0).expect("its own");
        let mut access = Access::default();
        access.evolve(AccessChange::SigningKeyPut(key.clone()));
        Self { tokens: Tokens::new(sealing), access, key, private, now: Millis::now() }
    }

    fn mint(&self) -> String {
        let roles = BTreeSet::from(["user".to_owned()]);
        let session = SessionId(7);
        self.tokens
            .mint(&self.access, CLUSTER, ("alice", &roles), session, (self.now, 600_000))
            .expect("it signs")
    }

    fn header(&self) -> Value {
        json!({"typ": "at+jwt", "alg": self.key.algorithm, "kid": self.key.id.to_string()})
    }

    fn claims(&self) -> Value {
        let now_s = self.now.0 / 1_000;
        json!({
            "iss": format!("ollamamax:{CLUSTER}"), "aud": "ollamamax", "sub": "alice",
            "nbf": now_s, "iat": now_s, "exp": now_s + 600,
            "jti": TokenId(1).to_string(), "sid": SessionId(7).to_string(), "roles": ["user"],
        })
    }

    /// Signs any header and claims, as text, with the right key.
    fn sign(&self, header: &str, claims: &str) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let alg = Alg::of(&self.key).expect("one of ours");
        let key = alg.signer(&self.private);
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, alg.jwt()).expect("signed");
        format!("{message}.{signature}")
    }

    fn accepts(&self, text: &str) -> bool {
        self.tokens.verify(&self.access, CLUSTER, text, self.now).is_some()
    }
}

fn with(mut object: Value, changes: Value) -> Value {
    let (Value::Object(fields), Value::Object(changes)) = (&mut object, changes) else {
        return object;
    };
    for (name, value) in changes {
        // `{"remove": true}` stands for a claim that is not there.
        if value == json!({"remove": true}) {
            fields.remove(&name);
        } else {
            fields.insert(name, value);
        }
    }
    object
}

#[test]
fn what_was_minted_is_known_again_and_says_who() {
    let world = World::new();
    let text = world.mint();
    let verified = world.tokens.verify(&world.access, CLUSTER, &text, world.now).expect("genuine");
    assert_eq!((verified.user.as_str(), verified.session), ("alice", SessionId(7)));
    assert!(world.accepts(&text), "and from the cache");
    assert!(world.accepts(&world.sign(&world.header().to_string(), &world.claims().to_string())));
    let keys = serde_json::to_value(jwks(&world.access)).expect("JSON");
    let shown = keys["keys"][0].as_object().expect("a key");
    let names: BTreeSet<&str> = shown.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["alg", "e", "kid", "kty", "n", "use"]));
    assert_eq!((&shown["alg"], &shown["e"]), (&json!("RS256"), &json!("AQAB")));
    assert_eq!((&shown["kty"], &shown["use"]), (&json!("RSA"), &json!("sig")));
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys).expect("a JWK set");
    let jwk = set.find(&world.key.id.to_string()).expect("by its id");
    let public = DecodingKey::from_jwk(jwk).expect("an RSA key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[AUDIENCE]);
    jsonwebtoken::decode::<Claims>(&text, &public, &validation).expect("others can verify it, too");
}

#[test]
fn each_algorithm_signs_and_is_shown_so_that_others_can_verify() {
    for (alg, kty, crv, names) in [
        (Alg::Rs256, "RSA", None, vec!["alg", "e", "kid", "kty", "n", "use"]),
        (Alg::Es256, "EC", Some("P-256"), vec!["alg", "crv", "kid", "kty", "use", "x", "y"]),
        (Alg::EdDsa, "OKP", Some("Ed25519"), vec!["alg", "crv", "kid", "kty", "use", "x"]),
    ] {
        let world = World::with(alg);
        let text = world.mint();
        assert!(world.accepts(&text), "{alg:?}");
        let header = jsonwebtoken::decode_header(&text).expect("a header");
        assert_eq!(header.alg, alg.jwt());
        let keys = serde_json::to_value(jwks(&world.access)).expect("JSON");
        let shown = keys["keys"][0].as_object().expect("a key");
        assert_eq!(
            shown.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            names.into_iter().collect()
        );
        assert_eq!((&shown["kty"], &shown["alg"]), (&json!(kty), &json!(alg.name())));
        assert_eq!(shown.get("crv"), crv.map(|crv| json!(crv)).as_ref());
        let set: JwkSet = serde_json::from_value(keys).expect("a JWK set");
        let jwk = set.find(&world.key.id.to_string()).expect("by its id");
        let public = DecodingKey::from_jwk(jwk).expect("a key");
        let mut validation = Validation::new(alg.jwt());
        validation.set_audience(&[AUDIENCE]);
        jsonwebtoken::decode::<Claims>(&text, &public, &validation).expect("others can verify");
        // Any bit of the signature, whatever its kind.
        let (message, signature) = text.rsplit_once('.').expect("three parts");
        let good = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
            assert!(!world.accepts(&forged), "{alg:?} byte {at}");
        }
        for empty in [vec![], vec![0; good.len()], vec![0; 64], vec![1; 64]] {
            let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(empty));
            assert!(!world.accepts(&forged), "{alg:?}");
        }
    }
}

/// In a cluster with a key of each kind: whatever a header says, a token is verified with the algorithm of its key or not at
/// all.
#[test]
fn a_token_cannot_choose_its_algorithm() {
    let worlds = Alg::ALL.map(World::with);
    let mut access = Access::default();
    for world in &worlds {
        access.evolve(AccessChange::SigningKeyPut(world.key.clone()));
    }
    let tokens = Tokens::new(SealingKey::random());
    let accepts = |text: &str| tokens.verify(&access, CLUSTER, text, worlds[0].now).is_some();
    let claims = worlds[0].claims().to_string();
    let all =
        ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256", "HS512", "none"];
    for signer in &worlds {
        for named in &worlds {
            for alg in all {
                let header = with(named.header(), json!({"alg": alg})).to_string();
                let own = signer.key.id == named.key.id && alg == named.key.algorithm;
                let what = format!(
                    "{} signed, {} named, {alg}",
                    signer.key.algorithm, named.key.algorithm
                );
                assert_eq!(accepts(&signer.sign(&header, &claims)), own, "{what}");
            }
        }
        // The public key, which everybody has, as a secret.
        for public in [signer.key.public.clone(), STANDARD.encode(&signer.key.public).into_bytes()]
        {
            let secret = EncodingKey::from_secret(&public).expect("a secret");
            for (alg, mac) in [("HS256", Algorithm::HS256), ("HS512", Algorithm::HS512)] {
                let header = with(signer.header(), json!({"alg": alg})).to_string();
                let message = format!(
                    "{}.{}",
                    URL_SAFE_NO_PAD.encode(header),
                    URL_SAFE_NO_PAD.encode(&claims)
                );
                let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &secret, mac);
                assert!(!accepts(&format!("{message}.{}", mac.expect("signed"))), "{alg}");
            }
        }
    }
    // A key whose algorithm this version does not know verifies nothing.
    let later = SigningKey { algorithm: "ML-DSA-65".to_owned(), ..worlds[0].key.clone() };
    access.evolve(AccessChange::SigningKeyPut(later));
    let text = worlds[0].mint();
    assert!(tokens.verify(&access, CLUSTER, &text, worlds[0].now).is_none());
}

#[test]
fn wrong_claims_are_refused_whoever_signed_them() {
    let world = World::new();
    let now_s = world.now.0 / 1_000;
    let gone = json!({"remove": true});
    let wrong = [
        json!({"exp": now_s - 10}),
        json!({"exp": gone}),
        json!({"exp": (now_s + 600).to_string()}),
        json!({"exp": (now_s as f64) + 600.5}),
        json!({"exp": -1}),
        json!({"exp": u64::MAX}),
        json!({"exp": null}),
        json!({"nbf": now_s + 60}),
        json!({"nbf": (now_s + 60).to_string()}),
        json!({"nbf": now_s.to_string()}),
        json!({"nbf": gone}),
        json!({"iat": now_s + 60}),
        json!({"iat": gone}),
        json!({"iat": now_s + 601}),
        json!({"iss": "evil"}),
        json!({"iss": ["ollamamax:", CLUSTER]}),
        json!({"iss": gone}),
        json!({"iss": format!("ollamamax:{}", CLUSTER.replace('0', "f"))}),
        json!({"aud": "other"}),
        json!({"aud": gone}),
        json!({"aud": ["other"]}),
        json!({"aud": ["ollamamax"]}),
        json!({"sub": gone}),
        json!({"sub": 7}),
        json!({"jti": gone}),
        json!({"jti": "x"}),
        json!({"jti": ""}),
        json!({"sid": gone}),
        json!({"sid": "../../x"}),
        json!({"roles": "admin"}),
        json!({"more": 1}),
    ];
    for change in wrong {
        let claims = with(world.claims(), change.clone());
        let text = world.sign(&world.header().to_string(), &claims.to_string());
        assert!(!world.accepts(&text), "{change}");
    }
    let doubled = world.claims().to_string().replacen('{', "{\"sub\":\"root\",", 1);
    assert!(!world.accepts(&world.sign(&world.header().to_string(), &doubled)), "a claim twice");
    for text in ["", "[]", "null", "{", "{}", "7", "\u{0}"] {
        assert!(!world.accepts(&world.sign(&world.header().to_string(), text)), "{text:?}");
    }
}

#[test]
fn wrong_headers_are_refused_whoever_signed_them() {
    let world = World::new();
    let public = STANDARD.encode(&world.key.public);
    let jwk = json!(jwks(&world.access).keys[0]);
    let wrong = [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "nOnE"}),
        json!({"alg": "HS256"}),
        json!({"alg": "RS384"}),
        json!({"alg": "PS256"}),
        json!({"alg": "ES256"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": {"remove": true}}),
        json!({"alg": ["RS256"]}),
        json!({"alg": null}),
        json!({"typ": "JWT"}),
        json!({"typ": "rt+jwt"}),
        json!({"typ": {"remove": true}}),
        json!({"kid": {"remove": true}}),
        json!({"kid": "../../dev/null"}),
        json!({"kid": "' OR 1=1"}),
        json!({"kid": "0".repeat(10_000)}),
        json!({"kid": [world.key.id.to_string()]}),
        json!({"kid": "ffffffffffffffff"}),
        json!({"kid": world.key.id.to_string().to_uppercase() + "a"}),
        json!({"jku": "http://evil.example/keys"}),
        json!({"jwk": jwk}),
        json!({"x5u": "http://evil.example"}),
        json!({"x5c": [public]}),
        json!({"x5t": "abc"}),
        json!({"crit": ["exp"]}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"zip": "DEF"}),
        json!({"cty": "JWT"}),
        json!({"enc": "A256GCM"}),
    ];
    for change in wrong {
        let header = with(world.header(), change.clone());
        let text = world.sign(&header.to_string(), &world.claims().to_string());
        assert!(!world.accepts(&text), "{change}");
    }
}

#[test]
fn wrong_signatures_and_shapes_are_refused() {
    let world = World::new();
    let good = world.mint();
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    let payload = message.split_once('.').expect("two parts").1;
    // HS256 "signed" with the public key, which everybody has.
    let hs = with(world.header(), json!({"alg": "HS256"})).to_string();
    let hs = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(hs));
    let secret = EncodingKey::from_secret(&world.key.public).expect("a secret");
    let mac = jsonwebtoken::crypto::sign(hs.as_bytes(), &secret, Algorithm::HS256).expect("signed");
    let other = World::new();
    let foreign = other.sign(&world.header().to_string(), &world.claims().to_string());
    let signature_bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let texts = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        "a.b.c.d.e.f".into(),
        format!("{message}."),
        message.to_owned(),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{hs}.{mac}"),
        foreign,
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{good}="),
        format!("{message}.{signature}=="),
        format!("{message}.{}", STANDARD.encode(&signature_bytes)),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(&signature_bytes[1..])),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([&signature_bytes[..], &[0]].concat())),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 256])),
        format!("{good}.{signature}"),
        format!("{good}{}", "a".repeat(limits::ACCESS_TOKEN_BYTES)),
        "\u{0}".repeat(100),
        "é".repeat(50),
    ];
    for text in texts {
        assert!(!world.accepts(&text), "{}", text.chars().take(120).collect::<String>());
    }
    // Any bit of any part.
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(text) = String::from_utf8(bytes) {
            assert!(!world.accepts(&text), "byte {at}");
        }
    }
    assert!(world.accepts(&good));
}

#[test]
fn a_token_is_good_no_longer_than_its_key_is_believed_nor_than_it_says() {
    let mut world = World::new();
    let text = world.mint();
    assert!(world.accepts(&text));
    let until = world.now.plus(1_000);
    let retiring = SigningKey { believed_until: Some(until), ..world.key.clone() };
    world.access.evolve(AccessChange::SigningKeyPut(retiring));
    assert!(world.accepts(&text));
    let at = |world: &World, now| world.tokens.verify(&world.access, CLUSTER, &text, now).is_some();
    assert!(!at(&world, until), "the key is believed no more, although the token was seen");
    world.access.evolve(AccessChange::SigningKeyPut(world.key.clone()));
    let end = world.now.plus(600_000 + 1_000 * limits::CLOCK_LEEWAY_S);
    assert!(!at(&world, end.plus(1_000)), "expired, although it was seen");
    world.access.evolve(AccessChange::SigningKeyRemoved(world.key.id));
    assert!(!world.accepts(&text), "the key is gone");
}

#[test]
fn without_the_right_sealing_key_nothing_is_signed() {
    let world = World::new();
    let stranger = Tokens::new(SealingKey::random());
    let roles = BTreeSet::new();
    let asked = (world.now, 60_000);
    assert!(stranger.mint(&world.access, CLUSTER, ("a", &roles), SessionId(1), asked).is_none());
    let mut later = Access::default();
    assert!(world.tokens.mint(&later, CLUSTER, ("a", &roles), SessionId(1), asked).is_none());
    let next = SigningKey { signs_from: world.now.plus(60_000), ..world.key.clone() };
    later.evolve(AccessChange::SigningKeyPut(next));
    assert!(world.tokens.mint(&later, CLUSTER, ("a", &roles), SessionId(1), asked).is_none());
}

#[test]
fn nothing_that_is_printed_has_a_key_in_it() {
    let world = World::new();
    let text = format!("{:?} {:?}", world.key, world.access);
    let private = STANDARD.encode(&world.private[..]);
    let bytes = format!("{:?}", &world.private[..16]);
    let inside = &bytes[1..bytes.len() - 1];
    assert!(!text.contains(&private[..20]) && !text.contains(inside) && text.contains("(hidden)"));
}
