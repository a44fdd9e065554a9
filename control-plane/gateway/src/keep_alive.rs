//! How long a model stays loaded after its last use: a number of seconds or a Go duration string.
//!
//! The strings are those of Go's `time.ParseDuration` (`1h30m`, `300ms`, `-1s`), and so are the complaints about them.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Length of one keep-alive in milliseconds; negative: forever, 0: unload when idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive(pub i64);

impl KeepAlive {
    /// Whether the model is to be unloaded as soon as nobody uses it.
    pub fn is_unload(self) -> bool {
        self.0 == 0
    }

    fn from_seconds(seconds: f64) -> Self {
        if seconds < 0.0 {
            return Self(-1);
        }
        // A positive fraction of a millisecond is not the zero that unloads.
        let ms = (seconds * 1_000.0).min(i64::MAX as f64 / 2.0) as i64;
        Self(if ms == 0 && seconds > 0.0 { 1 } else { ms })
    }
}

/// Parses a Go duration into nanoseconds, saturating.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_ns = 0.0_f64;
    while !rest.is_empty() {
        let digits =
            rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..letters];
        let scale = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total_ns += number * scale;
        rest = &rest[letters..];
    }
    let ns = total_ns.min(i64::MAX as f64) as i64;
    Ok(if negative { -ns } else { ns })
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = KeepAlive;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds or a duration such as \"5m\"")
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
                Ok(KeepAlive::from_seconds(seconds as f64))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
                Ok(KeepAlive::from_seconds(seconds as f64))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
                Ok(KeepAlive::from_seconds(seconds))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
                let ns = parse_go_duration(text).map_err(E::custom)?;
                Ok(KeepAlive::from_seconds(ns as f64 / 1e9))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Result<i64, String> {
        serde_json::from_str::<KeepAlive>(json).map(|keep| keep.0).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_are_seconds_and_strings_go_durations() {
        assert_eq!(read("300"), Ok(300_000));
        assert_eq!(read("0.5"), Ok(500));
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("-1"), Ok(-1));
        assert_eq!(read(r#""5m""#), Ok(300_000));
        assert_eq!(read(r#""1h30m""#), Ok(5_400_000));
        assert_eq!(read(r#""1.5s""#), Ok(1_500));
        assert_eq!(read(r#""0""#), Ok(0));
        assert_eq!(read(r#""-1m""#), Ok(-1));
        assert_eq!(read(r#""1us""#), Ok(1), "not the zero that unloads");
    }

    #[test]
    fn a_malformed_duration_is_refused_in_gos_words() {
        assert!(read(r#""x""#).expect_err("x").starts_with("time: invalid duration \"x\""));
        assert!(read(r#""""#).expect_err("empty").starts_with("time: invalid duration \"\""));
        assert!(read(r#""5""#).expect_err("5").starts_with("time: missing unit in duration \"5\""));
        assert!(read(r#""5y""#).expect_err("5y").starts_with("time: unknown unit \"y\""));
        assert!(read("true").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,20}") {
            let _ = parse_go_duration(&text);
        }

        #[test]
        fn whole_seconds_survive(seconds in 0u32..100_000) {
            let ns = i64::from(seconds) * 1_000_000_000;
            prop_assert_eq!(parse_go_duration(&format!("{seconds}s")), Ok(ns));
        }
    }
}
