//! Access tokens of an OpenID provider elsewhere: found by discovery, checked with its published keys.
//!
//! ```text
//! <issuer>/.well-known/openid-configuration -> issuer (the same), jwks_uri -> keys   every 10 minutes, and when a key is new
//! token -> kid, algorithm -> key -> iss, aud, exp, nbf, sub -> values of the roles claim -> roles here
//! ```
//!
//! The provider says who somebody is and to which groups they belong; which of these are roles here is said here. A provider
//! that does not answer makes nobody who was let in be refused: its keys are kept.

use crate::auth::jwt::foreign_headers;
use crate::error::Failure;
use futures_util::StreamExt;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ollamamax_proto::{Millis, limits};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A provider that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// Its issuer URL, as its tokens have it.
    pub issuer: String,
    /// What its tokens must be meant for.
    pub audience: String,
    /// The claim that names groups or roles; a dot steps into an object: `realm_access.roles`.
    pub roles_claim: String,
    /// Which value of it is which role here; values that are not here are nothing.
    pub roles: BTreeMap<String, String>,
}

impl OidcConfig {
    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// In words.
    pub fn validate(&self) -> Result<(), String> {
        let url = reqwest::Url::parse(&self.issuer).map_err(|error| error.to_string())?;
        let here = url.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        match url.scheme() {
            "https" => {}
            "http" if here => {}
            _ => return Err(format!("`{}` is not https", self.issuer)),
        }
        if self.audience.is_empty() || self.roles.is_empty() {
            return Err("an audience and at least one role are needed".to_owned());
        }
        Ok(())
    }
}

/// Somebody as the provider knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The provider's name for them.
    pub subject: String,
    /// Roles here.
    pub roles: BTreeSet<String>,
    expires_s: u64,
}

/// The keys of a provider, and tokens that were found good.
pub struct Oidc {
    config: OidcConfig,
    http: reqwest::Client,
    keys: Mutex<Keys>,
    seen: Cache<Box<str>, Arc<Known>>,
    wanted: tokio::sync::Notify,
}

#[derive(Default)]
struct Keys {
    set: BTreeMap<String, (Algorithm, DecodingKey)>,
    asked: Option<Instant>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

impl Oidc {
    /// For one provider. Nothing is asked yet.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: OidcConfig) -> Result<Arc<Self>, Failure> {
        let wait = Duration::from_millis(limits::OIDC_TIMEOUT_MS);
        let http = reqwest::Client::builder()
            .connect_timeout(wait)
            .timeout(wait)
            // Whoever answers for the issuer answers itself.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::Internal(error.to_string()))?;
        let (keys, seen) = (Mutex::default(), Cache::new(limits::ACCESS_TOKENS_CACHED_COUNT));
        Ok(Arc::new(Self { config, http, keys, seen, wanted: tokio::sync::Notify::new() }))
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose token it is, if it is good at `now`.
    pub fn verify(&self, text: &str, now: Millis) -> Option<Arc<Known>> {
        if text.len() > limits::ACCESS_TOKEN_BYTES {
            return None;
        }
        let known = match self.seen.get(text) {
            Some(known) => known,
            None => {
                let known = Arc::new(self.genuine(text)?);
                self.seen.insert(text.into(), Arc::clone(&known));
                known
            }
        };
        (now.0 / 1_000 < known.expires_s + limits::CLOCK_LEEWAY_S).then_some(known)
    }

    fn genuine(&self, text: &str) -> Option<Known> {
        let header = jsonwebtoken::decode_header(text).ok()?;
        let kid = header.kid.as_deref().filter(|kid| kid.len() <= limits::OIDC_KEY_ID_BYTES)?;
        if foreign_headers(&header) {
            return None;
        }
        let found = self.keys().set.get(kid).cloned();
        let Some((algorithm, key)) = found else {
            // Perhaps a new one. Whoever made it up gains nothing: the provider is asked seldom.
            self.wanted.notify_one();
            return None;
        };
        if header.alg != algorithm {
            return None;
        }
        let mut validation = Validation::new(algorithm);
        validation.leeway = limits::CLOCK_LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(text, &key, &validation).ok()?.claims;
        let plain = !claims.sub.is_empty()
            && claims.sub.len() <= limits::OIDC_SUBJECT_BYTES
            && claims.sub.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Known {
            roles: self.roles(&claims.more),
            subject: claims.sub,
            expires_s: claims.exp,
        })
    }

    fn roles(&self, claims: &BTreeMap<String, Value>) -> BTreeSet<String> {
        let mut path = self.config.roles_claim.split('.');
        let first = path.next().and_then(|name| claims.get(name));
        let found = path.fold(first, |value, name| value.and_then(|value| value.get(name)));
        let values: Vec<&str> = match found {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => text.split(' ').collect(),
            _ => Vec::new(),
        };
        values.into_iter().filter_map(|value| self.config.roles.get(value)).cloned().collect()
    }

    /// Keeps the keys as the provider has them, for as long as somebody holds this.
    pub async fn run(this: std::sync::Weak<Self>) {
        let often = Duration::from_millis(limits::OIDC_REFRESH_MS);
        loop {
            let Some(oidc) = this.upgrade() else { return };
            if let Err(reason) = oidc.refresh().await {
                tracing::warn!(
                    issuer = oidc.config.issuer,
                    reason,
                    "the OpenID provider's keys could not be read"
                );
            }
            let soonest = tokio::time::sleep(Duration::from_millis(limits::OIDC_RETRY_MS));
            soonest.await;
            let _ = tokio::time::timeout(often, oidc.wanted.notified()).await;
        }
    }

    async fn refresh(&self) -> Result<(), String> {
        self.keys().asked = Some(Instant::now());
        let issuer = self.config.issuer.trim_end_matches('/');
        let found = self.read(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let found: Discovery = serde_json::from_slice(&found).map_err(|error| error.to_string())?;
        if found.issuer != self.config.issuer {
            return Err(format!(
                "it says that it is `{}`",
                found.issuer.chars().take(200).collect::<String>()
            ));
        }
        let from = reqwest::Url::parse(&found.jwks_uri).map_err(|error| error.to_string())?;
        let own = reqwest::Url::parse(&self.config.issuer).map_err(|error| error.to_string())?;
        if from.scheme() != own.scheme() {
            return Err(format!(
                "its keys are at `{}`, which is not {}",
                from.scheme(),
                own.scheme()
            ));
        }
        let keys = self.read(from.as_str()).await?;
        let keys: JwkSet = serde_json::from_slice(&keys).map_err(|error| error.to_string())?;
        let set: BTreeMap<_, _> =
            keys.keys.iter().take(limits::OIDC_KEYS_COUNT).filter_map(usable).collect();
        if set.is_empty() {
            return Err("it has no key that can be used".to_owned());
        }
        let gone = {
            let mut kept = self.keys();
            let gone = kept.set.keys().any(|kid| !set.contains_key(kid));
            kept.set = set;
            gone
        };
        if gone {
            // What a withdrawn key signed is good no more.
            self.seen.clear();
        }
        Ok(())
    }

    async fn read(&self, url: &str) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| error.without_url().to_string();
        let response = self.http.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("it answered {}", response.status()));
        }
        let (mut body, mut bytes) = (response.bytes_stream(), Vec::new());
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
            if bytes.len() > limits::OIDC_ANSWER_BYTES {
                return Err(format!(
                    "its answer has more than {} bytes",
                    limits::OIDC_ANSWER_BYTES
                ));
            }
        }
        Ok(bytes)
    }
}

/// A key that signs, with the one algorithm that it is for.
fn usable(jwk: &Jwk) -> Option<(String, (Algorithm, DecodingKey))> {
    use jsonwebtoken::jwk::PublicKeyUse;
    let kid = jwk.common.key_id.clone()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match (&jwk.algorithm, jwk.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), None | Some(KeyAlgorithm::RS256)) => Algorithm::RS256,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => Algorithm::PS256,
        (AlgorithmParameters::EllipticCurve(_), None | Some(KeyAlgorithm::ES256)) => {
            Algorithm::ES256
        }
        (AlgorithmParameters::OctetKeyPair(_), None | Some(KeyAlgorithm::EdDSA)) => {
            Algorithm::EdDSA
        }
        // A secret that is published signs nothing.
        _ => return None,
    };
    Some((kid, (algorithm, DecodingKey::from_jwk(jwk).ok()?)))
}
