//! One line of a role or of a key's scope.
//!
//! ```text
//! inference:run                 on anything
//! inference:run@smollm2:*       on models whose full name fits
//! node:manage@rack=a1           on workers with that label
//! !model:manage@prod/*          never, whatever else allows it
//! *                             everything
//! ```

use super::action::{Action, Object};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Allows or denies an action on what a pattern fits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Whether it denies; a denial wins over whatever allows.
    denies: bool,
    /// Which action; `None`: every one.
    action: Option<Action>,
    /// On what: `*` stands for any characters. Empty: on anything.
    pattern: String,
}

/// A text that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid grant `{got}`: expected `[!]action[@pattern]` with one of {}, or `*`",
    Action::ALL.map(Action::name).join(", ")
)]
pub struct InvalidGrant {
    /// What came, cut to 100 characters.
    pub got: String,
}

impl Grant {
    /// Whether it denies.
    pub fn denies(&self) -> bool {
        self.denies
    }

    /// Whether it speaks of `action` at all.
    pub fn concerns(&self, action: Action) -> bool {
        self.action.is_none_or(|own| own == action)
    }

    /// Whether it speaks of every object of its actions.
    pub fn is_unbounded(&self) -> bool {
        self.pattern.is_empty()
    }

    /// Whether it speaks of `action` on `object`. Of an object that is not known yet, an allowance speaks wherever it could
    /// apply, a denial only when it applies everywhere; of all objects the other way round.
    pub fn fits(&self, action: Action, object: Object<'_>) -> bool {
        let fits = |text: &str| glob(self.pattern.as_bytes(), text.as_bytes());
        self.concerns(action)
            && (self.pattern.is_empty()
                || match object {
                    Object::Some => !self.denies,
                    Object::All => self.denies,
                    Object::Model(name) => self.fits_model(name),
                    Object::Named(name) => fits(name),
                    Object::Worker(labels) => {
                        labels.iter().any(|(key, value)| fits(&format!("{key}={value}")))
                    }
                })
    }
}

impl Grant {
    /// Names of models are compared without case, and a pattern without a tag speaks of all of them: `Secret` denies what
    /// clients would get as `secret:latest`.
    fn fits_model(&self, name: &str) -> bool {
        let pattern = self.pattern.to_ascii_lowercase();
        let fits = |text: &str| glob(pattern.as_bytes(), text.as_bytes());
        let untagged = name.rsplit_once(':').map(|(name, _)| name).filter(|name| !name.is_empty());
        fits(name) || untagged.is_some_and(|name| !pattern.contains(':') && fits(name))
    }
}

/// Whether `pattern`, in which `*` stands for any bytes, fits all of `text`. Linear in both but for a factor of two.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit here.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.denies { "!" } else { "" };
        let action = self.action.map_or("*", Action::name);
        write!(f, "{not}{action}")?;
        if self.pattern.is_empty() { Ok(()) } else { write!(f, "@{}", self.pattern) }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({self})")
    }
}

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let error = || InvalidGrant { got: text.chars().take(100).collect() };
        let (denies, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (action, pattern) = rest.split_once('@').map_or((rest, None), |(a, p)| (a, Some(p)));
        let action = match action {
            "*" => None,
            name => Some(name.parse().map_err(|()| error())?),
        };
        let plain = |p: &str| {
            !p.is_empty()
                && p.len() <= limits::GRANT_PATTERN_BYTES
                && p.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if pattern.is_some_and(|pattern| !plain(pattern)) {
            return Err(error());
        }
        Ok(Self { denies, action, pattern: pattern.unwrap_or_default().to_owned() })
    }
}

impl Serialize for Grant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow_glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                (0..=text.len()).any(|skipped| slow_glob(rest, &text[skipped..]))
            }
            (Some((p, ps)), Some((t, ts))) => p == t && slow_glob(ps, ts),
            _ => false,
        }
    }

    #[test]
    fn what_is_no_grant_is_refused_with_what_would_be() {
        for text in ["", "!", "model", "model:read@", "read:model", "*@a b", "model:read@é"] {
            let error = text.parse::<Grant>().expect_err(text).to_string();
            assert!(error.contains("inference:run"), "{error}");
        }
        for text in ["*", "!*", "model:read", "!model:manage@prod/*", "node:manage@rack=a1"] {
            assert_eq!(text.parse::<Grant>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_pattern_of_a_model_is_as_generous_as_names_are() {
        let grant = |text: &str| -> Grant { text.parse().expect("a grant") };
        let fits =
            |text: &str, name: &str| grant(text).fits(Action::RunInference, Object::Model(name));
        assert!(fits("!inference:run@Secret*", "secret:latest"));
        assert!(fits("!inference:run@prod/llama", "prod/llama:8b"));
        assert!(
            fits("inference:run@llama:8b", "llama:8b")
                && !fits("inference:run@llama:8b", "llama:70b")
        );
        assert!(!fits("inference:run@llama", "llama-guard:latest"));
    }

    proptest! {
        #![proptest_config(crate::testing::config(2_000))]
        #[test]
        fn patterns_fit_as_their_definition_says(p in "[ab*]{0,8}", t in "[ab]{0,10}") {
            prop_assert_eq!(
                glob(p.as_bytes(), t.as_bytes()),
                slow_glob(p.as_bytes(), t.as_bytes())
            );
        }

        #[test]
        fn parsing_never_panics_and_round_trips(
            text in prop_oneof!["\\PC{0,40}", "!?(\\*|model:read|inference:run)(@[!-~]{1,9})?"],
        ) {
            if let Ok(grant) = text.parse::<Grant>() {
                prop_assert_eq!(grant.to_string(), text);
            }
        }
    }
}
