//! The policies by name, as configurations and deployments spell them.

use std::fmt;
use std::str::FromStr;

/// A policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn.
    RoundRobin,
    /// By weight.
    Weighted,
    /// The fewest outstanding tokens.
    LeastTokens,
    /// The shorter expected wait of two drawn.
    Latency,
    /// Who has the beginning cached, within bounds; else the fewest outstanding tokens.
    #[default]
    Prefix,
}

/// A name no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("balancing policy `{got}` is unknown, expected one of {}", Policy::names())]
pub struct UnknownPolicy {
    /// What was asked for, cut to 100 characters.
    pub got: String,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Weighted, Self::LeastTokens, Self::Latency, Self::Prefix];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastTokens => "least-tokens",
            Self::Latency => "latency",
            Self::Prefix => "prefix",
        }
    }

    fn names() -> String {
        Self::ALL.map(|policy| format!("`{policy}`")).join(", ")
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| UnknownPolicy { got: text.chars().take(100).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_others_are_told_the_names() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "fastest".parse::<Policy>().expect_err("no such policy").to_string();
        assert_eq!(
            error,
            "balancing policy `fastest` is unknown, expected one of `round-robin`, `weighted`, \
             `least-tokens`, `latency`, `prefix`"
        );
    }
}
