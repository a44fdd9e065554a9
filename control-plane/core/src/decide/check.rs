//! Field checks shared by the tables.

use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn invalid(field: &str, reason: impl Into<String>) -> Rejection {
    Rejection::Invalid { field: field.to_owned(), reason: reason.into() }
}

pub(super) fn over(what: impl Into<String>, limit: usize) -> Rejection {
    Rejection::OverLimit { what: what.into(), limit: limit as u64 }
}

/// A text of at most `limit` bytes.
pub(super) fn bytes(field: &str, text: &str, limit: usize) -> Result<(), Rejection> {
    if text.len() > limit { Err(over(format!("bytes of {field}"), limit)) } else { Ok(()) }
}

/// A name for people: 1 to [`limits::DISPLAY_NAME_CHARS`] characters that print.
pub(super) fn display_name(field: &str, name: &str) -> Result<(), Rejection> {
    if name.is_empty() {
        return Err(invalid(field, "empty"));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(field, "has control characters"));
    }
    if name.chars().count() > limits::DISPLAY_NAME_CHARS {
        return Err(over(format!("characters of {field}"), limits::DISPLAY_NAME_CHARS));
    }
    Ok(())
}

/// A `host:port`, checked only for what would break a table or a log line; whether it can be
/// reached shows later.
pub(super) fn address(field: &str, address: &str) -> Result<(), Rejection> {
    if address.chars().count() > limits::ADDRESS_CHARS {
        return Err(over(format!("characters of {field}"), limits::ADDRESS_CHARS));
    }
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let plain = !host.is_empty() && !host.chars().any(|c| c.is_whitespace() || c.is_control());
        plain.then(|| port.parse::<u16>().ok()).flatten()
    });
    if port.is_none() {
        return Err(invalid(field, "expected `host:port`"));
    }
    Ok(())
}

/// The first [`limits::REASON_CHARS`] characters: a long reason is no reason to lose the report it
/// came with.
pub(super) fn cut_reason(reason: &str) -> String {
    reason.chars().take(limits::REASON_CHARS).collect()
}
