//! Identities: small, typed, and impossible to build from text that is out of bounds.
//!
//! [`Digest`] and [`ModelName`] are the only way from a string of a client to a path or a key, so a name can never
//! climb out of a directory.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text that is no identity of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} `{got}`: expected {expected}")]
pub struct InvalidId {
    /// What it should have been: "digest", "model name", "worker id".
    pub kind: &'static str,
    /// What came, cut to 100 characters.
    pub got: String,
    /// The accepted form in words.
    pub expected: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, got: &str, expected: &'static str) -> Self {
        Self { kind, got: got.chars().take(100).collect(), expected }
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number_id!(
    /// A Raft member. Allocated by the cluster, counted up, never reused.
    NodeId
);
number_id!(
    /// The version of the whole state: counts the commands that changed something.
    Revision
);
number_id!(
    /// One stage of one model version on one worker. Never reused.
    AssignmentId
);
number_id!(
    /// Several stages on several workers that together hold one copy of a model version. Never reused.
    ReplicaId
);
number_id!(
    /// Fences assignments: the higher one is newer, a worker refuses older ones.
    Generation
);
number_id!(
    /// One life of a worker process, in milliseconds since the epoch at its start: the newer one fences the older.
    Incarnation
);

/// A worker, for as long as its data directory lives: 128 random bits, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u128);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({self})")
    }
}

impl FromStr for WorkerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let error = || InvalidId::new("worker id", text, "32 lower-case hex digits");
        if text.len() != 32 || !text.bytes().all(is_lower_hex) {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(WorkerId).map_err(|_| error())
    }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The SHA-256 of some bytes. Text form `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hex digits alone, as file names and Ollama's `digest` field use them.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first twelve hex digits: enough for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    /// Accepts `sha256:<hex>` and Ollama's file form `sha256-<hex>`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let error = || InvalidId::new("digest", text, "`sha256:` and 64 lower-case hex digits");
        let hex = text
            .strip_prefix("sha256:")
            .or_else(|| text.strip_prefix("sha256-"))
            .ok_or_else(error)?;
        if hex.len() != 64 || !hex.bytes().all(is_lower_hex) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// A model name: `[host/][namespace/]model[:tag]`, tag `latest` when absent. Compared without case, because Ollama
/// does; kept in lower case for that, shown in its shortest form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
const NAME_FORM: &str =
    "`[host/][namespace/]model[:tag]`, each part 1 to 80 letters, digits, `_`, `-` or `.`";

impl ModelName {
    /// The registry host, `registry.ollama.ai` when none was named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The namespace, `library` when none was named.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The model without host, namespace and tag.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The tag, `latest` when none was named.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host != DEFAULT_HOST {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelName({self})")
    }
}

impl FromStr for ModelName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let error = || InvalidId::new("model name", text, NAME_FORM);
        if text.len() > limits::NAME_HOST_CHARS + 3 * (limits::NAME_PART_CHARS + 1) {
            return Err(error());
        }
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let (host, namespace, last) = match parts[..] {
            [last] => (DEFAULT_HOST, DEFAULT_NAMESPACE, last),
            [namespace, last] => (DEFAULT_HOST, namespace, last),
            [host, namespace, last] => (host, namespace, last),
            _ => return Err(error()),
        };
        let (model, tag) = last.split_once(':').unwrap_or((last, DEFAULT_TAG));
        let valid = is_part(host, limits::NAME_HOST_CHARS, ".:-_")
            && is_part(namespace, limits::NAME_PART_CHARS, "-_")
            && is_part(model, limits::NAME_PART_CHARS, ".-_")
            && is_part(tag, limits::NAME_PART_CHARS, ".-_");
        if !valid {
            return Err(error());
        }
        Ok(Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

fn is_part(part: &str, max_chars: usize, beside: &str) -> bool {
    let first = part.chars().next();
    part.len() <= max_chars
        && first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || beside.contains(c))
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(WorkerId, Digest, ModelName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_name_is_shown_in_its_shortest_form() {
        for (text, shown) in [
            ("llama3", "llama3:latest"),
            ("SmolLM2:135M", "smollm2:135m"),
            ("library/llama3:8b", "llama3:8b"),
            ("me/llama3", "me/llama3:latest"),
            ("registry.ollama.ai/library/a:b", "a:b"),
            ("hf.co/org/repo:q4", "hf.co/org/repo:q4"),
            ("localhost:5000/ns/m", "localhost:5000/ns/m:latest"),
        ] {
            let name: ModelName = text.parse().expect(text);
            assert_eq!(name.to_string(), shown);
        }
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for text in
            ["", ":", "a:", "../a", "a/../b", ".hidden", "a b", "a/b/c/d", "a:b:c", "a\0", "-x"]
        {
            assert!(text.parse::<ModelName>().is_err(), "{text:?} was accepted");
        }
        assert!("x".repeat(81).parse::<ModelName>().is_err());
    }

    #[test]
    fn digests_are_exact() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.hex().parse::<Digest>().is_err());
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!(format!("{digest}0").parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<ModelName>() {
                prop_assert_eq!(name.to_string().parse::<ModelName>(), Ok(name));
            }
            let _ = text.parse::<Digest>();
            let _ = text.parse::<WorkerId>();
        }
    }
}
