//! Request bodies: bounded, read once, and refused with the name of the field that is wrong.

use crate::error::Failure;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ollamamax_proto::limits;
use serde::de::DeserializeOwned;
use std::error::Error;

/// Reads a body of at most `limit` bytes.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Failure> {
    // What says that it is larger is not waited for.
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge { limit: limit as u64 });
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Failure::TooLarge { limit: limit as u64 })
        }
        Err(error) => Err(Failure::invalid(format!("the body broke off: {}", root(&*error)))),
    }
}

fn root(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Reads a body and parses it, whatever its content type says: `curl -d` sends a form's.
pub async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Failure> {
    let bytes = read(body, limit).await?;
    parse(&bytes)
}

/// Whether JSON nests deeper than accepted. serde_json bounds what it builds, not what it skips.
fn is_too_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::JSON_DEPTH {
            return true;
        }
    }
    false
}

/// Parses JSON; an error names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::invalid("missing request body"));
    }
    if is_too_deep(bytes) {
        let limit = limits::JSON_DEPTH;
        return Err(Failure::invalid(format!("invalid JSON: more than {limit} levels are nested")));
    }
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        // Derived structs also accept arrays, which no client means.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|error| Failure::invalid(format!("invalid JSON: {error}")))?;
        return Err(Failure::invalid("invalid JSON: expected an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if cause.is_data() && path != "." {
            Failure::invalid(format!("invalid value for field `{path}`: {cause}"))
        } else {
            Failure::invalid(format!("invalid JSON: {cause}"))
        }
    })?;
    deserializer.end().map_err(|error| Failure::invalid(format!("invalid JSON: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Probe {
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(rename = "n")]
        _n: u32,
    }

    fn error(text: &str) -> String {
        parse::<Probe>(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn an_error_names_the_field() {
        assert!(error(r#"{"list":[{"n":1},{"n":"x"}]}"#).contains("`list[1].n`"));
        assert!(error(r#"{"list":7}"#).contains("`list`"));
        assert_eq!(error("  "), "missing request body");
        assert!(error("[1]").contains("expected an object"));
        assert!(error("{\"list\":[]} x").starts_with("invalid JSON: trailing"));
        assert!(error("{").starts_with("invalid JSON: EOF"));
        assert!(error(&"[".repeat(1_000_000)).starts_with("invalid JSON"));
    }

    #[test]
    fn depth_is_bounded_in_fields_that_nobody_reads_too() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            parse::<Probe>(format!(r#"{{"list":[],"unread":{open}{close}}}"#).as_bytes())
        };
        assert!(nested(limits::JSON_DEPTH - 1).is_ok());
        assert!(nested(limits::JSON_DEPTH).expect_err("too deep").to_string().contains("127"));
        let many = "[".repeat(500);
        let text = format!(r#"{{"list":[],"unread":"{many}\"{many}\\"}}"#);
        assert!(parse::<Probe>(text.as_bytes()).is_ok(), "what stands in a text nests nothing");
    }

    #[test]
    fn a_byte_order_mark_is_tolerated() {
        assert!(parse::<Probe>("\u{feff}{}".as_bytes()).expect("parses").list.is_empty());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Probe>(&bytes);
        }
    }
}
