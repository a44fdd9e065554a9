//! What a receiver wants to see of who sends: `OTEL_EXPORTER_OTLP_HEADERS` of OpenTelemetry, `name=value` with commas between,
//! values percent-encoded where they must be. Often a secret, so it comes by the environment and is never shown.

use std::fmt;
use std::str::FromStr;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// Names and values.
#[derive(Clone, Default)]
pub struct Headers(Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>);

/// A text that holds no headers; it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {0} is no header: expected `name=value` with commas between, values percent-encoded where they have commas"
)]
pub struct InvalidHeaders(usize);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name.as_str())).finish()
    }
}

impl FromStr for Headers {
    type Err = InvalidHeaders;

    fn from_str(text: &str) -> Result<Self, InvalidHeaders> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let read = |(nth, part): (usize, &str)| {
            let header = part.split_once('=').and_then(|(name, value)| {
                let name = MetadataKey::from_bytes(name.trim().to_ascii_lowercase().as_bytes());
                let value = String::from_utf8(decode(value.trim())?).ok()?;
                let mut value = MetadataValue::try_from(value).ok()?;
                value.set_sensitive(true);
                Some((name.ok()?, value))
            });
            header.ok_or(InvalidHeaders(nth + 1))
        };
        parts.enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// Takes the percent-encoding off (RFC 3986).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

impl Headers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds them to a request.
    pub(super) fn add(&self, metadata: &mut MetadataMap) {
        for (name, value) in &self.0 {
            metadata.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_has_them_and_never_shown() {
        let headers: Headers =
            "Authorization=Bearer%20canary%2C1, x-tenant = a=b ,".parse().expect("valid");
        let mut metadata = MetadataMap::new();
        headers.add(&mut metadata);
        assert_eq!(metadata.get("authorization").expect("there"), "Bearer canary,1");
        assert_eq!(metadata.get("x-tenant").expect("there"), "a=b");
        assert_eq!(format!("{headers:?}"), r#"["authorization", "x-tenant"]"#);
        assert!("".parse::<Headers>().expect("none").is_empty());
        for wrong in
            ["canary", "a=1,canary", "=canary", "a b=canary", "x=%zzcanary", "x=%0acanary", "x=%c3"]
        {
            let error = wrong.parse::<Headers>().expect_err(wrong).to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
