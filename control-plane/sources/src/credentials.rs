//! What registries want to see of who asks: a file of the operator's in the form that Docker keeps (`{"auths": {"host": {...}}}`),
//! and the challenge of a registry.
//!
//! A credential goes to the host it is filed under and to nobody else. A registry may send who asks to another host for a token
//! (the realm of its challenge): that host gets what is filed under its own name, which is nothing unless the operator put it
//! there. So a registry that names somebody else's realm, or its own where another's is meant, learns nothing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Credentials by host, or `host:port`.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, Credential>);

#[derive(Clone)]
enum Credential {
    /// `Basic`, as it is sent.
    Basic(Zeroizing<String>),
    /// A token that is sent as it is.
    Bearer(Zeroizing<String>),
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<Zeroizing<String>>,
    #[serde(default)]
    username: Option<Zeroizing<String>>,
    #[serde(default)]
    password: Option<Zeroizing<String>>,
    #[serde(default)]
    registrytoken: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Credentials {
    /// Reads a file's text. What is wrong is told without a word of it.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("expected JSON as Docker keeps it, wrong at line {line}, column {column}")
        })?;
        let mut all = BTreeMap::new();
        for (host, entry) in file.auths {
            let credential = match entry {
                Entry { registrytoken: Some(token), .. } => Credential::Bearer(token),
                Entry { auth: Some(auth), .. } if BASE64_STANDARD.decode(&*auth).is_ok() => {
                    Credential::Basic(auth)
                }
                Entry { username: Some(name), password: Some(password), .. } => {
                    let plain = Zeroizing::new(format!("{}:{}", *name, *password));
                    Credential::Basic(Zeroizing::new(BASE64_STANDARD.encode(&*plain)))
                }
                _ => {
                    return Err(format!(
                        "the entry of `{host}` has neither `auth` in base64, nor `username` and `password`, nor `registrytoken`"
                    ));
                }
            };
            let plain = host.split_once("://").map_or(host.as_str(), |(_, rest)| rest);
            let plain = plain.split('/').next().unwrap_or_default().to_ascii_lowercase();
            all.insert(plain, credential);
        }
        Ok(Self(all))
    }

    /// What a host is told at once: a token that the operator has filed for it.
    pub fn token(&self, host: &str) -> Option<HeaderValue> {
        match self.0.get(&host.to_ascii_lowercase())? {
            Credential::Bearer(token) => header("Bearer", token),
            Credential::Basic(_) => None,
        }
    }

    /// What a host is told when it asks for a name and a password.
    pub fn password(&self, host: &str) -> Option<HeaderValue> {
        match self.0.get(&host.to_ascii_lowercase())? {
            Credential::Basic(auth) => header("Basic", auth),
            Credential::Bearer(_) => None,
        }
    }
}

/// A header that is never shown.
pub fn header(scheme: &str, value: &str) -> Option<HeaderValue> {
    let text = Zeroizing::new(format!("{scheme} {value}"));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a registry asks of who comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A name and a password.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// Where tokens are.
        realm: String,
        /// What for, as the registry calls itself.
        service: Option<String>,
        /// What for, as the registry calls what was asked.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the value of a `WWW-Authenticate` (RFC 9110).
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        loop {
            rest = rest.trim_start_matches([' ', ',', '\t']);
            let Some((name, after)) = rest.split_once('=') else { break };
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            rest = after;
        }
        let (service, scope) = (fields.remove("service"), fields.remove("scope"));
        Some(Self::Bearer { realm: fields.remove("realm")?, service, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_credential_is_found_under_its_host_alone_and_never_shown() {
        let text = r#"{"auths": {"https://R.lan:5000/v1/": {"username": "u", "password": "hunter2"},
            "t.lan": {"registrytoken": "omk_secret"}, "b.lan": {"auth": "dTpw"}}}"#;
        let all = Credentials::parse(text).expect("read");
        let shown = |value: Option<HeaderValue>| {
            value.map(|value| value.to_str().expect("text").to_owned())
        };
        assert_eq!(shown(all.password("r.lan:5000")), Some("Basic dTpodW50ZXIy".to_owned()));
        assert_eq!(shown(all.token("T.lan")), Some("Bearer omk_secret".to_owned()));
        assert_eq!(shown(all.password("b.lan")), Some("Basic dTpw".to_owned()));
        for host in ["r.lan", "x.r.lan:5000", "lan", "evil.lan"] {
            assert!(all.password(host).is_none() && all.token(host).is_none(), "{host}");
        }
        assert!(all.token("r.lan:5000").is_none() && all.password("t.lan").is_none());
        let debug = format!("{all:?} {:?}", all.password("b.lan"));
        assert!(!debug.contains("secret") && !debug.contains("dTpw"), "{debug}");
        for wrong in ["", "7", r#"{"auths": {"a": {}}}"#, r#"{"auths": {"a": {"auth": "%"}}}"#] {
            assert!(Credentials::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let text = r#"Bearer realm="https://a.lan/token",service="r, lan",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer { realm, service, scope }) = Challenge::parse(text) else {
            unreachable!("a challenge")
        };
        assert_eq!(realm, "https://a.lan/token");
        assert_eq!(service.as_deref(), Some("r, lan"));
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for none in ["", "Bearer", "Bearer service=x", "Digest realm=x", "Bearer realm=\"x"] {
            assert_eq!(Challenge::parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_or_not(text in "\\PC{0,80}") {
            let _ = Challenge::parse(&text);
            let _ = Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
